"""Model and plan to smaller model: slice tensors, correct the numbers that modules keep about them. Sees no score."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from yoloprune.errors import PlanError
from yoloprune.planning.plan import Keep, Plan
from yoloprune.torch_internals import BatchNorm, ConvNd


def cut(model: nn.Module, plan: Plan) -> nn.Module:
    """Remove channels in place; only tensors and numbers change, every class stays what it was.

    Args:
        model (nn.Module): The parent; pass a copy to keep it.
        plan (Plan): Kept positions per module.

    Returns:
        (nn.Module): The same object, smaller.

    Raises:
        PlanError: If a name or a width of the plan does not fit the model. Nothing has been changed then.
    """
    modules = dict(model.named_modules())
    loose = {name: p for name, p in model.named_parameters() if name in plan.keep}
    for name, keep in plan.keep.items():
        _check(name, modules.get(name), loose.get(name), keep)
    for module_name, module in modules.items():
        if (rule := _rule(module)) is not None:
            rule(module, lambda child, prefix=module_name: plan.keep.get(f"{prefix}.{child}", Keep()))
    for name, keep in plan.keep.items():
        if name in loose:
            parent, _, key = name.rpartition(".")
            setattr(modules[parent], key, _parameter(loose[name], _index(keep.outputs), _long_dim(loose[name])))
        else:
            _slice(modules[name], keep)
    return model


def heads(module: nn.Module) -> int:
    """Number of attention heads whose channels follow each other in `qkv` and of which `cut` may remove whole ones."""
    return module.num_heads if _rule(module) in (_attention, _area_attention) else 0


def has_width_attributes(module: nn.Module) -> bool:
    """Whether `cut` knows how to correct the widths that this module keeps as plain numbers."""
    return _rule(module) is not None


# ---- tensors ---------------------------------------------------------------------------------------------------------


def _slice(module: nn.Module, keep: Keep) -> None:
    outputs, inputs = _index(keep.outputs), _index(keep.inputs)
    if isinstance(module, ConvNd):
        out_dim, in_dim = (1, 0) if module.transposed else (0, 1)
        if outputs is not None:
            module.groups = module.groups * len(outputs) // module.out_channels if module.groups > 1 else 1
            module.weight = _parameter(module.weight, outputs, out_dim)
            module.out_channels = len(outputs)
        if inputs is not None:
            module.weight = _parameter(module.weight, inputs, in_dim)
        module.in_channels = module.weight.shape[in_dim] * (module.groups if in_dim else 1)
    elif isinstance(module, nn.Linear):
        if outputs is not None:
            module.weight, module.out_features = _parameter(module.weight, outputs, 0), len(outputs)
        if inputs is not None:
            module.weight, module.in_features = _parameter(module.weight, inputs, 1), len(inputs)
    elif outputs is not None:  # batch-norm
        module.num_features = len(outputs)
        for key in ("running_mean", "running_var"):
            if (buffer := getattr(module, key)) is not None:
                setattr(module, key, buffer.index_select(0, outputs.to(buffer.device)))
        if module.weight is not None:
            module.weight = _parameter(module.weight, outputs, 0)
    if outputs is not None and module.bias is not None:
        module.bias = _parameter(module.bias, outputs, 0)


def _parameter(p: nn.Parameter, index: Tensor | None, dim: int) -> nn.Parameter:
    if index is None:
        return p
    return nn.Parameter(p.detach().index_select(dim, index.to(p.device)), requires_grad=p.requires_grad)


def _index(positions: Sequence[int] | None) -> Tensor | None:
    return None if positions is None else torch.tensor(positions, dtype=torch.int64)


def _long_dim(p: Tensor) -> int:
    return max(range(p.ndim), key=lambda d: p.shape[d])


def _check(name: str, module: nn.Module | None, parameter: Tensor | None, keep: Keep) -> None:
    if isinstance(module, ConvNd):
        widths = (module.out_channels, module.in_channels)
    elif isinstance(module, nn.Linear):
        widths = (module.out_features, module.in_features)
    elif isinstance(module, BatchNorm):
        widths = (module.num_features, None)
    elif parameter is not None:
        widths = (max(parameter.shape), None)
    else:
        raise PlanError(f"The plan does not fit this model: there is no convolution, linear or batch-norm '{name}'.")
    if keep.heads is not None and (keep.heads < 1 or len(keep.outputs or ()) % keep.heads):
        kept = len(keep.outputs or ())
        raise PlanError(f"The plan does not fit this model: {kept} outputs of {name} for {keep.heads} heads.")
    for side, kept, of, width in zip(("outputs", "inputs"), (keep.outputs, keep.inputs), keep.of, widths, strict=True):
        rising = kept is None or all(a < b for a, b in pairwise(kept))
        if kept is not None and (of != width or not kept or not rising or not 0 <= kept[0] <= kept[-1] < width):
            raise PlanError(
                f"The plan does not fit this model: {name} has {width} {side}. "
                f"Received: {len(kept)} kept positions of {of}{'' if rising else ', not in rising order'}."
            )


# ---- numbers that modules keep about their widths --------------------------------------------------------------------

KeepOf = Callable[[str], Keep]


def _scale_c(module: nn.Module, keep: KeepOf) -> None:
    """`c`, the width of the pieces that `cv1`'s output is split into."""
    conv, kept = module.cv1.conv, keep("cv1.conv").outputs
    if kept is not None:
        module.c = module.c * len(kept) // conv.out_channels


def _attention(module: nn.Module, keep: KeepOf) -> None:
    """Per head `key_dim` queries, as many keys and `head_dim` values; constructors make `scale` from `key_dim`."""
    kept = keep("qkv.conv").outputs
    if kept is not None:
        old, per_head = module.key_dim, 2 * module.key_dim + module.head_dim
        module.num_heads = keep("qkv.conv").heads or module.num_heads
        new = sum(p % per_head < old for p in kept) // module.num_heads
        # From whatever scale it has (one that was cut by an earlier release kept its parent's) to the constructor's.
        _scale_queries(module.qkv, per_head, old, module.scale * new**0.5)
        module.head_dim, module.key_dim, module.scale = len(kept) // module.num_heads - 2 * new, new, new**-0.5


def _area_attention(module: nn.Module, keep: KeepOf) -> None:
    """Queries, keys and values share `head_dim`, from which `forward` computes the softmax scale: compensated in q."""
    kept = keep("qkv.conv").outputs
    if kept is not None:
        old = module.head_dim
        module.num_heads = keep("qkv.conv").heads or module.num_heads
        new = len(kept) // (3 * module.num_heads)
        _scale_queries(module.qkv, 3 * old, old, (new / old) ** 0.5)
        module.head_dim = new
        if hasattr(module, "all_head_dim"):  # newer releases of Ultralytics
            module.all_head_dim = new * module.num_heads


def _scale_queries(qkv: nn.Module, per_head: int, queries: int, factor: float) -> None:
    """Multiply the queries, the first so many channels of each head, so that the softmax sees what the parent's saw."""
    at = [p for p in range(qkv.bn.num_features) if p % per_head < queries]
    for p in (qkv.bn.weight, qkv.bn.bias):
        p.data[at] *= factor


def _pieces(module: nn.Module, keep: KeepOf) -> None:
    """`c2s`, the widths of the pieces that one convolution's output is split into."""
    kept = keep("conv").outputs
    if kept is not None:
        ends = [0]
        for width in module.c2s:
            ends.append(ends[-1] + width)
        module.c2s = [bisect_left(kept, b) - bisect_left(kept, a) for a, b in pairwise(ends)]


WIDTH_ATTRIBUTES: dict[str, Callable[[nn.Module, KeepOf], None]] = {
    **dict.fromkeys(("C2f", "C2PSA", "PSA", "C2fPSA", "RepNCSPELAN4", "ELAN1"), _scale_c),
    "Attention": _attention,
    "AAttn": _area_attention,
    "CBLinear": _pieces,
}
"""By class name, subclasses included: how to correct numbers that `forward` reads. Runs before tensors are sliced."""


def _rule(module: nn.Module) -> Callable[[nn.Module, KeepOf], None] | None:
    return next((WIDTH_ATTRIBUTES[c.__name__] for c in type(module).__mro__ if c.__name__ in WIDTH_ATTRIBUTES), None)
