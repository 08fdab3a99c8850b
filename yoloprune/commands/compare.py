"""Validate any number of models side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from yoloprune.backend import compat, host_arguments
from yoloprune.checkpoint.loading import ModelSource
from yoloprune.commands import validate
from yoloprune.errors import ArgumentError
from yoloprune.settings.view_requests import CompareRequest


def run(request: CompareRequest) -> list[dict[str, Any]]:
    """Compare, see `validate.compare`."""
    compat.require("compare")
    host_arguments.require(request.host)
    if request.models is None or len(request.models) < 2:
        raise ArgumentError(
            "compare needs two models or more, i.e. yoloprune compare a.pt b.pt c.onnx data=my.yaml. Received: "
            + ("none" if not request.models else str(request.models[0]))
        )
    models = named(request.models)
    return validate.compare(models, command="compare", threads=request.threads, **request.host)


def named(models: Sequence[ModelSource]) -> dict[str, ModelSource]:
    """Models by the shortest names that differ: of the files, of their runs, both, or with a number."""
    files = [Path(m) if isinstance(m, (str, Path)) else Path(f"model{i}") for i, m in enumerate(models, start=1)]
    runs = [f.absolute().parents[f.parent.name == "weights"].name for f in files]
    both = [f"{run}-{f.name}" for run, f in zip(runs, files, strict=True)]
    numbered = [f"{name}-{i}" for i, name in enumerate(both, start=1)]
    tried = ([f.stem for f in files], [f.name for f in files], runs, both, numbered)
    return dict(zip(next(names for names in tried if len(set(names)) == len(names)), models, strict=True))
