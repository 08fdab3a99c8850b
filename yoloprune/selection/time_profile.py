"""What widths cost in time on a runtime, learnt from networks of random widths that are exported and timed."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import nn

from yoloprune import files
from yoloprune.backend import compat, console, progress_bar
from yoloprune.cutting import surgery
from yoloprune.errors import WriteError
from yoloprune.planning import steps
from yoloprune.planning.channel_graph import ChannelGraph
from yoloprune.planning.cost import Cost
from yoloprune.planning.time_model import ALONE, Layer, TimeModel, fit
from yoloprune.runtimes.bench import Bench
from yoloprune.runtimes.device_runtimes import NO_IDLE_SPINNING
from yoloprune.settings.budget import Limits

VARIANTS = 40
"""Networks that are timed."""

TRUSTED = 0.05
"""Mean error of prediction up to which times are kept for later runs."""

AT_ONCE = 8
"""Networks that take turns with the parent, and are open together."""

GONE = 0.2
"""Share of the branches that are gone in each, where they may go."""

SECONDS = 2.5
"""Of each, at most."""


class Timed(NamedTuple):
    """Networks that were timed beside their parent.

    Attributes:
        axes (Sequence[np.ndarray]): Per network the widths of all axes, shape (axes,).
        shares (Sequence[float]): Per network its time as a share of the parent's.
        rounds (Sequence[int]): Per network which had turns together.
    """

    axes: Sequence[np.ndarray]
    shares: Sequence[float]
    rounds: Sequence[int]


def layers(model: nn.Module, graph: ChannelGraph) -> list[Layer]:
    """The convolutions of a model, as the graph of its channels names their axes."""
    modules = dict(model.named_modules())
    found = []
    for term in graph.flops:
        axes = [graph.axes[a] for a in term.axes]
        conv = modules.get(axes[0].module) if axes else None
        if not isinstance(conv, nn.Conv2d) or axes[0].side != "outputs":
            continue
        taps, stride = int(np.prod(conv.kernel_size)), int(np.prod(conv.stride))
        written = term.factor / (2 * taps * (1 if len(axes) == 2 else conv.in_channels // conv.groups))
        size = "depthwise" if len(axes) == 1 else f"{conv.kernel_size[0]}x{conv.kernel_size[1]}"
        kind = size + (f" stride {conv.stride[0]}" if stride > 1 and len(axes) == 2 else "")
        inputs = term.axes[1] if len(axes) == 2 else None
        found.append(Layer(kind, term.axes[0], inputs, taps, written, written * stride))
    return found


def variants(graph: ChannelGraph, limits: Limits, count: int, seed: int) -> list[np.ndarray]:
    """Masks of surviving classes, each of shape (classes,), with random widths that the limits allow, and without some
    branches where they do.

    The share that a whole network keeps is drawn first, and widths around it: drawn one by one, all networks would keep
    about half.
    """
    random = np.random.default_rng(seed)
    waiting = steps.queues(graph, random.random(graph.n_classes))
    able = [np.array([tie.units, *steps.allowed(tie, limits, graph)]) for tie in graph.ties]
    masks = []
    for _ in range(count):
        share = random.uniform(1 - limits.max_ratio, 1)
        units = []
        for tie, can in zip(graph.ties, able, strict=True):
            aim = tie.units * np.clip(share + random.normal(0, 0.2), 0, 1)
            units.append(int(can[np.abs(can - aim).argmin()]))
        units += [int(random.random() >= GONE) for _ in graph.branches if limits.depth]
        masks.append(steps.survivors(graph, waiting, np.array(units, dtype=int)))
    return masks


def measured(parent: nn.Module, graph: ChannelGraph, masks: Sequence[np.ndarray], bench: Bench) -> Timed:
    """What each variant takes, of which masks of classes are given."""
    cost = Cost(graph)
    axes: list[np.ndarray] = []
    shares: list[float] = []
    rounds: list[int] = []
    with progress_bar.counted(len(masks), f"times of other widths in {bench.deployment}") as tick:
        for start in range(0, len(masks), AT_ONCE):
            some = masks[start : start + AT_ONCE]
            children = [surgery.cut(copy.deepcopy(parent), graph.plan(alive)) for alive in some]
            now, *times = bench.time(*children, seconds=SECONDS * len(some))
            for alive, found in zip(some, times, strict=True):
                axes.append(cost.axes(graph.widths(alive)))
                shares.append(found.median / now.median)
                rounds.append(start // AT_ONCE)
                tick()
    return Timed(axes, shares, rounds)


def fitted(convolutions: Sequence[Layer], graph: ChannelGraph, timed: Timed) -> TimeModel:
    """A time model of networks that were timed, and of the parent, which takes its own time."""
    whole = Cost(graph)
    return fit(convolutions, [*timed.axes, whole.axes(whole.full)], [*timed.shares, 1.0], [*timed.rounds, ALONE])


def predicted(model: TimeModel, where: object) -> str:
    """How well a time model predicts networks that it has not seen, in words."""
    return (
        f"times in {where} are predicted to {model.error:.1%} on average, {model.worst:.1%} at worst, with channels "
        f"counted in steps of {model.step}"
    )


def tell_of_steps(model: TimeModel, limits: Limits) -> None:
    """Say what `round_to=` suits a runtime that takes as long for some channels fewer, where a finer one is set."""
    if model.error <= TRUSTED and model.step > limits.round_to:
        console.log(
            "prune: ",
            f"there the time of a layer goes by steps of {model.step} channels: round_to={model.step} keeps more of "
            "them in the same time",
        )


def learnt(parent: nn.Module, graph: ChannelGraph, limits: Limits, bench: Bench) -> TimeModel:
    """A time model of a parent on a runtime; what was timed before on this machine is not timed again, where networks
    are drawn between the same widths: of widths that none of them had nothing is known.

    It is for choosing by only if it is `TRUSTED`: what another one takes for the least share may be far from it.

    Args:
        parent (nn.Module): An Ultralytics model, stays untouched.
        graph (ChannelGraph): Its channels.
        limits (Limits): Between which widths networks are drawn.
        bench (Bench): Where the parent runs already.
    """
    convolutions = layers(parent, graph)
    facts = {
        **bench.deployment.facts(),
        "imgsz": bench.imgsz,
        "variants": VARIANTS,
        **({"depth": True} if limits.depth else {}),
        **({"session": NO_IDLE_SPINNING} if bench.deployment.format == "onnx" else {}),  # before, turns were too slow
    }
    widths = [(str(axis), axis.width) for axis in graph.axes]
    every = parent.named_modules(remove_duplicate=False)  # one activation may be at several places
    kinds = [type(module).__name__ for _, module in every]  # of activations, and of what else has no widths
    drawn = [limits.max_ratio, *((tie.groups, steps.allowed(tie, limits, graph)) for tie in graph.ties)]
    gone = [branch.name for branch in graph.branches if limits.depth]
    told = json.dumps([facts, widths, kinds, [astuple(one) for one in convolutions], drawn, gone], default=str)
    file = Path(compat.USER_CONFIG_DIR) / "yoloprune" / f"times-{hashlib.sha256(told.encode()).hexdigest()[:16]}.json"
    known = _read(file)
    timed = known or measured(parent, graph, variants(graph, limits, VARIANTS, seed=0), bench)
    model = fitted(convolutions, graph, timed)
    said = predicted(model, bench.deployment)
    if model.error > TRUSTED:
        console.warn(
            f"prune: {said}; something else may be running on this machine, so they are not kept, and FLOPs price "
            "channels. What is tried is timed all the same"
        )
        return model
    if known is None:
        listed = [one.tolist() for one in timed.axes]
        _write(file, {"facts": facts, "axes": listed, "shares": [*timed.shares], "rounds": [*timed.rounds]})
    console.log("prune: ", f"{said}, from {len(timed.shares)} networks of other widths: {file}")
    return model


def _read(file: Path) -> Timed | None:
    """What was measured before; None where there are none, or the file is damaged."""
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
        axes = [np.array(one, dtype=float) for one in told["axes"]]
        return Timed(axes, [float(one) for one in told["shares"]], [int(one) for one in told["rounds"]])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write(file: Path, told: dict[str, Any]) -> None:
    """Keep what was measured; where that cannot be written, it is measured again next time."""
    with contextlib.suppress(WriteError):
        files.write_at_once(file, lambda out: out.write(json.dumps(told, default=str).encode()))
