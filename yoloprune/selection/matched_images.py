"""Images moved until batch-norms see in them what they saw in training.

A batch-norm remembers mean and variance of every channel over the training images. Images that give it the same are, to
the network, much like these (Yin et al. 2020, arXiv 1912.08795, section 3.2; Cai et al. 2020, arXiv 2001.00281, section
4.1), and that is what a ranking and a refit need of images.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from yoloprune.probing.forward import hooked, running
from yoloprune.torch_internals import BatchNorm

STEPS = 10
"""Steps of Adam for each batch; each costs about as much as ranking channels on it."""

RATE = 0.02
"""Length of a step, of an image's range."""

STILL = 1e-3
"""Added to variances: a channel that hardly varies tells nothing by how much."""


def matched(model: nn.Module, batches: list[Tensor], tick: Callable[[], None] = lambda: None) -> list[Tensor]:
    """Move images until batch-norms see what they saw in training.

    Args:
        model (nn.Module): The trained network, stays untouched.
        batches (list[Tensor]): Images, shape (B, C, H, W), in 0..1; each batch is moved for itself.
        tick (Callable): Called after each of the `STEPS` of each batch.

    Returns:
        (list[Tensor]): Images of the same shape and range; those given where no batch-norm remembers anything.
    """
    norms = [m for m in model.modules() if isinstance(m, BatchNorm) and m.running_mean is not None]
    if not norms:
        return batches
    away: list[Tensor] = []

    def compare(norm: nn.Module, inputs: tuple[Tensor]) -> None:
        away.append(distance(inputs[0], norm.get_buffer("running_mean"), norm.get_buffer("running_var")))

    moved = []
    with running(model), torch.enable_grad(), hooked() as hooks:
        hooks += [norm.register_forward_pre_hook(compare) for norm in norms]
        for batch in batches:
            images = batch.clone().requires_grad_()
            adam = torch.optim.Adam([images], lr=RATE)
            for _ in range(STEPS):
                away.clear()
                model(images)
                (images.grad,) = torch.autograd.grad(torch.stack(away).mean(), images)  # weights get no gradients
                adam.step()
                images.data.clamp_(0, 1)
                tick()
            moved.append(images.detach())
    return moved


def distance(x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """How far a batch is from what a batch-norm remembers, averaged over channels.

    Squared deviation of the means in units of the variance, and half of that of the logarithms of the variances.

    Args:
        x (Tensor): The batch, shape (B, C, …).
        mean (Tensor): What is remembered, shape (C,).
        variance (Tensor): Shape (C,).
    """
    its_variance, its_mean = torch.var_mean(x.movedim(1, 0).flatten(1), 1)
    apart = ((its_variance + STILL) / (variance + STILL)).log()
    return ((its_mean - mean).square() / (variance + STILL) + apart.square() / 2).mean()
