"""Numbers that blocks of Ultralytics keep about their widths, and how a cut corrects them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

from torch import nn

from yoloprune.planning.plan import Keep

KeepOf = Callable[[str], Keep]
"""What a plan keeps of a module's child, by the child's name."""

Block: TypeAlias = Any
"""A module that has all that its `Correction` reads, of which torch knows no types."""


def correct(module: nn.Module, keep: KeepOf) -> None:
    """Correct the numbers that `forward` reads; before tensors are sliced.

    Args:
        module (nn.Module): Any module; nothing happens to one that has no such numbers.
        keep (Callable): What is kept of its children.
    """
    if (found := _correction(module)) is not None:
        found.apply(module, keep)


def corrected_numbers(module: nn.Module) -> frozenset[str]:
    """Names of the attributes that `correct` sets right in a module; none where it does not know it."""
    found = _correction(module)
    return frozenset() if found is None else frozenset(found.sets)


def removable_heads(module: nn.Module) -> int:
    """Number of attention heads whose channels follow each other in `qkv` and of which a cut may remove whole ones."""
    found = _correction(module)
    block: Block = module
    return int(block.num_heads) if found is not None and found.heads else 0


def _scale_c(module: Block, keep: KeepOf) -> None:
    """`c`, the width of the pieces that `cv1`'s output is split into."""
    conv, kept = module.cv1.conv, keep("cv1.conv").outputs
    if kept is not None:
        module.c = module.c * len(kept) // conv.out_channels


def _attention(module: Block, keep: KeepOf) -> None:
    """Per head `key_dim` queries, as many keys and `head_dim` values; constructors make `scale` from `key_dim`."""
    kept = keep("qkv.conv").outputs
    if kept is not None:
        old, per_head = module.key_dim, 2 * module.key_dim + module.head_dim
        module.num_heads = keep("qkv.conv").heads or module.num_heads
        new = sum(p % per_head < old for p in kept) // module.num_heads
        # From whatever scale it has (one that was cut by an earlier release kept its parent's) to the constructor's.
        _scale_queries(module.qkv, per_head, old, module.scale * new**0.5)
        module.head_dim, module.key_dim, module.scale = len(kept) // module.num_heads - 2 * new, new, new**-0.5


def _area_attention(module: Block, keep: KeepOf) -> None:
    """Queries, keys and values share `head_dim`, from which `forward` computes the softmax scale: compensated in q."""
    kept = keep("qkv.conv").outputs
    if kept is not None:
        old = module.head_dim
        module.num_heads = keep("qkv.conv").heads or module.num_heads
        new = len(kept) // (3 * module.num_heads)
        _scale_queries(module.qkv, 3 * old, old, (new / old) ** 0.5)
        module.head_dim = new
        if hasattr(module, "all_head_dim"):  # newer releases of Ultralytics
            module.all_head_dim = new * module.num_heads


def _scale_queries(qkv: Block, per_head: int, queries: int, factor: float) -> None:
    """Multiply the queries, the first so many channels of each head, so that the softmax sees what the parent's saw."""
    at = [p for p in range(qkv.bn.num_features) if p % per_head < queries]
    for p in (qkv.bn.weight, qkv.bn.bias):
        p.data[at] *= factor


def _pieces(module: Block, keep: KeepOf) -> None:
    """`c2s`, the widths of the pieces that one convolution's output is split into."""
    kept = keep("conv").outputs
    if kept is not None:
        ends = [0]
        for width in module.c2s:
            ends.append(ends[-1] + width)
        module.c2s = [bisect_left(kept, b) - bisect_left(kept, a) for a, b in pairwise(ends)]


@dataclass(frozen=True)
class Correction:
    """How one kind of block is corrected.

    Attributes:
        apply (Callable): Corrects a module of that kind.
        sets (tuple[str, ...]): Attributes that are set right, where a module has them.
        reads (tuple[str, ...]): Attributes and children, dotted, without which a module is not of that kind: a fork of
            Ultralytics may have built it otherwise under the same name.
        heads (bool): Whether it has attention heads that may go as a whole.
    """

    apply: Callable[[nn.Module, KeepOf], None]
    sets: tuple[str, ...]
    reads: tuple[str, ...]
    heads: bool = False

    def fits(self, module: nn.Module) -> bool:
        """Whether a module has all that is read."""
        for path in self.reads:
            owner = module
            for name in path.split("."):
                if not hasattr(owner, name):
                    return False
                owner = getattr(owner, name)
        return True


CORRECTIONS: dict[str, Correction] = {
    **dict.fromkeys(
        ("C2f", "C2PSA", "PSA", "C2fPSA", "RepNCSPELAN4", "ELAN1"),
        Correction(_scale_c, ("c",), ("c", "cv1.conv.out_channels")),
    ),
    "Attention": Correction(
        _attention,
        ("num_heads", "key_dim", "head_dim", "scale"),
        ("num_heads", "key_dim", "head_dim", "scale", "qkv.conv", "qkv.bn"),
        heads=True,
    ),
    "AAttn": Correction(
        _area_attention,
        ("num_heads", "head_dim", "all_head_dim"),
        ("num_heads", "head_dim", "qkv.conv", "qkv.bn"),
        heads=True,
    ),
    "CBLinear": Correction(_pieces, ("c2s",), ("c2s", "conv")),
}
"""By the name of a class of Ultralytics; subclasses of users' own included, but never a class that is called alike."""


def _correction(module: nn.Module) -> Correction | None:
    theirs = (c.__name__ for c in type(module).__mro__ if c.__module__.partition(".")[0] == "ultralytics")
    found = next((CORRECTIONS[name] for name in theirs if name in CORRECTIONS), None)
    return found if found is not None and found.fits(module) else None
