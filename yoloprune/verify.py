"""Proof by running: the cut model computes what its masked parent computes, in each mode, on each example."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from yoloprune.equivalence import apart, errors, kept_rows, says_something
from yoloprune.errors import VerifyError
from yoloprune.examples import Example, Probe, Run, modes, run
from yoloprune.masked_parent import masked
from yoloprune.outputs import Leaf
from yoloprune.plans import Plan
from yoloprune.watching import hooked

TOLERANCE = 1e-4
"""Largest accepted error of an output, see `apart`."""

PLAUSIBLE = 1e-3
"""Error up to which float64 may find that it was rounding; a larger one has to be explained first."""

ROUNDING = 1e-6
"""Relative noise put on what every layer gives, to see how much of an error rounding could make: some float32 steps."""

EXPLAINED = 100.0
"""How many times the error of such noise a larger error may be to be put down to rounding; float64 then decides."""

ADVICE = (
    "Nothing was saved. Something in the forward pass depends on a width in a way that the trace does not see; "
    "name the layers whose widths it reads in keep=."
)


@dataclass(frozen=True)
class Look:
    """What one comparison found.

    Attributes:
        error (float): Largest error of the outputs that were compared.
        told (frozenset[str]): Outputs that were compared and say something, by path.
        mute (frozenset[str]): Outputs that are equal but say nothing: all zero, empty, or not a number.
        random (frozenset[str]): Outputs left out because the parent's own are random.
    """

    error: float
    told: frozenset[str]
    mute: frozenset[str]
    random: frozenset[str]


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
        for training in modes(parent, one)
    ]
    if not any(look.told for look in looks):
        raise VerifyError(
            "All outputs are zero, empty or not a number on this example, which proves nothing. Give an example with "
            "other values."
        )
    return max(look.error for look in looks)


def compare(
    parent: nn.Module,
    model: nn.Module,
    plan: Plan,
    example: Example,
    training: bool,
    *,
    frames: int = 1,
    outputs: bool = True,
    tolerance: float = TOLERANCE,
) -> Look:
    """Compare all that comes out of the masked parent and of the cut model in one mode.

    An error beyond the tolerance stands unless rounding explains it: it is small, or the parent's own output moves as
    much when layers are disturbed by that much, because it sorts, or because what it is made of cancels out. Then
    float64 decides.

    Raises:
        VerifyError: If they differ, or the cut model does not run.
    """
    pair = _Pair(parent, model, plan, example, training, frames, outputs)
    wanted, got = pair.run()
    found = errors(wanted.leaves, got.leaves)
    random: set[str] = set()
    if wrong := {path for path, error in found.items() if not error <= tolerance}:
        if wanted.drawn:
            again = errors(wanted.leaves, pair.fitting(pair.masked_run(seed=1)).leaves)
            random = {path for path in wrong if again.get(path, 0.0) > tolerance}
            if random and not training:
                raise VerifyError(f"{_output(random)} is drawn at random in evaluation mode, which proves nothing.")
        if doubtful := wrong - random:
            large = {path for path in doubtful if not found[path] <= PLAUSIBLE}
            noise = pair.noise(wanted) if large else {}
            if any(not found[path] <= EXPLAINED * noise.get(path, 0.0) for path in large):
                raise VerifyError(_difference(wanted, got, found, doubtful, training))
            found |= pair.in_float64(doubtful, found)
    compared = {path: error for path, error in found.items() if path not in random}
    values = dict(wanted.leaves)
    told = frozenset(path for path in compared if says_something(values[path]))
    return Look(max(compared.values(), default=0.0), told, frozenset(compared) - told, frozenset(random))


@dataclass(frozen=True)
class _Pair:
    """The two networks of a comparison and how they are run."""

    parent: nn.Module
    model: nn.Module
    plan: Plan
    example: Example
    training: bool
    frames: int
    outputs: bool
    kept: dict[str, tuple[int, list[int]]] = field(default_factory=dict)

    def run(self) -> tuple[Run, Run]:
        """What the masked parent gives, without the channels that an output lost, and what the cut model gives."""
        wanted = self.masked_run()
        try:
            got = run(self.model, self.example, self.training, frames=self.frames)
        except Exception as e:  # whatever a network may raise when a width it counts on has changed
            said = (str(e).strip() or type(e).__name__).splitlines()[0].rstrip(".")
            raise VerifyError(
                f"The cut model does not run in {_mode(self.training)} mode on {self.example.title}: {said}. {ADVICE}"
            ) from e
        if self.outputs:
            self._find_kept(wanted, got)
        return self.fitting(wanted), got

    def masked_run(self, written: float = 0.0, seed: int = 0) -> Run:
        with masked(self.parent, self.plan, written):
            return run(self.parent, self.example, self.training, frames=self.frames, seed=seed)

    def _find_kept(self, wanted: Run, got: Run) -> None:
        """Find out which channels the outputs lost that are narrower than the parent's."""
        theirs = dict(got.leaves)
        shorter = {
            path: a
            for path, a in wanted.leaves
            if isinstance(a, Tensor) and isinstance(b := theirs.get(path), Tensor) and a.shape != b.shape
        }
        marked = dict(self.masked_run(written=1.0).leaves) if shorter else {}
        for path, a in shorter.items():
            if (found := kept_rows(a, marked[path], theirs[path])) is not None:
                self.kept[path] = found

    def fitting(self, wanted: Run) -> Run:
        """A run of the parent without the channels that its outputs lost."""
        leaves = dict(wanted.leaves)
        for path, (dim, rows) in self.kept.items():
            leaves[path] = leaves[path].index_select(dim, torch.tensor(rows, device=leaves[path].device))
        return Run([Leaf(path, value) for path, value in leaves.items()], wanted.drawn)

    def noise(self, wanted: Run) -> dict[str, float]:
        """By output, the largest error that rounding makes in the masked parent."""
        worst: dict[str, float] = {}
        for seed in range(3):
            with _disturbed(self.parent, seed):
                moved = self.fitting(self.masked_run())
            for path, error in errors(wanted.leaves, moved.leaves).items():
                worst[path] = max(worst.get(path, 0.0), error)
        return worst

    def in_float64(self, doubtful: set[str], before: dict[str, float]) -> dict[str, float]:
        """Errors of some outputs in float64, where rounding errors are too small to reorder anything."""
        try:
            networks = [copy.deepcopy(m).double() for m in (self.parent, self.model)]
            double = _Pair(networks[0], networks[1], self.plan, self.example.cast(Tensor.double), *self._how())
            wanted, got = double.run()
        except VerifyError:
            raise
        except Exception as e:  # a network that does not run in float64 at all
            path = max(doubtful, key=before.__getitem__)
            raise VerifyError(f"{_told(path, before[path], self.training)}, and float64 cannot decide: {e}") from e
        found = errors(wanted.leaves, got.leaves)
        wrong = {path for path in doubtful if not found.get(path, float("inf")) <= TOLERANCE}
        if wrong:
            raise VerifyError(_difference(wanted, got, found, wrong, self.training))
        return {path: found[path] for path in doubtful}

    def _how(self) -> tuple[bool, int, bool]:
        return self.training, self.frames, self.outputs


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
            worst = max(worst, float((a - b).double().norm() / a.double().norm().clamp_min(1e-30)))
    return worst


@contextlib.contextmanager
def _disturbed(model: nn.Module, seed: int) -> Iterator[None]:
    """Noise of `ROUNDING` on what every innermost module gives."""
    generator = torch.Generator().manual_seed(seed)

    def noisy(x: Any) -> Any:
        if not isinstance(x, Tensor) or not x.is_floating_point():
            return x
        for dim in range(x.ndim):  # a factor per slice: a tenth of the time that one per value takes
            shape = [-1 if d == dim else 1 for d in range(x.ndim)]
            x = x * (1 + ROUNDING * torch.randn(x.shape[dim], generator=generator)).to(x).reshape(shape)
        return x

    def disturb(module: nn.Module, args: Any, output: Any) -> Any:
        return tree_map(noisy, output)

    with hooked() as hooks:
        for module in model.modules():
            if not any(module.children()):
                hooks.append(module.register_forward_hook(disturb))
        yield


def _mode(training: bool) -> str:
    return "training" if training else "evaluation"


def _output(paths: set[str]) -> str:
    named = sorted(path for path in paths if path)
    return f"Output {named[0]}" if named else "The output"


def _told(path: str, error: float, training: bool) -> str:
    where = f" in output {path}" if path else ""
    return (
        f"The cut model differs from its masked parent{where} in {_mode(training)} mode: relative error {error:.1e}, "
        f"at most {TOLERANCE:.0e} is accepted"
    )


def _difference(wanted: Run, got: Run, found: dict[str, float], wrong: set[str], training: bool) -> str:
    """What is wrong, in words."""
    mine, theirs = dict(wanted.leaves), dict(got.leaves)
    if mine.keys() != theirs.keys():
        return f"The cut model has {len(theirs)} outputs, its parent {len(mine)}. {ADVICE}"
    path = max(wrong, key=found.__getitem__)
    a, b = mine[path], theirs[path]
    if isinstance(a, Tensor) and isinstance(b, Tensor) and a.shape != b.shape:
        return f"{_output({path})} has shape {tuple(b.shape)}, in the parent {tuple(a.shape)}. {ADVICE}"
    if not isinstance(a, Tensor) and apart(a, a) > 0:
        return f"{_output({path})} is a {type(a).__name__}, which cannot be looked into; return tensors instead."
    return f"{_told(path, found[path], training)}. {ADVICE}"
