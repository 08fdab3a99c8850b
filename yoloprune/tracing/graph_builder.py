"""From labels to groups: which channel classes there are, which share one width, and which widths keep a proportion."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from math import gcd

import numpy as np
from torch import Tensor, nn

from yoloprune.planning.channel_graph import Axis, ChannelGraph, Group, Term
from yoloprune.planning.disjoint_sets import DisjointSets
from yoloprune.planning.layer_names import LayerNames
from yoloprune.planning.tie import Tie
from yoloprune.tracing.labels import LabelBook
from yoloprune.tracing.owners import SLICED

AxisKey = tuple[str, str]


def build(
    model: nn.Module,
    book: LabelBook,
    axes: Mapping[AxisKey, Tensor],
    costs: Mapping[tuple[AxisKey, ...], float],
    unknown: dict[str, str],
    names: LayerNames,
) -> ChannelGraph:
    """Resolve everything a trace recorded.

    Args:
        model (nn.Module): The traced model, for parameter counts.
        book (LabelBook): Labels, unions, frozen labels and tied blocks.
        axes (Mapping): Labels of each (module, side), shape (width,).
        costs (Mapping): FLOPs by the axes they are proportional to, see `TraceState.flops`.
        unknown (dict[str, str]): Operations without a rule.
        names (LayerNames): What groups are called by.

    Returns:
        (ChannelGraph): The finished graph.
    """
    roots = book.roots()
    used = np.unique(np.concatenate([roots[a.numpy()] for a in axes.values()])) if axes else np.zeros(0, dtype=int)
    number = np.full(len(roots), -1)
    number[used] = np.arange(len(used))
    number = number[roots]  # label -> class, -1 for labels that no parameter carries
    class_of = [number[a.numpy()] for a in axes.values()]
    blocks = [[c[c >= 0] for c in (number[b] for b in block)] for block in book.blocks.values()]
    divided = [(number[labels], by) for (_, by), labels in book.divided.items()]
    divided = [(classes[classes >= 0], by) for classes, by in divided]
    reasons: list[str | None] = [None] * len(used)
    for labels, reason in reversed(book.frozen):  # reversed: the first reason wins
        for c in np.unique(number[labels]):
            if c >= 0:
                reasons[c] = reason
    keys = list(axes)
    listed = [Axis(module, side, len(c)) for (module, side), c in zip(keys, class_of, strict=True)]
    group_of = _partition(class_of, [*blocks, [classes for classes, _ in divided]], reasons)
    groups = _describe(listed, class_of, group_of, reasons, names)
    ties, groups = _ties(blocks, divided, group_of, groups)
    packs = _packs(class_of, group_of, len(groups))
    ties = [replace(tie, packs=tuple(packs[list(tie.groups)].tolist())) for tie in ties]
    index = {key: i for i, key in enumerate(keys)}
    flops = [Term(f, tuple(index[k] for k in ks)) for ks, f in costs.items()]
    bare = np.zeros(len(used), dtype=bool)
    for labels in book.bare:
        bare[number[labels][number[labels] >= 0]] = True
    params = _params(model, index, listed)
    return ChannelGraph(listed, class_of, group_of, groups, ties, params, flops, unknown, bare, names=names)


def _partition(class_of: list[np.ndarray], blocks: list[list[np.ndarray]], reasons: list[str | None]) -> np.ndarray:
    """Number the groups: classes with the same axes, as often each, in the same tied blocks, for the same reason."""
    random = np.random.default_rng(0)
    signature = np.zeros(len(reasons), dtype=np.uint64)

    def add(classes: np.ndarray) -> None:  # a random number per set makes the sum a fingerprint of the sets
        np.add.at(signature, classes, random.integers(1, 2**63, dtype=np.uint64))

    for classes in [*class_of, *(c for block in blocks for c in block)]:
        add(classes)
    for reason in sorted({r for r in reasons if r}):
        add(np.array([i for i, r in enumerate(reasons) if r == reason]))
    _, first, inverse = np.unique(signature, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=int)
    rank[np.argsort(first)] = np.arange(len(first))  # in the order of the network, not of the fingerprints
    return rank[inverse.reshape(-1)]


def _describe(
    axes: list[Axis],
    class_of: list[np.ndarray],
    group_of: np.ndarray,
    reasons: list[str | None],
    names: LayerNames,
) -> list[Group]:
    n = int(group_of.max()) + 1 if len(group_of) else 0
    members: list[list[int]] = [[] for _ in range(n)]
    for i, classes in enumerate(class_of):
        for g in np.unique(group_of[classes]):
            members[g].append(i)
    sizes = np.bincount(group_of, minlength=n)
    reason = dict(zip(group_of.tolist(), reasons, strict=True))
    groups = []
    for g in range(n):
        made = next((i for i in members[g] if axes[i].side == "outputs"), members[g][0])
        at = np.flatnonzero(group_of[class_of[made]] == g)
        name = names.of(axes[made].module if axes[made].side == "outputs" else str(axes[made]))
        if len(at) < axes[made].width:
            gapless = at[-1] - at[0] + 1 == len(at)
            name += f"[{at[0]}:{at[-1] + 1}]" if gapless else f"[{len(at)} of {axes[made].width}]"
        through = tuple(str(axes[i]) for i in members[g] if axes[i].side != "count")
        groups.append(Group(name, int(sizes[g]), reason[g], through))
    return groups


def _ties(
    blocks: list[list[np.ndarray]], divided: list[tuple[np.ndarray, int]], group_of: np.ndarray, groups: list[Group]
) -> tuple[list[Tie], list[Group]]:
    """Tie groups whose proportion must hold; constraints that finer ones imply add nothing.

    Args:
        blocks (list[list[np.ndarray]]): Classes of blocks that keep the same share of theirs.
        divided (list[tuple[np.ndarray, int]]): Classes of positions of which a multiple of a number must stay.
        group_of (np.ndarray): Group of each class, shape (classes,).
        groups (list[Group]): All groups.
    """
    together = DisjointSets(len(groups))
    counted = [[Counter(group_of[c].tolist()) for c in block if len(c)] for block in blocks]
    for block in sorted(counted, key=lambda b: len(set().union(*b))):
        shares = []
        for counter in block:
            share: dict[int, float] = {}
            for g, n in counter.items():
                root = together.find(g)
                share[root] = share.get(root, 0.0) + n / counter.total()
            shares.append(share)
        together.unite({g for s in shares for g in s if any(abs(s[g] - o.get(g, 0.0)) > 1e-9 for o in shares)})
    counts = [(Counter(group_of[classes].tolist()), by) for classes, by in divided]
    for counter, by in counts:
        together.unite(set().union(*_uneven(together, counter, by, groups)))
    allowed: dict[int, set[int]] = {}
    for counter, by in counts:
        for tied in _uneven(together, counter, by, groups):
            units, lost = _steps(together, tied, counter, groups)
            every = {u for u in range(1, units) if lost * (units - u) % by == 0}
            root = together.find(next(iter(tied)))
            allowed[root] = allowed.get(root, every) & every
    ties = []
    for members in together.listed():
        held = next((g for g in members if groups[g].frozen), None)
        some = allowed.get(together.find(members[0]))
        if held is None and (some or some is None):
            sizes = tuple(groups[g].size for g in members)
            ties.append(Tie(tuple(members), sizes, None if some is None else tuple(sorted(some))))
            continue
        if held is None:
            for g in members:
                groups[g] = replace(groups[g], frozen="its width is divided by a number")
            continue
        for g in members:
            if not groups[g].frozen:
                why = f"tied to {groups[held].name}: {groups[held].frozen}"
                groups[g] = replace(groups[g], frozen=why)
    return ties, groups


def _packs(class_of: list[np.ndarray], group_of: np.ndarray, n: int) -> np.ndarray:
    """How many neighbouring positions one class of each group has at least on any axis, shape (groups,)."""
    least = np.full(n, np.iinfo(np.int64).max)
    for classes in class_of:
        starts = np.flatnonzero(np.diff(classes, prepend=-1))
        np.minimum.at(least, group_of[classes[starts]], np.diff(starts, append=len(classes)))
    return least


def _uneven(together: DisjointSets, counter: Counter[int], by: int, groups: list[Group]) -> list[set[int]]:
    """Of counted positions, those ties of which one step could leave no multiple of a number."""
    parts: dict[int, set[int]] = {}
    for g in counter:
        parts.setdefault(together.find(g), set()).add(g)
    free = [members for members in parts.values() if not any(groups[g].frozen for g in members)]
    return [members for members in free if _steps(together, members, counter, groups)[1] % by]


def _steps(together: DisjointSets, members: set[int], counter: Counter[int], groups: list[Group]) -> tuple[int, int]:
    """In how many equal steps a tie of groups shrinks, and how many of the counted positions go with each."""
    root = together.find(next(iter(members)))
    units = gcd(*(group.size for g, group in enumerate(groups) if together.find(g) == root))
    return units, sum(counter[g] for g in members) // units


def _params(model: nn.Module, index: Mapping[AxisKey, int], axes: list[Axis]) -> list[Term]:
    terms: Counter[tuple[int, ...]] = Counter()
    counted: set[nn.Parameter] = set()  # one that layers share is there once
    for name, module in model.named_modules():
        sides = [index[name, side] for side in ("outputs", "inputs") if (name, side) in index]
        for key, p in module.named_parameters(recurse=False):
            if p in counted:
                continue
            counted.add(p)
            loose = (f"{name}.{key}".lstrip("."), "outputs")
            own = sides if key in SLICED else []  # what else a layer may have stays as it is
            along = (index[loose],) if loose in index else tuple(own) if p.ndim > 1 else tuple(own[:1])
            terms[along] += p.numel() / np.prod([axes[i].width for i in along])
    return [Term(factor, along) for along, factor in terms.items()]
