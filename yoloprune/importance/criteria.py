"""Model and groups to one importance per channel class."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from yoloprune.errors import ArgumentError, DataError
from yoloprune.importance.weight_criteria import CRITERIA, batch_norm
from yoloprune.planning.channel_graph import ChannelGraph
from yoloprune.probing.forward import feed, follow, hooked, running
from yoloprune.torch_internals import BatchNorm, ConvNd

Reduce = Literal["mean", "max", "sum", "l2"]
Normalize = Literal["none", "mean", "max"]
Values = Iterator[tuple[int, np.ndarray]]
"""Pairs of axis index and values, shape (width,)."""


def score(
    model: nn.Module,
    graph: ChannelGraph,
    criterion: str = "bn",
    *,
    reduce: Reduce = "mean",
    normalize: Normalize = "none",
    batches: Iterable[Any] | None = None,
    seed: int = 0,
) -> np.ndarray:
    """Importance of each channel class.

    Args:
        model (nn.Module): The traced model.
        graph (ChannelGraph): Its channels.
        criterion (str): A key of `CRITERIA` or `ON_DATA`, or "random" as a control.
        reduce (str): How the values of a class's members become one: "mean", "max", "sum" or "l2", their norm.
        normalize (str): Divide by the "mean" or "max" of the group, so that groups compare; "none" leaves values alone.
        batches (Iterable[Any] | None): For "activation", images of shape (B, C, H, W). For "taylor", what the model
            makes a loss of: `model(batch)` is the loss, or a tuple that begins with it, as in Ultralytics.
        seed (int): Seed of "random".

    Returns:
        (np.ndarray): Scores, shape (classes,); infinite for classes without a member that the criterion looks at.

    Raises:
        ArgumentError: If a word is unknown, or the criterion looks at data and gets none.
        DataError: If `batches` is empty.
    """
    for name, value, known in (("reduce", reduce, Reduce), ("normalize", normalize, Normalize)):
        if value not in get_args(known):
            raise ArgumentError(f"{name}={value}: must be one of {', '.join(get_args(known))}. Received: {value}")
    if criterion == "random":
        return np.random.default_rng(seed).random(graph.n_classes)
    if criterion in ON_DATA and batches is not None:
        found = ON_DATA[criterion](model, graph, batches)
    elif criterion in CRITERIA:
        found = _outputs(model, graph, CRITERIA[criterion])
    elif criterion in ON_DATA:
        raise ArgumentError(f"score={criterion}: must come with data, on which it is measured. Received no data")
    else:
        raise ArgumentError(f"score={criterion}: must be one of {sorted([*CRITERIA, *ON_DATA, 'random'])}.")
    values = gather(graph, found, reduce)
    if normalize != "none":
        for g in range(len(graph.groups)):
            members = graph.classes(g)
            if np.isfinite(values[members]).all():
                values[members] /= max(float(getattr(np, normalize)(values[members])), 1e-12)
    return values


def dead(model: nn.Module, graph: ChannelGraph) -> np.ndarray:
    """Mask of the prunable classes whose batch-norm scales are all exactly zero, shape (classes,)."""
    return (gather(graph, _outputs(model, graph, batch_norm), "max") == 0) & silenced_by_gamma(model, graph)


def silenced_by_gamma(model: nn.Module, graph: ChannelGraph) -> np.ndarray:
    """Mask of the prunable classes that stand still once all their batch-norm scales are zero, shape (classes,).

    That holds when nothing reads them between the layer that makes them and its batch-norm.
    """
    normed = np.isfinite(gather(graph, _outputs(model, graph, batch_norm), "max"))
    return graph.prunable & normed & (~graph.bare if graph.bare is not None else False)


def gather(graph: ChannelGraph, values: Values, reduce: Reduce) -> np.ndarray:
    """Reduce values per axis position to one per class.

    Args:
        graph (ChannelGraph): The channels.
        values (Iterator): Pairs of axis index and values, shape (width,).
        reduce (str): "mean", "max", "sum" or "l2".

    Returns:
        (np.ndarray): Shape (classes,), infinite where a class got no value.
    """
    result, count = np.zeros(graph.n_classes), np.zeros(graph.n_classes)
    for i, v in values:
        (np.maximum if reduce == "max" else np.add).at(result, graph.class_of[i], v**2 if reduce == "l2" else v)
        np.add.at(count, graph.class_of[i], 1)
    if reduce == "mean":
        result /= np.maximum(count, 1)
    elif reduce == "l2":
        result = np.sqrt(result)
    result[count == 0] = np.inf
    return result


def _outputs(model: nn.Module, graph: ChannelGraph, criterion: Callable[[nn.Module], Tensor | None]) -> Values:
    modules = dict(model.named_modules())
    for i, axis in enumerate(graph.axes):
        if axis.side == "outputs" and axis.module in modules:
            with torch.no_grad():
                value = criterion(modules[axis.module])
            if value is not None:
                yield i, value.cpu().double().numpy()


def _activation(model: nn.Module, graph: ChannelGraph, batches: Iterable[Tensor]) -> Values:
    """Mean |activation| of each channel where it is consumed, so past all activations, sums and pooling."""
    modules = dict(model.named_modules())
    readers = [(i, a.module) for i, a in enumerate(graph.axes) if a.side == "inputs" and a.module in modules]
    total: dict[nn.Module, np.ndarray] = {}
    count: dict[nn.Module, int] = defaultdict(int)

    def watch(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        x = inputs[0].movedim(-1 if isinstance(module, nn.Linear) else 1, 0).flatten(1)
        total[module] = total.get(module, 0.0) + x.abs().float().mean(1).cpu().double().numpy() * x.shape[1]
        count[module] += x.shape[1]

    with running(model), hooked() as hooks:
        hooks += [modules[name].register_forward_pre_hook(watch) for _, name in readers]
        feed(model, batches)
    for i, name in readers:
        if count[modules[name]]:
            yield i, total[modules[name]] / count[modules[name]]


def _taylor(model: nn.Module, graph: ChannelGraph, batches: Iterable[Any]) -> Values:
    """First-order Taylor estimate of how much the loss changes without a channel (Molchanov et al. 2019, arXiv
    1906.10771, section 3.1): |g · dL/dg| of a gate g = 1 behind the layer, averaged over batches.

    Behind a batch-norm that is |gamma · dL/dgamma + beta · dL/dbeta|; behind a layer that none follows |sum w · dL/dw|
    over the weights of the filter and its bias. Batch-norm runs in evaluation mode, as it will after the cut.
    """
    modules = dict(model.named_modules())
    makers = {
        a.module: (i, modules[a.module])
        for i, a in enumerate(graph.axes)
        if a.side == "outputs" and _is_gated(modules.get(a.module))
    }
    parameters = [p for _, m in makers.values() for p in m.parameters()]
    total = dict.fromkeys(makers, 0.0)
    fed = 0
    with _differentiable(model), hooked() as hooks:
        followers = follow(model, [n for n, (_, m) in makers.items() if not isinstance(m, BatchNorm)], BatchNorm, hooks)
        for batch in batches:
            loss = model(batch)
            loss = (loss[0] if isinstance(loss, tuple) else loss).sum()
            slopes = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
            by_parameter = dict(zip(parameters, slopes, strict=True))
            for name, (_, module) in makers.items():
                total[name] = total[name] + _gate(module, by_parameter).abs()
            fed += 1
    if not fed:
        raise DataError("There are no labelled images.")
    for name, (i, _) in makers.items():
        if name not in followers:
            yield i, (total[name] / fed).cpu().double().numpy()


def _is_gated(module: nn.Module | None) -> bool:
    return isinstance(module, (ConvNd, nn.Linear, BatchNorm)) and module.weight is not None


def _gate(module: nn.Module, slopes: Mapping[nn.Parameter, Tensor]) -> Tensor:
    """g · dL/dg of a gate behind each output of a layer, shape (outputs,)."""
    product = module.weight.detach() * slopes[module.weight]
    if getattr(module, "transposed", False):
        product = product.transpose(0, 1)
    gate = product.flatten(1).sum(1) if product.ndim > 1 else product
    return gate if module.bias is None else gate + module.bias.detach() * slopes[module.bias]


@contextlib.contextmanager
def _differentiable(model: nn.Module) -> Iterator[None]:
    """As `running`, but with gradients of all parameters; stripped checkpoints have them off."""
    wanted = [(p, p.requires_grad) for p in model.parameters()]
    try:
        with running(model), torch.enable_grad():
            model.requires_grad_()
            yield
    finally:
        for p, on in wanted:
            p.requires_grad = on


ON_DATA: dict[str, Callable[[nn.Module, ChannelGraph, Iterable[Any]], Values]] = {
    "taylor": _taylor,
    "activation": _activation,
}
"""Values per channel that are measured on data."""
