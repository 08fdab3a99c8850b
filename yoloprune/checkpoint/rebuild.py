"""The record of a pruning, and the checks that a build is the network that is meant."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import ultralytics
from torch import Tensor, nn

from yoloprune.backend import model_builder, model_facts, moved_layers, own_network, yaml_markers, yolo_tracing
from yoloprune.cutting import comparison
from yoloprune.errors import PlanError, VerifyError, raised_by
from yoloprune.planning.plan import Plan
from yoloprune.probing import kept_numbers
from yoloprune.torch_internals import is_out_of_memory

AND = " and "
"""Between the patterns of several masks of one model."""


def mark_pruned(
    model: nn.Module,
    plan: Plan,
    provenance: Mapping[str, Any],
    native: Mapping[str, Any] | None = None,
    layers: Mapping[str, list[str]] | None = None,
) -> None:
    """Write the record of a pruning into `model.yaml`, and stop stock trainers; `save` does it to its copy.

    A native YAML is built first and compared with the model, and stock trainers need not be stopped.

    Args:
        model (nn.Module): The cut model; its `model.yaml` is still the parent's.
        plan (Plan): What was cut from the parent.
        provenance (Mapping): From `make_provenance`; that of earlier prunings is kept under "earlier".
        native (Mapping | None): A stock YAML of the cut model, from `native.Stock.describe`.
        layers (Mapping | None): Where the modules of the model that was pruned went, where they moved.

    Raises:
        PlanError: If the native YAML does not give this model, or the plan is of another one.
    """
    theirs = model_facts.network(model)
    theirs.yaml = yaml_markers.cleared(theirs.yaml)  # a sparse run that came before is the parent's
    before = yaml_markers.entry_of(model) or {"widths": {}, "provenance": None}
    entry: dict[str, Any] = {
        "version": yaml_markers.VERSION,
        "widths": _merge(before["widths"], plan.widths()),
        "provenance": _with_earlier(provenance, before["provenance"]),
    }
    if native is not None:
        entry["widths"], entry["native"] = {}, True
        if table := moved_layers.joined(before.get(yaml_markers.LAYERS) or {}, layers or {}):
            entry[yaml_markers.LAYERS] = table
        said = {k: v for k, v in native.items() if k in theirs.yaml}  # not what the cut model has lost
        own_network.adopt(model, require_stock_build(model, said))
        theirs.yaml = said
        yaml_markers.mark(model, entry)
        return
    if before.get(yaml_markers.LAYERS):  # keys go on meaning the layers of the model that was first pruned
        entry[yaml_markers.LAYERS] = deepcopy(before[yaml_markers.LAYERS])
    _require_widths(model, entry["widths"])
    if not entry["widths"] and own_network.difference(model) is not None:
        entry["own"] = True  # nobody can say what was cut, and yet its YAML says another network
    yaml_markers.mark(model, entry)


def mark_masked(
    model: nn.Module,
    pattern: str,
    layers: Mapping[str, int],
    provenance: Mapping[str, Any],
    ramp: Mapping[str, Any] | None = None,
) -> None:
    """Write the record of masks into `model.yaml`, and stop stock trainers; a model that was pruned before stays so.

    Args:
        model (nn.Module): The masked model.
        pattern (str): `pattern=`; the record tells of that of earlier masks as well.
        layers (Mapping[str, int]): By layer, how many of its weights are zero; those of earlier masks stay in the
            record.
        provenance (Mapping): From `make_provenance`; that of earlier prunings is kept under "earlier".
        ramp (Mapping | None): How zeros become more in the training that comes, from `growing_masks.begin`.
    """
    theirs = model_facts.network(model)
    theirs.yaml = yaml_markers.cleared(theirs.yaml)
    before = yaml_markers.entry_of(model) or {"widths": {}, "provenance": None}
    earlier = before.get(yaml_markers.MASKS) or {"pattern": pattern, "layers": {}}
    patterns = dict.fromkeys([*earlier["pattern"].split(AND), pattern])  # each holds for what it took
    told: dict[str, Any] = {"pattern": AND.join(patterns), "layers": {**earlier["layers"], **layers}}
    if ramp is not None:
        told[yaml_markers.RAMP] = deepcopy(dict(ramp))
    entry = {
        **{k: v for k, v in before.items() if k != "yaml"},
        "version": yaml_markers.MASKED,
        "provenance": _with_earlier(provenance, before["provenance"]),
        yaml_markers.MASKS: told,
    }
    if not entry["widths"] and not entry.get("native") and own_network.difference(model) is not None:
        entry["own"] = True
    yaml_markers.mark(model, entry)


def _with_earlier(provenance: Mapping[str, Any], history: Mapping[str, Any] | None) -> dict[str, Any]:
    """The provenance of a step, with that of the steps before it, oldest first."""
    last = [] if history is None else [{k: v for k, v in history.items() if k != "earlier"}]
    return {**deepcopy(dict(provenance)), "earlier": [*(history or {}).get("earlier", []), *last]}


def _merge(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Widths of two prunings in a row, relative to what the first one started from."""
    merged = {name: deepcopy(dict(width)) for name, width in first.items()}
    for name, width in second.items():
        old = merged.setdefault(name, {"of": [None, None]})
        for i, side in enumerate(("outputs", "inputs")):
            if side not in width:
                continue
            if side in old and old[side] != width["of"][i]:
                raise PlanError(
                    f"The plan does not fit this model: {name} has {old[side]} {side}. Received: {width['of'][i]}."
                )
            old["of"][i] = old["of"][i] if side in old else width["of"][i]
            old[side] = width[side]
    gone = Plan.from_widths(merged).removed  # and with a branch what an earlier pruning left of it
    return {name: width for name, width in merged.items() if not any(name.startswith(f"{one}.") for one in gone)}


def require_stock_build(model: nn.Module, config: Mapping[str, Any]) -> nn.Module:
    """What stock training goes on with; raises PlanError unless it is this very network: tensors, widths and what it
    computes.
    """
    try:
        fresh = model_builder.rebuild(model, config)
    except Exception as e:  # whatever Ultralytics may raise while it builds
        if raised_by(e) != "ultralytics" or is_out_of_memory(e):
            raise
        raise PlanError(f"Stock Ultralytics cannot build the pruned model: {e}.") from e
    model = deepcopy(model).float().cpu().eval()
    mine, theirs = model.state_dict(), fresh.state_dict()
    wrong = [k for k in mine if k not in theirs or not mine[k].equal(theirs[k])] + [k for k in theirs if k not in mine]
    modules = dict(fresh.named_modules(remove_duplicate=False))
    kept = {name: told for name, module in model.named_modules() if (told := model_builder.numbers(module))}
    wrong += [
        name for name, told in kept.items() if name not in modules or model_builder.numbers(modules[name]) != told
    ]
    if wrong:
        raise PlanError(f"Stock Ultralytics builds {wrong[0]} otherwise than it was cut.")
    try:
        comparison.verify(model, fresh.eval(), Plan({}), yolo_tracing.runnable_example(model, 2))
    except VerifyError as e:
        raise PlanError(f"What stock Ultralytics builds computes something else. ({e})") from e
    return fresh


def network(yolo: ultralytics.YOLO, nc: int | None, pretrained: Any = True) -> nn.Module:
    """The network that `YOLO.train` builds for a model, built before there is a trainer.

    Args:
        yolo (YOLO): The model, pruned or not.
        nc (int | None): Number of classes of the data set; None stands for the model's own.
        pretrained (bool | str | Path): Ultralytics' argument: whether weights are taken over, or whose.

    Returns:
        (nn.Module): With the weights it starts from, because a head may be taken over at the widths that it has.
    """
    model: nn.Module = yolo.model
    if own_network.difference(model) is not None:
        return own_network.to_train(model, nc, model_facts.channels(model), fresh=pretrained is False)
    config = yaml_markers.true_yaml(yaml_markers.cleared(model_facts.network(model).yaml))
    built = model_builder.build(type(model), {**config, "nc": nc or config.get("nc")}, model_facts.channels(model))
    if isinstance(pretrained, (str, Path)):
        model_facts.network(built).load(ultralytics.YOLO(pretrained).model, verbose=False)
    elif pretrained is not False and yolo.ckpt:
        model_facts.network(built).load(deepcopy(yolo.model).cpu(), verbose=False)
    return built


def _require_widths(model: nn.Module, widths: Mapping[str, Mapping[str, Any]]) -> None:
    modules = dict(model.named_modules(remove_duplicate=False))
    for name, width in widths.items():
        for side in {"outputs", "inputs"} & set(width):
            if (got := _width(modules, name, side)) != width[side]:
                raise PlanError(f"{name} has {got} {side}, the plan says {width[side]}.")


def _width(modules: Mapping[str, nn.Module], name: str, side: str) -> int:
    if (number := kept_numbers.named(modules, name)) is not None:
        return number.value
    parent, _, child = name.rpartition(".")
    owner = getattr(modules[parent], child)
    if isinstance(owner, Tensor):
        return max(owner.shape)
    if isinstance(owner, nn.Identity):
        return 0  # in the place of a branch
    made, read = ("out_channels", "out_features", "num_features", "num_channels"), ("in_channels", "in_features")
    names = made if side == "outputs" else read
    width: int = next(getattr(owner, n) for n in names if hasattr(owner, n))
    return width


def require_same_shape(model: nn.Module, weights: nn.Module) -> None:
    """Raise PlanError unless all parameters outside the head have the same names and shapes.

    The first layer may differ in its input channels, and the head in all that follows the number of classes.
    """
    mine, theirs = model_facts.widths(model), model_facts.widths(weights)
    first = next(iter(theirs), "")
    if (there := mine.get(first, ())) and there[:1] + there[2:] == theirs[first][:1] + theirs[first][2:]:
        mine[first] = theirs[first]
    if mine == theirs:
        return
    name = next(k for k in [*theirs, *mine] if mine.get(k) != theirs.get(k))
    if getattr(weights, "is_fused", lambda: False)():
        raise PlanError("These weights are fused for inference and cannot be trained. Load the checkpoint again.")
    sizes = [s.get(name, "missing") for s in (mine, theirs)]
    raise PlanError(
        f"The weights do not have the shape of the model to be trained: {name} is {sizes[0]} in the model, "
        f"{sizes[1]} in the weights. A pruned network is trained from its own checkpoint: YOLO('pruned.pt').train(...)."
    )
