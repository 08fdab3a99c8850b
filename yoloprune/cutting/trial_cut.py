"""A cut for trial: what a trace of code that nobody has tried before did not see is held, and not found out at the end.

Much of what Python does to a number leaves no trace: `1.0 / c`, `range(c)`, `math.log(c)`, a list that it looks into. A
block that does so to its width computes something else once it is narrower, so that no cut of it can be proved.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from yoloprune.cutting import surgery
from yoloprune.cutting.comparison import WITHIN, compare
from yoloprune.cutting.lively_copy import lively_copy, lively_example, sharing_copy
from yoloprune.cutting.silence import LOUD
from yoloprune.errors import ModelError, UndecidedError, VerifyError
from yoloprune.planning import steps
from yoloprune.planning.channel_graph import ChannelGraph
from yoloprune.planning.plan import Plan
from yoloprune.planning.tie import Tie
from yoloprune.probing.examples import Example, Probe, runs
from yoloprune.probing.own_code import has_own_code
from yoloprune.torch_internals import is_out_of_memory

WHY = "a trial cut of it computes something else: its width is used in a way that the trace does not see"


def sound(model: nn.Module, graph: ChannelGraph, probe: Probe, *, outputs: bool = True) -> ChannelGraph:
    """A graph in which those groups are frozen of which a cut goes wrong.

    Each width that may change is cut by a random share, once, in a copy that is brought to life; where that is not what
    the masked parent computes, in training mode, on another number of images or on a loud one either, halves of the
    widths are tried, and halves of those. A network of known blocks alone is taken as it is. This spares whoever has a
    block of his own an error after the scores are measured; what is cut in the end is proved as ever, see
    `proof.prove`.

    Args:
        model (nn.Module): The network, stays untouched.
        graph (ChannelGraph): What was traced of it.
        probe (Probe): On what.
        outputs (bool): Whether outputs may lose channels themselves.

    Returns:
        (ChannelGraph): The same one where nothing goes wrong, or where the network cannot be compared at all.
    """
    if not has_own_code(model):
        return graph
    try:
        trial = _Trial.of(model, graph, probe, outputs)
        if trial.is_right(every := trial.ties) or not trial.is_right([]):
            return graph
        wrong = trial.wrong(every)
        while (every := [t for t in every if t not in wrong]) and not trial.is_right(every):
            wrong += trial.wrong(every)
    except ModelError:  # it cannot be copied
        raise
    except Exception as e:  # whatever a network may raise that checks its own values, once it is brought to life
        if is_out_of_memory(e):
            raise
        return graph
    return graph.holding([g for t in wrong for g in graph.ties[t].groups], WHY)


def told(graph: ChannelGraph) -> str | None:
    """What a trial held, in words; None where nothing."""
    held = [group for group in graph.groups if group.frozen == WHY]
    if not held:
        return None
    named = ", ".join(group.name for group in held[:4]) + (f" and {len(held) - 4} more" if len(held) > 4 else "")
    return f"{sum(group.size for group in held)} channels stay ({named}): {WHY}"


@dataclass(frozen=True)
class _Trial:
    """A lively copy, and what is cut in it.

    Attributes:
        looks (list): What both are run on, in the precision of the copy, in which mode, and how they are compared.
        ties (list[int]): Those that can shrink.
        waiting (list): Their channels in the order in which they go, see `steps.queues`.
        full (np.ndarray): All units of every tie, shape (ties,).
        cut (np.ndarray): How many are left where it is cut.
    """

    live: nn.Module
    graph: ChannelGraph
    probe: Probe
    outputs: bool
    looks: list[tuple[Example, int, dict[str, Any]]]
    ties: list[int]
    waiting: list[list[np.ndarray]]
    full: np.ndarray
    cut: np.ndarray

    @classmethod
    def of(cls, model: nn.Module, graph: ChannelGraph, probe: Probe, outputs: bool) -> _Trial:
        """A trial of what a graph says of a network."""
        first = probe.proving[0]
        live = lively_copy(model, first, bool(probe.modes(model, first)[-1]))
        looks = list[tuple[Example, int, dict[str, Any]]]([(first, False, {"inside": True, "tolerance": WITHIN})])
        looks += [(probe.proving[-1], training, {}) for training in probe.modes(model, probe.proving[-1]) if training]
        looks += [(loud, False, {}) for loud in [first.louder(LOUD)] if runs(model, loud, False)]
        if live is not None:
            looks = [(lively_example(one, model), training, how) for one, training, how in looks]
        random = np.random.default_rng(0)
        full = np.array([tie.units for tie in graph.ties], dtype=int)
        cut = np.array([random.choice(_narrow(tie) or [tie.units]) for tie in graph.ties], dtype=int)
        ties = np.flatnonzero(cut < full).tolist()
        waiting = steps.queues(graph, random.random(graph.n_classes))
        return cls(live or model, graph, probe, outputs, looks, ties, waiting, full, cut)

    def is_right(self, ties: Sequence[int]) -> bool:
        """Whether a cut of these alone computes what the masked network does, but for what rounding may make."""
        units = self.full.copy()
        units[list(ties)] = self.cut[list(ties)]
        plan = self.graph.plan(steps.survivors(self.graph, self.waiting, units)) if ties else Plan({})
        child = surgery.cut(sharing_copy(self.live), plan)
        try:
            for example, training, how in self.looks:
                how = {"frames": self.probe.frames, "outputs": self.outputs, **how}
                compare(self.live, child, plan, example, training, **how)
        except UndecidedError:
            return True  # rounding or a fault: the proof has other looks
        except VerifyError:
            return False
        return True

    def wrong(self, ties: Sequence[int]) -> list[int]:
        """Of ties whose cut goes wrong those that make it so: each alone, or the later half of what does together."""
        if len(ties) == 1:
            return [*ties]
        halves = ties[: len(ties) // 2], ties[len(ties) // 2 :]
        found = [t for half in halves if not self.is_right(half) for t in self.wrong(half)]
        return found or [*halves[1]]


def _narrow(tie: Tie) -> Sequence[int]:
    """Units from three eighths to less than half of the width: there code that compares widths with numbers takes its
    other way, few numbers divide both widths, and enough is left for the signal of every layer to arrive.
    """
    units = range(1, tie.units) if tie.allowed is None else tie.allowed
    few = [u for u in units if u <= max(tie.units // 2, 1)]
    return [u for u in few if tie.units * 3 / 8 <= u < tie.units / 2] or few
