"""The whole proof of a cut: with the parent's own weights, and again where every channel is sure to matter."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from yoloprune import surgery
from yoloprune.errors import VerifyError
from yoloprune.plans import Plan
from yoloprune.verify import verify, vocal
from yoloprune.watching import hooked, preserved, running, trains_without_targets

LOW = (torch.float16, torch.bfloat16)


def prove(parent: nn.Module, model: nn.Module, plan: Plan, example: Tensor | tuple[Any, ...]) -> float:
    """Check that a cut model computes what its masked parent does, and that the same cut is right in a live network.

    In a network whose signal dies out, as with fresh weights, no output depends on what happens deep inside, and any
    cut passes. So plan and surgery have to stand on a copy of the parent as well that `settle` has brought to life.
    There is no such copy of a network without batch-norm.

    Args:
        parent (nn.Module): The model before the cut, stays untouched.
        model (nn.Module): The model after the cut.
        plan (Plan): The plan that was cut.
        example (Tensor | tuple): Input, shape (B, C, H, W).

    Returns:
        (float): The larger error of the two checks, see `verify`.

    Raises:
        VerifyError: If one of them fails.
    """
    inputs = example if isinstance(example, tuple) else (example,)
    training = trains_without_targets(parent, inputs)
    error = verify(parent, model, plan, inputs, training)
    if not any(isinstance(m, _BatchNorm) for m in parent.modules()):
        return error
    if any(p.dtype in LOW for p in parent.parameters()):  # where variances are out of range
        live = copy.deepcopy(parent).float()
        inputs = tuple(x.float() if isinstance(x, Tensor) and x.dtype in LOW else x for x in inputs)
    else:
        live = _copy(parent)
    # On the whole network: the statistics that it has while masked would keep more alive where next to no channels are
    # left, but rounding errors would grow as well, to 1e-4 in yolov8n, and float64 would have to decide every time.
    settle(live, inputs, training=training)
    try:
        return max(error, verify(live, surgery.cut(_copy(live), plan), plan, inputs, training))
    except VerifyError:
        if vocal(live, plan, inputs, training):
            raise
        return error  # e.g. a logarithm of what only the trained biases keep positive: nothing can be seen there


def _copy(model: nn.Module) -> nn.Module:
    """A copy with batch-norms of its own. All other weights are shared: a cut replaces them and changes none in place,
    and copying the largest models would take as long as running them.
    """
    own = {id(p) for m in model.modules() if isinstance(m, _BatchNorm) for p in m.parameters(recurse=False)}
    return copy.deepcopy(model, {id(p): p for p in model.parameters() if id(p) not in own})


def settle(
    model: nn.Module,
    example: Tensor | tuple[Any, ...] | None = None,
    seed: int = 0,
    *,
    training: bool | None = None,
) -> nn.Module:
    """Give batch-norms parameters and statistics as after training: nothing is 0 or 1, nothing cancels.

    With an example the statistics are those that it has in the network. Deep networks need that: under statistics that
    do not fit, the signal dies out layer by layer, and a wrong cut far inside changes no output.

    Args:
        model (nn.Module): Any network; changed in place, batch-norms only.
        example (Tensor | tuple): Input, e.g. shape (B, C, H, W).
        seed (int): Of the random numbers.
        training (bool): Whether it runs in training mode; found out when not given, see `verify`.

    Returns:
        (nn.Module): The same object.
    """
    generator = torch.Generator().manual_seed(seed)  # of the CPU, so that every device gets the same numbers
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm)]
    for m in norms:
        if m.affine:
            m.weight.data.copy_(torch.empty(m.weight.shape).uniform_(0.2, 1.5, generator=generator))
            m.bias.data.copy_(torch.empty(m.bias.shape).normal_(0, 0.3, generator=generator))
        if m.running_mean is not None:
            m.running_mean.copy_(torch.empty(m.running_mean.shape).normal_(0, 0.2, generator=generator))
            m.running_var.copy_(torch.empty(m.running_var.shape).uniform_(0.5, 1.5, generator=generator))
    if example is None:
        return model
    inputs = example if isinstance(example, tuple) else (example,)
    training = trains_without_targets(model, inputs) if training is None else training
    found: dict[nn.Module, tuple[Tensor, Tensor]] = {}
    with preserved(model), running(model, training), hooked() as hooks:
        for m in norms:
            if m.running_mean is not None:
                hooks.append(m.register_forward_pre_hook(partial(_fit, found), with_kwargs=True))
        model(*inputs)
    for m, (mean, variance) in found.items():  # `preserved` has put back what the run put there
        m.running_mean.copy_(mean)
        m.running_var.copy_(variance)
    return model


def _fit(
    found: dict[nn.Module, tuple[Tensor, Tensor]], module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    """Hook before a batch-norm: give it the statistics of its input.

    Its own training mode refuses one value per channel (one image after global pooling), which has no variance: there
    it gets the statistics over all channels.
    """
    x = next(iter((*args, *kwargs.values()))).detach().movedim(1, 0).flatten(1)
    x = x if x.shape[1] > 1 else x.T
    variance, mean = torch.var_mean(x, 1, correction=min(1, x.shape[1] - 1))
    module.running_mean.copy_(mean)
    module.running_var.copy_(variance)
    found[module] = (module.running_mean.clone(), module.running_var.clone())
