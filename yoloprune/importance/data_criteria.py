"""Criteria that are measured on images: activation, and what a gate does to the loss or to the outputs."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from yoloprune.errors import DataError
from yoloprune.importance.branch_gates import BranchGates
from yoloprune.importance.reduction import Gates, Values, by_output, precise
from yoloprune.planning.channel_graph import ChannelGraph
from yoloprune.probing.forward import at_home, feed, follow, hooked, in_batch, input_of, running
from yoloprune.probing.held_state import preserved
from yoloprune.probing.outputs import tensors
from yoloprune.torch_internals import BatchNorm, ConvNd, register_module_forward_pre_hook

NORMS = (BatchNorm, nn.GroupNorm)
"""Behind one of these a layer's own gate says little or nothing, since what it scales is normalised away."""

Layer = ConvNd | nn.Linear | BatchNorm | nn.GroupNorm


def activation(model: nn.Module, graph: ChannelGraph, batches: Iterable[Tensor]) -> Values:
    """Mean |activation| of each channel where it is consumed, so past all activations, sums and pooling."""
    modules = dict(model.named_modules())
    readers = [(i, a.module) for i, a in enumerate(graph.axes) if a.side == "inputs" and a.module in modules]
    total: dict[nn.Module, np.ndarray] = {}
    count: dict[nn.Module, int] = defaultdict(int)

    def watch(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x = in_batch(module, input_of(args, kwargs))
        x = x.movedim(-1 if isinstance(module, nn.Linear) else 1, 0).flatten(1)
        if not x.shape[1]:
            return  # as of a second stage for which the first one finds nothing
        total[module] = total.get(module, 0.0) + x.abs().float().mean(1).cpu().double().numpy() * x.shape[1]
        count[module] += x.shape[1]

    with running(model), hooked() as hooks:
        hooks += [modules[name].register_forward_pre_hook(watch, with_kwargs=True) for _, name in readers]
        feed(model, batches)
    for i, name in readers:
        if count[modules[name]]:
            yield i, total[modules[name]] / count[modules[name]]


def own_loss(model: nn.Module, batch: Any) -> Tensor:
    """The loss that a model makes of a batch: what it gives, or the first of a tuple, as in Ultralytics."""
    loss = model(batch)
    return loss[0] if isinstance(loss, tuple) else loss  # type: ignore[no-any-return]


def taylor(
    model: nn.Module,
    graph: ChannelGraph,
    batches: Iterable[Any],
    loss_of: Callable[[nn.Module, Any], Tensor] = own_loss,
    gates: Gates | None = None,
) -> Values:
    """First-order Taylor estimate of how much the loss changes without a channel (Molchanov et al. 2019, arXiv
    1906.10771, section 3.1): |g · dL/dg| of a gate g = 1 behind the layer, averaged over batches.

    Behind a batch-norm that is |gamma · dL/dgamma + beta · dL/dbeta|; behind a layer that none follows |sum w · dL/dw|
    over the weights of the filter and its bias. Batch-norm runs in evaluation mode, as it will after the cut.

    Into `gates` goes the same of gates on what the branches of the graph put out.
    """
    yield from _gates(model, graph, (partial(loss_of, model, at_home(model, batch)) for batch in batches), 1, gates)


def output(
    model: nn.Module, graph: ChannelGraph, batches: Iterable[Any], gates: Gates | None = None, seed: int = 0
) -> Values:
    """How much all raw outputs change without a channel, to first order; no labels are asked for.

    The norm of the derivatives of all outputs by a gate g = 1 behind the layer, as the root mean square over images of
    g · dP/dg, where P is the sum of the outputs with random signs (Hutchinson 1989, Communications in Statistics 18.3):
    the signs of different outputs cancel on average, so one backward pass stands for all of them. Each output tensor
    counts alike, however many numbers it has.

    Args:
        model (nn.Module): The traced model; in training mode an Ultralytics head gives logits of boxes and classes.
        graph (ChannelGraph): Its channels.
        batches (Iterable): Images, shape (B, C, H, W), each projected on its own; or tuples of all arguments of a pass.
        gates (dict | None): Takes the same of gates on what the branches of the graph put out.
        seed (int): Of the signs.
    """
    generator = torch.Generator().manual_seed(seed)

    def projected(*inputs: Any) -> Tensor:
        taken: list[Tensor] = []
        hook = register_module_forward_pre_hook(lambda module, args: taken.extend(tensors(args)))
        try:
            given = model(*inputs)
        finally:
            hook.remove()
        inside = {id(t) for t in taken}  # a head that gives its features as well: these are no outputs
        ends = [t for t in tensors(given) if t.is_floating_point() and t.requires_grad and id(t) not in inside]
        if not ends:
            raise DataError("score=output: the network gives no tensor of numbers that depend on its weights.")
        signs = (torch.randint(0, 2, t.shape, generator=generator).to(t) * 2 - 1 for t in ends)
        # Per number: else 64 numbers of a box drown the logit of the only class
        return torch.stack([(t * sign).sum() / t.numel() ** 0.5 for t, sign in zip(ends, signs, strict=True)]).sum()

    passes = (partial(projected, *one) for batch in batches for one in _singly(at_home(model, batch)))
    yield from _gates(model, graph, passes, 2, gates)


def _singly(batch: Any) -> list[tuple[Any, ...]]:
    """Arguments of a pass for each image of a batch; those of a network that takes other inputs stay together."""
    if isinstance(batch, Tensor):
        return [(one[None],) for one in batch]
    return [batch if isinstance(batch, tuple) else (batch,)]


def _gates(
    model: nn.Module, graph: ChannelGraph, passes: Iterable[Callable[[], Tensor]], power: int, gates: Gates | None
) -> Values:
    """|g · dL/dg| of a gate behind each layer, as a power mean over passes, each of which gives an L."""
    modules = dict(model.named_modules())
    makers = {
        a.module: (i, layer)
        for i, a in enumerate(graph.axes)
        if a.side == "outputs" and (layer := _gated(modules.get(a.module))) is not None
    }
    total: dict[str, Tensor] = {}
    fed: dict[str, int] = defaultdict(int)
    asked, ran = {name: layer for name, (_, layer) in makers.items()}, False
    wanted = {layer.weight for layer in asked.values()}
    on_branches = BranchGates(model, [] if gates is None else [b.name for b in graph.branches], power)

    def ask(layer: Layer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """No gradient of a filter in front of a norm, a third of a pass, unless its output hung on no parameter."""
        alone = layer.bias is None and not input_of(args, kwargs).requires_grad
        layer.weight.requires_grad = alone or layer.weight in wanted

    with differentiable(model), hooked() as hooks:
        hooks += on_branches.hooks()
        filters = {name: layer for name, (_, layer) in makers.items() if not isinstance(layer, NORMS)}
        hooks += [layer.register_forward_pre_hook(ask, with_kwargs=True) for layer in filters.values()]
        followers = follow(model, filters, NORMS, hooks)
        for one in passes:
            with_gradient(one()).sum().backward()  # not `autograd.grad`, which re-entrant checkpoints refuse
            on_branches.end_pass()
            for name, layer in asked.items():
                gate = _gate(layer).abs() ** power
                total[name] = total[name] + gate if name in total else gate
                fed[name] += 1
            model.zero_grad()
            asked, ran = {name: layer for name, (_, layer) in makers.items() if name not in followers}, True
            wanted = {layer.weight for layer in asked.values()}
    if not ran:
        raise DataError("There are no images to rank channels on.")
    if gates is not None:
        gates.update(on_branches.means())
    for name, (i, _) in makers.items():
        if name not in followers:
            yield i, ((total[name] / fed[name]) ** (1 / power)).cpu().double().numpy()


def with_gradient(loss: Any) -> Tensor:
    """A loss; raises DataError for what no gradient can come of."""
    if isinstance(loss, Tensor) and loss.requires_grad:
        return loss
    what = "a tensor without a gradient" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
    raise DataError(f"score=taylor: the loss is {what}; it must be a tensor that depends on the network's weights.")


def _gated(module: nn.Module | None) -> Layer | None:
    """A module that may have a gate behind it, None for any other: a weight that is computed has no gradient."""
    if not isinstance(module, (ConvNd, nn.Linear, *NORMS)) or not isinstance(module.weight, nn.Parameter):
        return None
    return module if module.bias is None or isinstance(module.bias, nn.Parameter) else None


def _gate(layer: Layer) -> Tensor:
    """g · dL/dg of a gate behind each output of a layer, shape (outputs,); nought where no gradient came."""
    product = _product(layer.weight)
    gate = by_output(layer, product).sum(1) if product.ndim > 1 else product
    return gate if layer.bias is None else gate + _product(layer.bias)


def _product(p: Tensor) -> Tensor:
    return torch.zeros_like(precise(p)) if p.grad is None else precise(p.detach()) * precise(p.grad)


@contextlib.contextmanager
def differentiable(model: nn.Module) -> Iterator[None]:
    """As `running`, but with gradients of all parameters; stripped checkpoints have them off.

    What a pass leaves in the network goes again: an old `spectral_norm` keeps the weight that it has made, and all of
    the pass behind it.
    """
    before = [(p, p.requires_grad, p.grad) for p in model.parameters()]
    try:
        with preserved(model), running(model), torch.enable_grad():
            model.requires_grad_()
            model.zero_grad()
            yield
    finally:
        for p, on, grad in before:
            p.requires_grad, p.grad = on, grad
