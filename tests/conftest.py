"""Small shared builders: seeded networks, hand-written weights and graphs, random plans, questions to a graph."""

from __future__ import annotations

import copy
import gc
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import ultralytics
from torch import Tensor, nn

from yoloprune.cutting import comparison, surgery
from yoloprune.cutting.lively_copy import (
    settle as settle,  # the tests' own networks are brought to life in the same way
)
from yoloprune.planning.channel_graph import Axis, ChannelGraph, Group, Term
from yoloprune.planning.plan import Plan
from yoloprune.planning.tie import Tie
from yoloprune.runtimes import bench, layer_times, timing

if TYPE_CHECKING:  # the pages of the guide are run where pytest is not imported, which Ultralytics looks for
    import pytest

pytest_plugins = ["checkpoints"]

torch.set_num_threads(1)  # sums come out in one order on every machine, and workers do not fight over cores

os.environ.setdefault("TF_BUILD", "True")  # else OpenVINO starts processes that tell its makers of each export

BRIEFLY = 0.2
"""Seconds that networks are timed for at most, where the product takes ten: hardly a test asks how long they took."""


def in_brief(runs: Sequence[Callable[[], float | None]], seconds: float, share: float = 1.0) -> list[timing.Times]:
    """Take turns as the product does, for a short while."""
    return timing.take_turns(runs, min(seconds, BRIEFLY), share)


bench.take_turns = in_brief  # type: ignore[assignment]
layer_times.RUNS = 5


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first: a long one that begins last has all other workers wait for it."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish() -> None:
    """Modules and tests stay to the end: the garbage collector need not go through them again and again."""
    gc.collect()
    gc.freeze()


def shipped(*names: str) -> list[str]:
    """Those of the models, at any scale, whose family the installed Ultralytics has; older releases lack newer ones."""
    stems = {f.stem for f in (Path(ultralytics.__file__).parent / "cfg" / "models").rglob("*.yaml")}
    return [n for n in names if stems & {n, re.sub(r"(?<=\d)[nsmblx](?=-|$)", "", n)}]


def conv(c_in: int, c_out: int, k: int = 1, **options: object) -> nn.Conv2d:
    """A convolution that keeps the image size."""
    return nn.Conv2d(c_in, c_out, k, padding=k // 2, **options)  # type: ignore[arg-type]


def filled(module: nn.Module, weight: object, bias: object = None) -> nn.Module:
    """The module with weights written by hand; shapes must fit."""
    for p, value in ((module.weight, weight), (getattr(module, "bias", None), bias)):
        if value is not None:
            p.data = torch.tensor(value, dtype=torch.float32).reshape(p.shape)
    return module


def noise(*shape: int, seed: int = 0) -> Tensor:
    """Seeded normal noise."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def hand_graph(
    axes: Mapping[str, Sequence[int]],
    group_of: Sequence[int],
    ties: Iterable[Sequence[int]] | None = None,
    frozen: Mapping[int, str] | None = None,
    params: Sequence[Term] = (),
    flops: Sequence[Term] = (),
) -> ChannelGraph:
    """A channel graph as pure data.

    Args:
        axes (Mapping): Classes at each position by axis, e.g. {"conv.outputs": [0, 1]}.
        group_of (Sequence): Group of each class.
        ties (Iterable): Groups that are tied; every prunable group alone when not given.
        frozen (Mapping): Reasons by group.
        params (Sequence): Terms of the parameter count.
        flops (Sequence): Terms of the FLOPs.
    """
    frozen = frozen or {}
    sizes = np.bincount(group_of).tolist()
    groups = [Group(f"group{g}", size, frozen.get(g), ()) for g, size in enumerate(sizes)]
    ties = [[g] for g in range(len(sizes)) if g not in frozen] if ties is None else ties
    listed = [Axis(*name.rsplit(".", 1), len(c)) for name, c in axes.items()]
    return ChannelGraph(
        listed,
        [np.array(c) for c in axes.values()],
        np.array(group_of),
        groups,
        [Tie(tuple(t), tuple(sizes[g] for g in t)) for t in ties],
        list(params),
        list(flops),
    )


def classes(graph: ChannelGraph, axis: str) -> list[int]:
    """Channel class of each position of an axis, e.g. "conv1.outputs"."""
    return {str(a): c.tolist() for a, c in zip(graph.axes, graph.class_of, strict=True)}[axis]


def reasons(graph: ChannelGraph, axis: str) -> set[str | None]:
    """Why the channels of an axis may not be cut; {None} when all of them may."""
    return {graph.groups[g].frozen for g in graph.group_of[classes(graph, axis)]}


def partners(graph: ChannelGraph, axis: str) -> list[tuple[int, ...]]:
    """Group sizes of each tie that an axis takes part in."""
    groups = set(graph.group_of[classes(graph, axis)].tolist())
    return [t.sizes for t in graph.ties if groups & set(t.groups)]


def without(graph: ChannelGraph, axis: str, positions: Sequence[int]) -> np.ndarray:
    """Survivors when the channels at some positions of an axis go, shape (classes,)."""
    alive = np.ones(graph.n_classes, dtype=bool)
    alive[np.array(classes(graph, axis))[list(positions)]] = False
    return alive


def random_alive(graph: ChannelGraph, seed: int) -> np.ndarray:
    """Survivors at a random allowed step of every tie, shape (classes,)."""
    rng = np.random.default_rng(seed)
    alive = np.ones(graph.n_classes, dtype=bool)
    for tie in graph.ties:
        units = range(1, tie.units + 1) if tie.allowed is None else [*tie.allowed, tie.units]
        unit = int(rng.choice(list(units)))
        for g, size in tie.shrinking.items():
            alive[rng.permutation(graph.classes(g))[size * unit // tie.units :]] = False
        for heads in tie.heads:
            for h in rng.permutation(len(heads))[len(heads) * unit // tie.units :]:
                alive[np.concatenate([graph.classes(g) for g in heads[h]])] = False
    return alive


def cut_copy(model: nn.Module, plan: Plan) -> nn.Module:
    """A cut copy of the model."""
    return surgery.cut(copy.deepcopy(model), plan)


def cutting_alive(graph: ChannelGraph, seed: int) -> np.ndarray:
    """Survivors of a random draw by which channels go, shape (classes,); a draw that takes none is repeated."""
    draws = (random_alive(graph, seed + 1000 * again) for again in range(20))
    alive = next((drawn for drawn in draws if not drawn.all()), None)
    assert alive is not None, "no channel may go here; `assert_held` is for networks of which that is the point"
    return alive


def cutting_plan(graph: ChannelGraph, seed: int) -> Plan:
    """A random plan by which channels go."""
    return graph.plan(cutting_alive(graph, seed))


def numbers(model: nn.Module) -> int:
    """How many numbers its parameters hold."""
    return sum(p.numel() for p in model.parameters())


def assert_exact(model: nn.Module, graph: ChannelGraph, example: Tensor, seeds: Sequence[int] = (0, 1, 2)) -> None:
    """By random plans channels go, and each cut model equals its masked parent; `verify` raises otherwise."""
    for seed in seeds:
        plan = cutting_plan(graph, seed)
        small = cut_copy(model, plan)
        assert numbers(small) < numbers(model), "a plan by which channels go left every parameter as wide as it was"
        comparison.verify(model, small, plan, example)


def assert_held(model: nn.Module, graph: ChannelGraph, example: Tensor) -> None:
    """No channel at all may go, and the plan that says so is taken for one that changes nothing."""
    for tie in graph.ties:
        assert not (range(1, tie.units) if tie.allowed is None else tie.allowed), f"{tie} can be cut"
    plan = graph.plan(random_alive(graph, 0))
    small = cut_copy(model, plan)
    assert numbers(small) == numbers(model)
    comparison.verify(model, small, plan, example)
