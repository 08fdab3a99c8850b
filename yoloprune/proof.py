"""The whole proof of a cut: with the parent's own weights, and again where every channel is sure to matter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from yoloprune import surgery
from yoloprune.errors import VerifyError
from yoloprune.examples import Example, Probe, modes
from yoloprune.lively import lively_copy, lively_example, sharing_copy
from yoloprune.operations import listing
from yoloprune.outputs import leaves
from yoloprune.pair import ADVICE, mode_name
from yoloprune.plans import Plan
from yoloprune.verify import TOLERANCE, Look, compare
from yoloprune.watching import preserved, running

COARSE = 1e-2
"""Accepted error at the size that was asked for: the numbers were compared on the small image already, and more pixels
have larger rounding errors among them; what goes another way there is wrong altogether."""


@dataclass(frozen=True)
class Proof:
    """What a cut was compared on, and how well it stood.

    Attributes:
        error (float): Largest error of the comparisons on small images, see `equivalence.apart`.
        error_at_size (float | None): That of the one at the size that was asked for, None where there was none.
        looks (tuple[str, ...]): What was compared: network, mode and example.
        not_compared (tuple[str, ...]): Outputs that no comparison says anything about, and why.
    """

    error: float
    error_at_size: float | None
    looks: tuple[str, ...]
    not_compared: tuple[str, ...]


def prove(parent: nn.Module, model: nn.Module, plan: Plan, example: Any, *, outputs: bool = True) -> Proof:
    """Check that a cut model computes what its masked parent does, and that the same cut is right in a lively network.

    In a network whose signal dies out, as with fresh weights, no output depends on what happens deep inside, and any
    cut passes. So plan and surgery have to stand on a copy of the parent as well that is brought to life, see
    `lively_copy`. Both are compared in evaluation and in training mode, on every example of the probe.

    Args:
        parent (nn.Module): The model before the cut, stays untouched.
        model (nn.Module): The model after the cut.
        plan (Plan): The plan that was cut.
        example (Tensor | tuple | Example | Probe): Input, e.g. shape (B, C, H, W).
        outputs (bool): Whether outputs may have lost channels themselves.

    Returns:
        (Proof): Errors, and what was not compared.

    Raises:
        VerifyError: If one comparison fails, or an output that the cut may change says nothing in any of them.
    """
    probe = Probe.of(example)
    pairs = [_Pair("as it is", parent, model)]
    unlit: list[str] = []
    try:
        if (live := lively_copy(parent, probe.proving[0])) is not None:
            pairs.append(_Pair("brought to life", live, surgery.cut(sharing_copy(live), plan)))
    except Exception as e:  # whatever a network may raise that checks its own values
        unlit.append(f"the network brought to life: it does not run ({e})")
    looks: dict[tuple[Example, bool], list[Look]] = {}
    told: list[str] = []

    def look(pair: _Pair, one: Example, training: bool, tolerance: float = TOLERANCE) -> None:
        given = one if pair is pairs[0] else lively_example(one, parent)
        how = {"frames": probe.frames, "outputs": outputs, "tolerance": tolerance}
        found = compare(pair.parent, pair.model, plan, given, training, **how)
        looks.setdefault((one, training), []).append(found)
        told.append(f"{one.title}, {mode_name(training)} mode, {pair.title}")

    for one in probe.proving:
        for training in modes(parent, one):
            for pair in pairs:
                look(pair, one, training)
    if probe.asked and probe.affordable:
        look(pairs[-1], probe.asked[0], False, COARSE)
    for one in probe.asked:
        require_run(model, one)
    if not any(found.told for group in looks.values() for found in group):
        raise VerifyError(
            "All outputs are zero, empty or not a number on this example, which proves nothing. Give an example with "
            "other values."
        )
    silent = [line for (one, training), group in looks.items() for line in _silent(parent, plan, one, training, group)]
    small = [found.error for (one, _), group in looks.items() if one not in probe.asked for found in group]
    large = [found.error for (one, _), group in looks.items() if one in probe.asked for found in group]
    return Proof(max(small), max(large, default=None), tuple(told), (*unlit, *dict.fromkeys(silent)))


def require_run(model: nn.Module, example: Example) -> None:
    """Raise VerifyError unless a cut model runs on an example; nothing is multiplied for that where possible."""
    for hollow in (True, False):
        try:
            listing(model, example, training=False, hollow=hollow)
            return
        except Exception as e:  # whatever a network may raise when a width it counts on has changed
            said = (str(e).strip() or type(e).__name__).splitlines()[0].rstrip(".")
    raise VerifyError(f"The cut model does not run on {example.title}: {said}. {ADVICE}")


@dataclass(frozen=True)
class _Pair:
    title: str
    parent: nn.Module
    model: nn.Module


def _silent(parent: nn.Module, plan: Plan, example: Example, training: bool, looks: list[Look]) -> list[str]:
    """Outputs that no look at an example says anything about, in words.

    Raises:
        VerifyError: If the cut may change one of them.
    """
    mute = frozenset.intersection(*(look.mute | look.random for look in looks))
    if not mute:
        return []
    where = f"in {mode_name(training)} mode on {example.title}"
    reached = _reached(parent, plan, example, training)
    lines = []
    for path in sorted(mute):
        name = f"output {path}" if path else "the output"
        if any(path in look.random for look in looks):
            lines.append(f"{name} {where}: drawn at random")
        elif path in reached:
            raise VerifyError(
                f"{name[0].upper()}{name[1:]} is zero, empty or not a number {where}, also in a network brought to "
                "life, which proves nothing about it. Give an example on which it is not."
            )
        else:
            lines.append(f"{name} {where}: zero, empty or not a number, whatever is cut")
    return lines


def _reached(parent: nn.Module, plan: Plan, example: Example, training: bool) -> set[str]:
    """Outputs that depend on a layer that is cut; gradients tell."""
    cut = {id(p) for name in plan.keep for p in _parameters(parent, name)}
    wanted = [(p, p.requires_grad) for p in parent.parameters()]
    try:
        for p, _ in wanted:
            p.requires_grad = p.is_floating_point() and id(p) in cut
        with preserved(parent), running(parent, training), torch.enable_grad():
            return {
                path
                for path, value in leaves(example(parent))
                if isinstance(value, Tensor) and (value.requires_grad or value.is_inference())
            }
    finally:
        for p, on in wanted:
            p.requires_grad = on


def _parameters(model: nn.Module, name: str) -> list[nn.Parameter]:
    """Parameters of a module, or the one of this name."""
    owner, _, key = name.rpartition(".")
    found = getattr(model.get_submodule(owner), key)
    return [found] if isinstance(found, nn.Parameter) else list(found.parameters())
