"""Proof by running: the cut model computes what its masked parent computes, in each mode, on each example."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from math import isinf
from typing import Any

from torch import Tensor, nn

from yoloprune.cutting.equivalence import apart, depends_on_luck, errors, says_something
from yoloprune.cutting.pair import ADVICE, STORED, Pair, Seen, Shared, mode_name
from yoloprune.errors import UndecidedError, VerifyError
from yoloprune.planning.plan import Plan
from yoloprune.probing.examples import DRAWS, Example, Probe, Run, is_of_layer, layer_of, run
from yoloprune.torch_internals import is_out_of_memory

TOLERANCE = 1e-4
"""Largest accepted error of an output, see `apart`."""

WITHIN = 1e-3
"""Largest accepted error of what a layer gives: a fault is larger where it begins, and rounding may bring one of many
layers near what is accepted of outputs.
"""

PLAUSIBLE = 1e-3
"""Error up to which float64 may find that it was rounding; a larger one has to be explained first."""

EXPLAINED = 100.0
"""How many times the error of such noise a larger error may be to be put down to rounding; float64 then decides."""

MUTE = (
    "All outputs are zero, empty or not a number on this example, which proves nothing. Give an example with other "
    "values."
)
"""What is said where no output says anything."""


@dataclass(frozen=True)
class Look:
    """What one comparison found.

    Attributes:
        error (float): Largest error of the outputs that were compared.
        told (frozenset[str]): Outputs that were compared and say something, by path.
        mute (frozenset[str]): Outputs that are equal but say nothing: all zero, empty, not a number, or of one class.
        luckless (frozenset[str]): Those of them that may be so by the luck of the example: empty, or of one class.
        random (frozenset[str]): Outputs left out because the parent's own are random.
        layers (bool): Whether what layers give was compared, and says something.
    """

    error: float
    told: frozenset[str]
    mute: frozenset[str]
    random: frozenset[str]
    luckless: frozenset[str] = frozenset()
    layers: bool = False


def verify(parent: nn.Module, model: nn.Module, plan: Plan, example: Any, *, outputs: bool = True) -> float:
    """Compare the cut model with the masked parent on one example, in evaluation mode and in training mode.

    Batch-norm and dropout are in evaluation mode in both; networks that need targets to train are not run so.

    Args:
        parent (nn.Module): The model before the cut.
        model (nn.Module): The model after the cut.
        plan (Plan): The plan that was cut.
        example (Tensor | tuple | Example | Probe): Input, e.g. shape (B, C, H, W).
        outputs (bool): Whether outputs may have lost channels themselves.

    Returns:
        (float): Largest error, see `apart`.

    Raises:
        VerifyError: If something else comes out, the error exceeds `TOLERANCE`, or all outputs say nothing.
    """
    probe = Probe.of(example)
    looks = [
        compare(parent, model, plan, one, training, frames=probe.frames, outputs=outputs)
        for one in probe.proving
        for training in probe.modes(parent, one)
    ]
    if not any(look.told for look in looks):
        raise VerifyError(MUTE)
    return max(look.error for look in looks)


def compare(
    parent: nn.Module,
    model: nn.Module,
    plan: Plan,
    example: Example,
    training: int,
    *,
    frames: int = 1,
    outputs: bool = True,
    tolerance: float = TOLERANCE,
    inside: bool = False,
    seen: Seen | None = None,
    shared: Shared | None = None,
) -> Look:
    """Compare all that comes out of the masked parent and of the cut model in one mode.

    An error beyond the tolerance stands unless rounding explains it: it is small, or the parent's own output moves as
    much when layers are disturbed by that much, because it sorts, or because what it is made of cancels out. Then
    float64 decides. What was found out is kept in `seen` for looks at the same networks in the same mode, and in
    `shared` for all looks of one proof.

    Raises:
        VerifyError: If they differ, or the cut model does not run.
    """
    seen, shared = seen or Seen(), shared or Shared()
    pair = Pair(parent, model, plan, example, training, frames, outputs, inside=inside, seen=seen, shared=shared)
    wanted, got = pair.run()
    if not wanted.drawn:
        return _judged(pair, wanted, got, tolerance)
    drawn = [pair.drawing(seed) for seed in range(DRAWS)]
    return joined([_judged(one, *one.run(), tolerance) for one in drawn])


def joined(looks: Sequence[Look]) -> Look:
    """Several looks at the same outputs as one."""
    told = frozenset().union(*(look.told for look in looks))
    mute = frozenset().union(*(look.mute for look in looks)) - told
    random = frozenset().union(*(look.random for look in looks)) - told
    luckless = frozenset().union(*(look.luckless for look in looks))
    layers = any(look.layers for look in looks)
    return Look(max(look.error for look in looks), told, mute - random, random, luckless & mute - random, layers)


def _judged(pair: Pair, wanted: Run, got: Run, tolerance: float) -> Look:
    """Compare what came out of both."""
    found = errors(wanted.leaves, got.leaves)
    wrong = {path for path, error in found.items() if not error <= (WITHIN if is_of_layer(path) else tolerance)}
    random = pair.is_random(wanted, got, wrong) if wrong else set()
    if (outputs := _outputs(random)) and not pair.training:
        raise VerifyError(f"{_output(outputs)} is drawn at random in evaluation mode, which proves nothing.")
    values, theirs = dict(wanted.leaves), dict(got.leaves)
    known = {p: pair.shared.error_of(values.get(p), theirs.get(p)) for p in wrong - random}
    found |= {path: error for path, error in known.items() if error is not None}
    if doubtful := {path for path, error in known.items() if error is None}:
        large = {path for path in doubtful if not found[path] <= PLAUSIBLE}
        noise = pair.rounding(wanted, {path: found[path] / EXPLAINED for path in large})
        if any(not found[path] <= EXPLAINED * noise.get(path, 0.0) for path in large):
            raise VerifyError(_difference(wanted, got, found, doubtful, pair.training))
        decided = _decided(pair, doubtful, found, tolerance)
        pair.shared.decided.extend((values[p], theirs[p], error) for p, error in decided.items())
        found |= decided
    compared = {p: error for p, error in found.items() if p not in random and values.get(p, found) is not None}
    speaking = {path for path in compared if says_something(values[path])}
    told = _outputs(speaking)
    mute = _outputs(compared) - told
    luckless = frozenset(path for path in mute if depends_on_luck(values[path]))
    layers = len(told) < len(speaking)
    error = max((compared[path] for path in _outputs(compared)), default=0.0)
    return Look(error, told, mute, _outputs(random), luckless, layers)


def _outputs(paths: Iterable[str]) -> frozenset[str]:
    return frozenset(path for path in paths if not is_of_layer(path))


def _decided(pair: Pair, doubtful: set[str], before: dict[str, float], tolerance: float) -> dict[str, float]:
    """Errors of some outputs in float64.

    Raises:
        VerifyError: If one of them is too large there as well, and larger than what rounding the weights to float32
            makes of it, or the network does not run so.
    """
    try:
        precise = pair.in_float64()
        wanted, got = precise.run()
    except Exception as e:  # whatever a network may raise that does not run in float64, or not as in float32
        if is_out_of_memory(e):
            raise
        path = max(doubtful, key=before.__getitem__)
        raise UndecidedError(f"{_told(path, before[path], pair.training)}, and float64 cannot decide: {e}") from e
    found = errors(wanted.leaves, got.leaves)
    wrong = {path for path in doubtful if not found.get(path, float("inf")) <= tolerance}
    noise = precise.noise(wanted, STORED) if wrong else {}
    # What is no number differs in full or not at all, under noise as well: that excuses nothing.
    allowed = {path: 0.0 if isinf(noise.get(path, 0.0)) else noise.get(path, 0.0) for path in wrong}
    if wrong := {path for path in wrong if not found.get(path, float("inf")) <= allowed[path]}:
        raise VerifyError(_difference(wanted, got, found, wrong, pair.training))
    return {path: found[path] for path in doubtful}


def distance(parent: nn.Module, model: nn.Module, example: Example) -> float:
    """How far apart the outputs of two networks are in evaluation mode, as they are.

    Returns:
        (float): Root mean square of the difference relative to that of the first one's output; the largest of all
            outputs of numbers that have the same shape in both, 0 if there is none.
    """
    wanted, got = (dict(run(m, example, False).leaves) for m in (parent, model))
    worst = 0.0
    for path, a in wanted.items():
        b = got.get(path)
        comparable = isinstance(a, Tensor) and isinstance(b, Tensor) and a.shape == b.shape
        if comparable and a.is_floating_point() and a.numel():
            worst = max(worst, float((a - b).cpu().double().norm() / a.cpu().double().norm().clamp_min(1e-30)))
    return worst


def _output(paths: Collection[str]) -> str:
    named = sorted(path for path in paths if path)
    return f"Output {named[0]}" if named else "The output"


def _told(path: str, error: float, training: int) -> str:
    where = f" in output {path}" if path else ""
    where = f" behind layer {layer_of(path)}" if is_of_layer(path) else where
    return (
        f"The cut model differs from its masked parent{where} in {mode_name(training)} mode: relative error "
        f"{error:.1e}, at most {WITHIN if is_of_layer(path) else TOLERANCE:.0e} is accepted"
    )


def _difference(wanted: Run, got: Run, found: dict[str, float], wrong: set[str], training: int) -> str:
    """What is wrong, in words."""
    mine, theirs = dict(wanted.leaves), dict(got.leaves)
    if mine.keys() != theirs.keys():
        return f"The cut model has {len(theirs)} outputs, its parent {len(mine)}. {ADVICE}"
    inside = [path for path in mine if path in wrong and is_of_layer(path)]
    path = inside[0] if inside else max(wrong, key=found.__getitem__)  # the first layer is where it begins
    a, b = mine[path], theirs[path]
    if isinstance(a, Tensor) and isinstance(b, Tensor) and a.shape != b.shape:
        return f"{_output({path})} has shape {tuple(b.shape)}, in the parent {tuple(a.shape)}. {ADVICE}"
    if not isinstance(a, Tensor) and apart(a, a) > 0:
        return f"{_output({path})} is a {type(a).__name__}, which cannot be looked into; return tensors instead."
    return f"{_told(path, found[path], training)}. {ADVICE}"
