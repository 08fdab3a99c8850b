"""Ultralytics' arguments are judged before anything is loaded or made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import build, narrow
from torch import nn

import yoloprune
from yoloprune.backend import evaluation, host_arguments
from yoloprune.errors import ArgumentError


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> nn.Module:
    return build(tmp_path_factory.mktemp("model") / "tiny.yaml", narrow()).model


@pytest.mark.parametrize("wrong", [{"lr0": 2}, {"epochs": 0}, {"amp": "fp8"}, {"cos_lr": 3}, {"patience": -1}])
def test_ultralytics_own_judgement_comes_first(wrong: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError, match=next(iter(wrong))):
        host_arguments.require(wrong)


@pytest.mark.parametrize("told", [{"project": "o'neil"}, {"name": "o'neil"}, {"save_dir": "o'neil/run"}])
def test_a_folder_in_which_ultralytics_opens_no_checkpoint(told: dict[str, Any], tmp_path: Path) -> None:
    given = {k: tmp_path / v if k != "name" else v for k, v in told.items()}
    with pytest.raises(ArgumentError, match="whose path has a quote in it"):
        host_arguments.require_openable(given)
    host_arguments.require_openable({**given, "resume": True})  # its folder is that of the checkpoint
    host_arguments.require_openable({"project": tmp_path / "o neil", "name": "ä $x"})


@pytest.mark.parametrize("command", ["prune", "mask", "finetune", "train_sparse", "slim"])
def test_it_is_refused_before_there_is_any_work(command: str, tmp_path: Path) -> None:
    """Before the model is looked for."""
    with pytest.raises(ArgumentError, match="quote"):
        getattr(yoloprune, command)(tmp_path / "none.pt", data="none.yaml", project=tmp_path / "o'neil")


@pytest.mark.parametrize("device", ["tpu:0", "vulkan", "intel:gpu", "7,8", "gpu", "cuda:99", [98, 99]])
def test_a_device_that_is_not_there(device: Any) -> None:
    with pytest.raises(ArgumentError) as caught:
        host_arguments.require({"device": device})
    assert str(caught.value).startswith("device=") and "\n" not in str(caught.value)


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="there is one")
def test_mps_is_not_replaced_by_the_cpu() -> None:
    for name in ("mps", "mps:0", torch.device("mps")):
        with pytest.raises(ArgumentError, match="MPS"):
            evaluation.device(name)
    assert evaluation.device("cpu") == evaluation.device(torch.device("cpu")) == torch.device("cpu")


@pytest.mark.parametrize("freeze", [999, -1, 3.5, "all", [0, 999], [-1], ["nowhere.cv2"], [None], True, {"a": 1}])
def test_layers_to_freeze_that_are_not_there(model: nn.Module, freeze: Any) -> None:
    with pytest.raises(ArgumentError, match="freeze="):
        host_arguments.frozen_layers(model, freeze)


def test_layers_to_freeze(model: nn.Module) -> None:
    count = len(model.model)  # type: ignore[arg-type]
    for freeze in (None, 0, 3, [0, 2], ["0.conv", 1], []):
        assert host_arguments.frozen_layers(model, freeze) == freeze
    assert host_arguments.frozen_layers(model, (0, 1)) == [0, 1]  # Ultralytics passes over a tuple
    with pytest.raises(ArgumentError, match="all"):
        host_arguments.frozen_layers(model, count)


def test_the_name_of_an_optimizer_is_judged_before_anything_is_loaded() -> None:
    with pytest.raises(ArgumentError, match=r"optimizer=foo: must be one of (\w+, )*AdamW, .*SGD.*\. Received: foo$"):
        host_arguments.require({"optimizer": "foo"})
    for name in ("auto", "SGD", "adamw"):
        host_arguments.require({"optimizer": name})
