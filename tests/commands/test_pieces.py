"""Pieces of work here and on a cluster: a made-up Ray that pickles all it is given, and the real one."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from command_lines import ROOT, error, ok
from ultralytics import YOLO

import yoloprune
from yoloprune.backend import evaluation
from yoloprune.commands import pieces, sweep, sweep_points
from yoloprune.commands.demo_images import NAMES, make_shapes
from yoloprune.errors import ArgumentError, PruneError, WriteError


class RayError(Exception):
    """As Ray raises it where a process is gone."""


class RayTaskError(RayError):
    """As Ray raises it where the work failed."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__(f"a traceback\nof several lines\n{cause}")
        self.cause = cause


class FakeRay(ModuleType):
    """What yoloprune uses of Ray, in this process; results come as late as they are asked for."""

    def __init__(self, *machines: dict[str, float], lost: int | None = None) -> None:
        super().__init__("ray")
        self.__spec__ = ModuleSpec("ray", None, origin="made up")
        self.exceptions = SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)
        self.machines, self.lost, self.running = machines or ({"CPU": 2.0},), lost, False
        self.options: dict[str, Any] = {}
        self.cancelled: list[int] = []

    def is_initialized(self) -> bool:
        return self.running

    def init(self, **_: Any) -> None:
        self.running = True

    def shutdown(self) -> None:
        self.running = False

    def nodes(self) -> list[dict[str, Any]]:
        gone = {"Alive": False, "Resources": {"CPU": 99.0, "GPU": 99.0}}
        return [gone, *({"Alive": True, "Resources": m} for m in self.machines)]

    def put(self, value: Any) -> bytes:
        return pickle.dumps(value)

    def remote(self, **options: Any) -> Callable[[Callable[..., Any]], Any]:
        self.options = options
        begun: list[int] = []

        def task(work: Callable[..., Any]) -> Any:
            def remote(shared: bytes, *more: Any) -> Any:
                begun.append(len(begun))
                return begun[-1], partial(work, pickle.loads(shared), *pickle.loads(pickle.dumps(more)))

            return SimpleNamespace(remote=remote)

        return task

    def get(self, one: Any) -> Any:
        number, work = one
        if number == self.lost:
            raise RayError("The worker died unexpectedly.\nIts logs say why.")
        try:
            return pickle.loads(pickle.dumps(work()))
        except Exception as e:
            raise RayTaskError(e) from e

    def cancel(self, one: Any, *, force: bool) -> None:
        self.cancelled.append(one[0])


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeRay]:
    def made(*machines: dict[str, float], lost: int | None = None) -> FakeRay:
        ray = FakeRay(*machines, lost=lost)
        monkeypatch.setitem(sys.modules, "ray", ray)
        return ray

    return made


def halved(n: int) -> int:
    if n % 2:
        raise WriteError(Path(f"{n}.txt"), "odd")
    return n // 2


@pytest.mark.parametrize("told", [{}, {"at_once": 2}, {"ray": pieces.Ray()}], ids=str)
def test_results_come_in_the_order_of_the_pieces(told: dict[str, Any], fake: Callable[..., FakeRay]) -> None:
    fake()
    with pieces.spread(halved, [8, 2, 6], **told) as results:
        assert list(results) == [4, 1, 3]


@pytest.mark.parametrize("told", [{}, {"at_once": 2}, {"ray": pieces.Ray()}], ids=str)
def test_an_error_is_that_of_the_work_wherever_it_is_done(told: dict[str, Any], fake: Callable[..., FakeRay]) -> None:
    ray = fake()
    with (
        pytest.raises(WriteError, match=r"Cannot write 3\.txt: odd"),
        pieces.spread(halved, [8, 3], **told) as results,
    ):
        assert next(results) == 4
        next(results)
    assert ray.cancelled == ([0, 1] if "ray" in told else [])


def test_a_cluster_that_was_there_stays(fake: Callable[..., FakeRay]) -> None:
    for before in (False, True):
        ray = fake()
        ray.running = before
        with pieces.spread(halved, [2], ray=pieces.Ray()) as results:
            assert ray.running and list(results) == [1]
        assert ray.running is before


def test_a_piece_that_is_lost_too_often_is_told_in_a_line(fake: Callable[..., FakeRay]) -> None:
    ray = fake(lost=1)
    with (
        pytest.raises(PruneError, match=r"lost 4 times: RayError: The worker died unexpectedly\.$"),
        pieces.spread(halved, [2, 2], ray=pieces.Ray()) as results,
    ):
        list(results)
    assert ray.options["max_retries"] == 3 and not ray.running


@pytest.mark.parametrize(
    ("asked", "machines", "takes"),
    [
        (pieces.Ray(1), [{"CPU": 4.0}], (1, 0)),
        (pieces.Ray(8), [{"CPU": 2.0}, {"CPU": 4.0}], (4, 0)),  # of the largest machine
        (pieces.Ray(8, 1), [{"CPU": 16.0}, {"CPU": 4.0, "GPU": 1.0}], (4, 1)),
    ],
)
def test_a_piece_takes_what_a_machine_has(
    asked: pieces.Ray, machines: list[dict[str, float]], takes: tuple[int, int], fake: Callable[..., FakeRay]
) -> None:
    ray = fake(*machines)
    with pieces.spread(halved, [2], ray=asked) as results:
        list(results)
    assert (ray.options["num_cpus"], ray.options["num_gpus"]) == takes


def test_what_no_machine_has_is_not_waited_for(fake: Callable[..., FakeRay]) -> None:
    fake({"CPU": 4.0}, {"GPU": 2.0})
    with pytest.raises(PruneError, match="no machine of the cluster has a core and 1 GPU"):  # noqa: SIM117
        with pieces.spread(halved, [2], ray=pieces.Ray(1, 1)):
            pytest.fail("begins")


def test_without_ray_nothing_begins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "ray").mkdir()  # no package, though Python would import it
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    monkeypatch.setattr(sys, "path", ["", *(p for p in sys.path if not (Path(p) / "ray" / "__init__.py").is_file())])
    asked = ok("sweep model=missing.pt data=missing.yaml ray=True")
    with pytest.raises(ArgumentError, match=r'needs the package ray, .*: pip install "yoloprune\[ray\]"'):
        sweep.run(asked)


@pytest.mark.parametrize("word", ["format=onnx", "threads=2"])
def test_points_that_share_a_machine_are_not_timed(word: str) -> None:
    assert "ray=True: must not be combined with format= or threads=" in error(f"sweep model=a data=b ray=True {word}")
    assert ok(f"sweep model=a data=b {word}")


# An arm of scripts/experiment.py --------------------------------------------------------------------------------------
DIES = """
import os, signal, sys
from pathlib import Path
tried, done = Path("tried"), Path("done.json")
tried.write_text(tried.read_text() + "x" if tried.exists() else "x")
if len(tried.read_text()) <= int(sys.argv[1]):
    os.kill(os.getpid(), signal.SIGKILL)
done.write_text('{"mAP50 val": 0.5}')
"""


@pytest.mark.parametrize(("kills", "row", "tried"), [(0, 0.5, 1), (2, 0.5, 3), (9, None, 3)])
def test_an_arm_whose_process_is_killed_is_started_again(
    kills: int, row: float | None, tried: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    monkeypatch.chdir(tmp_path)
    experiment = import_module("experiment")
    job = experiment.Job("dense", 0, ["-c", DIES, str(kills)], tmp_path / "logs" / "a.log", tmp_path / "done.json")
    assert experiment.start(job) == (None if row is None else {"mAP50 val": row})
    assert len((tmp_path / "tried").read_text()) == tried and job.log.is_file()


# A sweep --------------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shapes(tmp_path_factory.mktemp("pieces") / "data", train=8, val=4, imgsz=64)


def swept(model: Path, data: Path, project: Path, **told: Any) -> tuple[list[dict[str, Any]], str]:
    """Rows of a small sweep, and its table."""
    loose = {"round_to": 1, "min_width": 2, "flops": [0.8, 0.6], "imgsz": 64, "workers": 0, "device": "cpu"}
    rows = yoloprune.sweep(model, data=str(data), project=str(project), name="run", **loose, **told)
    return rows, (project / "run" / "sweep.csv").read_text()


@pytest.mark.long
@pytest.mark.slow
def test_a_sweep_on_a_cluster_is_a_sweep(
    tiny: Path,
    data: Path,
    tmp_path: Path,
    fake: Callable[..., FakeRay],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cloudpickle = pytest.importorskip("cloudpickle")
    monkeypatch.setattr(pickle, "dumps", cloudpickle.dumps)  # as Ray does
    named = YOLO(tiny)
    named.model.names = dict(enumerate(NAMES))
    named.save(tmp_path / "named.pt")
    ray, told = fake(), {"model": tmp_path / "named.pt", "data": data, "recover": "fold", "classes": "circle"}
    assert swept(project=tmp_path / "there", ray=True, **told) == swept(project=tmp_path / "here", **told)
    assert ray.options["num_cpus"] == min(torch.get_num_threads(), 2) and ray.options["num_gpus"] == 0


def test_another_machine_has_the_labels_and_one_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever GPU it is here, it is the first of those that a piece sees there."""
    monkeypatch.setattr(sweep_points, "place", lambda device: torch.device("cuda", device))
    monkeypatch.setattr(evaluation, "device", lambda device: torch.device("cuda", device))
    here: Any = sweep_points.Points(None, (None, "view.yaml"), {"device": 3}, "lsq", [torch.zeros(1)], 4)  # type: ignore[arg-type]
    there = here.sent((["dog"], "data.yaml"))
    assert (there.passed, there.labels) == ({"device": 0}, (["dog"], "data.yaml"))
    assert there.images[0].device.type == "cpu" and here.cluster() == pieces.Ray(4, 1)
    assert here.passed == {"device": 3}


@contextlib.contextmanager
def killing_one(title: str) -> Iterator[list[int]]:
    """Kill the first process below this one whose title begins so, as soon as it is there."""
    psutil = pytest.importorskip("psutil")
    killed: list[int] = []
    over = threading.Event()

    def watch() -> None:
        while not over.is_set() and not killed:
            for process in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    if " ".join(process.cmdline()).startswith(title):
                        os.kill(process.pid, signal.SIGKILL)
                        killed.append(process.pid)
                        break
            time.sleep(0.01)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield killed
    finally:
        over.set()
        thread.join()


@pytest.mark.slow
def test_a_worker_that_is_killed_costs_no_point(tiny: Path, data: Path, tmp_path: Path) -> None:
    ray = pytest.importorskip("ray")
    here = swept(tiny, data, tmp_path / "here")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        with killing_one("ray::_elsewhere") as killed:
            there = swept(tiny, data, tmp_path / "there", ray=True)
    finally:
        ray.shutdown()
    assert killed and there == here
