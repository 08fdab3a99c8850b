"""Networks on real runtimes, each where it is installed: what runs is what Ultralytics exports, and nothing is left."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import TEN_ROWS, build
from torch import nn

import yoloprune
from yoloprune.backend import compat, evaluation
from yoloprune.errors import ArgumentError
from yoloprune.runtimes import bench, device_runtimes, engines, threads
from yoloprune.runtimes.deployment import Deployment
from yoloprune.runtimes.timing import FEWEST, WARM_UP

NEEDED = {"torchscript": "torch", "onnx": "onnxruntime", "openvino": "openvino", "ncnn": "pnnx"}


@pytest.fixture(scope="module")
def network(tiny: Path) -> nn.Module:
    model: nn.Module = yoloprune.load(tiny).model
    return model


@pytest.fixture
def backends(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Ultralytics' backends that were opened."""
    made: list[Any] = []
    kind = compat.AutoBackend

    def opened(*args: Any, **told: Any) -> Any:
        made.append(kind(*args, **told))
        return made[-1]

    monkeypatch.setattr("ultralytics.nn.autobackend.AutoBackend", opened)
    return made


def test_a_device_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[Any] = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    monkeypatch.setattr(torch.mps, "synchronize", lambda: waited.append("mps"))
    for name in ("cpu", "cuda:1", "mps", "meta"):
        engines.wait_for(torch.device(name))
    assert waited == [torch.device("cuda:1"), "mps"]


def test_torch_is_timed_fused_by_turns(monkeypatch: pytest.MonkeyPatch, network: nn.Module) -> None:
    ran: list[tuple[str, int]] = []
    names = iter(["parent", "child"])
    fused = evaluation.fused_copy

    def watched(model: nn.Module) -> nn.Module:
        copied, name = fused(model), next(names)

        def note(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            ran.append((name, len(inputs[0])))

        copied.register_forward_pre_hook(note)
        return copied

    monkeypatch.setattr(evaluation, "fused_copy", watched)
    with bench.opened(Deployment(batch=2), network, 64) as timer:
        parent, child = timer.time(network, seconds=0.0)
    both = [("parent", 2), ("child", 2)]
    assert ran == [*both[:1] * WARM_UP, *both[1:] * WARM_UP, *both * FEWEST]
    assert 0 < parent.median <= parent.p95 and child.runs == FEWEST
    assert isinstance(network.model[0].bn, nn.BatchNorm2d) and torch.is_grad_enabled()
    told = timer.facts([parent, child])
    assert told["ms"] == [parent.median, child.median] and (told["batch"], told["imgsz"]) == (2, 64)


@pytest.mark.parametrize("form", NEEDED)
@pytest.mark.slow
def test_exports_run_in_ultralytics_own_backend(
    network: nn.Module, backends: list[Any], form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(NEEDED[form])
    monkeypatch.chdir(tmp_path)
    path, before = network.pt_path, {k: v.clone() for k, v in network.state_dict().items()}
    with bench.opened(Deployment(form, threads=1), network, 64) as timer:
        (found,) = timer.time(seconds=0.0)
        (backend,) = backends
        image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        theirs = backend(image)
        with torch.inference_mode():
            ours = evaluation.fused_copy(network)(image)
    assert backend.format == form and found.median > 0
    wanted, got = (y[0] if isinstance(y, (list, tuple)) else y for y in (ours, theirs))
    assert (wanted - got).abs().max() <= 1e-2 * wanted.abs().max()
    assert not list(tmp_path.iterdir())
    assert all(v.equal(before[k]) for k, v in network.state_dict().items()) and network.pt_path == path


@pytest.mark.slow
def test_a_file_gets_images_of_as_many_channels_as_it_takes(tmp_path: Path) -> None:
    colour = build(tmp_path / "ten.yaml", TEN_ROWS).model
    grey = type(colour)(str(tmp_path / "ten.yaml"), ch=1, verbose=False)
    grey.args, grey.task = colour.args, colour.task
    deployment = Deployment("torchscript")
    file = engines.exported(grey, deployment, 64, tmp_path / "grey.pt")
    engines.opened(str(file), deployment, 64, tmp_path)()


@pytest.mark.slow
def test_a_batch_is_exported_and_its_time_is_per_image(network: nn.Module, backends: list[Any]) -> None:
    pytest.importorskip("onnxruntime")
    with bench.opened(Deployment("onnx", batch=2), network, 64):
        assert backends[0].session.get_inputs()[0].shape == [2, 3, 64, 64]


def test_threads_are_those_that_were_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    with threads.pinned("torch", before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
    with contextlib.suppress(ImportError):
        import onnxruntime

        told: list[tuple[int, str]] = []

        def session(path: str, options: Any, **_: Any) -> None:
            told.append(
                (options.intra_op_num_threads, options.get_session_config_entry(device_runtimes.NO_IDLE_SPINNING[0]))
            )

        monkeypatch.setattr(onnxruntime, "InferenceSession", session)
        with threads.pinned("onnx", 3):
            onnxruntime.InferenceSession("a.onnx", None, providers=[])
        with threads.pinned("onnx", None):
            onnxruntime.InferenceSession("a.onnx", onnxruntime.SessionOptions())
            onnxruntime.InferenceSession("a.onnx", sess_options=onnxruntime.SessionOptions())
        assert told == [(3, "1"), (0, "1"), (0, "1")]  # whose idle threads leave the cores to the next network


@pytest.mark.slow
def test_threads_of_openvino_and_ncnn() -> None:
    openvino, ncnn = pytest.importorskip("openvino"), pytest.importorskip("ncnn")
    kinds = openvino.Core, ncnn.Net
    with threads.pinned("openvino", 1), threads.pinned("ncnn", 1):
        assert openvino.Core().get_property("CPU", "INFERENCE_NUM_THREADS") == 1
        assert ncnn.Net().opt.num_threads == 1
    assert kinds == (openvino.Core, ncnn.Net)


def test_what_does_not_run_here_is_said_in_one_line(
    network: nn.Module, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def exporter(**_: Any) -> Any:
        def export(model: nn.Module) -> str:
            os.system("echo chatter of a converter")
            raise failure

        return export

    monkeypatch.setattr("ultralytics.engine.exporter.Exporter", exporter)
    failure: Exception = AssertionError("ERROR ❌️ argument 'dynamic'\n is not supported")
    with (
        pytest.raises(ArgumentError, match=r"^format=ncnn: does not run here: argument 'dynamic' is not supported$"),
        bench.opened(Deployment("ncnn"), network, 64),
    ):
        pass
    failure = ModuleNotFoundError("No module named 'nncf'", name="nncf")
    with (
        pytest.raises(ArgumentError, match=r"^format=openvino: needs the package nncf, .*: pip install nncf$"),
        bench.opened(Deployment("openvino"), network, 64),
    ):
        pass
    failure = MemoryError()
    with pytest.raises(MemoryError), bench.opened(Deployment("onnx"), network, 64):
        pass
    assert "chatter" not in "".join(capfd.readouterr())
