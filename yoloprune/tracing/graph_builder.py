"""From labels to groups: which channel classes there are, which share one width, and which widths keep a proportion."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
from torch import Tensor, nn

from yoloprune.planning.channel_graph import Axis, ChannelGraph, Group, Term, Tie
from yoloprune.planning.disjoint_sets import DisjointSets
from yoloprune.tracing.labels import LabelBook

AxisKey = tuple[str, str]


def build(
    model: nn.Module,
    book: LabelBook,
    axes: Mapping[AxisKey, Tensor],
    costs: Mapping[tuple[AxisKey, ...], float],
    unknown: dict[str, str],
) -> ChannelGraph:
    """Resolve everything a trace recorded.

    Args:
        model (nn.Module): The traced model, for parameter counts.
        book (LabelBook): Labels, unions, frozen labels and tied blocks.
        axes (Mapping): Labels of each (module, side), shape (width,).
        costs (Mapping): FLOPs by the axes they are proportional to, see `TraceState.flops`.
        unknown (dict[str, str]): Operations without a rule.

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
    reasons: list[str | None] = [None] * len(used)
    for labels, reason in reversed(book.frozen):  # reversed: the first reason wins
        for c in np.unique(number[labels]):
            if c >= 0:
                reasons[c] = reason
    keys = list(axes)
    listed = [Axis(module, side, len(c)) for (module, side), c in zip(keys, class_of, strict=True)]
    group_of = _partition(class_of, blocks, reasons)
    groups = _describe(listed, class_of, group_of, reasons)
    ties, groups = _ties(blocks, group_of, groups)
    index = {key: i for i, key in enumerate(keys)}
    flops = [Term(f, tuple(index[k] for k in ks)) for ks, f in costs.items()]
    bare = np.zeros(len(used), dtype=bool)
    for labels in book.bare:
        bare[number[labels][number[labels] >= 0]] = True
    return ChannelGraph(listed, class_of, group_of, groups, ties, _params(model, index, listed), flops, unknown, bare)


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
    axes: list[Axis], class_of: list[np.ndarray], group_of: np.ndarray, reasons: list[str | None]
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
        name = axes[made].module if axes[made].side == "outputs" else str(axes[made])
        if len(at) < axes[made].width:
            gapless = at[-1] - at[0] + 1 == len(at)
            name += f"[{at[0]}:{at[-1] + 1}]" if gapless else f"[{len(at)} of {axes[made].width}]"
        through = tuple(str(axes[i]) for i in members[g] if axes[i].side != "count")
        groups.append(Group(name, int(sizes[g]), reason[g], through))
    return groups


def _ties(blocks: list[list[np.ndarray]], group_of: np.ndarray, groups: list[Group]) -> tuple[list[Tie], list[Group]]:
    """Tie groups whose proportion must hold; constraints that finer ones imply add nothing."""
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
    ties = []
    for members in together.listed():
        held = next((g for g in members if groups[g].frozen), None)
        if held is None:
            ties.append(Tie(tuple(members), tuple(groups[g].size for g in members)))
            continue
        for g in members:
            if not groups[g].frozen:
                why = f"tied to {groups[held].name}: {groups[held].frozen}"
                groups[g] = Group(groups[g].name, groups[g].size, why, groups[g].axes)
    return ties, groups


def _params(model: nn.Module, index: Mapping[AxisKey, int], axes: list[Axis]) -> list[Term]:
    terms: Counter[tuple[int, ...]] = Counter()
    for name, module in model.named_modules():
        sides = [index[name, side] for side in ("outputs", "inputs") if (name, side) in index]
        for key, p in module.named_parameters(recurse=False):
            loose = (f"{name}.{key}".lstrip("."), "outputs")
            along = (index[loose],) if loose in index else tuple(sides) if p.ndim > 1 else tuple(sides[:1])
            terms[along] += p.numel() / np.prod([axes[i].width for i in along])
    return [Term(factor, along) for along, factor in terms.items()]
