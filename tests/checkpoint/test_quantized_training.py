"""Training with quantizers, which Ultralytics does by a package of its own: widths and zeros hold there as well."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
import ultralytics
from checkpoints import run_of
from torch import nn

import yoloprune
from yoloprune import cli
from yoloprune.backend import compat, host_arguments, yaml_markers
from yoloprune.checkpoint import saving
from yoloprune.cutting import masks
from yoloprune.errors import ArgumentError

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

if "quantize" not in compat.DEFAULT_CFG_DICT:
    pytest.skip("this Ultralytics does not train with quantizers", allow_module_level=True)

LIVELY: dict[str, Any] = {"optimizer": "AdamW", "lr0": 0.01, "warmup_epochs": 0, "nbs": 4, "amp": False}
needs_modelopt = pytest.mark.skipif(importlib.util.find_spec("modelopt") is None, reason="modelopt is not installed")


@pytest.mark.parametrize("told", [{"quantize": 8}, {"quantize": "w8a8"}, {"int8": True}])
def test_what_is_missing_is_named_before_there_is_a_folder(
    told: dict[str, Any], parent: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_arguments, "find_spec", lambda name: None)
    with pytest.raises(ArgumentError, match=r"^quantize=.*: needs a package .* pip install nvidia-modelopt"):
        yoloprune.finetune(parent, data=str(data), **told, **run_of(tmp_path))
    words = [f"model={parent}", f"data={data}", f"project={tmp_path / 'runs'}"]
    assert cli.main(["finetune", *words, *(f"{k}={v}" for k, v in told.items())]) == 2
    assert not (tmp_path / "runs").exists()


def quantized(model: nn.Module) -> bool:
    return any(type(m).__name__ == "TensorQuantizer" for m in model.modules())


@needs_modelopt
def test_zeros_hold(parent: Path, data: Path, tmp_path: Path) -> None:
    told: dict[str, Any] = {"pattern": "2:4", "recover": "none", "imgsz": 64, "name": "mask"}
    file = str(yoloprune.mask(parent, data=False, project=str(tmp_path), **told).ckpt_path)
    model = saving.load(file).model
    before = masks.found_in(model, yaml_markers.masks_of(model)["layers"])
    tuned = yoloprune.finetune(file, data=str(data), quantize=8, **run_of(tmp_path, epochs=2, **LIVELY))
    best = ultralytics.YOLO(str(tuned.trainer.best)).model
    for network in (best, tuned.trainer.model, tuned.trainer.ema.ema):
        assert quantized(network)
        for name in yaml_markers.masks_of(network)["layers"]:
            weight = dict(network.named_parameters())[f"{name}.weight"]
            assert not weight[~before[name]].any() and masks.is_n_of_m(weight, 2, 4), name


@needs_modelopt
def test_zeros_become_more(parent: Path, data: Path, tmp_path: Path) -> None:
    tuned = yoloprune.finetune(
        parent, data=str(data), quantize=8, sparsity=0.8, ramp_end=0.5, **run_of(tmp_path, epochs=3, **LIVELY)
    )
    weights = dict(ultralytics.YOLO(str(tuned.trainer.best)).model.named_parameters())
    found = torch.cat([weights[f"{name}.weight"].flatten() for name in yaml_markers.masks_of(tuned.model)["layers"]])
    assert float((found == 0).float().mean()) == pytest.approx(0.8, abs=0.001)


@needs_modelopt
@pytest.mark.parametrize("native", [True, False])
def test_widths_hold(native: bool, parent: Path, data: Path, tmp_path: Path) -> None:
    told: dict[str, Any] = {"ratio": 0.3, "native": native, "round_to": 1, "min_width": 1, "imgsz": 64}
    pruned = yoloprune.prune(parent, data=False, project=str(tmp_path), name="prune", **told)
    shapes = {name: p.shape for name, p in pruned.model.named_parameters() if not name.startswith("model.7.cv3")}
    tuned = yoloprune.finetune(str(pruned.ckpt_path), data=str(data), quantize=8, **run_of(tmp_path, **LIVELY))
    best = ultralytics.YOLO(str(tuned.trainer.best)).model
    assert quantized(best)
    assert {n: p.shape for n, p in best.named_parameters() if not n.startswith("model.7.cv3")} == shapes
