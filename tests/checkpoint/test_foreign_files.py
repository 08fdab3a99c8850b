"""Files that are no checkpoint are refused with what they are and what to do."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest
import torch
import ultralytics
from checkpoints import untrained
from sparse_loop import TINY
from torch import nn

from yoloprune.checkpoint import saving
from yoloprune.cli import main
from yoloprune.errors import ModelError


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained(tmp_path_factory.mktemp("model"), TINY, 32)


def refused(file: Path) -> str:
    with pytest.raises(ModelError) as caught:
        saving.load(file)
    said = str(caught.value)
    assert "\n" not in said and file.name in said
    return said


def test_a_bare_network(tiny: Path, tmp_path: Path) -> None:
    torch.save(ultralytics.YOLO(tiny).model, tmp_path / "bare.pt")
    assert "yolo.save(" in refused(tmp_path / "bare.pt")
    with pytest.raises(ModelError, match=r"yolo\.save"):
        saving.load(tmp_path / "bare.pt", prunable=False)  # as `val` does


@pytest.mark.parametrize("inside", [None, "state_dict", "model"])
def test_a_state_dict(tiny: Path, tmp_path: Path, inside: str | None) -> None:
    state = ultralytics.YOLO(tiny).model.state_dict()
    torch.save(state if inside is None else {inside: state, "epoch": 3}, tmp_path / "state.pt")
    assert "state dict" in refused(tmp_path / "state.pt")


@pytest.mark.parametrize("suffix", [".pth", ".ckpt", ".bin", ""])
def test_another_ending(tiny: Path, tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"weights{suffix}"
    file.write_bytes(tiny.read_bytes())
    assert "Rename it" in refused(file)


def test_exported_models_are_not_to_be_renamed(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(nn.ReLU()), tmp_path / "model.torchscript")
    assert "Exported models" in refused(tmp_path / "model.torchscript")


def with_class_of(module: types.ModuleType, tiny: Path, file: Path) -> None:
    """Write a checkpoint that holds a class of a module, which is gone afterwards."""
    mine = type("Mine", (nn.SiLU,), {"__module__": module.__name__})
    module.Mine = mine  # type: ignore[attr-defined]
    yolo = ultralytics.YOLO(tiny)
    yolo.model.model[0].act = mine()
    yolo.save(file)
    del module.Mine  # type: ignore[attr-defined]


def test_a_class_of_the_script_that_made_the_file(tiny: Path, tmp_path: Path) -> None:
    with_class_of(sys.modules["__main__"], tiny, tmp_path / "main.pt")
    said = refused(tmp_path / "main.pt")
    assert "Mine" in said and "script" in said and "import it" in said


def test_a_class_that_the_installed_module_lacks(tiny: Path, tmp_path: Path) -> None:
    with_class_of(sys.modules["ultralytics.nn.tasks"], tiny, tmp_path / "fork.pt")
    assert "ultralytics.nn.tasks has no Mine. Install the version" in refused(tmp_path / "fork.pt")


def test_a_module_that_is_not_there(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mylayers", types.ModuleType("mylayers"))
    with_class_of(sys.modules["mylayers"], tiny, tmp_path / "mine.pt")
    monkeypatch.delitem(sys.modules, "mylayers")
    assert "mylayers.py" in refused(tmp_path / "mine.pt")


def test_modules_of_the_working_folder_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with `python -m`, but behind what is installed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["yoloprune", "version"])
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    assert main() == 0 and sys.path[-1] == str(tmp_path)


@pytest.mark.parametrize("content", [b"names: [a]\ntrain: images\n", b"", b"PK\x05\x06" + bytes(18), b"no model"])
@pytest.mark.parametrize("suffix", [".yaml", ".pt"])
def test_what_is_nothing_of_the_kind(tmp_path: Path, content: bytes, suffix: str) -> None:
    (tmp_path / f"data{suffix}").write_bytes(content)
    refused(tmp_path / f"data{suffix}")


def test_rtdetr_by_the_name_of_its_yaml() -> None:
    assert type(saving.load("rtdetr-resnet50.yaml")).__name__ == "RTDETR"
