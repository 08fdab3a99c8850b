"""Model and plan to smaller model: slice tensors, correct the numbers that modules keep about them. Sees no score."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor, nn

from yoloprune.cutting import extra_buffers, remembered_widths, width_attributes
from yoloprune.errors import PlanError
from yoloprune.planning.plan import Keep, Plan
from yoloprune.probing import kept_numbers, residual_modules
from yoloprune.probing.kept_numbers import KeptNumber
from yoloprune.torch_internals import BatchNorm, ConvNd

Model = TypeVar("Model", bound=nn.Module)


def cut(model: Model, plan: Plan) -> Model:
    """Remove channels in place; only tensors and numbers change, every class stays what it was.

    A residual branch that goes as a whole leaves an `nn.Identity` in its place.

    Args:
        model (nn.Module): The parent; pass a copy to keep it.
        plan (Plan): Kept positions per module.

    Returns:
        (nn.Module): The same object, smaller.

    Raises:
        PlanError: If a name or a width of the plan does not fit the model. Nothing has been changed then.
    """
    modules = dict(model.named_modules())
    tensors = (*model.named_parameters(), *model.named_buffers())
    loose = {name: tensor for name, tensor in tensors if name in plan.keep}
    whole = set(plan.removed)
    for name, keep in plan.keep.items():
        if name in whole:
            _check_whole(name, modules, plan)
        else:
            _check(name, modules.get(name), loose.get(name), kept_numbers.named(modules, name), keep)
    for name in whole:
        residual_modules.take_out(model, name)
    modules = dict(model.named_modules())
    numbers = remembered_widths.remembered(model)
    named: defaultdict[str, set[str]] = defaultdict(set)  # by module, what in it the plan names
    for name in plan.keep:
        owner, _, key = name.rpartition(".")
        named[owner].add(key)
    for module_name, module in modules.items():
        width_attributes.correct(module, partial(_kept, plan, module_name))
    for name, keep in plan.keep.items():
        if name in whole:
            continue
        if (number := kept_numbers.named(modules, name)) is not None:
            number.set(len(keep.outputs or ()))
        elif name not in loose:
            extra_buffers.cut_extra_buffers(modules[name], keep, named[name])
            _slice(modules[name], keep)
        elif (outputs := _index(keep.outputs)) is not None:
            parent, _, key = name.rpartition(".")
            setattr(modules[parent], key, _sliced(loose[name], outputs, _long_dim(loose[name])))
    remembered_widths.correct(model, numbers)
    return model


def _kept(plan: Plan, module: str, child: str) -> Keep:
    return plan.keep.get(f"{module}.{child}", Keep())


# ---- branches --------------------------------------------------------------------------------------------------------


def _check_whole(name: str, modules: dict[str, nn.Module], plan: Plan) -> None:
    if not name or name not in modules:
        raise PlanError(f"The plan does not fit this model: there is no module '{name}' to be removed.")
    if inner := next((other for other in plan.keep if other.startswith(f"{name}.")), None):
        raise PlanError(f"The plan does not fit this model: it removes {name}, and cuts {inner} in it.")


# ---- tensors ---------------------------------------------------------------------------------------------------------


def _slice(module: nn.Module, keep: Keep) -> None:
    outputs, inputs = _index(keep.outputs), _index(keep.inputs)
    if isinstance(module, ConvNd):
        out_dim, in_dim = (1, 0) if module.transposed else (0, 1)
        if outputs is not None and module.groups > 1:
            _slice_groups(module, outputs)
        elif outputs is not None:
            module.out_channels = len(outputs)
            _replace(module, outputs, out_dim, "weight")
        if inputs is not None:
            module.in_channels = len(inputs)
            _replace(module, inputs, in_dim, "weight")
    elif isinstance(module, nn.Linear):
        if outputs is not None:
            module.out_features = len(outputs)
            _replace(module, outputs, 0, "weight")
        if inputs is not None:
            module.in_features = len(inputs)
            _replace(module, inputs, 1, "weight")
    elif isinstance(module, nn.GroupNorm) and outputs is not None:
        module.num_groups = len(outputs) * module.num_groups // module.num_channels
        module.num_channels = len(outputs)
        _replace(module, outputs, 0, "weight")
    elif isinstance(module, BatchNorm) and outputs is not None:
        module.num_features = len(outputs)
        _replace(module, outputs, 0, "running_mean", "running_var", "weight")
    if outputs is not None:
        _replace(module, outputs, 0, "bias")


def _slice_groups(conv: ConvNd, outputs: Tensor) -> None:
    """Whole groups of a grouped convolution go, their inputs with their outputs."""
    each, fed = conv.out_channels // conv.groups, conv.in_channels // conv.groups
    groups = outputs[::each] // each
    rows = (groups[:, None] * fed + torch.arange(fed)).flatten() if conv.transposed else outputs
    _replace(conv, rows, 0, "weight")
    conv.groups, conv.in_channels, conv.out_channels = len(groups), len(groups) * fed, len(outputs)


def _replace(module: nn.Module, index: Tensor, dim: int, *keys: str) -> None:
    """Tensors of a module, parameters or buffers, by some of their positions; not what it computes from others."""
    own = dict((*module.named_parameters(recurse=False, remove_duplicate=False), *module.named_buffers(recurse=False)))
    for key in own.keys() & {*keys}:
        setattr(module, key, _sliced(own[key], index, dim))


def _sliced(tensor: Tensor, index: Tensor, dim: int) -> Tensor:
    """Some positions of a tensor, in the memory format of it, which is a parameter if that one is."""
    kept = tensor.detach().index_select(dim, index.to(tensor.device))
    last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(tensor.ndim)
    if last is not None and tensor.is_contiguous(memory_format=last) and not tensor.is_contiguous():
        kept = kept.contiguous(memory_format=last)
    return nn.Parameter(kept, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else kept


def _index(positions: Sequence[int] | None) -> Tensor | None:
    return None if positions is None else torch.tensor(positions, dtype=torch.int64)


def _long_dim(p: Tensor) -> int:
    return max(range(p.ndim), key=lambda d: p.shape[d])


def _check(
    name: str, module: nn.Module | None, parameter: Tensor | None, number: KeptNumber | None, keep: Keep
) -> None:
    widths: tuple[int, int | None]
    if isinstance(module, ConvNd):
        widths = (module.out_channels, module.in_channels)
    elif isinstance(module, nn.Linear):
        widths = (module.out_features, module.in_features)
    elif isinstance(module, BatchNorm | nn.GroupNorm):
        widths = (module.num_features if isinstance(module, BatchNorm) else module.num_channels, None)
    elif parameter is not None:
        widths = (max(parameter.shape), None)
    elif number is not None:
        widths = (number.value, None)
    else:
        raise PlanError(f"The plan does not fit this model: there is no convolution, linear or batch-norm '{name}'.")
    if keep.heads is not None and (keep.heads < 1 or len(keep.outputs or ()) % keep.heads):
        count = len(keep.outputs or ())
        raise PlanError(f"The plan does not fit this model: {count} outputs of {name} for {keep.heads} heads.")
    groups, made = _groups(module)
    if groups > 1 and keep.outputs is not None:
        each = made // groups
        whole = {p // each for p in keep.outputs}
        if keep.inputs is not None or len(whole) * each != len(keep.outputs):
            raise PlanError(f"The plan does not fit this model: of {name} whole groups of {each} outputs can go.")
    for side, kept, of, width in zip(("outputs", "inputs"), (keep.outputs, keep.inputs), keep.of, widths, strict=True):
        if kept is None:
            continue
        rising = all(a < b for a, b in pairwise(kept))
        if width is None or of != width or not kept or not rising or not 0 <= kept[0] <= kept[-1] < width:
            raise PlanError(
                f"The plan does not fit this model: {name} has {'no' if width is None else width} {side}. "
                f"Received: {len(kept)} kept positions of {of}{'' if rising else ', not in rising order'}."
            )


def _groups(module: nn.Module | None) -> tuple[int, int]:
    """Into how many groups, which go as a whole, how many channels of a layer divide."""
    if isinstance(module, ConvNd):
        return module.groups, module.out_channels
    return (module.num_groups, module.num_channels) if isinstance(module, nn.GroupNorm) else (1, 1)
