"""Two processes that train together, from the first argument to the last file, by either launcher."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny_line
import torch
import two_ranks
import yaml
from ultralytics import YOLO

import yoloprune
from yoloprune.backend import compat, run_folders, yaml_markers
from yoloprune.checkpoint import trainer_files
from yoloprune.commands import slim
from yoloprune.errors import ArgumentError
from yoloprune.settings import checking
from yoloprune.settings.slim_request import SlimRequest

work, data = tiny_line.work, tiny_line.data  # fixtures, made once a file

SHORT: dict[str, Any] = {**tiny_line.QUICK, "epochs": 2, "verbose": False}
CUT = {"flops": 0.7, "round_to": 1, "min_width": 2, "native": False}


@pytest.fixture
def ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Trainings are spread over two processes by Ultralytics' launcher; where each leaves what it has."""
    pytest.importorskip("cloudpickle", reason="Ultralytics needs it for training on several devices")
    if (
        not compat.has("LOCAL_RANK")
        or "def _setup_ddp(self):" not in Path(sys.modules[compat.BaseTrainer.__module__].__file__ or "").read_text()
    ):
        pytest.skip("this release hands the number of ranks around otherwise")
    left = tmp_path / "left"
    left.mkdir()
    for key, value in {"RANKS": "2", "LEFT": str(left), "OMP_NUM_THREADS": "1"}.items():
        monkeypatch.setenv(key, value)
    return left


def both(left: Path, name: str) -> list[dict[str, Any]]:
    """What the ranks of a training had in the end."""
    return [torch.load(left / f"{name}-{rank}.pt") for rank in (0, 1)]


def require_alike(left: Path, name: str) -> dict[str, torch.Tensor]:
    """The weights of a training, which are the same on both ranks; statistics of batch-norms are of each its own."""
    one, two = both(left, name)
    assert one["ranks"] == two["ranks"] == 2
    learnt = [k for k in one["model"] if "running_" not in k and "num_batches" not in k]
    assert all(torch.equal(one["model"][k], two["model"][k]) for k in learnt)
    assert any(not torch.equal(one["model"][k], two["model"][k]) for k in one["model"] if "running_" in k)  # its images
    return one["model"]


def files(folder: Path) -> set[str]:
    return {str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file()}


@pytest.mark.long
@pytest.mark.slow
def test_a_slim_on_two_ranks(tiny: Path, data: Path, tmp_path: Path, ranks: Path, monkeypatch: Any) -> None:
    """Sparse training, cut and fine-tuning: one set of files, the same where two died and one process went on."""
    told = {"model": tiny, "data": str(data), "project": str(tmp_path), "way": "sparse", "trainer": two_ranks.OnCpu}
    found = slim.run(checking.build(SlimRequest, {**told, **SHORT, **CUT, "name": "two"}))
    gammas = {k: v for k, v in require_alike(ranks, "2-train-sparse.unfinished").items() if k.endswith("bn.weight")}
    assert sum(int((v == 0).sum()) for v in gammas.values()) > 0  # victims, the same on both
    require_alike(ranks, "4-finetune.unfinished")
    assert found.rows[-1]["GFLOPs"] <= 0.7 * found.rows[0]["GFLOPs"] + 1e-3
    monkeypatch.setenv("DIES", "1")
    with pytest.raises(subprocess.CalledProcessError):
        slim.run(checking.build(SlimRequest, {**told, **SHORT, **CUT, "epochs": 4, "name": "one"}))
    monkeypatch.delenv("DIES")
    monkeypatch.delenv("RANKS")
    gone_on = slim.run(checking.build(SlimRequest, {**told, **SHORT, **CUT, "epochs": 4, "name": "one", "workers": 1}))
    assert gone_on.file.parents[1] == tmp_path / "one" and files(tmp_path / "two") == files(tmp_path / "one")
    rows = (tmp_path / "one" / "2-train-sparse" / "results.csv").read_text().splitlines()[1:]
    assert [int(row.split(",")[0]) for row in rows] == [1, 2]


@pytest.mark.long
@pytest.mark.slow
def test_a_run_of_two_ranks_goes_on_with_one_and_back(
    tiny: Path, data: Path, tmp_path: Path, ranks: Path, monkeypatch: Any
) -> None:
    told = {"data": str(data), "project": str(tmp_path), "name": "run", "trainer": two_ranks.OnCpu, **SHORT}
    yoloprune.train_sparse(tiny, **{**told, "epochs": 4, "save_period": 1}, **CUT)
    weights = tmp_path / "run" / "weights"
    for number, epoch in (("1", 1), ("2", 2)):
        cut_short(weights, epoch)
        monkeypatch.setenv("RANKS", number) if number == "2" else monkeypatch.delenv("RANKS")
        yolo = yoloprune.train_sparse(weights / "last.pt", resume=True, trainer=two_ranks.OnCpu)
        rows = (tmp_path / "run" / "results.csv").read_text().splitlines()[1:]
        assert [int(row.split(",")[0]) for row in rows] == [1, 2, 3, 4]
        assert yolo.model.yaml[yaml_markers.STATE_KEY]["met"]


def cut_short(weights: Path, epoch: int) -> None:
    """Leave what there was when an epoch was over."""
    (weights / f"epoch{epoch - 1}.pt").replace(weights / "last.pt")


NODE = """
import sys
import two_ranks, yoloprune
command, model, told = sys.argv[1], sys.argv[2], eval(sys.argv[3])
getattr(yoloprune, command)(model, trainer=two_ranks.OnCpu, **told)
"""


def torchrun(command: str, model: Path, told: dict[str, Any], folder: Path) -> None:
    """Two agents on this machine, as two machines have them."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    script = folder / "node.py"
    script.write_text(NODE)
    paths = [
        str(Path(two_ranks.__file__).parent),
        str(Path(yoloprune.__file__).parents[1]),
        os.environ.get("PYTHONPATH", ""),
    ]
    agents = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "torch.distributed.run", "--nnodes=2", f"--node_rank={node}"),
                *("--nproc_per_node=1", "--master_addr=127.0.0.1", f"--master_port={port}"),
                *(str(script), command, str(model), repr(told)),
            ],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for node in (0, 1)
    ]
    said = [agent.communicate(timeout=600)[0] for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], "\n".join(said)


@pytest.mark.long
@pytest.mark.slow
def test_two_machines(tiny: Path, data: Path, tmp_path: Path, ranks: Path, monkeypatch: Any) -> None:
    """Both trainings under torchrun --nnodes=2, and the cut between them: one set of files."""
    monkeypatch.delenv("RANKS")
    told = {"data": str(data), "project": str(tmp_path), **SHORT}
    torchrun("train_sparse", tiny, {**told, "name": "sparse", **CUT}, tmp_path)
    require_alike(ranks, "sparse")
    pruned = yoloprune.prune(tmp_path / "sparse/weights/best.pt", project=str(tmp_path), name="cut", data=False)
    assert sum(p.numel() for p in pruned.model.parameters()) < sum(p.numel() for p in YOLO(tiny).model.parameters())
    torchrun("finetune", tmp_path / "cut" / "weights" / "pruned.pt", {**told, "name": "tuned"}, tmp_path)
    require_alike(ranks, "tuned")
    assert sorted(f.name for f in tmp_path.iterdir() if f.is_dir()) == ["cut", "left", "sparse", "tuned"]
    for name in ("sparse", "tuned"):
        assert {"weights/best.pt", "weights/last.pt", "results.csv", "args.yaml", "report.json"} <= files(
            tmp_path / name
        )
        assert yaml.safe_load((tmp_path / name / "args.yaml").read_text())["save_dir"] == str(tmp_path / name)


# What is refused ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("device", "local", "fits"),
    [
        ("0,1", 2, True),
        ([0, 1], 2, True),
        (0, 1, True),
        ("cpu", 1, False),
        (None, 1, False),
        ("0", 2, False),
        ("0,1", 1, False),
    ],
)
def test_each_process_of_a_machine_takes_one_of_its_gpus(device: Any, local: int, fits: bool, monkeypatch: Any) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(local))
    trainer: Any = SimpleNamespace(args=SimpleNamespace(device=device))
    if fits:
        trainer_files.WholeFiles.require_device(trainer)
    else:
        with pytest.raises(ArgumentError, match=f"give device={','.join('01'[:local])}\\."):
            trainer_files.WholeFiles.require_device(trainer)


def test_a_slim_is_not_started_by_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ultralytics.utils.RANK", 1)
    asked = checking.build(SlimRequest, {"model": "missing.pt", "data": "missing.yaml"})
    with pytest.raises(ArgumentError, match=r"leave torchrun out.* start train-sparse and finetune by torchrun"):
        slim.run(asked)


def test_what_is_no_training_is_not_started_by_torchrun(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each process would do it, in a folder of its own."""
    monkeypatch.setattr("ultralytics.utils.RANK", 0)
    with pytest.raises(ArgumentError, match=r"prune: torchrun is for train-sparse and finetune"):
        run_folders.new_run("detect", "prune", {"project": str(tmp_path / "new")})
    assert not (tmp_path / "new").exists()


class Stock:
    """What is above the mixin."""

    resume = False

    def check_resume(self, overrides: Any) -> None:
        """Nothing is resumed."""


class Claims(trainer_files.WholeFiles, Stock):
    """A trainer that does nothing else."""

    def __init__(self) -> None:
        """Wants no arguments."""


@pytest.mark.parametrize(("rank", "settled", "claims"), [(0, None, True), (0, "there", False), (1, None, False)])
def test_one_process_claims_the_folder(
    rank: int, settled: str | None, claims: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The first of a torchrun; the workers of Ultralytics' launcher are given theirs."""
    monkeypatch.setattr("ultralytics.utils.RANK", rank)
    told = {"task": "detect", "mode": "train", "project": str(tmp_path), "name": "run"}
    trainer: Any = Claims()
    trainer.args = compat.get_cfg(overrides=told)
    trainer.check_resume({**told, "save_dir": settled})
    assert (trainer.run is not None) is claims
    assert [f.name for f in tmp_path.iterdir()] == (["run"] if claims else [])
