"""What a validation of Ultralytics found, image by image: it keeps that only as long as it runs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from yoloprune import files
from yoloprune.planning.paired_bootstrap import Findings

EVENT = "on_val_batch_end"
HITS = ("tp_m", "tp_p", "tp")
"""Where the figure that counts comes from: masks or keypoints where there are such."""

TASKS = frozenset({"detect", "segment", "pose", "obb"})
"""Those with mAP, of which images can be drawn again."""


class Watch:
    """Collects what a validation found.

    Attributes:
        stats (dict[str, list[np.ndarray]]): Per key of Ultralytics, one array per image.
    """

    def __init__(self) -> None:
        self.stats: dict[str, list[np.ndarray]] = {}

    def __call__(self, validator: Any) -> None:
        """Take what came since the last batch."""
        stats = getattr(getattr(validator, "metrics", None), "stats", None)
        if not isinstance(stats, dict):
            return
        for key, arrays in stats.items():
            mine = self.stats.setdefault(key, [])
            mine += [np.asarray(a) for a in arrays[len(mine) :]]

    def findings(self) -> Findings | None:
        """All of it; None where the task has no mAP, or Ultralytics kept it elsewhere."""
        kept = self.stats
        key = next((k for k in HITS if kept.get(k)), None)
        if key is None or not {"conf", "pred_cls", "target_cls"} <= set(kept):
            return None

        def of(arrays: list[np.ndarray]) -> np.ndarray:
            return np.repeat(np.arange(len(arrays)), [len(a) for a in arrays])

        together = {k: np.concatenate(kept[k], 0) for k in (key, "conf", "pred_cls", "target_cls")}
        return Findings(
            together[key].astype(bool),
            together["conf"],
            together["pred_cls"],
            of(kept["conf"]),
            together["target_cls"],
            of(kept["target_cls"]),
            len(kept["conf"]),
        )


@contextlib.contextmanager
def watched(yolo: Any) -> Iterator[Watch]:
    """Collect what the validation in a `with` block finds."""
    watch = Watch()
    yolo.add_callback(EVENT, watch)
    try:
        yield watch
    finally:
        yolo.callbacks[EVENT].remove(watch)


def save(path: Path, found: Findings) -> None:
    """Write findings in one step."""
    arrays: Mapping[str, Any] = vars(found)
    files.write_at_once(
        path, lambda f: np.savez_compressed(f, **{k: v for k, v in arrays.items() if not k.startswith("_")})
    )


def load(path: Path) -> Findings | None:
    """Read findings, None where there is no such file."""
    if not path.is_file():
        return None
    with np.load(path, allow_pickle=False) as kept:
        arrays = {k: kept[k] for k in kept.files}
    return Findings(**{**arrays, "count": int(arrays["count"])})
