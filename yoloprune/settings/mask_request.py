"""What `mask` was asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from yoloprune.errors import ArgumentError
from yoloprune.settings.mask_options import n_of_m
from yoloprune.settings.request import Request

HALF = 0.5
"""Share of weights that becomes zero where none is given."""


@dataclass(frozen=True)
class MaskRequest(Request):
    """Set weights to zero, one shot."""

    command = "mask"
    pattern: str
    sparsity: float
    score: str
    scope: Literal["auto", "global", "layer", "output"]
    head: bool
    keep: tuple[str, ...]
    images: str | None
    recover: str

    @classmethod
    def build(cls, settings: Mapping[str, Any], passed: Mapping[str, Any]) -> MaskRequest:
        """Fill in the sparsity."""
        told = dict(settings)
        pattern, sparsity, scope = (told[key] for key in ("pattern", "sparsity", "scope"))
        if told["images"] is not None and passed.get("data"):
            raise ArgumentError(f"images={told['images']}: must not be combined with data=, which has images too")
        if (numbers := n_of_m(pattern)) is not None:
            said = 1 - numbers[0] / numbers[1]
            if sparsity is not None and abs(sparsity - said) > 1e-3:
                raise ArgumentError(f"sparsity={sparsity}: pattern={pattern} says {said:.4g}. Leave sparsity= away")
            if scope != "auto":
                raise ArgumentError(f"scope={scope}: must not be combined with pattern={pattern}, which has its own")
            told["sparsity"] = said
            return cls(passed, **told)
        told["sparsity"] = HALF if sparsity is None else sparsity
        if scope == "output" and pattern == "filter":
            raise ArgumentError("scope=output: must be global or layer with pattern=filter, which takes whole outputs")
        return cls(passed, **told)
