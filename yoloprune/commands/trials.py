"""Networks that are tried and judged, and not trained: cuts, groups narrowed alone, masks; all look the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import ultralytics
from torch import Tensor

from yoloprune.backend import console, moved_layers
from yoloprune.checkpoint import saving
from yoloprune.commands import cut_and_repair, mask_trials
from yoloprune.commands.sweep_points import Point
from yoloprune.errors import ArgumentError, BudgetError
from yoloprune.native.candidates import Channels, Choice
from yoloprune.planning import narrowing
from yoloprune.probing.forward import placed
from yoloprune.repair import recipes
from yoloprune.reporting import layer_table
from yoloprune.selection import ranking
from yoloprune.selection.calibration import calibration
from yoloprune.settings.budget import Limits
from yoloprune.settings.mask_request import Masks
from yoloprune.settings.trial_requests import SensitivityRequest, SweepRequest
from yoloprune.tracing.named_layers import match

Passed = Mapping[str, Any]


@dataclass(frozen=True)
class Trial:
    """A network that is tried.

    Attributes:
        name (str): Of its point, as one types it.
        told (Mapping[str, Any]): The columns of its row that say what is left.
        make (Callable[[], YOLO]): Makes it from its parent.
    """

    name: str
    told: Mapping[str, Any]
    make: Callable[[], ultralytics.YOLO]


# Of a sweep -----------------------------------------------------------------------------------------------------------
def of_sweep(
    parent: ultralytics.YOLO, seen: Any, request: SweepRequest, passed: Passed
) -> tuple[list[Point], dict[str, str], list[Tensor] | None]:
    """The parent and all points of a sweep, those that keep most first, why other points are out of reach, and images.

    Args:
        parent (YOLO): The model.
        seen (Any): The data set as the model's classes see it.
        request (SweepRequest): What is tried.
        passed (Mapping): Ultralytics' arguments, `imgsz` among them.

    Raises:
        BudgetError: If all points are out of reach.
        ArgumentError: If no mask takes more than is zero already.
    """
    if request.masks is not None:
        asked, without = mask_trials.those_that_take(parent.model, request.masks)
        masking = mask_trials.Masking(parent, seen, asked, request.recover, passed)
        whole = Point("parent", {"zeros": masking.zeros, "nonzero": 1.0}, {})
        masked = [Point(str(z), *masking.of(z, masking.names)) for z in asked.each]
        return [whole, *masked], without, masking.sight.repairing
    with saving.told_who_wrote(parent):
        found = Channels(parent.model, request.limits, passed["imgsz"])
    _require_reach(found, request)
    sight = calibration(parent, seen, passed["imgsz"], passed)
    order = ranking.rank(parent, found.graph, request.criterion, request.limits, sight)
    points, unreachable = _choices(found, order, request)
    uncut = _whole(found)
    cut = [Point(name, _kept(choice), choice) for name, choice in points.items()]
    return [Point("parent", _kept(uncut), uncut), *cut], unreachable, sight.repairing


def _require_reach(found: Channels, request: SweepRequest) -> None:
    """Raise BudgetError where no point can be met by any ranking, before images are looked at."""
    errors = []
    for wanted in request.budgets:
        try:
            found.require_reach(wanted)
            return
        except BudgetError as e:
            errors.append(e)
    raise errors[0]


def _whole(found: Channels) -> Choice:
    return Choice(found.graph, np.ones(found.graph.n_classes, dtype=bool), found.probe)


def _kept(choice: Choice) -> dict[str, float]:
    return {kind: round(share, 4) for kind, share in choice.kept().items()}


def _choices(
    found: Channels, order: ranking.Ranking, request: SweepRequest
) -> tuple[dict[str, Choice], dict[str, str]]:
    """What stays, by name of the point, those that keep most first, and why other points are out of reach."""
    points: dict[str, Choice] = {}
    unreachable: dict[str, str] = {}
    for wanted in request.budgets:
        try:
            choice = found.choose(partial(order.select, wanted=wanted))
            if choice.alive.all():
                raise BudgetError(f"{wanted}: the model already meets it.")
            points[str(wanted)] = choice
        except BudgetError as e:
            unreachable[str(wanted)] = str(e)
            console.warn(f"sweep: left out: {e}")
    if not points:
        raise BudgetError(next(iter(unreachable.values())))
    measure = "channels" if request.kind == "ratio" else request.kind  # of fractions and absolute numbers alike
    return dict(sorted(points.items(), key=lambda point: -point[1].kept()[measure])), unreachable


# Of a sensitivity analysis --------------------------------------------------------------------------------------------
def of_sensitivity(parent: ultralytics.YOLO, seen: Any, request: SensitivityRequest, passed: Passed) -> list[Trial]:
    """The parent, and each group at each width, or each layer under each mask, alone; in the order of the network.

    Args:
        parent (YOLO): The model.
        seen (Any): The data set as the model's classes see it.
        request (SensitivityRequest): What is tried.
        passed (Mapping): Ultralytics' arguments, `imgsz` among them.

    Raises:
        ArgumentError: If `layer` names nothing that may be narrowed or masked.
    """
    if request.masks is not None:
        return _layers_masked(parent, seen, request, request.masks, passed)
    with saving.told_who_wrote(parent):
        found = Channels(parent.model, Limits(native=False), passed["imgsz"])
    tried = narrowing.narrowings(found.graph, request.widths, _ties(parent, found, request.layer))
    sight = calibration(parent, seen, passed["imgsz"], passed)
    order = ranking.rank(parent, found.graph, request.criterion, Limits(native=False), sight)
    images = sight.repairing or []
    if not recipes.NEED_IMAGES.intersection(recipes.RECIPES[request.recover]):
        images = images[:1]  # which tell well enough what a channel gives on average

    def make(choice: Choice) -> ultralytics.YOLO:
        child = cut_and_repair.narrowed(parent, choice.plan)
        with placed(sight.device, parent.model, child.model):
            cut_and_repair.repair(parent, child, choice.plan, request.recover, images, choice.probe)
        return child

    trials = [Trial("parent", _named(_whole(found), None), lambda: parent)]
    for one in tried:
        choice = Choice(found.graph, narrowing.survivors(found.graph, order.scores, one), found.probe)
        told = _named(choice, one)
        trials.append(Trial(told["group"], told, partial(make, choice)))
    return trials


def _ties(parent: ultralytics.YOLO, found: Channels, layers: Sequence[str]) -> set[int] | None:
    """Ties of the layers that were named, by the names of the model that was first pruned; None for all."""
    if not layers:
        return None
    wanted = _matched(parent, layers)
    ties = {t for t in range(len(found.graph.ties)) if wanted & set(narrowing.makers(found.graph, t))}
    if not ties:
        raise ArgumentError(f"layer={','.join(layers)}: none of them may be narrowed. 'yoloprune info' says why")
    return ties


def _matched(parent: ultralytics.YOLO, layers: Sequence[str]) -> set[str]:
    return set(match(parent.model, layers, key="layer", names=moved_layers.names_of(parent.model)))


def _named(choice: Choice, one: narrowing.Narrowing | None) -> dict[str, Any]:
    """The columns of a row that say what was narrowed, and what of the whole network stays."""
    kept = {k: round(v, 5) for k, v in choice.kept().items() if k != "channels"}
    if one is None:
        return {"group": "parent", "layers": "", "width": 0, "kept": 0, "share": 1.0, **kept}
    tie = choice.graph.ties[one.tie]
    makers = narrowing.makers(choice.graph, one.tie)
    layers = list(dict.fromkeys(layer_table.layer_name(choice.graph.names.of(m)) for m in makers))
    widths = {"width": sum(tie.sizes), "kept": int(choice.widths[list(tie.groups)].sum())}
    return {"group": layers[0], "layers": " ".join(layers), **widths, "share": one.asked, **kept}


def _layers_masked(
    parent: ultralytics.YOLO, seen: Any, request: SensitivityRequest, asked: Masks, passed: Passed
) -> list[Trial]:
    """Each layer alone under each mask."""
    masking = mask_trials.Masking(parent, seen, asked, request.recover, passed)
    names = masking.names
    if request.layer:
        wanted = _matched(parent, request.layer)
        names = [name for name in names if name in wanted]
        if not names:
            why = next((why for name, why in masking.left.items() if name in wanted), "they have no such weights")
            raise ArgumentError(f"layer={','.join(request.layer)}: none of them may be masked: {why}")
    row = {"group": "parent", "layers": "", "width": 0, "kept": 0, "share": 1.0, "nonzero": 1.0}
    trials = [Trial("parent", row, lambda: parent)]
    names_of = moved_layers.names_of(parent.model)
    for name in names:
        called = names_of.of(name)
        for zeros in asked.each:
            told, kept = masking.of(zeros, [name])
            row = {"group": called, "layers": called, "width": kept[name].numel(), "kept": int(kept[name].sum())}
            share = {"share": round(1 - zeros.sparsity, 6), "nonzero": told["nonzero"]}
            trials.append(Trial(called, {**row, **share}, partial(masking.make, zeros, name)))
    return trials
