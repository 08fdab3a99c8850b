"""Draw the weights of layers, of one model or before and after a cut."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from yoloprune.backend import compat, console, host_arguments, moved_layers, run_folders
from yoloprune.checkpoint import saving
from yoloprune.errors import ArgumentError
from yoloprune.planning.plan import REMOVED, Plan
from yoloprune.reporting import layer_plots, run_report, text_table
from yoloprune.settings.view_requests import PlotRequest
from yoloprune.tracing.named_layers import match

KINDS = {
    "2d": (nn.Conv2d, nn.ConvTranspose2d, nn.Linear),
    "3d": (nn.Conv2d, nn.ConvTranspose2d),
    "gamma": (nn.BatchNorm2d,),
}
"""What has something to draw."""


def run(request: PlotRequest) -> Path:
    """Draw, see `layer_plots.plot`.

    Returns:
        (Path): The picture.
    """
    compat.require("plot")
    host_arguments.require(request.host)
    sources = (
        [("", request.model)] if request.against is None else [("before", request.against), ("after", request.model)]
    )
    loaded = [(called, saving.load(model, prunable=False)) for called, model in sources]
    plan = _plan_beside(request.model) if request.against is not None else None
    if plan is not None and not _fits(plan, loaded[0][1].model):
        console.warn(f"plot: model= was not cut from against={request.against}: what went is not marked")
        plan = None
    drawn = []
    for called, yolo in loaded:
        keep = plan.keep if plan and called == "before" else {}
        drawn.append((called, _layers(yolo.model, request.kind, request.layer, keep)))
    with run_folders.new_run(loaded[-1][1].task, "plot", request.host) as folder:
        picture = layer_plots.plot(folder / f"{request.kind}.png", drawn, request.kind)
    panels = sum(len(layers) for _, layers in drawn)
    said = f"{panels} panel{'s' if panels > 1 else ''}, kind={request.kind}"
    console.conclude("plot: ", text_table.closing(said, [], [picture]))
    return picture


def _layers(model: nn.Module, kind: str, patterns: Sequence[str], keep: Mapping[str, Any]) -> list[layer_plots.Drawn]:
    """What is to be drawn of a model.

    Raises:
        ArgumentError: If a name matches nothing, or nothing that has what is drawn.
    """
    called = moved_layers.names_of(model)
    wanted = match(model, patterns, key="layer", names=called) if patterns else None
    found = [
        layer_plots.Drawn(called.of(name), values := module.weight.detach().float().numpy(), _stays(name, values, keep))
        for name, module in model.named_modules()
        if isinstance(module, KINDS[kind]) and (wanted is None or name in wanted)
    ]
    if not found:
        what = "batch-norm" if kind == "gamma" else "convolution"
        raise ArgumentError(
            f"layer={','.join(patterns) or 'all'}: there is no {what} in it. 'yoloprune info' lists layers"
        )
    return found


def _stays(name: str, values: np.ndarray, keep: Mapping[str, Any]) -> np.ndarray:
    """Mask of the outputs that stay: by the plan of the cut where it is known, else those that are not all zero."""
    if keep:
        whole = any(k == REMOVED and name.startswith(f"{module}.") for module, k in keep.items())
        kept = () if whole else keep[name].outputs if name in keep else None
        mask = np.zeros(len(values), dtype=bool)
        mask[list(range(len(values)) if kept is None else kept)] = True
        return mask
    alive: np.ndarray = (values.reshape(len(values), -1) != 0).any(1)
    return alive


def _fits(plan: Plan, model: nn.Module) -> bool:
    """Whether a cut could have been made in this network: it has all the layers, and the channels that stayed."""
    modules = dict(model.named_modules())
    kept = [(modules.get(name), keep.outputs) for name, keep in plan.keep.items() if keep != REMOVED]
    weights = [(getattr(module, "weight", None), outputs) for module, outputs in kept]
    if any(name not in modules for name in plan.removed):
        return False
    return all(w is not None and (outputs is None or max(outputs, default=0) < len(w)) for w, outputs in weights)


def _plan_beside(model: Any) -> Plan | None:
    """Which channels a cut kept, from the report of its run; None where that is not at hand."""
    file = Path(model).absolute().parent.parent / run_report.JSON if isinstance(model, (str, Path)) else Path()
    if not file.is_file():
        return None
    try:
        return Plan.from_dict(json.loads(file.read_text(encoding="utf-8"))["plan"])
    except (ValueError, TypeError, KeyError):  # of another command, or of another program
        return None
