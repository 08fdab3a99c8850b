"""Networks whose weights cannot be cut as they are: those that pass masks or quantizers, or are not a number."""

from __future__ import annotations

import sys
from typing import Any

from torch import nn

from yoloprune.errors import ModelError
from yoloprune.torch_internals import hooks_of


def require_plain_weights(model: nn.Module) -> None:
    """Raise ModelError where weights pass a mask or a quantizer, with what to do about it.

    Args:
        model (nn.Module): Any network. Other weights that are computed, as weight norm does it, hold their layers.
    """
    modules = [*model.named_modules()]
    masked = [n for n, m in modules if any(_is_a("torch.nn.utils.prune", "BasePruningMethod", h) for h in hooks_of(m))]
    if masked:
        raise ModelError(
            f"The weights of {len(masked)} layers, {masked[0]} first, pass masks of torch.nn.utils.prune. Make them "
            "permanent: torch.nn.utils.prune.remove(layer, 'weight') for each."
        )
    quantizers = [n for n, m in modules if _is_a("torch.ao.quantization", "FakeQuantizeBase", m)]
    if quantizers:
        raise ModelError(
            f"The weights pass quantizers, {quantizers[0]} first: the network was prepared for quantization-aware "
            "training. Prune before that."
        )


def require_numbers(model: nn.Module) -> None:
    """Raise ModelError where a weight is not a number, as a training that diverged leaves it.

    Args:
        model (nn.Module): Any network. Whatever it computes, nothing could be proved by it.
    """
    if names := [n for n, p in model.named_parameters() if p.is_floating_point() and bool(p.detach().isnan().any())]:
        raise ModelError(
            f"{len(names)} of the parameters hold values that are not a number (NaN), {names[0]} first: the training "
            "of this network diverged. Take a checkpoint from before that."
        )


def _is_a(module: str, name: str, value: Any) -> bool:
    """Whether a value is of a class of torch; there is none where nobody has imported its module, which takes long."""
    kind = getattr(sys.modules.get(module), name, None)
    return isinstance(kind, type) and isinstance(value, kind)
