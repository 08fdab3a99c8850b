"""Where stock Ultralytics builds the cut model otherwise, free widths are saved, unless native ones were asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from checkpoints import build, untrained
from conftest import noise, settle
from native_models import BACKBONE
from sparse_loop import TINY

import yoloprune
from yoloprune.backend import console
from yoloprune.checkpoint import rebuild
from yoloprune.errors import PlanError


@pytest.mark.long
@pytest.mark.slow
def test_free_widths_where_a_build_differs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = untrained(tmp_path, TINY, 32)
    heard: list[str] = []

    def differs(*_: Any) -> None:
        raise PlanError("Stock Ultralytics builds model.6.cv2 otherwise than it was cut.")

    monkeypatch.setattr(rebuild, "require_stock_build", differs)
    monkeypatch.setattr(console, "warn", heard.append)
    told: dict[str, Any] = {"flops": 0.92, "data": False, "imgsz": 32, "project": str(tmp_path / "runs")}
    saved = yoloprune.prune(tiny, round_to=1, min_width=1, **told)
    assert saved.model.yaml["yoloprune"]["widths"]  # free: the record says them
    assert any("free widths" in said and "model.6.cv2" in said and "native=False" not in said for said in heard), heard
    with pytest.raises(PlanError, match="native=False"):
        yoloprune.prune(tiny, native=True, round_to=1, min_width=1, **told)


@pytest.mark.long
@pytest.mark.slow
def test_what_rows_cost_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The angles of an OBB head are a quarter as wide as its first input, which therefore stays as it is in a YAML."""
    yolo = build(tmp_path / "obb.yaml", {"nc": 3, "backbone": BACKBONE, "head": [[[2, 4], 1, "OBB", ["nc", 1]]]})
    settle(yolo.model, noise(2, 3, 64, 64))
    yolo.save(str(tmp_path / "obb.pt"))
    heard: list[str] = []
    monkeypatch.setattr(console, "warn", heard.append)
    told: dict[str, Any] = {"flops": 0.85, "data": False, "imgsz": 64, "score": "random", "project": str(tmp_path)}
    yoloprune.prune(tmp_path / "obb.pt", **told)
    (said,) = [said for said in heard if "importance" in said]
    assert "no other width of model.2.cv2.conv" in said and "native=False frees" in said
    heard.clear()
    yoloprune.prune(tmp_path / "obb.pt", native=True, **told)  # who asked for native widths knows
    assert not [said for said in heard if "importance" in said]
