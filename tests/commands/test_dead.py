"""Channels that another tool silenced: `prune` without a budget takes them, and says where it cannot."""

from __future__ import annotations

from pathlib import Path

import pytest
import ultralytics

import yoloprune
from yoloprune.backend import console
from yoloprune.errors import BudgetError
from yoloprune.selection import decision

pytestmark = pytest.mark.slow


def silenced(tiny: Path, file: Path, channels: dict[int, int]) -> Path:
    """The tiny network with the first batch-norm scales of some layers at zero, as a checkpoint."""
    yolo = ultralytics.YOLO(tiny)
    for layer, n in channels.items():
        norm = yolo.model.model[layer].bn
        norm.weight.data[:n] = 0
        norm.bias.data[:n] = 0
    yolo.save(file)
    return file


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    warnings: list[str] = []
    monkeypatch.setattr(console, "warn", warnings.append)
    return warnings


def test_dead_channels_of_another_tool_go(tiny: Path, tmp_path: Path, said: list[str]) -> None:
    file = silenced(tiny, tmp_path / "other.pt", {3: 16})
    child = yoloprune.prune(file, project=str(tmp_path), imgsz=64)
    assert child.model.model[3].conv.out_channels == ultralytics.YOLO(tiny).model.model[3].conv.out_channels - 16
    assert not said


def test_the_dead_go_without_branches(tiny: Path, tmp_path: Path, said: list[str]) -> None:
    file = silenced(tiny, tmp_path / "other.pt", {3: 16})
    child = yoloprune.prune(file, project=str(tmp_path), imgsz=64, depth=True)
    assert child.model.model[3].conv.out_channels == ultralytics.YOLO(tiny).model.model[3].conv.out_channels - 16
    assert [text for text in said if "depth= is left aside" in text]


def test_the_user_is_told_of_dead_channels_that_native_widths_keep(tiny: Path, tmp_path: Path, said: list[str]) -> None:
    """15 of 64: with round_to=8 a native width takes 8, a free one all 15."""
    file = silenced(tiny, tmp_path / "other.pt", {0: 7, 1: 7, 3: 15, 8: 7})
    told = {"project": str(tmp_path), "imgsz": 64}
    native = yoloprune.prune(file, **told).model.model[3].conv.out_channels
    kept = [text for text in said if "dead channels remain" in text]
    assert len(kept) == 1 and "native=False" in kept[0]
    said.clear()
    free = yoloprune.prune(file, native=False, **told).model.model[3].conv.out_channels
    assert native - free == 7 and not said


def test_dead_channels_that_nothing_can_take_are_not_called_alive(tiny: Path, tmp_path: Path) -> None:
    """5 of 64 are fewer than one step of native widths."""
    file = silenced(tiny, tmp_path / "other.pt", {3: 5})
    with pytest.raises(BudgetError, match=r"^5 channels are dead, but .*native=False"):
        yoloprune.prune(file, project=str(tmp_path), imgsz=64)


@pytest.mark.parametrize(("kept", "warns"), [(0.5, False), (0.505, False), (0.52, True)])
def test_a_hundredth_of_the_parent_is_rounding(kept: float, warns: bool, said: list[str]) -> None:
    decision._compare({"flops": 0.5, "params": 0.4}, {"flops": kept, "params": 0.4})
    assert [text.startswith(f"prune: 50.0% of flops are alive, but {kept:.1%} stay") for text in said] == [True] * warns
