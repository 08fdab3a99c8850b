"""Live networks with what users hang onto them: hooks, masks, quantizers, tensors with a graph of gradients."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.utils.prune as torch_prune
import ultralytics
from checkpoints import untrained
from conftest import conv, noise
from sparse_loop import TINY
from torch import nn
from torch.ao.nn.qat import Conv2d as QuantizedConv2d
from torch.ao.quantization import get_default_qat_qconfig

import yoloprune
from yoloprune.backend import console
from yoloprune.checkpoint import saving
from yoloprune.errors import ArgumentError, ModelError
from yoloprune.settings.budget import Budget
from yoloprune.settings.checking import request
from yoloprune.tracing.trace_network import trace

LOAD = "import sys; from ultralytics import YOLO; YOLO(sys.argv[1])"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained(tmp_path_factory.mktemp("model"), TINY, 32)


@pytest.fixture
def live(file: Path) -> ultralytics.YOLO:
    return ultralytics.YOLO(file)


def look(module: nn.Module, inputs: Any, output: Any) -> None:
    """A hook of a module that other processes do not have."""


@pytest.mark.slow
def test_hooks_do_not_go_into_the_file(live: ultralytics.YOLO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[str] = []
    monkeypatch.setattr(console, "warn", heard.append)
    handles = [live.model.model[2].register_forward_hook(hook) for hook in (look, lambda m, i, o: None)]
    told: dict[str, Any] = {"flops": 0.9, "data": False, "imgsz": 32, "project": str(tmp_path), "native": False}
    saved = yoloprune.prune(live, round_to=1, min_width=1, **told)
    assert any("2 hooks" in said for said in heard)
    assert len(live.model.model[2]._forward_hooks) == len(handles)  # the user's object stays as it is
    subprocess.run([sys.executable, "-c", LOAD, str(saved.ckpt_path)], check=True, cwd=tmp_path)


def test_hooks_that_compute_weights_stay(live: ultralytics.YOLO) -> None:
    nn.utils.spectral_norm(live.model.model[1].conv)
    live.model.train()(noise(2, 3, 32, 32))  # leaves a weight that hangs on a graph
    loaded = saving.load(live)
    assert len(loaded.model.model[1].conv._forward_pre_hooks) == 1
    loaded.model(noise(1, 3, 32, 32))
    copy.deepcopy(saving.load(loaded).model)


@pytest.mark.parametrize("run", [False, True])
def test_masks_that_were_not_removed(live: ultralytics.YOLO, tmp_path: Path, run: bool) -> None:
    torch_prune.l1_unstructured(live.model.model[1].conv, "weight", amount=0.3)
    if run:
        with torch.no_grad():
            live.model.eval()(noise(1, 3, 32, 32))
        live.save(tmp_path / "masked.pt")
        with pytest.raises(ModelError, match=r"prune\.remove"):
            saving.load(tmp_path / "masked.pt")
    with pytest.raises(ModelError, match=r"model\.1\.conv.*prune\.remove"):
        saving.load(live)
    torch_prune.remove(live.model.model[1].conv, "weight")
    saving.load(live)


def test_masks_and_quantizers_of_any_network() -> None:
    masked = nn.Sequential(conv(3, 16), conv(16, 4)).requires_grad_(False)
    torch_prune.ln_structured(masked[0], "weight", 0.25, n=2, dim=0)
    quantized = nn.Sequential(conv(3, 16), conv(16, 4))
    quantized[0].qconfig = get_default_qat_qconfig("fbgemm")  # type: ignore[assignment]
    quantized[0] = QuantizedConv2d.from_float(quantized[0])
    for network, word in ((masked, "masks"), (quantized, "quantiz")):
        with pytest.raises(ModelError, match=word):
            trace(network, noise(1, 3, 8, 8))
        with pytest.raises(ModelError, match=word):
            yoloprune.prune_module(network, noise(1, 3, 8, 8), Budget(flops=0.5))


@pytest.mark.parametrize("told", [{"quantize": 8}, {"quantize": "int8"}, {"quantize": "w8a8"}, {"int8": True}])
def test_sparse_training_with_quantizers(told: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError, match="quantize"):
        request("train-sparse", {"model": "a.pt", "data": "b.yaml", **told})
    assert request("finetune", {"model": "a.pt", "data": "b.yaml", **told}).passed
