"""Validate any number of models side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from yoloprune.backend import compat, host_arguments
from yoloprune.checkpoint.loading import ModelSource
from yoloprune.commands import validate
from yoloprune.settings.view_requests import CompareRequest


def run(request: CompareRequest) -> list[dict[str, Any]]:
    """Compare, see `validate.compare`."""
    compat.require("compare")
    host_arguments.require(request.host)
    models = named(request.models or ())
    return validate.compare(models, command="compare", threads=request.threads, **request.host)


def named(models: Sequence[ModelSource]) -> dict[str, ModelSource]:
    """Models by short names: that of the file, with its run where several have the same, else with a number."""
    files = [Path(m) if isinstance(m, (str, Path)) else Path(f"model{i}") for i, m in enumerate(models, start=1)]
    names = [f.stem for f in files]
    runs = [f.parents[1].name if f.parent.name == "weights" and len(f.parts) > 2 else f.parent.name for f in files]
    if max(Counter(names).values()) > 1:  # best.pt of several runs; a suffix tells an export from its checkpoint
        names = [f"{run}-{f.name}".lstrip("-") for run, f in zip(runs, files, strict=True)]
    taken = Counter(names)
    return {f"{n}-{i}" if taken[n] > 1 else n: m for i, (n, m) in enumerate(zip(names, models, strict=True), start=1)}
