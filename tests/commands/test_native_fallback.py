"""Where stock Ultralytics builds the cut model otherwise, free widths are saved, unless native ones were asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from checkpoints import untrained
from sparse_loop import TINY

import yoloprune
from yoloprune.backend import console
from yoloprune.checkpoint import rebuild
from yoloprune.errors import PlanError


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
