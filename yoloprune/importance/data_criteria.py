"""Criteria that are measured on images: activation and taylor."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from yoloprune.errors import DataError
from yoloprune.importance.reduction import Values, by_output
from yoloprune.planning.channel_graph import ChannelGraph
from yoloprune.probing.forward import feed, follow, hooked, input_of, running
from yoloprune.torch_internals import BatchNorm, ConvNd

Layer = ConvNd | nn.Linear | BatchNorm


def _activation(model: nn.Module, graph: ChannelGraph, batches: Iterable[Tensor]) -> Values:
    """Mean |activation| of each channel where it is consumed, so past all activations, sums and pooling."""
    modules = dict(model.named_modules())
    readers = [(i, a.module) for i, a in enumerate(graph.axes) if a.side == "inputs" and a.module in modules]
    total: dict[nn.Module, np.ndarray] = {}
    count: dict[nn.Module, int] = defaultdict(int)

    def watch(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x = input_of(args, kwargs).movedim(-1 if isinstance(module, nn.Linear) else 1, 0).flatten(1)
        total[module] = total.get(module, 0.0) + x.abs().float().mean(1).cpu().double().numpy() * x.shape[1]
        count[module] += x.shape[1]

    with running(model), hooked() as hooks:
        hooks += [modules[name].register_forward_pre_hook(watch, with_kwargs=True) for _, name in readers]
        feed(model, batches)
    for i, name in readers:
        if count[modules[name]]:
            yield i, total[modules[name]] / count[modules[name]]


def _own_loss(model: nn.Module, batch: Any) -> Tensor:
    """What a model makes of a batch is its loss, or a tuple that begins with it, as in Ultralytics."""
    loss = model(batch)
    return loss[0] if isinstance(loss, tuple) else loss  # type: ignore[no-any-return]


def taylor(
    model: nn.Module,
    graph: ChannelGraph,
    batches: Iterable[Any],
    loss_of: Callable[[nn.Module, Any], Tensor] = _own_loss,
) -> Values:
    """First-order Taylor estimate of how much the loss changes without a channel (Molchanov et al. 2019, arXiv
    1906.10771, section 3.1): |g · dL/dg| of a gate g = 1 behind the layer, averaged over batches.

    Behind a batch-norm that is |gamma · dL/dgamma + beta · dL/dbeta|; behind a layer that none follows |sum w · dL/dw|
    over the weights of the filter and its bias. Batch-norm runs in evaluation mode, as it will after the cut.
    """
    modules = dict(model.named_modules())
    makers = {
        a.module: (i, layer)
        for i, a in enumerate(graph.axes)
        if a.side == "outputs" and (layer := _gated(modules.get(a.module))) is not None
    }
    parameters = [p for _, m in makers.values() for p in (m.weight, m.bias) if p is not None]
    total: dict[str, Tensor] = {}
    fed = 0
    with _differentiable(model), hooked() as hooks:
        followers = follow(model, [n for n, (_, m) in makers.items() if not isinstance(m, BatchNorm)], BatchNorm, hooks)
        for batch in batches:
            loss_of(model, batch).sum().backward()  # not `autograd.grad`, which re-entrant checkpoints refuse
            by_parameter = {p: torch.zeros_like(p) if p.grad is None else p.grad for p in parameters}
            model.zero_grad()
            for name, (_, layer) in makers.items():
                gate = _gate(layer, by_parameter).abs()
                total[name] = total[name] + gate if name in total else gate
            fed += 1
    if not fed:
        raise DataError("There are no labelled images.")
    for name, (i, _) in makers.items():
        if name not in followers:
            yield i, (total[name] / fed).cpu().double().numpy()


def _gated(module: nn.Module | None) -> Layer | None:
    """A module that may have a gate behind it, None for any other: a weight that is computed has no gradient."""
    if not isinstance(module, (ConvNd, nn.Linear, BatchNorm)) or not isinstance(module.weight, nn.Parameter):
        return None
    return module if module.bias is None or isinstance(module.bias, nn.Parameter) else None


def _gate(layer: Layer, slopes: Mapping[Tensor, Tensor]) -> Tensor:
    """g · dL/dg of a gate behind each output of a layer, shape (outputs,)."""
    product = layer.weight.detach() * slopes[layer.weight]
    gate = by_output(layer, product).sum(1) if product.ndim > 1 else product
    return gate if layer.bias is None else gate + layer.bias.detach() * slopes[layer.bias]


@contextlib.contextmanager
def _differentiable(model: nn.Module) -> Iterator[None]:
    """As `running`, but with gradients of all parameters; stripped checkpoints have them off."""
    before = [(p, p.requires_grad, p.grad) for p in model.parameters()]
    try:
        with running(model), torch.enable_grad():
            model.requires_grad_()
            model.zero_grad()
            yield
    finally:
        for p, on, grad in before:
            p.requires_grad, p.grad = on, grad


ON_DATA: dict[str, Callable[[nn.Module, ChannelGraph, Iterable[Any]], Values]] = {
    "taylor": taylor,
    "activation": _activation,
}
"""Values per channel that are measured on data."""
