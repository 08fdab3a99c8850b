"""The masked parent and the cut model side by side: what each gives, in float32, disturbed, and in float64."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from yoloprune.cutting.equivalence import errors
from yoloprune.cutting.kept_outputs import KeptOutputs
from yoloprune.cutting.layer_outputs import LayerOutputs
from yoloprune.cutting.masked_parent import masked
from yoloprune.errors import VerifyError, first_line
from yoloprune.planning.plan import Plan
from yoloprune.probing.examples import Example, Run, run
from yoloprune.probing.forward import hooked
from yoloprune.probing.held_state import Held, copied, preserved
from yoloprune.probing.operations import listing
from yoloprune.torch_internals import float64_home, is_out_of_memory, tree_map

ROUNDING = 1e-6
"""Relative noise put on what every layer gives, to see how much of an error rounding could make: some float32 steps."""

STORED = 1e-7
"""The same for what float32 keeps of a weight: a cut scales the queries of attention, which float64 sees as well."""

ADVICE = (
    "Nothing was saved. Something in the forward pass depends on a width in a way that the trace does not see; "
    "name the layers whose widths it reads in keep=."
)


@dataclass
class Seen:
    """What one look at two networks found out that holds for the next, in the same mode.

    Attributes:
        kept (KeptOutputs): Which channels are left of outputs that lost some; looks at other weights share it.
        noise (dict): By output, the largest error that rounding was seen to make.
        alike (bool): Whether the parent does the same in float64.
    """

    kept: KeptOutputs = field(default_factory=KeptOutputs)
    noise: dict[str, float] = field(default_factory=dict)
    alike: bool = False


@dataclass
class Shared:
    """What all looks of one proof share, in the course of which no network changes.

    Attributes:
        held (dict): What each network holds.
        networks (dict): Copies in float64 by the network.
        decided (list): Outputs of the masked parent and of the cut model in float32, and the error in float64.
    """

    held: dict[nn.Module, Held] = field(default_factory=dict)
    networks: dict[nn.Module, nn.Module] = field(default_factory=dict)
    decided: list[tuple[Tensor, Tensor, float]] = field(default_factory=list)

    def state_of(self, model: nn.Module) -> Held:
        """What a network holds, looked up once."""
        if model not in self.held:
            self.held[model] = preserved(model)
        return self.held[model]

    def in_float64(self, model: nn.Module) -> nn.Module:
        """A copy in float64."""
        if model not in self.networks:
            plain = [*_plain_parameters(model)]
            home = float64_home(next((p.device for p in plain), torch.device("cpu")))
            doubled = {id(p): nn.Parameter(p.detach().to(home).double(), p.requires_grad) for p in plain}
            self.networks[model] = copied(model, doubled).to(home).double()
        return self.networks[model]

    def error_of(self, wanted: Any, got: Any) -> float | None:
        """What it found for the very same numbers: training mode gives much of what evaluation mode does."""
        if not isinstance(wanted, Tensor) or not isinstance(got, Tensor):
            return None
        same = (e for a, b, e in self.decided if torch.equal(a, wanted) and torch.equal(b, got))
        return next(same, None)


def _plain_parameters(model: nn.Module) -> Iterator[nn.Parameter]:
    return (p for p in model.parameters() if type(p) is nn.Parameter and p.is_floating_point())


@dataclass(frozen=True)
class Pair:
    """The two networks of a comparison and how they are run.

    Attributes:
        parent (nn.Module): The network before the cut; it is masked while it runs.
        model (nn.Module): The cut one.
        plan (Plan): What stays.
        example (Example): What both are run on.
        training (bool): Whether in training mode.
        frames (int): How often in a row, for networks that keep something from one call to the next.
        outputs (bool): Whether outputs may have lost channels.
        seed (int): Of the random numbers.
        level (bool): Whether all numbers of one draw are the same one, so that channels of other numbers get the same.
        inside (bool): Whether what the layers give is compared as well.
        seen (Seen): Of looks at the same networks before, and of this one.
        shared (Shared): Of all looks of one proof.
    """

    parent: nn.Module
    model: nn.Module
    plan: Plan
    example: Example
    training: int
    frames: int
    outputs: bool
    seed: int = 0
    level: bool = False
    inside: bool = False
    seen: Seen = field(default_factory=Seen)
    shared: Shared = field(default_factory=Shared)

    def run(self) -> tuple[Run, Run]:
        """What the masked parent gives, without the channels that an output lost, and what the cut model gives."""
        wanted = self.masked_run()
        try:
            got = self._run(self.model)
        except Exception as e:  # whatever a network may raise when a width it counts on has changed
            if is_out_of_memory(e):
                raise
            said = first_line(e).rstrip(".")
            where = f"in {mode_name(self.training)} mode on {self.example.title}"
            raise VerifyError(f"The cut model does not run {where}: {said}. {ADVICE}") from e
        if self.outputs:
            self.seen.kept.find(wanted, got, lambda: self.masked_run(written=1.0))
        wanted = self.fitting(wanted)
        return self.layers.both(wanted, got) if self.inside else (wanted, got)

    @cached_property
    def layers(self) -> LayerOutputs:
        """What is left of the outputs of layers."""
        return LayerOutputs(self.parent, self.model, self.plan)

    def masked_run(self, written: float = 0.0) -> Run:
        """What the masked parent gives."""
        with masked(self.parent, self.plan, written):
            return self._run(self.parent)

    def _run(self, model: nn.Module) -> Run:
        return run(
            model,
            self.example,
            self.training,
            frames=self.frames,
            seed=self.seed,
            level=self.level,
            inside=self.inside,
            held=self.shared.state_of(model),
        )

    def drawing(self, seed: int) -> Pair:
        """The same with level random numbers of another seed."""
        return replace(self, seed=seed, level=True)

    def is_random(self, wanted: Run, got: Run, paths: set[str]) -> set[str]:
        """Outputs that differ because the two networks had to draw different numbers."""
        if not wanted.drawn or wanted.draws == got.draws:
            return set()
        again = errors(wanted.leaves, self.fitting(replace(self, seed=self.seed + 1).masked_run()).leaves)
        return {path for path in paths if again.get(path, 0.0) > 0.0}

    def fitting(self, wanted: Run) -> Run:
        """A run of the parent without the channels that its outputs, and its layers, lost."""
        leaves = self.layers.left(wanted.leaves) if self.inside else wanted.leaves
        return replace(wanted, leaves=self.seen.kept.left(leaves))

    def noise(self, wanted: Run, size: float = ROUNDING) -> dict[str, float]:
        """By output, the largest error that rounding of this relative size makes in the masked parent."""
        worst: dict[str, float] = {}
        for seed in range(3):
            with _disturbed(self.parent, seed, size):
                moved = self.fitting(self.masked_run())
            for path, error in errors(wanted.leaves, moved.leaves).items():
                worst[path] = max(worst.get(path, 0.0), error)
        return worst

    def rounding(self, wanted: Run, needed: Mapping[str, float]) -> dict[str, float]:
        """The same, of all looks so far; looked for anew only where that is less than what is needed."""
        seen = self.seen.noise
        if any(not error <= seen.get(path, 0.0) for path, error in needed.items()):
            seen.update({path: max(seen.get(path, 0.0), error) for path, error in self.noise(wanted).items()})
        return seen

    def in_float64(self) -> Pair:
        """Copies in float64, where rounding errors are too small to reorder anything.

        Raises:
            VerifyError: If the parent does something else there than in its own precision.
        """
        parent, model = self.shared.in_float64(self.parent), self.shared.in_float64(self.model)
        precise = replace(self, parent=parent, model=model, example=self.example.in_float64())
        if not self.seen.alike and self._operations() != precise._operations():
            raise VerifyError("the network does something else there")
        self.seen.alike = True
        return precise

    def _operations(self) -> list[tuple[Any, ...]]:
        found = listing(self.parent, self.example, training=self.training, held=self.shared.state_of(self.parent))
        return [*(o for o in found.operations if o[0] != "aten::_to_copy"), *filter(None, found.numbers)]


def mode_name(training: int) -> str:
    """How a mode is called in messages."""
    return "training" if training else "evaluation"


@contextlib.contextmanager
def _disturbed(model: nn.Module, seed: int, size: float) -> Iterator[None]:
    """Noise of a relative size on what every innermost module gives."""
    drawn = np.random.default_rng(seed)  # not by torch, whose draws are counted, and seeded anew one by one: see `run`

    def noisy(x: Any) -> Any:
        if not isinstance(x, Tensor) or not x.is_floating_point():
            return x
        for dim in range(x.ndim):  # a factor per slice: a tenth of the time that one per value takes
            shape = [-1 if d == dim else 1 for d in range(x.ndim)]
            x = x * torch.from_numpy(1 + size * drawn.standard_normal(x.shape[dim])).to(x).reshape(shape)
        return x

    def disturb(module: nn.Module, args: Any, output: Any) -> Any:
        return tree_map(noisy, output)

    with hooked() as hooks:
        for module in model.modules():
            if not any(module.children()) and not isinstance(module, torch.jit.ScriptModule):
                hooks.append(module.register_forward_hook(disturb))
        yield
