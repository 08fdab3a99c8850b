"""Networks that their YAML does not describe: found by comparing, and trained as they are.

Ultralytics builds the network to train from `model.yaml`. A head of an older release, a layer or an activation that was
put in by hand, and the widths of a free plan or of another tool are not in there: what would be trained is another
network, in silence.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any, NamedTuple

from torch import nn

from yoloprune.backend import model_builder, model_facts, yaml_markers
from yoloprune.errors import ModelError, raised_by
from yoloprune.torch_internals import is_out_of_memory

RUN_TIME = model_builder.STAMPS | {
    *("type", "training", "export", "format", "dynamic", "shape", "xyxy", "max_det", "conf", "iou", "agnostic_nms"),
    *("inplace", "legacy", "end2end", "names", "args", "task", "pt_path", "criterion", "yaml", "save"),
}
"""What Ultralytics sets on modules when they are built or run, or that changes nothing of what they compute."""

PLAIN = (bool, int, float, str, tuple, list)
ODD = (101, 103)
"""Two numbers of classes above all at which Ultralytics changes the width of hidden layers."""


def difference(model: nn.Module) -> str | None:
    """What of a network is not as its YAML says: the first module or tensor, in words; None where all of it is.

    Args:
        model (nn.Module): An Ultralytics model, pruned or not.
    """
    config = yaml_markers.true_yaml(yaml_markers.cleared(model_facts.network(model).yaml))
    for _, _, name, *_ in [*config["backbone"], *config["head"]]:
        try:
            model_builder.layer_class(name)
        except LookupError:
            return f"Ultralytics cannot build its YAML (it has no {name})"
    try:
        built = model_builder.build(type(model), config, model_facts.channels(model), blank=True)
    except Exception as e:  # constructors raise whatever they like
        if is_out_of_memory(e) or not model_builder.by_constructor(e):
            raise
        return f"Ultralytics cannot build its YAML ({type(e).__name__}: {e})"
    why = between(built, model)
    if why is None or model_facts.network(model).is_fused():
        return why
    try:  # loading takes over the class branch, whose width depends on the classes it was first trained for
        model_facts.network(built).load(deepcopy(model).cpu(), verbose=False)
    except Exception as e:  # a head that is put together otherwise has nothing that it looks for
        if is_out_of_memory(e) or raised_by(e) != "ultralytics":
            raise
        return why
    return between(built, model)


def between(built: nn.Module, model: nn.Module) -> str | None:
    """The first difference of a model from another build, see `difference`."""
    # activations are one object or several, which makes no difference
    theirs, mine = (dict(m.named_modules(remove_duplicate=False)) for m in (built, model))
    for name, module in mine.items():
        if name not in theirs:
            return f"{name} ({type(module).__name__}) is not in its YAML"
        if type(module) is not type(theirs[name]):
            return f"{name} is a {type(module).__name__}, its YAML says {type(theirs[name]).__name__}"
        if (told := _tensors(module)) != (said := _tensors(theirs[name])):
            key = next(k for k in [*told, *said] if told.get(k) != said.get(k))
            return f"{name}.{key} is {told.get(key, 'missing')}, its YAML says {said.get(key, 'none')}"
        numbers = _numbers(theirs[name])
        for key, value in _numbers(module).items():
            if key in numbers and numbers[key] != value:
                return f"{name}.{key} is {value}, its YAML says {numbers[key]}"
    missing = next((name for name in theirs if name not in mine), None)
    return None if missing is None else f"{missing} is in its YAML only"


def adopt(model: nn.Module, built: nn.Module) -> None:
    """Give the modules of a network the whole numbers of another build that computes the same.

    Some remember widths of their parent that no forward pass reads, such as the `dim` of a RepVGGDW.
    """
    theirs = dict(built.named_modules(remove_duplicate=False))
    for name, module in model.named_modules(remove_duplicate=False):
        if name not in theirs:
            continue  # it has no tensors, or the builds would differ
        mine, other = _numbers(module), _numbers(theirs[name])
        for key in mine.keys() & other.keys():
            if type(mine[key]) is type(other[key]) is int:
                setattr(module, key, other[key])


def _tensors(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Shapes of a module's own parameters and buffers."""
    own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
    return {name: tuple(tensor.shape) for name, tensor in own}


def _numbers(module: nn.Module) -> dict[str, Any]:
    """Plain values that a module keeps under public names."""
    found = {k: v for k, v in vars(module).items() if not k.startswith("_") and k not in RUN_TIME}
    return {k: tuple(v) if isinstance(v, list) else v for k, v in found.items() if isinstance(v, PLAIN)}


def to_train(model: nn.Module, nc: int | None, inputs: int, *, fresh: bool = False) -> nn.Module:
    """A copy of a network, ready for a training on a data set.

    Args:
        model (nn.Module): The network of a checkpoint.
        nc (int | None): Classes of the data set: where they are others, the last class layers alone are new. None
            stands for the model's own.
        inputs (int): Channels of its images: where they are others, the first convolution is filled from its filters.
        fresh (bool): Whether layers draw their weights anew.

    Returns:
        (nn.Module): All of it trainable, in float32.

    Raises:
        ModelError: If the class layers cannot be told, as in a head that is not one of Ultralytics'.
    """
    own = deepcopy(model).float()
    theirs = model_facts.network(own)
    theirs.criterion, theirs.yaml = None, deepcopy(theirs.yaml)
    if fresh:
        for module in own.modules():
            if callable(reset := getattr(module, "reset_parameters", None)):
                reset()
        if callable(start := getattr(theirs.model[-1], "bias_init", None)):
            start()
    if nc is not None and nc != theirs.yaml.get("nc", nc):
        _give_classes(own, nc)
    if inputs != model_facts.channels(own):
        _give_inputs(own, inputs)
    for parameter in own.parameters():
        parameter.requires_grad_(True)
    return own


def _give_classes(model: nn.Module, nc: int) -> None:
    """Replace the last class layers, and correct what counts classes."""
    theirs = model_facts.network(model)
    before = theirs.yaml["nc"]
    if (why := difference(model)) is not None and "cannot build" in why:
        raise ModelError(_another_number(before, nc, why))
    found, stock = counting(model), _built_for(model, nc)
    modules = dict(model.named_modules())
    for name, told in found.items():
        mine = modules.get(name)
        if "weight" in told.rows:
            if mine is None or len(getattr(mine, "weight", ())) != before:
                raise ModelError(_another_number(before, nc, f"{name} is not the class layer that its YAML builds"))
            _set(model, name, _with_outputs(mine, nc, stock.get_submodule(name)))
        elif mine is not None:
            for key in told.counts:
                if isinstance(value := getattr(mine, key, None), int):
                    setattr(mine, key, value + nc - before)
    theirs.yaml["nc"] = nc


class Counting(NamedTuple):
    """What of a module depends on the number of classes: tensors with a row per class, and numbers that count them."""

    rows: tuple[str, ...]
    counts: tuple[str, ...]


def counting(model: nn.Module) -> dict[str, Counting]:
    """The modules that know the number of classes, by name: what differs between two builds of its YAML."""
    small, large = (_built_for(model, n) for n in ODD)
    wider = dict(large.named_modules())
    found = {}
    for name, module in small.named_modules():
        shapes, numbers = _tensors(wider[name]), _numbers(wider[name])
        rows = tuple(k for k, shape in _tensors(module).items() if (shape[:1], shapes[k][:1]) == ((ODD[0],), (ODD[1],)))
        counts = [k for k, v in _numbers(module).items() if isinstance(v, int) and numbers[k] - v == ODD[1] - ODD[0]]
        if rows or counts:
            found[name] = Counting(rows, tuple(counts))
    return found


def _built_for(model: nn.Module, nc: int) -> nn.Module:
    """What its YAML builds for a number of classes."""
    config = yaml_markers.true_yaml(yaml_markers.cleared(model_facts.network(model).yaml))
    return model_builder.build(type(model), {**config, "nc": nc}, model_facts.channels(model))


def _another_number(before: int, nc: int, why: str) -> str:
    return f"data: it has {nc} classes, the model {before}, and its class layers cannot be replaced: {why}."


def _with_outputs(layer: nn.Module, n: int, stock: nn.Module) -> nn.Module:
    """A new layer with another number of outputs, its bias as Ultralytics begins with."""
    new: Any = deepcopy(layer)
    new.weight = nn.Parameter(new.weight.new_empty((n, *new.weight.shape[1:])))
    for key in ("out_channels", "out_features", "num_embeddings"):
        if hasattr(new, key):
            setattr(new, key, n)
    bias = getattr(new, "bias", None)
    new.bias = None if bias is None else nn.Parameter(bias.new_empty(n))
    new.reset_parameters()
    if bias is not None and isinstance(begun := getattr(stock, "bias", None), nn.Parameter):
        new.bias.data.copy_(begun.data)
    return new  # type: ignore[no-any-return]


def _give_inputs(model: nn.Module, inputs: int) -> None:
    """Give the first convolution another number of input channels, filled from its filters as Ultralytics does it."""
    theirs, before = model_facts.network(model), model_facts.channels(model)
    convolutions = {n: m for n, m in model.named_modules() if isinstance(m, nn.Conv2d) and m.in_channels == before}
    name, first = next(iter(convolutions.items()), ("", None))
    if first is None or first.groups > 1:
        raise ModelError(f"data: its images have {inputs} channels, the model takes {before} input channels.")
    new, old = deepcopy(first), first.weight.data
    new.in_channels = inputs
    new.weight = nn.Parameter(old.new_empty((len(old), inputs, *old.shape[2:])))
    new.reset_parameters()
    shared = min(before, inputs)
    new.weight.data[:, :shared] = old.sum(1, keepdim=True) if inputs == 1 else old[:, :shared]
    _set(model, name, new)
    theirs.yaml["channels"] = inputs


def _set(model: nn.Module, name: str, module: nn.Module) -> None:
    owner, _, child = name.rpartition(".")
    setattr(model.get_submodule(owner), child, module)
