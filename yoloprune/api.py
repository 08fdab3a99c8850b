"""The story: train sparse, prune, fine-tune, compare. Every command of the command line is one function here.

All functions take a checkpoint path or a live `ultralytics.YOLO` object, leave it untouched, and take yoloprune's and
Ultralytics' arguments side by side as keywords.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import ultralytics
from torch import Tensor, nn

from yoloprune import (
    budget,
    channels,
    config,
    cutting,
    handoff,
    host,
    overview,
    proof,
    provenance,
    report,
    scoring,
    surgery,
    tracing,
)
from yoloprune.cost import Cost
from yoloprune.errors import ArgumentError, BudgetError, PlanError
from yoloprune.fading import STATE_KEY, SparseConfig
from yoloprune.groups import ChannelGraph, Plan
from yoloprune.limits import Budget, Limits
from yoloprune.sparsity import SparseTraining
from yoloprune.sweeping import sweep

__all__ = [
    "compare",
    "finetune",
    "info",
    "prune",
    "prune_module",
    "sweep",
    "trace",
    "train_sparse",
    "val",
]

Model = str | Path | ultralytics.YOLO
DEFAULT_LIMITS = Limits()


def trace(model: Model, *, imgsz: int = 640, keep: tuple[str, ...] = ()) -> ChannelGraph:
    """Find the channel groups of a model.

    Args:
        model (str | Path | YOLO): Checkpoint, model YAML or live model.
        imgsz (int): Image size for which FLOPs are counted.
        keep (tuple[str, ...]): Modules that stay as they are, see `tracing.match`.

    Returns:
        (ChannelGraph): Axes, groups, ties and costs.
    """
    return host.trace_yolo(handoff.load(model).model, imgsz=imgsz, keep=keep)


def train_sparse(model: Model, **kwargs: Any) -> handoff.YOLO:
    """Train with Ultralytics while the least useful channels fade to exactly zero, until the budget is met.

    Args:
        model (str | Path | YOLO): What to train; the `last.pt` of an interrupted run together with `resume=True`.
        **kwargs (Any): `yoloprune train-sparse help`, and every Ultralytics train argument.

    Returns:
        (YOLO): The best model that met the budget; its dead channels are exactly zero, ready for `prune`.
    """
    request = config.request("train-sparse", {"model": model, **kwargs})
    passed = {"name": "train-sparse", **request.passed}
    passed.pop("model")
    if passed.get("resume"):
        yolo = handoff.YOLO(str(model))
        sparse = SparseTraining(_interrupted(yolo))
    else:
        yolo = handoff.load(model)
        sparse = SparseTraining(_sparse_config(request.settings))
    with sparse.attached(yolo):
        yolo.train(**passed)
    folder = Path(yolo.trainer.save_dir)
    if host.is_main_process() and (log := folder / "sparsity.csv").is_file():
        picture = report.picture_sparsity(folder / "sparsity.png", log)
        history, met = report.read_numbers(log), bool(yolo.model.yaml.get(STATE_KEY, {}).get("met"))  # also of workers
        data = {"command": "train-sparse", "met": met, "settings": request.settings, "history": history}
        report.write_report(folder, data, history[-1:], [p for p in (picture, folder / "results.png") if p])
        best = Path(yolo.trainer.best if Path(yolo.trainer.best).exists() else yolo.trainer.last)
        host.log("sparse: ", f"{'target met' if met else 'target not met'}; next: yoloprune prune model={best}")
    return yolo


def _sparse_config(settings: dict[str, Any]) -> SparseConfig:
    return SparseConfig(
        budget=Budget(flops=settings["flops"], params=settings["params"], ratio=settings["sparsity"]),
        limits=cutting.limits(settings),
        **{k: settings[k] for k in SparseConfig.__dataclass_fields__ if k in settings},
    )


def _interrupted(yolo: ultralytics.YOLO) -> SparseConfig:
    state = yolo.model.yaml.get(STATE_KEY)
    if state is None:
        raise ArgumentError("resume: this checkpoint is not of a sparse run. Use 'yolo train resume' for other runs.")
    if not yolo.ckpt or yolo.ckpt.get("optimizer") is None:
        raise ArgumentError("resume: this sparse run is finished, or the checkpoint is not its last.pt.")
    told = dict(state["config"])
    return SparseConfig(budget=Budget(**told.pop("budget")), limits=Limits(**told.pop("limits")), **told)


def prune(model: Model, **kwargs: Any) -> ultralytics.YOLO:
    """Cut channels out: under a budget, or without one exactly the dead.

    Args:
        model (str | Path | YOLO): Trained, unfused model.
        **kwargs (Any): `yoloprune prune help`.

    Returns:
        (YOLO): The pruned model, loaded from `<run>/weights/pruned.pt`.

    Raises:
        BudgetError: If the budget is out of reach, or nothing is dead and no budget is given.
        VerifyError: If the cut model does not compute what its masked parent computes.
    """
    request = config.request("prune", {"model": model, **kwargs})
    told, passed = request.settings, request.passed
    parent = handoff.load(model)
    imgsz = passed.get("imgsz") or 640
    images = cutting.images(parent, passed)
    graph, alive, said = _decide(parent, told, passed, images)
    cost, plan = Cost(graph), graph.plan(alive)
    child, error = cutting.cut(parent, plan, told["recover"], images)

    folder = host.run_folder(parent.task, "prune", passed)
    arguments = {k: v for k, v in {**told, **passed}.items() if k != "model" and v is not None}
    origin = model if isinstance(model, (str, Path)) else None
    facts = handoff.make_provenance(origin, arguments)
    target = handoff.save(child, folder / "weights" / "pruned.pt", plan=plan, provenance=facts, native=said)
    place = Path(origin).absolute() if origin and Path(origin).is_file() else origin or parent.model_name
    host.write_args(folder, {"mode": "prune", "model": str(place), **arguments})  # found from any working directory
    _report_cut(folder, parent, child, graph, cost, alive, plan, target, origin, imgsz, error)
    stock = " (stock 'yolo train' keeps the widths as well)" if said else ""
    host.log("prune: ", f"saved {target}; next: yoloprune finetune model={target} data=...{stock}")
    return handoff.load(target)


def _decide(
    parent: ultralytics.YOLO, told: dict[str, Any], passed: dict[str, Any], images: list[Tensor] | None
) -> tuple[ChannelGraph, np.ndarray, dict[str, Any] | None]:
    """Traced channels, mask of the surviving classes, and the model YAML that says them where there is one."""
    limits, imgsz = _limits(parent, told), passed.get("imgsz") or 640
    wanted = Budget(flops=told["flops"], params=told["params"], ratio=told["ratio"])
    graph, stock = channels.trace(parent.model, limits, imgsz, wanted)
    alive = _choose(parent, graph, wanted, told, passed, images)
    try:
        return graph, alive, stock.describe(alive) if stock else None
    except PlanError as e:
        if limits.native:
            raise
        host.warn(f"native: free widths, which stock Ultralytics cannot train: {e}")
    graph, _ = channels.trace(parent.model, replace(limits, native=False), imgsz)
    return graph, _choose(parent, graph, wanted, told, passed, images), None


def _limits(parent: ultralytics.YOLO, told: dict[str, Any]) -> Limits:
    """The limits that were asked for; where the dead alone go, those that they died under."""
    asked, state = cutting.limits(told), parent.model.yaml.get(STATE_KEY)
    if state is None or any(told[k] is not None for k in ("flops", "params", "ratio")):
        return asked
    lived = Limits(**state["config"]["limits"])
    lived = replace(lived, keep=(*lived.keep, *asked.keep))
    return lived if asked.native is None else replace(lived, native=asked.native)


def prune_module(
    model: nn.Module,
    example: Tensor | tuple[Any, ...],
    wanted: Budget,
    limits: Limits = DEFAULT_LIMITS,
    *,
    score: str = "l1",
    normalize: str = "mean",
    outputs: bool = False,
) -> tuple[nn.Module, Plan]:
    """Prune any network, not only Ultralytics' own.

    Args:
        model (nn.Module): The parent, stays untouched.
        example (Tensor | tuple): Input, e.g. shape (1, 3, 224, 224); FLOPs are those at this size.
        wanted (Budget): What may remain.
        limits (Limits): Rounding, floors, ceilings, and `keep`.
        score (str): Criterion, see `scoring.score`.
        normalize (str): "none", "mean" or "max" of the group, or "cost".
        outputs (bool): Whether the network's outputs may lose channels.

    Returns:
        (tuple[nn.Module, Plan]): The smaller network and what was cut.

    Raises:
        ArgumentError: If the limits ask for native widths.
        BudgetError: If the budget is out of reach.
        VerifyError: If the cut model does not compute what its masked parent computes.
    """
    if limits.native:
        raise ArgumentError("native=True: only models built from a model YAML have one. Use prune().")
    graph = tracing.trace(model, example, keep=tracing.match(model, limits.keep), outputs=outputs)
    per_cost = normalize == "cost"
    scores = scoring.score(model, graph, score, normalize="none" if per_cost else normalize)
    plan = graph.plan(budget.select(graph, scores, wanted, limits, per_cost=per_cost))
    child = surgery.cut(copy.deepcopy(model), plan)
    proof.prove(model, child, plan, example)
    if isinstance(child, host.BaseModel):  # Ultralytics would train the network of its YAML in silence
        handoff.mark_pruned(child, plan, handoff.make_provenance(None, {"score": score, "normalize": normalize}))
    return child, plan


def _choose(
    parent: ultralytics.YOLO,
    graph: ChannelGraph,
    wanted: Budget,
    told: dict[str, Any],
    passed: dict[str, Any],
    images: list[Tensor] | None,
) -> np.ndarray:
    """Mask of surviving channel classes."""
    cost = Cost(graph)
    if wanted.empty:
        dead = scoring.dead(parent.model, graph)
        alive = budget.dead_only(graph, dead)
        if alive.all():
            raise BudgetError(
                "No channel is dead, so there is nothing to cut. Run 'yoloprune train-sparse' first, or give a budget, "
                "e.g. flops=0.5."
            )
        return alive
    alive = cutting.rank(parent, graph, told, passed, images).select(graph, wanted, cost)
    if alive.all():
        has = ", ".join(f"{cost.parent(kind):,.0f} {kind}" for kind in ("flops", "params"))
        raise BudgetError(f"The model already meets the budget, so there is nothing to cut: it has {has}.")
    return alive


def _report_cut(
    folder: Path,
    parent: ultralytics.YOLO,
    child: ultralytics.YOLO,
    graph: ChannelGraph,
    cost: Cost,
    alive: np.ndarray,
    plan: Plan,
    target: Path,
    origin: str | Path | None,
    imgsz: int,
    error: float,
) -> None:
    widths = np.bincount(graph.group_of[alive], minlength=len(graph.groups))
    rows = [
        {"model": "parent", **report.measure(parent.model, imgsz, origin)},
        {"model": "pruned", **report.measure(child.model, imgsz, target)},
    ]
    kept = {kind: cost.of(kind, widths.astype(float)) / cost.parent(kind) for kind in ("flops", "params", "channels")}
    data = {
        "command": "prune",
        "kept": kept,
        "relative_error": error,
        "layers": overview.layer_rows(graph, widths),
        "unknown_operations": graph.unknown,
        "plan": plan.to_dict(),
    }
    picture = report.picture_widths(folder / "widths.png", graph, widths)
    report.write_report(folder, data, rows, [picture])
    host.log("prune: ", f"kept {kept['flops']:.1%} of FLOPs, {kept['params']:.1%} of parameters\n{report.table(rows)}")


def finetune(model: Model, **kwargs: Any) -> handoff.YOLO:
    """Train a pruned model with Ultralytics; every width stays.

    Args:
        model (str | Path | YOLO): Pruned checkpoint.
        **kwargs (Any): `distill="parent"`, and every Ultralytics train argument.

    Returns:
        (YOLO): The fine-tuned model.
    """
    request = config.request("finetune", {"model": model, **kwargs})
    passed = {"name": "finetune", **request.passed}
    passed.pop("model")
    resumed = passed.get("resume")
    yolo = handoff.YOLO(str(model)) if resumed else handoff.load(model)
    if request.settings["distill"] == "parent":
        passed["distill_model"] = str(provenance.parent_file(model, yolo))
    before = host.widths(yolo.model)
    yolo.train(**passed)
    if host.is_main_process():
        folder = Path(yolo.trainer.save_dir)
        after = host.widths(yolo.model)
        data = {"command": "finetune", "widths_kept": before == after, "metrics": host.metrics(yolo)}
        rows = [{"model": "fine-tuned", **data["metrics"], **report.measure(yolo.model, yolo.trainer.args.imgsz)}]
        report.write_report(folder, data, rows, [folder / "results.png"])
    return yolo


def val(model: Model, against: Model | None = None, **kwargs: Any) -> list[dict[str, Any]]:
    """Validate with Ultralytics, side by side with another model when one is given.

    Args:
        model (str | Path | YOLO): Model to validate.
        against (str | Path | YOLO | None): Model to compare with, usually the unpruned parent.
        **kwargs (Any): Every Ultralytics val argument.

    Returns:
        (list[dict[str, Any]]): One row per model: mAP50, mAP50-95 (or the task's figures), params, GFLOPs, ms, MB.
    """
    request = config.request("val", {"model": model, "against": against, **kwargs})
    passed = {k: v for k, v in request.passed.items() if k != "model"}
    return compare({"parent": against, "pruned": model} if against is not None else {"model": model}, **passed)


def compare(models: Mapping[str, Model], *, command: str = "val", **passed: Any) -> list[dict[str, Any]]:
    """Validate models one after the other on the same data, then time them taking turns.

    Args:
        models (Mapping[str, str | Path | YOLO]): Models by the name they get in the table.
        command (str): What the report is called.
        **passed (Any): Every Ultralytics val argument.

    Returns:
        (list[dict[str, Any]]): One row per model.
    """
    loaded = {name: handoff.load(m) for name, m in models.items()}
    folder = host.run_folder(next(iter(loaded.values())).task, command, passed)
    device = host.device(passed.get("device"))
    rows, networks, imgsz = [], [], 640
    for name, yolo in loaded.items():
        imgsz = passed.get("imgsz") or yolo.overrides.get("imgsz", 640)
        networks.append(copy.deepcopy(yolo.model))  # validation fuses the one it runs
        file = models[name] if isinstance(models[name], (str, Path)) else None
        sizes = report.measure(yolo.model, imgsz, file)
        host.validate(yolo, {**passed, "project": str(folder.resolve()), "name": name, "exist_ok": True})
        rows.append({"model": name, **host.metrics(yolo), **sizes})
    for row, ms in zip(rows, report.latency([n.to(device) for n in networks], imgsz), strict=True):
        row["ms"] = ms
    report.write_report(folder, {"command": command, "device": str(device), "imgsz": imgsz, "arguments": passed}, rows)
    host.log(f"{command}: ", f"imgsz {imgsz}, {device}\n{report.table(rows)}\nsaved {folder}")
    return rows


def info(model: Model, **kwargs: Any) -> list[dict[str, Any]]:
    """Print the layers of a model: widths, what is coupled, what is frozen and why.

    Args:
        model (str | Path | YOLO): Checkpoint, model YAML or live model.
        **kwargs (Any): `yoloprune info help`.

    Returns:
        (list[dict[str, Any]]): One row per layer, see `overview.layer_rows`.
    """
    request = config.request("info", {"model": model, **kwargs})
    yolo = handoff.load(model)
    imgsz = request.passed.get("imgsz") or 640
    graph = host.trace_yolo(yolo.model, imgsz=imgsz, keep=request.settings["keep"])
    rows = overview.layer_rows(graph)
    cost = Cost(graph)
    free, dead = int(graph.prunable.sum()), int(scoring.dead(yolo.model, graph).sum())
    lines = [
        report.table(overview.brief(rows)),
        overview.LEGEND,
        *overview.summary(graph),
        f"{cost.parent('params'):,.0f} parameters, {cost.parent('flops') / 1e9:.2f} GFLOPs at imgsz {imgsz}; "
        f"{free:,} of {graph.n_classes:,} channels prunable in {len(graph.ties)} widths, {dead:,} dead",
        *(f"no rule for operation {op} in {where}" for op, where in graph.unknown.items()),
    ]
    if (told := handoff.provenance(yolo)) is not None:
        lines += ["", *_history(told)]
    host.log("info: ", "\n".join(["", *lines]))
    return rows


def _history(told: Mapping[str, Any]) -> list[str]:
    """Provenance in short lines, the last pruning first."""
    lines = []
    for cut in (told, *reversed(told.get("earlier", []))):
        parent = cut.get("parent") or {"name": "a live model", "sha256": None}
        lines += [
            f"pruned by yoloprune from {parent['name']}, {cut.get('date', 'date unknown')}",
            *([f"  parent's sha256  {parent['sha256']}"] if parent["sha256"] else []),
            f"  arguments        {' '.join(f'{k}={v}' for k, v in cut.get('arguments', {}).items() if v != [])}",
            f"  versions         {', '.join(f'{k} {v}' for k, v in cut.get('versions', {}).items())}",
        ]
    return lines
