"""Outputs that say nothing on an example, and what the cut could have done to them."""

from __future__ import annotations

from torch import Tensor, nn

from yoloprune.cutting.comparison import Look
from yoloprune.planning.plan import Plan
from yoloprune.probing.descent import Descendants
from yoloprune.probing.examples import Example
from yoloprune.probing.forward import running
from yoloprune.probing.held_state import preserved
from yoloprune.probing.outputs import leaves

LOUDER = (-1.0, 8.0, -8.0, 64.0)
"""An output that says nothing on an example may on one that is so many times as large."""


LOUD = 8.0
"""So many times as large an example is on which code that nobody knows is run as well: what a limit cuts off or a
threshold lets through is seen there.
"""


def silent_in(looks: list[Look]) -> frozenset[str]:
    """Outputs that none of several looks at one example says anything about."""
    told = frozenset().union(*(look.told for look in looks))
    return frozenset().union(*(look.mute | look.random for look in looks)) - told


def random_in(looks: list[Look]) -> frozenset[str]:
    """Those of them that are drawn at random."""
    return silent_in(looks) & frozenset().union(*(look.random for look in looks))


def without_luck(looks: list[Look]) -> frozenset[str]:
    """Those that are empty or of one class in every look."""
    return silent_in(looks) & frozenset.intersection(*(look.luckless for look in looks if look.mute))


def reached(parent: nn.Module, plan: Plan, example: Example, training: int, frames: int) -> set[str]:
    """Outputs that depend on a layer that is cut, by the paths that they have in a run of so many frames."""
    cut = [tensor for name in plan.keep for tensor in _tensors(parent, name)]
    found = set()
    with preserved(parent), running(parent, training), Descendants(cut) as seen:
        for frame in range(frames):
            for path, value in leaves(example(parent)):
                if isinstance(value, Tensor) and value in seen:
                    found.add(f"{path} of frame {frame + 1}" if frames > 1 else path)
    return found


def _tensors(model: nn.Module, name: str) -> list[Tensor]:
    """Parameters and buffers of a module, or the one of this name."""
    owner, _, key = name.rpartition(".")
    found = getattr(model.get_submodule(owner), key)
    if isinstance(found, Tensor):
        return [found]
    return [*found.parameters(), *found.buffers()] if isinstance(found, nn.Module) else []


def told_of(path: str, mode: str, example: Example, why: str) -> str:
    """One line about an output, in a mode as `pair.mode_name` calls it."""
    return f"{f'output {path}' if path else 'the output'} in {mode} mode on {example.title}: {why}"
