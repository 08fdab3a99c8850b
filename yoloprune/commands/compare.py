"""Validate any number of models side by side."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from yoloprune.backend import compat, host_arguments
from yoloprune.checkpoint.loading import ModelSource
from yoloprune.commands import validate
from yoloprune.errors import ArgumentError
from yoloprune.settings.value_kinds import as_typed
from yoloprune.settings.view_requests import CompareRequest


def run(request: CompareRequest) -> list[dict[str, Any]]:
    """Compare, see `validate.compare`."""
    compat.require("compare")
    host_arguments.require(request.host)
    if request.models is None or len(request.models) < 2:
        raise ArgumentError(
            "compare needs two models or more, e.g. yoloprune compare a.pt b.pt c.onnx data=my.yaml. Received: "
            + ("none" if not request.models else as_typed(next(iter(request.models))))
        )
    models = request.models if isinstance(request.models, Mapping) else named(request.models)
    return validate.compare(request, models)


OF_ANY_RUN = re.compile(r"(best|last|pruned|masked|best-earlier|epoch\d+)(_.*)?")
"""Names of files and exports that every run has."""

STAGE = re.compile(r"\d+-\w+")
"""Folders that every `slim` has."""


def named(models: Sequence[ModelSource]) -> dict[str, ModelSource]:
    """Models by the ends of their paths that tell them apart, and from which run they are.

    A file that every run has comes with the folder of its run, `slim/weights/best.pt`, another one by its own name.
    Those that are still called alike get the nearest folder above in which they differ; what they share between is left
    out.
    """
    paths = [
        Path(m).absolute().parts[1:] if isinstance(m, (str, Path)) else (f"model{i}",) for i, m in enumerate(models, 1)
    ]  # without the root, which is no folder
    least = [_least(m) for m in models]
    names = ["/".join(path[-n:]) for path, n in zip(paths, least, strict=True)]
    for name in {n for n in names if names.count(n) > 1}:
        alike = [i for i, n in enumerate(names) if n == name]
        above = _apart([paths[i][: -least[i]] for i in alike])
        for number, i in enumerate(alike):
            names[i] = f"{name}-{number + 1}" if above is None else f"{above[number]}/{name}".lstrip("/")
    return dict(zip(names, models, strict=True))


def _least(model: ModelSource) -> int:
    """How many parts of its path say what a model is; not more than were typed."""
    if not isinstance(model, (str, Path)):
        return 1
    parts = Path(model).relative_to(Path(model).anchor).parts
    count = 1
    if OF_ANY_RUN.fullmatch(Path(model).stem):
        count = 3 if parts[-2:-1] == ("weights",) else 2
        if len(parts) > count and STAGE.fullmatch(parts[-count]):
            count += 1
    return min(count, len(parts))


def _apart(above: Sequence[Sequence[str]]) -> list[str] | None:
    """Folders in which paths of one end differ, the nearest; None where they are the same."""
    for depth in range(1, max(map(len, above)) + 1):
        found = [path[-depth] if len(path) >= depth else "" for path in above]
        if len(set(found)) == len(found):
            return [folder if depth == 1 else f"{folder}/..." for folder in found]
    return None
