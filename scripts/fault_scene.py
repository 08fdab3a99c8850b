"""A cut in a network with what is known of it, and how a mistake is put into it; the mistakes are in faults.py."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise
from typing import Any

import torch
from seams import Seams
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from yoloprune.planning.plan import Keep, Plan

Surgery = Callable[[nn.Module, Plan], nn.Module]


@dataclass(frozen=True)
class Fault:
    """One way of cutting wrongly.

    Attributes:
        kind (str): What is mistaken.
        layer (str): Dotted name of the module in which it is.
        block (str): Class of the block around it.
        told (str): What exactly, for a reader.
        wrong (Callable): From the right surgery, a model and a plan to the model, cut wrongly in place.
    """

    kind: str
    layer: str
    block: str
    told: str
    wrong: Callable[[Surgery, nn.Module, Plan], nn.Module]


@dataclass(frozen=True)
class Change:
    """A value that wrong surgery leaves in a module, given what was there before the cut and what is right after it."""

    module: str
    key: str
    make: Callable[[Any, Any], Any]


@dataclass(frozen=True)
class Scene:
    """All that a fault is chosen by: names, widths and positions, never a weight, so that it fits any copy.

    Attributes:
        parent (nn.Module): Before the cut.
        child (nn.Module): After the right cut.
        plan (Plan): Of the cut.
        seams (Seams): Where pieces are joined and split in the child.
        heads (frozenset[str]): Layers at which the head, or what comes last, reads channels that were cut.
        random (random.Random): Seeded.
    """

    parent: nn.Module
    child: nn.Module
    plan: Plan
    seams: Seams
    heads: frozenset[str]
    random: random.Random

    def block(self, layer: str) -> str:
        """Class of the innermost block around a layer."""
        names = [layer[: len(layer) - len(tail)] for tail in tails(layer)]
        found = [type(self.child.get_submodule(name)).__name__ for name in names]
        return next((f for f in found if f not in PLAIN), found[-1])

    def fault(self, kind: str, layer: str, told: str, changes: Sequence[Change] | Plan) -> Fault:
        """A fault out of what is changed after the right cut, or out of the plan that is cut in its place."""
        wrong = partial(cut_another, changes) if isinstance(changes, Plan) else partial(change_after, changes)
        return Fault(kind, layer, self.block(layer), told, wrong)

    def layers(self) -> Iterator[tuple[str, _ConvNd | nn.Linear, Keep]]:
        """Convolutions and linear layers that were cut, in the child."""
        for name, keep in self.plan.keep.items():
            module = dict(self.child.named_modules()).get(name)
            if isinstance(module, _ConvNd | nn.Linear):
                yield name, module, keep


PLAIN = {"Conv", "DWConv", "Sequential", "ModuleList", "Conv2dNormActivation", "Conv2d", "Linear", "BatchNorm2d"}


def tails(layer: str) -> list[str]:
    parts = layer.split(".")
    return [f".{'.'.join(parts[i:])}" for i in range(len(parts) - 1, 0, -1)] + [layer]


def cut_another(other: Plan, cut: Surgery, model: nn.Module, plan: Plan) -> nn.Module:
    return cut(model, other)


def change_after(changes: Sequence[Change], cut: Surgery, model: nn.Module, plan: Plan) -> nn.Module:
    before = [getattr(model.get_submodule(c.module), c.key) for c in changes]
    before = [b.detach().clone() if isinstance(b, Tensor) else b for b in before]
    cut(model, plan)
    for change, old in zip(changes, before, strict=True):
        module = model.get_submodule(change.module)
        now = getattr(module, change.key)
        made = change.make(old, now.detach() if isinstance(now, Tensor) else now)  # nothing is written in place:
        setattr(module, change.key, nn.Parameter(made) if isinstance(now, nn.Parameter) else made)  # copies share it
    return model


def in_dim(module: nn.Module) -> int:
    return 0 if getattr(module, "transposed", False) else 1


def reordered(pieces: Sequence[int], i: int, j: int) -> list[int]:
    """Positions in which two pieces have changed places."""
    ranges = [list(range(a, b)) for a, b in pairwise(accumulate(pieces, initial=0))]
    ranges[i], ranges[j] = ranges[j], ranges[i]
    return [p for positions in ranges for p in positions]


def picked(order: Sequence[int], dim: int) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda old, new: new.index_select(dim, torch.tensor(order))


def first_rows(dim: int) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda old, new: old.narrow(dim, 0, new.shape[dim])


def neighbours(kept: Sequence[int] | None, width: int | None, chance: random.Random) -> tuple[int, ...] | None:
    """Kept positions, one of which has moved on to its neighbour; None where nothing, or no neighbour, is cut."""
    if kept is None or width is None:
        return None
    free = [k for k, p in enumerate(kept) if p + 1 < width and p + 1 not in kept]
    if not free:
        return None
    k = chance.choice(free)
    return (*kept[:k], kept[k] + 1, *kept[k + 1 :])
