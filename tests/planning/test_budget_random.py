"""The choice of channels on random graphs: every choice keeps every promise, and a smaller budget never costs more."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import hand_graph
from hand_layers import FREE, widths

from yoloprune.errors import BudgetError
from yoloprune.planning.channel_graph import ChannelGraph, Term
from yoloprune.planning.cost import Cost
from yoloprune.planning.greedy_selection import dead_only, select
from yoloprune.settings.budget import Budget, Limits


def random_graph(rng: np.random.Generator) -> ChannelGraph:
    """Groups of random sizes, some frozen, some tied, some read twice by an axis; costs with products of two axes."""
    sizes = rng.integers(1, 7, size=int(rng.integers(2, 8))) * int(rng.choice([1, 2, 4]))
    group_of = np.repeat(range(len(sizes)), sizes)
    members = [np.flatnonzero(group_of == g) for g in range(len(sizes))]
    frozen = {g: "by lot" for g in range(1, len(sizes)) if rng.random() < 0.2}
    free = [g for g in rng.permutation(len(sizes)).tolist() if g not in frozen]
    ties: list[list[int]] = []
    for g in free:
        if ties and rng.random() < 0.4:
            ties[-1].append(g)
        else:
            ties.append([g])
    axes = {f"l{g}.outputs": m for g, m in enumerate(members)}
    for i in range(len(sizes)):
        picked = rng.integers(0, len(sizes), size=int(rng.integers(1, 4)))
        axes[f"l{i}.inputs"] = np.concatenate([members[g] for g in picked])
    n = len(axes)
    terms = [
        [Term(float(rng.integers(1, 50)), tuple(rng.integers(0, n, size=k).tolist())) for k in (0, 1, 1, 2, 2, 2)]
        for _ in range(2)
    ]
    return hand_graph(axes, group_of, ties, frozen, *terms)


@pytest.mark.parametrize("seed", range(60))
def test_every_choice_keeps_every_promise(seed: int) -> None:
    rng = np.random.default_rng(seed)
    graph = random_graph(rng)
    cost = Cost(graph)
    scores = rng.random(graph.n_classes)
    limits = Limits(
        round_to=int(rng.choice([1, 2, 4])),
        min_width=int(rng.choice([1, 2])),
        max_ratio=float(rng.choice([0.5, 0.8, 1.0])),
        uniform=bool(rng.random() < 0.2),
    )
    budget = Budget(
        **{k: float(rng.uniform(0.3, 0.99)) for k in rng.choice(["flops", "params"], size=2)},
        ratio=float(rng.uniform(0.02, 0.4)) if rng.random() < 0.5 else None,
    )
    caps = {k: v * cost.parent(k) for k in ("flops", "params") if (v := getattr(budget, k)) is not None}
    if budget.ratio is not None:
        caps["channels"] = (1 - budget.ratio) * cost.parent("channels")

    def fits(w: np.ndarray) -> bool:
        return all(cost.of(k, w) <= cap * (1 + 1e-9) for k, cap in caps.items())

    def allowed(tie_sizes: tuple[int, ...], units: int) -> list[tuple[int, ...]]:
        steps = [tuple(s * u // units for s in tie_sizes) for u in range(1, units)]
        return [
            w
            for w in steps
            if all(x % limits.round_to == 0 and x >= limits.min_width for x in w)
            and all(s - x <= limits.max_ratio * s + 1e-9 for x, s in zip(w, tie_sizes, strict=True))
        ]

    choices = [[*allowed(t.sizes, int(np.gcd.reduce(t.sizes))), t.sizes] for t in graph.ties]
    narrowest = cost.full.copy()
    for tie, choice in zip(graph.ties, choices, strict=True):
        narrowest[list(tie.groups)] = choice[0]
    try:
        alive = select(graph, scores, budget, limits, cost)
    except BudgetError:
        assert not fits(narrowest)
        return
    got = np.bincount(graph.group_of[alive], minlength=len(graph.groups)).astype(float)
    assert fits(got)
    assert alive[~graph.prunable].all()
    graph.plan(alive)  # ties hold, nothing is empty
    for tie, choice in zip(graph.ties, choices, strict=True):
        own = tuple(int(got[g]) for g in tie.groups)
        assert own in choice
        if own != tie.sizes:  # tight: no step of any tie can be taken back
            wider = got.copy()
            wider[list(tie.groups)] = choice[choice.index(own) + 1]
            assert not fits(wider)
    for g in range(len(graph.groups)):  # inside a group the least important go
        inside = graph.classes(g)
        kept, gone = scores[inside[alive[inside]]], scores[inside[~alive[inside]]]
        assert not len(gone) or gone.max() <= kept.min()


@pytest.mark.parametrize("seed", range(20))
def test_a_smaller_budget_never_costs_more(seed: int) -> None:
    rng = np.random.default_rng(seed)
    graph = random_graph(rng)
    cost, scores = Cost(graph), rng.random(graph.n_classes)
    spent = []
    for share in (0.95, 0.8, 0.65, 0.5):
        try:
            spent.append(cost.of("flops", np.array(widths(graph, select(graph, scores, Budget(flops=share), FREE)))))
        except BudgetError:
            break
    assert spent == sorted(spent, reverse=True)


@pytest.mark.parametrize("seed", range(20))
def test_dead_only_cuts_dead_channels_only_and_the_plan_holds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    graph = random_graph(rng)
    dead = rng.random(graph.n_classes) < 0.5
    alive = dead_only(graph, dead & graph.prunable)
    assert dead[~alive].all()
    graph.plan(alive)
