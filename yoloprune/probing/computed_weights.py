"""Layers whose weights are computed anew in every pass by what training left on them: masks and quantizers."""

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


def _is_a(module: str, name: str, value: Any) -> bool:
    """Whether a value is of a class of torch; there is none where nobody has imported its module, which takes long."""
    kind = getattr(sys.modules.get(module), name, None)
    return isinstance(kind, type) and isinstance(value, kind)
