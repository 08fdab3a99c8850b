"""A network brought to life: nothing in it is 0 or 1 or cancels out, and a wrong cut deep inside changes an output."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from yoloprune.probing.examples import Example, modes
from yoloprune.probing.forward import hooked, input_of, running
from yoloprune.probing.held_state import copied, preserved
from yoloprune.torch_internals import BatchNorm, ConvNd, channel_dim

ASLEEP = 1e-3
"""A parameter none of whose values is larger lets next to nothing through: LayerScale begins at 1e-6, ReZero at 0."""

LAYERS = (ConvNd, nn.Linear)
LOW = (torch.float16, torch.bfloat16)


def lively_copy(model: nn.Module, example: Example, training: int | None = None) -> nn.Module | None:
    """A copy that `settle` has brought to life; None if there is nothing in it that was not.

    Half precision becomes float32, or variances would be out of range.
    """
    live = copied(model).float() if _is_low(model) else sharing_copy(model)
    before = [bias.detach().clone() for _, bias in _biased(live)]
    settle(live, lively_example(example, model), training=training, wake=True)
    if any(isinstance(m, BatchNorm) for m in model.modules()) or _asleep(model):
        return live
    same = all(torch.equal(bias, old) for (_, bias), old in zip(_biased(live), before, strict=True))
    return None if same else live


def lively_example(example: Example, model: nn.Module) -> Example:
    """An example in the precision of the lively copy of a network."""
    return example.cast(lambda x: x.float() if x.dtype in LOW else x) if _is_low(model) else example


def _is_low(model: nn.Module) -> bool:
    return any(p.dtype in LOW for p in model.parameters())


def sharing_copy(model: nn.Module) -> nn.Module:
    """A copy with batch-norms and biases of its own, and what is asleep. All other weights are shared: a cut replaces
    them and changes none in place, and copying the largest models would take as long as running them.
    """
    own = {id(p) for m in model.modules() if isinstance(m, BatchNorm) for p in m.parameters(recurse=False)}
    own |= {id(p) for p in _asleep(model)} | {id(bias) for _, bias in _biased(model)}
    return copied(model, {id(p): p for p in model.parameters() if id(p) not in own})


def settle(
    model: nn.Module,
    example: Any = None,
    seed: int = 0,
    *,
    training: int | None = None,
    wake: bool = False,
) -> nn.Module:
    """Give batch-norms parameters and statistics as after training.

    With an example the statistics are those that it has in the network. Deep networks need that: under statistics that
    do not fit, the signal dies out layer by layer, and a wrong cut far inside changes no output.

    Args:
        model (nn.Module): Any network; changed in place.
        example (Tensor | tuple | Example): Input, e.g. shape (B, C, H, W).
        seed (int): Of the random numbers.
        training (bool): Whether it runs in training mode; found out when not given.
        wake (bool): Whether parameters that are asleep are drawn as well, and channels of other layers that the example
            leaves without one positive value, of which a ReLU lets nothing through, get another bias.

    Returns:
        (nn.Module): The same object.
    """
    generator = torch.Generator().manual_seed(seed)  # of the CPU, so that every device gets the same numbers
    norms = [m for m in model.modules() if isinstance(m, BatchNorm)]
    for m in norms:
        if m.affine:
            m.weight.data.copy_(torch.empty(m.weight.shape).uniform_(0.2, 1.5, generator=generator))
            m.bias.data.copy_(torch.empty(m.bias.shape).normal_(0, 0.3, generator=generator))
        if m.running_mean is not None and m.running_var is not None:
            m.running_mean.copy_(torch.empty(m.running_mean.shape).normal_(0, 0.2, generator=generator))
            m.running_var.copy_(torch.empty(m.running_var.shape).uniform_(0.5, 1.5, generator=generator))
    for p, drawn in _asleep(model).items() if wake else ():
        own = _unexpanded(p.data)
        own.copy_(drawn(torch.empty(own.shape), generator))
    if example is None:
        return model
    example = example if isinstance(example, Example) else Example.of(example)
    training = bool(modes(model, example)[-1]) if training is None else training
    found: dict[Tensor, Tensor] = {}
    with preserved(model), running(model, training), hooked() as hooks:
        for m in norms:
            if m.running_mean is not None and m.running_var is not None:
                fit = partial(_fit, found, m.running_mean, m.running_var)
                hooks.append(m.register_forward_pre_hook(fit, with_kwargs=True))
        hooks += [m.register_forward_hook(partial(_wake, bias)) for m, bias in _biased(model) if wake]
        example(model)
    for statistic, value in found.items():  # `preserved` has put back what the run put there
        statistic.copy_(value)
    return model


def _asleep(model: nn.Module) -> dict[Tensor, Any]:
    """Parameters and buffers outside batch-norms that hide what is cut, with how to draw them: those next to zero, and
    those of one value alone, in which one channel is as good as another, and which may close a gate.
    """
    found: dict[Tensor, Any] = {}
    for module in model.modules():
        if isinstance(module, BatchNorm):
            continue
        for key, p in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            dense = p.layout == torch.strided and not p.is_nested and not p.is_meta and p.numel()
            if not dense or not p.is_floating_point() or p.dtype.itemsize == 1:  # of eight bits: nothing can be asked
                continue
            low, high = p.detach().aminmax()
            small = max(abs(float(low)), abs(float(high))) <= ASLEEP
            if not small and float(low) != float(high):
                continue
            if key in ("bias", "running_mean"):
                found[p] = lambda x, g: x.normal_(0, 0.3, generator=g)
            elif isinstance(module, LAYERS) and p.ndim:  # a tool may hang a single number onto one
                found[p] = lambda x, g: x.normal_(0, 1 / math.sqrt(max(x[0].numel(), 1)), generator=g)
            else:
                found[p] = lambda x, g: x.uniform_(0.2, 1.5, generator=g)
    return found


def _unexpanded(x: Tensor) -> Tensor:
    """The numbers that are in memory, of a tensor that repeats some of them: that cannot be written to as a whole."""
    for dim, stride in enumerate(x.stride()):
        x = x if stride else x.narrow(dim, 0, 1)
    return x


def _biased(model: nn.Module) -> list[tuple[ConvNd | nn.Linear, Tensor]]:
    """Layers that have a bias, and this."""
    return [(m, m.bias) for m in model.modules() if isinstance(m, LAYERS) and m.bias is not None]


def _wake(bias: Tensor, module: ConvNd | nn.Linear, args: tuple[Any, ...], output: Any) -> Any:
    """Hook behind a layer: a bias for each channel that is positive nowhere, with which its mean is zero; one that is a
    single number becomes positive, since nothing can be compared with zero.
    """
    dim = channel_dim(module)
    if not isinstance(output, Tensor) or output.ndim < -dim or output.shape[dim] != len(bias):
        return output  # of a class of the user's that does more
    values = output.movedim(dim, 0).reshape(len(bias), -1)
    lift = torch.where(values.amax(1) <= 0, -values.mean(1), 0.0)
    lift = torch.where(values.amax(1) == values.amin(1), 2 * lift, lift)
    bias.data += lift
    return output + lift.reshape([-1 if d == dim % output.ndim else 1 for d in range(output.ndim)])


def _fit(
    found: dict[Tensor, Tensor],
    running_mean: Tensor,
    running_var: Tensor,
    module: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> None:
    """Hook before a batch-norm: give it the statistics of its input, and note them.

    Its own training mode refuses one value per channel (one image after global pooling), which has no variance: there
    it gets the statistics over all channels.
    """
    x = input_of(args, kwargs)
    if not isinstance(x, Tensor) or x.ndim < 2 or x.shape[1] != len(running_mean):
        return  # of a class of the user's that does more
    x = x.detach().movedim(1, 0).flatten(1)
    x = x if x.shape[1] > 1 else x.T
    variance, mean = torch.var_mean(x, 1, correction=min(1, x.shape[1] - 1))
    running_mean.copy_(mean)
    running_var.copy_(variance)
    found |= {running_mean: running_mean.clone(), running_var: running_var.clone()}
