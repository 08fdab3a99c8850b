"""Wrong surgery of every kind: what a cut gets wrong when an index, a statistic, a bias or a number is mistaken."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import torch
from fault_scene import (
    Change,
    Fault,
    Scene,
    first_rows,
    in_dim,
    neighbours,
    picked,
    reordered,
)
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from yoloprune.planning.plan import Plan

# ---- kinds -----------------------------------------------------------------------------------------------------------


def exchanged(scene: Scene) -> Iterator[Fault]:
    """Two kept channels change places in the weights of one layer that reads them."""
    for name, module, keep in scene.layers():
        width = module.weight.shape[in_dim(module)]
        if keep.inputs is not None and width > 1:
            i, j = sorted(scene.random.sample(range(width), 2))
            change = Change(name, "weight", picked(reordered([1] * width, i, j), in_dim(module)))
            yield scene.fault("two channels exchanged", name, f"inputs {i} and {j}", [change])


def pieces(scene: Scene) -> Iterator[Fault]:
    """The pieces of a concat are read in another order."""
    for name, widths in scene.seams.joined.items():
        i, j = sorted(scene.random.sample(range(len(widths)), 2))
        dim = in_dim(scene.child.get_submodule(name))
        change = Change(name, "weight", picked(reordered(widths, i, j), dim))
        yield scene.fault("pieces of a concat in another order", name, f"pieces {i} and {j} of {widths}", [change])


def halves(scene: Scene) -> Iterator[Fault]:
    """What makes the pieces of a chunk keeps them in another order, or keeps for the second what lies in the first."""
    for name, widths in scene.seams.split.items():
        norm = scene.seams.norms.get(name)
        order = reordered(widths, 0, 1)
        keys = [(name, "weight"), (name, "bias")] + [(norm or "", k) for k in STATISTICS]
        changes = [Change(m, k, picked(order, 0)) for m, k in keys if m and _has(scene.child, m, k)]
        yield scene.fault("wrong half of a chunk", name, f"halves of {widths} exchanged", changes)
        keep = scene.plan.keep.get(name)
        if keep is None or keep.outputs is None or keep.of[0] is None:
            continue
        if len(set(widths)) == 1 and len(widths) == 2:
            low, half = keep.outputs[: widths[0]], keep.of[0] // 2
            outputs = (*low, *(p + half for p in low))
            other = {m: replace(scene.plan.keep[m], outputs=outputs) for m in (name, norm) if m}
            told = "the second half keeps what the first keeps"
            yield scene.fault("wrong half of a chunk", name, told, Plan({**scene.plan.keep, **other}))


def outputs_off(scene: Scene) -> Iterator[Fault]:
    """One kept output is the channel behind the right one, with its batch-norm or without."""
    for name, _, keep in scene.layers():
        if (moved := neighbours(keep.outputs, keep.of[0], scene.random)) is None:
            continue
        norm = scene.seams.norms.get(name)
        for names in {(name,), (name, norm) if norm else (name,)}:
            other = {m: replace(scene.plan.keep[m], outputs=moved) for m in names}
            told = f"one output of {' and '.join(names)}"
            yield scene.fault("an output one index off", name, told, Plan({**scene.plan.keep, **other}))


def inputs_off(scene: Scene) -> Iterator[Fault]:
    """One kept input is the channel behind the right one."""
    for name, _, keep in scene.layers():
        if (moved := neighbours(keep.inputs, keep.of[1], scene.random)) is not None:
            other = Plan({**scene.plan.keep, name: replace(keep, inputs=moved)})
            yield scene.fault("an input one index off", name, "one input", other)


def filters(scene: Scene) -> Iterator[Fault]:
    """A layer has the filters of the first so many channels, not of the kept ones."""
    for name, module, keep in scene.layers():
        if keep.outputs is not None and keep.inputs is None:
            dim = 1 - in_dim(module)
            yield scene.fault(
                "filters of other channels", name, "the first ones", [Change(name, "weight", first_rows(dim))]
            )


STATISTICS = ("running_mean", "running_var", "weight", "bias")


def statistics(scene: Scene) -> Iterator[Fault]:
    """A batch-norm has a mean, variance, weight or bias of the first so many channels, not of the kept ones."""
    norms = [n for n, m in scene.child.named_modules() if isinstance(m, _BatchNorm) and n in scene.plan.keep]
    for i, name in enumerate(norms):
        key = STATISTICS[i % len(STATISTICS)]
        yield scene.fault("a batch-norm value left behind", name, key, [Change(name, key, first_rows(0))])


def biases(scene: Scene) -> Iterator[Fault]:
    """A bias is zero, or that of the first so many channels."""
    for name in scene.plan.keep:
        module = dict(scene.child.named_modules()).get(name)
        if getattr(module, "bias", None) is not None:
            zero = Change(name, "bias", lambda old, new: torch.zeros_like(new))
            yield scene.fault("a bias forgotten", name, "zero", [zero])
            if isinstance(module, _ConvNd | nn.Linear) and scene.plan.keep[name].outputs is not None:
                yield scene.fault("a bias forgotten", name, "of other channels", [Change(name, "bias", first_rows(0))])


def attention(scene: Scene) -> Iterator[Fault]:
    """The scores of an attention have another scale, or its queries are those before they were adapted."""
    for name, module in scene.child.named_modules():
        if hasattr(module, "key_dim") and hasattr(module, "scale"):
            changes = [Change(name, "scale", lambda old, new: old if old != new else 1.5 * new)]
            yield scene.fault("scale of an attention", name, "scale", changes)
            factor = (scene.parent.get_submodule(name).key_dim / module.key_dim) ** 0.5
            queries, per_head = module.key_dim, 2 * module.key_dim + module.head_dim
        elif hasattr(module, "area") and hasattr(module, "head_dim"):
            factor = (scene.parent.get_submodule(name).head_dim / module.head_dim) ** 0.5
            queries, per_head = module.head_dim, 3 * module.head_dim
        else:
            continue
        scaled = partial(_rescaled, factor if factor != 1 else 1.5, queries, per_head)
        changes = [Change(f"{name}.qkv.bn", key, scaled) for key in ("weight", "bias")]
        yield scene.fault("scale of an attention", f"{name}.qkv.bn", "queries not adapted", changes)


def _rescaled(factor: float, queries: int, per_head: int, old: Tensor, new: Tensor) -> Tensor:
    at = torch.arange(len(new)) % per_head < queries
    return torch.where(at, factor * new, new)


def widths(scene: Scene) -> Iterator[Fault]:
    """A number that a block keeps about its widths is the parent's, or divides the same width otherwise."""
    for name, module in scene.child.named_modules():
        before = scene.parent.get_submodule(name) if name else scene.parent
        if isinstance(c := getattr(module, "c", None), int) and c != before.c:
            yield scene.fault("a stale width", name, "c", [Change(name, "c", lambda old, new: old)])
        if hasattr(module, "num_heads") and hasattr(module, "head_dim") and hasattr(module, "qkv"):
            dims = [key for key in ("head_dim", "key_dim") if hasattr(module, key)]
            for told, more, less in (("more heads", 2, 1), ("fewer heads", 1, 2)):
                if all(getattr(module, d) % more == 0 for d in dims) and module.num_heads % less == 0:
                    changes = [Change(name, d, partial(_times, less, more)) for d in dims]
                    changes.append(Change(name, "num_heads", partial(_times, more, less)))
                    yield scene.fault("a stale width", name, told, changes)


def _times(factor: int, divisor: int, old: int, new: int) -> int:
    return new * factor // divisor


def head_inputs(scene: Scene) -> Iterator[Fault]:
    """The head, or what comes last, reads every channel from its neighbour's place."""
    for name, module, keep in scene.layers():
        if name in scene.heads:
            dim = 0 if keep.inputs is None else in_dim(module)
            change = Change(name, "weight", partial(_rolled, dim))
            yield scene.fault("a head input shifted", name, "by one channel", [change])


def _rolled(dim: int, old: Tensor, new: Tensor) -> Tensor:
    return new.roll(1, dim)


def loose(scene: Scene) -> Iterator[Fault]:
    """A scale that no layer holds has the values of the first so many channels."""
    held = dict(scene.child.named_modules())
    for name in scene.plan.keep:
        if name not in held:
            owner, _, key = name.rpartition(".")
            yield scene.fault("a loose scale left behind", owner, key, [Change(owner, key, first_rows(0))])


def _has(model: nn.Module, name: str, key: str) -> bool:
    return getattr(model.get_submodule(name), key, None) is not None


KINDS: tuple[Callable[[Scene], Iterator[Fault]], ...] = (
    *(exchanged, pieces, halves, outputs_off, inputs_off, filters),
    *(statistics, biases, attention, widths, head_inputs, loose),
)


def chosen(scene: Scene) -> Iterator[Fault]:
    """All faults, the kinds by turns and within a kind the classes of blocks by turns."""
    rows = [_by_turns(list(kind(scene)), scene.random) for kind in KINDS]
    while rows := [row for row in rows if row]:
        for row in rows:
            yield row.pop(0)


def _by_turns(faults: list[Fault], chance: random.Random) -> list[Fault]:
    chance.shuffle(faults)
    seen: dict[str, int] = {}
    turns: list[tuple[int, int, Fault]] = []
    for fault in faults:
        seen[fault.block] = seen.get(fault.block, 0) + 1
        turns.append((seen[fault.block], len(turns), fault))
    return [fault for _, _, fault in sorted(turns, key=lambda t: t[:2])]
