"""What `prune` says of a cut: the page and its data, and one sentence for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import ultralytics

from yoloprune import csv_rows
from yoloprune.backend.yaml_markers import CLASSES
from yoloprune.commands import cut_and_repair, following, image_side, side_by_side
from yoloprune.native import candidates
from yoloprune.planning.cost import Cost
from yoloprune.planning.greedy_selection import KINDS
from yoloprune.reporting import layer_table, page_network, plots, run_report, verdict
from yoloprune.reporting.facts import Importance, Report
from yoloprune.runtimes.layer_times import by_layer
from yoloprune.selection import ranking
from yoloprune.settings import command_line
from yoloprune.settings.requests import PruneRequest


@dataclass(frozen=True)
class Told:
    """What is known of a cut when it is reported.

    Attributes:
        request (PruneRequest): What was asked for.
        choice (Choice): Which channels stayed.
        order (Ranking | None): In which order they went, None where exactly the dead did.
        done (Cut): The proof, and how far the outputs moved.
        rows (list[dict]): The table: parent and pruned.
        looks (Looks): Both on the same data.
        facts (Mapping[str, Any]): The provenance.
        timing (Mapping[str, Any] | None): On what times were measured.
        layer_times (Sequence[Mapping[str, float]]): Milliseconds by layer, of the parent and of what is left; empty
            where no time was measured.
        side (Side): Where FLOPs are counted.
        folder (Path): Of the run, once it is done.
    """

    request: PruneRequest
    choice: candidates.Choice
    order: ranking.Ranking | None
    done: cut_and_repair.Cut
    rows: list[dict[str, Any]]
    looks: side_by_side.Looks
    facts: Mapping[str, Any]
    timing: Mapping[str, Any] | None
    layer_times: Sequence[Mapping[str, float]]
    side: image_side.Side
    folder: Path


def write(folder: Path, told: Told) -> str:
    """Write the page and its data.

    Args:
        folder (Path): Where to, before it is moved to its place.
        told (Told): What to say.

    Returns:
        (str): What was done, in a few words, and why it is not known how good that is where it is not.
    """
    choice, done = told.choice, told.done
    kept, graph = choice.kept(), choice.graph
    layers = layer_table.with_costs(layer_table.layer_rows(graph, choice.widths), graph, choice.widths)
    layers = layer_table.with_times(layers, told.layer_times)
    facts = {
        "kept": kept,
        "relative_error": done.proof.error,
        "proof": asdict(done.proof),
        "outputs_moved": done.moved,
        **({} if told.timing is None else {"timing": told.timing}),
        "unknown_operations": graph.unknown,
        "plan": choice.plan.to_dict(),
        **({CLASSES: told.facts[CLASSES]} if CLASSES in told.facts else {}),
    }
    report = Report(
        "prune",
        told.rows,
        facts,
        verdict.of(told.rows, unseen=told.looks.unseen),
        told.looks.by_class,
        told.looks.images,
        layers,
        None if told.order is None else _importance(choice, told.order, told.request),
        _gamma(told.request.model),
        frozen=[*layer_table.frozen_layers(layers), *(f"no rule for {op}: {at}" for op, at in graph.unknown.items())],
        repeat=following.again("prune", told.folder, command_line.written(told.request)),
        versions=told.facts["versions"],
    )
    plots.plot_widths(folder / "widths.png", graph, choice.widths)
    run_report.write_report(folder, report)
    said = told_kept(kept, told.side)
    return f"{said}\nquality was not measured: {told.looks.unseen}" if told.looks.unseen else said


def layer_times(
    parent: ultralytics.YOLO, child: ultralytics.YOLO, choice: candidates.Choice, imgsz: int, device: torch.device
) -> list[dict[str, float]]:
    """Milliseconds by layer of a parent and of what was cut from it, in torch."""
    places = layer_table.modules(choice.graph)
    modules = {places[name]: name for row in layer_table.layer_rows(choice.graph) if (name := str(row["layer"]))}
    found = by_layer([parent.model, child.model], list(modules), imgsz, device)
    return [{modules[place]: ms for place, ms in times.items()} for times in found]


def told_kept(kept: Mapping[str, float], side: image_side.Side) -> str:
    """What is left, in a few words; where the image shrank as well, against the parent at its own side first."""
    if side.imgsz == side.parent:
        return f"kept {kept['flops']:.1%} of FLOPs, {kept['params']:.1%} of parameters (imgsz {side.imgsz})"
    in_all = kept["flops"] * (side.imgsz / side.parent) ** 2
    return (
        f"kept {in_all:.1%} of FLOPs at imgsz {side.imgsz} against the parent's at {side.parent} "
        f"({kept['flops']:.1%} at the same side), {kept['params']:.1%} of parameters"
    )


def _importance(choice: candidates.Choice, order: ranking.Ranking, request: PruneRequest) -> Importance | None:
    """How the scores were distributed by which channels went, per cost where that decided."""
    graph, scores, what = choice.graph, order.scores, f"Importance by score={order.criterion}"
    if order.per_cost:
        asked = next((key for key in KINDS if getattr(request.budget, key, None) is not None), "flops")
        saved = Cost(graph).slope(KINDS[asked])[graph.group_of]
        scores = np.divide(scores, saved, out=np.full(len(scores), np.nan), where=saved > 0)
        what += f", per {asked} that a channel saves"
    free = graph.prunable
    return Importance.of(scores[free], choice.alive[free], what)


def _gamma(model: Any) -> list[dict[str, float]]:
    """What the sparse training of a checkpoint wrote, where it lies in the folder of its run still."""
    if not isinstance(model, (str, Path)):
        return []
    try:
        rows = csv_rows.read_numbers(Path(model).absolute().parent.parent / "sparsity.csv")
    except OSError:  # a cut is not lost for a picture
        return []
    return [row for row in rows if row.keys() >= page_network.GAMMA]  # the file may be of somebody else
