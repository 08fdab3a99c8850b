"""The whole proof of a cut: with the parent's own weights, and again where every channel is sure to matter."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from yoloprune.cutting import surgery
from yoloprune.cutting.comparison import MUTE, Look, compare
from yoloprune.cutting.lively_copy import lively_copy, lively_example, sharing_copy
from yoloprune.cutting.pair import ADVICE, Seen, Shared, mode_name
from yoloprune.cutting.silence import LOUD, LOUDER, random_in, reached, silent_in, told_of, without_luck
from yoloprune.errors import VerifyError, first_line
from yoloprune.planning.plan import Plan
from yoloprune.probing.examples import Example, Probe, runs
from yoloprune.probing.operations import listing
from yoloprune.probing.own_code import has_own_code
from yoloprune.torch_internals import is_out_of_memory

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
        live = lively_copy(parent, probe.proving[0], bool(probe.modes(parent, probe.proving[0])[-1]))
    except Exception as e:  # whatever a network may raise that checks its own values
        if is_out_of_memory(e):
            raise
        unlit.append(f"the network brought to life: it does not run ({e})")
    else:
        if live is not None:
            pairs.append(_Pair("brought to life", live, surgery.cut(sharing_copy(live), plan)))
    compared = _Comparison(parent, plan, probe, outputs, pairs)
    for one in probe.proving:
        for training in probe.modes(parent, one):
            for pair in pairs:
                compared.look(pair, one, training, inside=pair is pairs[-1] and not training)
    loud = probe.proving[0].louder(LOUD)
    lively = lively_example(loud, parent)
    if has_own_code(parent) and runs(parent, loud, False) and runs(pairs[-1].parent, lively, False):
        compared.look(pairs[-1], probe.proving[0], False, loud)
    if probe.asked and probe.affordable:
        compared.look(pairs[-1], probe.asked[0], False, tolerance=COARSE)
    for one in probe.asked:
        require_run(model, one)
    _require_same(surgery.cut(sharing_copy(parent), plan), model)
    silent = [line for one, training in tuple(compared.looks) for line in compared.silent(one, training)]
    if not any(found.told for group in compared.looks.values() for found in group):
        raise VerifyError(MUTE)
    small = [found.error for (one, _), group in compared.looks.items() if one not in probe.asked for found in group]
    large = [found.error for (one, _), group in compared.looks.items() if one in probe.asked for found in group]
    not_compared = (*unlit, *dict.fromkeys(silent))
    return Proof(max(small), max(large, default=None), tuple(compared.titles), not_compared)


def require_run(model: nn.Module, example: Example) -> None:
    """Raise VerifyError unless a cut model runs on an example; nothing is multiplied for that where possible."""
    for hollow in (True, False):
        try:
            listing(model, example, training=False, hollow=hollow)
            return
        except Exception as e:  # whatever a network may raise when a width it counts on has changed
            if is_out_of_memory(e):
                raise
            said = first_line(e).rstrip(".")
    raise VerifyError(f"The cut model does not run on {example.title}: {said}. {ADVICE}")


def _require_same(wanted: nn.Module, model: nn.Module) -> None:
    """Raise VerifyError unless a cut model holds the very tensors and numbers of another."""
    theirs = dict(model.named_modules())
    for name, module in wanted.named_modules():
        if name not in theirs:
            raise VerifyError(_changed(name))
        mine, others = _held(module), _held(theirs[name])
        for key in dict.fromkeys([*mine, *others]):
            if not _same(mine.get(key), others.get(key)):
                raise VerifyError(_changed(f"{name}.{key}".lstrip(".")))


def _held(module: nn.Module) -> dict[str, Any]:
    """Tensors of a module itself, and the numbers that it keeps."""
    numbers = {k: v for k, v in vars(module).items() if isinstance(v, int | float) and k != "training"}
    return {**numbers, **dict(module.named_parameters(recurse=False)), **dict(module.named_buffers(recurse=False))}


def _same(a: Any, b: Any) -> bool:
    if not isinstance(a, Tensor) or not isinstance(b, Tensor):
        return type(a) is type(b) and (a == b or repr(a) == repr(b))  # one not-a-number is another
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if a.layout != torch.strided or a.is_meta or a.is_quantized or a.is_nested:
        return True  # no cut changes such a one
    return torch.equal(a, b) or (a.is_floating_point() and torch.allclose(a, b, 0.0, 0.0, equal_nan=True))


def _changed(name: str) -> str:
    return f"'{name}' of the cut model is not what cutting its parent gives. Nothing was saved."


@dataclass(frozen=True)
class _Pair:
    title: str
    parent: nn.Module
    model: nn.Module


@dataclass
class _Comparison:
    """All looks at a cut.

    Attributes:
        looks (dict): Those at one example in one mode, by both.
        titles (list[str]): What was compared: network, mode and example.
        seen (dict): By pair and mode, what its looks found out; which outputs lost channels holds for all pairs.
        shared (Shared): What holds for all of them.
    """

    parent: nn.Module
    plan: Plan
    probe: Probe
    outputs: bool
    pairs: list[_Pair]
    looks: dict[tuple[Example, int], list[Look]] = field(default_factory=dict)
    titles: list[str] = field(default_factory=list)
    seen: dict[tuple[str, int], Seen] = field(default_factory=dict)
    shared: Shared = field(default_factory=Shared)

    def look(self, pair: _Pair, one: Example, training: int, given: Example | None = None, **how: Any) -> None:
        """Compare a pair on an example, or on one given in its place."""
        given = given or one
        shown = given if pair is self.pairs[0] else lively_example(given, self.parent)
        how = {"frames": self.probe.frames, "outputs": self.outputs, "shared": self.shared, **how}
        first = self.seen.setdefault((self.pairs[0].title, training), Seen())
        seen = self.seen.setdefault((pair.title, training), Seen(kept=first.kept))
        found = compare(pair.parent, pair.model, self.plan, shown, training, seen=seen, **how)
        self.looks.setdefault((one, training), []).append(found)
        self.titles.append(f"{given.title}, {mode_name(training)} mode, {pair.title}")

    def silent(self, one: Example, training: int) -> list[str]:
        """Outputs that no look at an example says anything about, in words; louder examples are tried first.

        Raises:
            VerifyError: If the cut may change one of them, and nothing stands for it.
        """
        looks = self.looks[one, training]
        if not silent_in(looks):
            return []
        changing = reached(self.parent, self.plan, one, training, self.probe.frames)
        for factor in LOUDER:
            if not (silent_in(looks) - random_in(looks)) & changing:
                break
            try:
                self.look(self.pairs[-1], one, training, one.louder(factor))
            except VerifyError:
                raise
            except Exception as e:  # whatever a network may raise that does not take such an image
                if is_out_of_memory(e):
                    raise
                continue
        doubtful = (silent_in(looks) - random_in(looks)) & changing
        if doubtful and doubtful <= without_luck(looks) and not any(look.layers for look in looks):
            self.look(self.pairs[-1], one, training, inside=True)
        mode = mode_name(training)
        if doubtful and not (doubtful <= without_luck(looks) and any(look.layers for look in looks)):
            said = told_of(min(doubtful), mode, one, "zero, empty, not a number, or of one class")
            raise VerifyError(
                f"{said[0].upper()}{said[1:]}, also in a network brought to life, which proves nothing about it. "
                "Give an example on which it is not."
            )
        why = dict.fromkeys(silent_in(looks), "zero, empty, not a number, or of one class, whatever is cut")
        why |= dict.fromkeys(doubtful, "empty, or of one class; what the layers give was compared in its place")
        why |= dict.fromkeys(random_in(looks), "drawn at random")
        return [told_of(path, mode, one, why[path]) for path in sorted(why)]
