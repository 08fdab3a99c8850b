"""The story: train sparse, prune, fine-tune, compare. Every command of the command line is one function here.

All functions take a checkpoint path or a live `ultralytics.YOLO` object, leave it untouched, and take yoloprune's and
Ultralytics' arguments side by side as keywords.
"""

from __future__ import annotations

import contextlib
import copy
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import ultralytics
from torch import nn

from yoloprune import files
from yoloprune.backend import console, datasets, evaluation, model_facts, run_folders, yolo_tracing
from yoloprune.backend.yaml_markers import STATE_KEY
from yoloprune.checkpoint import provenance, saving, trainers
from yoloprune.commands import cut_and_repair
from yoloprune.commands.sweep import sweep
from yoloprune.cutting import comparison
from yoloprune.errors import ArgumentError, ModelError, PruneError, VerifyError, WriteError
from yoloprune.importance import criteria
from yoloprune.native import candidates
from yoloprune.native.described import as_described
from yoloprune.planning.channel_graph import ChannelGraph
from yoloprune.planning.cost import Cost
from yoloprune.planning.plan import Plan
from yoloprune.probing.forward import placed
from yoloprune.reporting import layer_table, run_report
from yoloprune.selection import decision, latency_search, ranking
from yoloprune.settings import checking, options
from yoloprune.settings.budget import Budget, Limits
from yoloprune.settings.sparse_config import SparseConfig
from yoloprune.sparse import reach
from yoloprune.sparse.callback import SparseTraining

__all__ = [
    "compare",
    "finetune",
    "info",
    "prune",
    "sweep",
    "trace",
    "train_sparse",
    "val",
]

Model = str | Path | ultralytics.YOLO


def trace(model: Model, *, imgsz: int | None = None, keep: tuple[str, ...] = ()) -> ChannelGraph:
    """Find the channel groups of a model.

    Args:
        model (str | Path | YOLO): Checkpoint, model YAML or live model.
        imgsz (int | None): Image size for which FLOPs are counted; None stands for the checkpoint's own.
        keep (tuple[str, ...]): Modules that stay as they are, see `tracing.match`.

    Returns:
        (ChannelGraph): Axes, groups, ties and costs.
    """
    yolo = saving.load(model)
    return yolo_tracing.trace_yolo(yolo.model, imgsz=saving.image_size(yolo, imgsz), keep=keep)


def train_sparse(model: Model, **kwargs: Any) -> saving.YOLO:
    """Train with Ultralytics while the least useful channels fade to exactly zero, until the budget is met.

    Args:
        model (str | Path | YOLO): What to train; the `last.pt` of an interrupted run together with `resume=True`.
        **kwargs (Any): `yoloprune train-sparse help`, and every Ultralytics train argument.

    Returns:
        (YOLO): The best model that met the budget; its dead channels are exactly zero, ready for `prune`.
    """
    request = checking.request("train-sparse", {"model": model, **kwargs})
    passed = {k: v for k, v in request.passed.items() if k != "model"}
    if passed.get("resume"):
        yolo = saving.reopen(_resumed(model, passed))
        sparse = SparseTraining(_interrupted(yolo, request.settings))
    else:
        datasets.require(passed["data"])
        passed = {"name": "train-sparse", **passed}
        yolo = saving.load(model)
        if trainers.driver_of(yolo) is not None:
            raise ArgumentError("model: it has a SparseTraining attached. Detach that, or train with model.train(...).")
        sparse = SparseTraining(_sparse_config(request.settings))
        _require_reach(yolo, sparse.config, passed)
    _require_teachable(yolo, passed)
    with sparse.attached(yolo), _going_on(yolo, "train-sparse"):
        yolo.train(**passed)
    folder = Path(yolo.trainer.save_dir)
    if console.is_main_process() and (log := folder / "sparsity.csv").is_file():
        picture = run_report.picture_sparsity(folder / "sparsity.png", log)
        history, met = files.read_numbers(log), bool(yolo.model.yaml.get(STATE_KEY, {}).get("met"))  # also of workers
        data = {"command": "train-sparse", "met": met, "settings": asdict(sparse.config), "history": history}
        run_report.write_report(folder, data, history[-1:], [p for p in (picture, folder / "results.png") if p])
        best = Path(yolo.trainer.best if Path(yolo.trainer.best).exists() else yolo.trainer.last)
        console.log("sparse: ", f"{'target met' if met else 'target not met'}; next: yoloprune prune model={best}")
    return yolo


def _require_reach(yolo: ultralytics.YOLO, sparse: SparseConfig, passed: Mapping[str, Any]) -> None:
    """Raise BudgetError if the target is out of reach, before there is a folder."""
    nc = 1 if passed.get("single_cls") else datasets.class_count(yolo, passed["data"])
    imgsz = saving.image_size(yolo, passed.get("imgsz"))
    network = trainers.network(yolo, nc, passed.get("pretrained", True))
    reach.require(network, sparse, imgsz, passed.get("freeze"))


def _require_teachable(yolo: ultralytics.YOLO, passed: Mapping[str, Any]) -> None:
    """Raise ArgumentError if a teacher is given to a model that Ultralytics cannot teach."""
    if passed.get("distill_model") and not model_facts.can_be_taught(yolo.model):
        raise ArgumentError(f"distill: Ultralytics teaches models with a detection head only, not {yolo.task} models.")


@contextlib.contextmanager
def _going_on(yolo: ultralytics.YOLO, command: str) -> Iterator[None]:
    """Say what an interrupted training left and how it goes on; leave nothing of one that was refused."""
    try:
        yield
    except PruneError as e:
        run = getattr(yolo.trainer, "run", None)  # a list of data sets has a trainer that is not ours
        if run is not None:
            run.drop_unused()
        if isinstance(e, WriteError):
            _tell_what_is_left(yolo, command)
        raise
    except KeyboardInterrupt:
        _tell_what_is_left(yolo, command)
        raise


def _tell_what_is_left(yolo: ultralytics.YOLO, command: str) -> None:
    """Say how a training goes on, or which model it left where it was over already."""
    last, best = (getattr(yolo.trainer, name, None) for name in ("last", "best"))
    if last is None or not Path(last).is_file():
        left = "nothing was saved yet"
    else:
        try:
            goes_on = saving.goes_on(Path(last))
            over = f"the training was over; its model is {best if best and Path(best).is_file() else last}"
            left = f"go on with: yoloprune {command} {shlex.quote(f'model={last}')} resume" if goes_on else over
        except ModelError as e:  # what is to be told is why the training ended
            left = str(e)
    console.log(f"{command}: ", left)


def _sparse_config(settings: dict[str, Any]) -> SparseConfig:
    return SparseConfig(
        budget=Budget(flops=settings["flops"], params=settings["params"], ratio=settings["sparsity"]),
        limits=ranking.limits(settings),
        **{k: settings[k] for k in SparseConfig.__dataclass_fields__ if k in settings},
    )


def _resumed(model: Model, passed: Mapping[str, Any]) -> Model:
    """The checkpoint to go on with: `resume=` may name it, as in Ultralytics."""
    return passed["resume"] if isinstance(passed["resume"], (str, Path)) else model


def _interrupted(yolo: ultralytics.YOLO, told: Mapping[str, Any]) -> SparseConfig:
    """What the interrupted run was to reach, and how."""
    state = yolo.model.yaml.get(STATE_KEY)
    if state is None:
        raise ArgumentError(
            "resume: this checkpoint is not of a sparse run. A fine-tuning goes on with "
            "'yoloprune finetune model=... resume', a stock training with 'yolo train resume model=...'."
        )
    saved = dict(state["config"])
    old = SparseConfig(budget=Budget(**saved.pop("budget")), limits=Limits(**saved.pop("limits")), **saved)
    new = _sparse_config(told)
    if not new.budget.empty and new.budget != old.budget:
        raise ArgumentError(
            f"resume: this run has the target {old.budget}, which cannot change. Received: {new.budget}"
        )
    silent = SparseConfig(old.budget)
    for mine, theirs, default in ((new, old, silent), (new.limits, old.limits, silent.limits)):
        for key in set(vars(mine)) - {"budget", "limits"}:
            value, kept = getattr(mine, key), getattr(theirs, key)
            if value not in (getattr(default, key), kept):
                raise ArgumentError(f"resume: this run has {key}={kept}, which cannot change. Received: {value}")
    return old


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
    request = checking.request("prune", {"model": model, **kwargs})
    parent = saving.load(model)
    told, passed = request.settings, {**request.passed}
    imgsz = passed["imgsz"] = saving.image_size(parent, passed.get("imgsz"))
    if trainers.entry_of(parent) is not None:
        console.log("prune: ", "the model was pruned before; fractions are of what is left of it")
    passed["data"] = ranking.data_set(parent, told, passed)
    images = ranking.images(parent, passed)
    choice = decision.choose(parent, told, passed, images)
    budgeted = any(told[option.name] is not None for option in options.PRUNE_BUDGETS)
    done = cut_and_repair.cut(parent, choice.plan, told["recover"], images, choice.probe, dead=not budgeted)
    child = done.child
    layers = None
    if choice.described is not None:
        child = saving.with_model(child, as_described(child.model, choice.described))
        layers = choice.described.modules()
        for layer, rows in choice.described.unrolled.items():
            console.log("prune: ", f"model.{layer} is written as {len(rows)} rows, model.{rows[0]} to model.{rows[-1]}")

    arguments = {k: v for k, v in {**told, **passed}.items() if k != "model" and v is not None}
    origin = (parent.ckpt_path or model) if isinstance(model, (str, Path)) else None  # "small" stands for small.pt
    facts = saving.make_provenance(origin, arguments)
    checkpoint = saving.pack(child, plan=choice.plan, provenance=facts, native=choice.yaml, layers=layers)
    rows = [{"model": "parent", **evaluation.measure(parent.model, imgsz, origin)}]
    with run_folders.new_run(parent.task, "prune", passed) as folder:
        target = folder / "weights" / "pruned.pt"
        checkpoint.require_room(target)
        with files.staged(folder) as part:
            file = part / target.relative_to(folder)
            checkpoint.write(file)
            _require_saved(child, saving.load(file), choice)
            origin_name = str(origin or parent.model_name)
            run_folders.write_args(part, {"mode": "prune", "model": origin_name, **arguments, "save_dir": folder})
            rows.append({"model": "pruned", **evaluation.measure(child.model, imgsz, file)})
            if told["latency"] is not None:
                _add_times(rows, [parent.model, child.model], imgsz, ranking.place(passed))
            _report_cut(part, choice, rows, done, imgsz)
    checkpoint.tidy(target)
    if told["latency"] is not None:
        latency_search.judge(told["latency"], *(row["ms"] for row in rows))
    data = passed["data"] or datasets.own(parent) or "..."
    console.log(
        "prune: ", f"saved {target}; next: {_next_step(child, target, choice, data, budgeted and images is None)}"
    )
    return saving.load(target)


def _require_saved(child: ultralytics.YOLO, saved: ultralytics.YOLO, choice: candidates.Choice) -> None:
    """Raise VerifyError unless a checkpoint, loaded again, is the model that was saved, at half precision."""
    meant = saving.half(child.model)
    theirs = saved.model.state_dict()
    wrong = [k for k, v in meant.state_dict().items() if k not in theirs or not v.float().equal(theirs[k].float())]
    if wrong:
        raise VerifyError(f"The checkpoint does not hold what was proved: {wrong[0]} differs.")
    one = choice.probe.proving[0]
    comparison.compare(meant.float().eval(), copy.deepcopy(saved.model).float().eval(), Plan({}), one, training=False)


def _next_step(
    child: ultralytics.YOLO, file: Path, choice: candidates.Choice, data: str | Path, unrepaired: bool
) -> str:
    """What to type now."""
    if (family := trainers.UNTRAINABLE.get(type(child.model).__name__)) is not None:
        return f"yolo val model={file} (pruned {family} models cannot be trained)"
    stock = "" if choice.yaml is None else " (stock 'yolo train' keeps the widths as well)"
    rate = " lr0=0.002" if unrepaired else ""  # weights that nothing was fitted to have further to go
    return f"yoloprune finetune {shlex.quote(f'model={file}')} {shlex.quote(f'data={data}')}{rate}{stock}"


def _report_cut(
    folder: Path, choice: candidates.Choice, rows: list[dict[str, Any]], done: cut_and_repair.Cut, imgsz: int
) -> None:
    """Write and say what was cut."""
    kept = choice.kept()
    data = {
        "command": "prune",
        "kept": kept,
        "relative_error": done.proof.error,
        "proof": asdict(done.proof),
        "outputs_moved": done.moved,
        "layers": layer_table.layer_rows(choice.graph, choice.widths),
        "unknown_operations": choice.graph.unknown,
        "plan": choice.plan.to_dict(),
    }
    picture = run_report.picture_widths(folder / "widths.png", choice.graph, choice.widths)
    run_report.write_report(folder, data, rows, [picture])
    console.log(
        "prune: ",
        f"kept {kept['flops']:.1%} of FLOPs (imgsz {imgsz}), {kept['params']:.1%} of parameters\n"
        f"{run_report.table(rows)}",
    )


def finetune(model: Model, **kwargs: Any) -> saving.YOLO:
    """Train a pruned model with Ultralytics; every width stays.

    Args:
        model (str | Path | YOLO): Pruned checkpoint.
        **kwargs (Any): `distill="parent"`, and every Ultralytics train argument.

    Returns:
        (YOLO): The fine-tuned model.
    """
    request = checking.request("finetune", {"model": model, **kwargs})
    passed = {k: v for k, v in request.passed.items() if k != "model"}
    if passed.get("resume"):
        yolo = saving.reopen(_resumed(model, passed))
    else:
        datasets.require(passed.get("data"))
        passed = {"name": "finetune", **passed}
        yolo = saving.load(model)
    if STATE_KEY in yolo.model.yaml:  # its dead channels are still there and would come back to life
        raise ArgumentError(
            f"model={yolo.ckpt_path or yolo.model_name}: sparse training left dead channels that are not cut yet. Run "
            "'yoloprune prune' first; an interrupted run goes on with 'yoloprune train-sparse ... resume'."
        )
    if not passed.get("resume"):
        passed["data"] = datasets.given_or_own(yolo, passed.get("data"), "finetune")
    if trainers.entry_of(yolo) is None:
        console.warn("finetune: yoloprune did not prune this model; it is trained at the widths that it has")
    if request.settings["distill"] == "parent":
        passed["distill_model"] = str(provenance.parent_file(yolo))
    _require_teachable(yolo, passed)
    before = model_facts.widths(yolo.model)
    with _going_on(yolo, "finetune"):
        yolo.train(**passed)
    if console.is_main_process() and not isinstance(
        yolo.trainer.args, dict
    ):  # of a list of data sets Ultralytics reports
        folder = Path(yolo.trainer.save_dir)
        after = model_facts.widths(yolo.model)
        data = {"command": "finetune", "widths_kept": before == after, "metrics": evaluation.metrics(yolo)}
        rows = [{"model": "fine-tuned", **data["metrics"], **evaluation.measure(yolo.model, yolo.trainer.args.imgsz)}]
        run_report.write_report(folder, data, rows, [folder / "results.png"])
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
    request = checking.request("val", {"model": model, "against": against, **kwargs})
    passed = {k: v for k, v in request.passed.items() if k != "model"}
    alone = Path(model).stem if isinstance(model, (str, Path)) else "network"  # "model" would be renamed, and warned of
    return compare({alone: model} if against is None else {"parent": against, "pruned": model}, **passed)


def compare(models: Mapping[str, Model], *, command: str = "val", **passed: Any) -> list[dict[str, Any]]:
    """Validate models one after the other on the same data, then time them taking turns.

    Args:
        models (Mapping[str, str | Path | YOLO]): Models by the name they get in the table.
        command (str): What the report is called.
        **passed (Any): Every Ultralytics val argument.

    Returns:
        (list[dict[str, Any]]): One row per model.
    """
    loaded = {name: saving.load(m, prunable=False) for name, m in models.items()}
    passed["data"] = datasets.given_or_own(list(loaded.values())[-1], passed.get("data"), command)
    folder = run_folders.run_folder(next(iter(loaded.values())).task, command, passed)
    device = evaluation.device(passed.get("device"))
    imgsz = saving.image_size(next(iter(loaded.values())), passed.get("imgsz"))
    rows, networks = [], []
    for name, yolo in loaded.items():
        networks.append(copy.deepcopy(yolo.model))  # validation fuses the one it runs
        file = models[name] if isinstance(models[name], (str, Path)) else None
        sizes = evaluation.measure(yolo.model, imgsz, file)
        evaluation.validate(
            yolo, {**passed, "imgsz": imgsz, "project": str(folder.resolve()), "name": name, "exist_ok": True}
        )
        rows.append({"model": name, **evaluation.metrics(yolo), **sizes})
    _add_times(rows, networks, imgsz, device)
    run_report.write_report(
        folder, {"command": command, "device": str(device), "imgsz": imgsz, "arguments": passed}, rows
    )
    console.log(f"{command}: ", f"imgsz {imgsz}, {device}\n{run_report.table(rows)}\nsaved {folder}")
    return rows


def _add_times(rows: Sequence[dict[str, Any]], models: Sequence[nn.Module], imgsz: int, device: torch.device) -> None:
    """Put milliseconds per image into the rows of the models, which take turns on the device."""
    with placed(device, *models):
        for row, ms in zip(rows, latency_search.latency(models, imgsz), strict=True):
            row["ms"] = ms


def info(model: Model, **kwargs: Any) -> list[dict[str, Any]]:
    """Print the layers of a model: widths, what is coupled, what is frozen and why.

    Args:
        model (str | Path | YOLO): Checkpoint, model YAML or live model.
        **kwargs (Any): `yoloprune info help`.

    Returns:
        (list[dict[str, Any]]): One row per layer, see `overview.layer_rows`.
    """
    request = checking.request("info", {"model": model, **kwargs})
    yolo = saving.load(model)
    imgsz = saving.image_size(yolo, request.passed.get("imgsz"))
    graph = yolo_tracing.trace_yolo(yolo.model, imgsz=imgsz, keep=request.settings["keep"])
    rows = layer_table.layer_rows(graph)
    cost = Cost(graph)
    free, dead = int(graph.prunable.sum()), int(criteria.dead(yolo.model, graph).sum())
    lines = [
        run_report.table(layer_table.brief(rows)),
        layer_table.LEGEND,
        *layer_table.summary(graph),
        f"{cost.parent('params'):,.0f} parameters, {cost.parent('flops') / 1e9:.2f} GFLOPs at imgsz {imgsz}; "
        f"{free:,} of {graph.n_classes:,} channels prunable in {len(graph.ties)} widths, {dead:,} dead",
        *(f"no rule for operation {op} in {where}" for op, where in graph.unknown.items()),
    ]
    if (told := saving.provenance(yolo)) is not None:
        lines += ["", *_history(told)]
    console.log("info: ", "\n".join(["", *lines]))
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
