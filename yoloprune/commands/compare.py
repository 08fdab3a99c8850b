"""Validate any number of models side by side."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from yoloprune.backend import compat, host_arguments
from yoloprune.checkpoint.loading import ModelSource
from yoloprune.commands import validate
from yoloprune.errors import ArgumentError
from yoloprune.settings import command_line
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
    models, words = named(request.models), command_line.written(request)
    return validate.compare(models, command="compare", threads=request.threads, words=words, **request.host)


OF_ANY_RUN = frozenset({"best", "last", "pruned", "masked", "best-earlier"})
"""Names of files that every run has."""

EPOCH = re.compile(r"epoch\d+")
"""What `save_period=` leaves."""


def named(models: Sequence[ModelSource]) -> dict[str, ModelSource]:
    """Models by short names that tell them apart.

    A file of a run is called as the run's folder, another one by its own name. Those that are still called alike get
    the part of their paths in which they differ: the file's name, or the nearest folder above.
    """
    parts = [_parts(m, i) for i, m in enumerate(models, start=1)]
    names = [p[0] for p in parts]
    for name in {n for n in names if names.count(n) > 1}:
        alike = [i for i, n in enumerate(names) if n == name]
        told = _apart([parts[i] for i in alike], {n for n in names if n != name})
        for i, called in zip(alike, told, strict=True):
            names[i] = called
    return dict(zip(names, models, strict=True))


def _parts(model: ModelSource, number: int) -> list[str]:
    """What a model may be called, then the name of its file, then the folders above, the nearest first."""
    if not isinstance(model, (str, Path)):
        return [f"model{number}", type(model).__name__]
    file = Path(model)
    above = [p.name for p in file.absolute().parents]
    if file.parent.name == "weights" and (file.stem in OF_ANY_RUN or EPOCH.fullmatch(file.stem)):
        return [above[1], f"{above[1]}/{file.name}", *(f"{folder}/{above[1]}" for folder in above[2:])]
    if file.stem in OF_ANY_RUN and file.parent.name:
        own = f"{file.parent.name}/{file.stem}"
        return [own, f"{file.parent.name}/{file.name}", *(f"{folder}/{own}" for folder in above[1:])]
    return [file.stem, file.name, *(f"{folder}/{file.stem}" for folder in above)]


def _apart(alike: Sequence[Sequence[str]], taken: Collection[str]) -> Sequence[str]:
    """Other names for models that are called alike, numbers where their paths are the same."""
    for told in zip(*(parts[1:] for parts in alike), strict=False):
        if len(set(told)) == len(told) and not set(told) & set(taken):
            return told
    return [f"{parts[0]}-{i}" for i, parts in enumerate(alike, start=1)]
