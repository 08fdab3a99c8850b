"""The second repair: batch-norm statistics measured anew."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from yoloprune.probing.forward import feed, hooked, input_of, running
from yoloprune.torch_internals import BatchNorm


def reestimate(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Measure all batch-norm statistics anew (Li et al. 2020, EagleEye, arXiv 2007.02491, section 3).

    Means and variances are averaged over the batches with equal weight. A channel has B·H·W samples per batch, fewest
    at the coarsest stride: 16 images at imgsz 320 give 16·10·10 = 1600, even if independent a standard error of 3.5 %
    of the variance, and 8 such batches 1.3 %. More small batches do not replace large ones, because a batch's variance
    leaves out how batches differ; the size used in training has the bias that the parent's statistics have. A batch in
    which channels have a single number, one image behind a global pooling, counts for the norms where they have more.

    Args:
        model (nn.Module): The cut model; only running means and variances change.
        batches (Iterable[Tensor]): Images of shape (B, C, H, W), not augmented.

    Raises:
        DataError: If `batches` is empty.
    """
    norms = [m for m in model.modules() if isinstance(m, BatchNorm)]
    counters = [(m, m.num_batches_tracked) for m in norms if m.num_batches_tracked is not None]  # as have statistics
    before = [(m, m.momentum, counter, counter.clone()) for m, counter in counters]
    try:
        with running(model), hooked() as hooks:
            for m, counter in counters:
                hooks.append(m.register_forward_pre_hook(_measure_if_several, with_kwargs=True))
                m.momentum = None  # cumulative average, weighed by the counter
                counter.zero_()
            feed(model, batches)
    finally:
        for m, momentum, counter, count in before:
            m.momentum = momentum
            counter.copy_(count)


def _measure_if_several(norm: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Let a norm measure what it is about to see, where that has a variance: not of a single number per channel."""
    x: Tensor = input_of(args, kwargs)
    norm.train(x.numel() > x.shape[1])
