"""Times that were measured on another device, in place of measuring here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from torch import nn

from yoloprune import shell_words
from yoloprune.backend import console
from yoloprune.errors import BudgetError, DataError
from yoloprune.native.candidates import Choice
from yoloprune.planning.channel_graph import ChannelGraph
from yoloprune.planning.cost import Cost
from yoloprune.planning.time_model import TimeModel
from yoloprune.runtimes.device_script import OF_COMMAND, SWING, WAY, rows_of
from yoloprune.selection import time_profile
from yoloprune.selection.time_profile import Timed
from yoloprune.settings import command_line
from yoloprune.settings.wanted_time import milliseconds

ENOUGH = 16
"""Networks below which prices of this many kinds of layers are guesswork."""


@dataclass(frozen=True)
class DeviceTimes:
    """A table of `measure.py`.

    Attributes:
        file (Path): Where it is.
        how (Mapping[str, str]): How was measured, by `device_script.WAY`.
        ms (float): Milliseconds of the parent.
        timed (Timed): What each network took.
    """

    file: Path
    how: Mapping[str, str]
    ms: float
    timed: Timed

    def __str__(self) -> str:
        return f"{self.how['runtime']} on {self.how['machine']}"

    def require(self, graph: ChannelGraph, imgsz: int) -> None:
        """Raise DataError unless it is of this network at this size."""
        if self.how["parent"] != fingerprint(graph):
            raise DataError(
                f"times={self.file}: is of a network of other layers or widths than this model. 'yoloprune latency' "
                "writes a folder for this one"
            )
        if self.how["imgsz"] != str(imgsz):
            raise DataError(f"times={self.file}: was measured at imgsz={self.how['imgsz']}. Received: imgsz={imgsz}")
        if any(len(one) != len(graph.axes) for one in self.timed.axes):
            raise DataError(f"times={self.file}: a row is damaged, its widths are not those of {len(graph.axes)} axes")

    def learnt(self, parent: nn.Module, graph: ChannelGraph) -> TimeModel:
        """A time model of the parent, see `time_profile`; says how well it predicts."""
        model = self._fitted(parent, graph)
        said = time_profile.predicted(model, self)
        if model.error > time_profile.TRUSTED:
            console.warn(f"prune: {said}; something else may have been running there. Better measure again")
        else:
            console.log("prune: ", f"{said}, from {len(self.timed.shares)} networks of other widths")
        return model

    def _fitted(self, parent: nn.Module, graph: ChannelGraph) -> TimeModel:
        return time_profile.fitted(time_profile.layers(parent, graph), graph, self.timed)

    def predicted(self, parent: nn.Module, choice: Choice) -> dict[str, Any]:
        """What is known of a choice, for reports: its time as a share of the parent's, and on what that rests."""
        model, widths = self._fitted(parent, choice.graph), Cost(choice.graph).axes(choice.widths.astype(float))
        if count := int((widths < np.min(self.timed.axes, axis=0)).sum()):  # its limits were narrower than these
            console.warn(
                f"prune: {count} of {len(widths)} widths are smaller than in any network of times={self.file}, so the "
                "time is less certain. 'yoloprune latency' times such too if it is given the same keep=, layers=, "
                "max_ratio=, round_to= and min_width="
            )
        share = model.of(widths)
        known = {"predicted": round(share, 4), "error": round(model.error, 4), "worst": round(model.worst, 4)}
        return {**known, "parent_ms": self.ms, "times": str(self.file), **self.how}

    def again(self, model: Any, against: Any, data: Any) -> str:
        """The command that has a network timed beside its parent in the same way, at int8 calibrated on `data`."""
        told = {key: self.how[key] or None for key in ("format", "imgsz", "batch", "threads")}
        told["half"] = "True" if self.how["precision"] == "fp16" else None
        if self.how["precision"] == "int8":
            told |= {"int8": "True", "data": data or "..."}
        told["cmd"] = self.how["runtime"] if self.how["machine"] == OF_COMMAND else None
        told["batch"] = None if told["batch"] == "1" else told["batch"]
        words = command_line.pairs({"model": model, "against": against, **told})
        return " ".join(["yoloprune latency", *map(shell_words.quoted, words)])

    def share(self, latency: float | str) -> float:
        """A wanted time as a share of the parent's; raises BudgetError where the parent meets it."""
        wanted = milliseconds(latency, self.ms) / self.ms
        if wanted >= 1:
            raise BudgetError(f"latency={latency}: the model already takes no longer, {self.ms:.2f} ms in {self}.")
        return wanted


def fingerprint(graph: ChannelGraph) -> str:
    """What tells a network from others of other layers or widths; weights and image size have no part in it."""
    told = json.dumps([(str(axis), axis.width) for axis in graph.axes])
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def widths_of(graph: ChannelGraph, alive: np.ndarray) -> list[int]:
    """Width of every axis where some classes stay; `alive` has the shape (classes,)."""
    return [round(width) for width in Cost(graph).axes(graph.widths(alive)).tolist()]


def read(path: str | Path) -> DeviceTimes:
    """Read a table.

    Raises:
        DataError: If it is not there, or no such table, or torn, or of several ways to measure, or too short.
    """
    file = Path(path)
    if not file.is_file():
        raise DataError(f"times={path}: there is no such file.")
    rows = {row["network"]: row for row in rows_of(file)}
    if not rows:
        raise DataError(f"times={path}: holds no whole row of what the measure.py of 'yoloprune latency' writes")
    ways = [{key: row[key] for key in WAY} for row in rows.values()]
    if differ := [key for key in WAY if len({way[key] for way in ways}) > 1]:
        raise DataError(f"times={path}: holds rows that were measured with several values of {', '.join(differ)}")
    widths, shares, parents = [], [], []
    for name, row in rows.items():
        try:
            ms, parent = float(row["ms"]), float(row["parent_ms"])
            widths.append(np.array([int(width) for width in row["widths"].split()], dtype=float))
        except ValueError:
            ms = parent = 0.0
        if not 0 < ms < np.inf or not 0 < parent < np.inf:
            raise DataError(f"times={path}: the row of {name} is damaged. Take it out, and measure.py times it again")
        shares.append(ms / parent)
        parents.append(parent)
    together = np.unique(parents, return_inverse=True)[1].tolist()  # the parent has one time in each round
    found = DeviceTimes(file, ways[0], median(parents), Timed(widths, shares, together))
    _require_enough(found)
    if max(parents) > SWING * min(parents):
        said = f"the parent took {min(parents):.2f} to {max(parents):.2f} ms"
        console.warn(f"times={path}: {said}, so something else was running there")
    return found


def _require_enough(found: DeviceTimes) -> None:
    count, of = len(found.timed.shares), found.how["of"]
    if of == "1":
        raise DataError(f"times={found.file}: sets two models side by side; times= is of a folder without against=")
    if count < ENOUGH:
        raise DataError(
            f"times={found.file}: holds {count} of {of} networks, and at least {ENOUGH} are needed. measure.py goes on "
            "where it was"
        )
    if str(count) != of:
        console.warn(f"times={found.file}: holds {count} of {of} networks; measure.py goes on where it was")
