"""What a network is run on, and one run of it: the same draws every time, and all that comes out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from yoloprune.errors import ModelError, first_line
from yoloprune.probing import random_draws
from yoloprune.probing.forward import WHOLE, has_own_way, hooked, running
from yoloprune.probing.held_state import Held, preserved
from yoloprune.probing.outputs import Leaf, leaves, mapped, plain, tensors
from yoloprune.torch_internals import float64_home, is_out_of_memory

DRAWS = 8
"""With so many seeds a network is run that draws random numbers: a branch that it takes every other time is taken."""


@dataclass(frozen=True, eq=False)
class Example:
    """One way of running a network.

    Attributes:
        inputs (tuple): Arguments of `forward`, tensors or anything that holds some.
        title (str): What it is called where something is said about it, e.g. "2 images of 64 px".
        call (Callable | None): How to run it where that is not `model(*inputs)`, given the network and the inputs.
    """

    inputs: tuple[Any, ...]
    title: str = "the example"
    call: Callable[..., Any] | None = None

    @classmethod
    def of(cls, example: Any) -> Example:
        """An example from what a user may give: the arguments as a tuple, or the only one."""
        return cls(example if isinstance(example, tuple) else (example,))

    def fresh(self) -> tuple[Any, ...]:
        """Inputs that a network may change in place."""
        copies: tuple[Any, ...] = mapped(self.inputs, Tensor.clone)
        return copies

    def __call__(self, model: nn.Module) -> Any:
        """What the network makes of it."""
        return model(*self.fresh()) if self.call is None else self.call(model, *self.fresh())

    def cast(self, convert: Callable[[Tensor], Tensor]) -> Example:
        """The same with other floating-point tensors."""
        cast = mapped(self.inputs, lambda x: convert(x) if x.is_floating_point() else x)
        return replace(self, inputs=cast)

    def in_float64(self) -> Example:
        """The same in float64, on the CPU where its device has none."""
        return replace(self, inputs=mapped(self.inputs, lambda x: x.to(float64_home(x.device)))).cast(Tensor.double)

    def louder(self, factor: float) -> Example:
        """The same with all numbers that many times as large."""
        loud = self.cast(lambda x: x * factor if x.dtype.itemsize > 1 else x)  # of eight bits: nobody counts with these
        return replace(loud, title=f"{self.title} times {factor:g}")

    @property
    def shapes(self) -> str:
        """Shapes of its tensors, for messages."""
        given = [leaf.value for leaf in leaves(self.inputs) if isinstance(leaf.value, Tensor)]
        found = ["nested" if x.is_nested else str(tuple(x.shape)) for x in given]
        return " and ".join(found) or "no tensor"


@dataclass(frozen=True)
class Probe:
    """All the ways in which a network is run to trace and to prove a cut.

    Attributes:
        examples (tuple[Example, ...]): The first one counts the work; the others take further branches.
        proving (tuple[Example, ...]): Those on which a cut is proved.
        asked (tuple[Example, ...]): Of the size that was asked for, where that is another; a cut has to run on them.
        affordable (bool): Whether the first of these is small enough to prove a cut on it as well.
        frames (int): How often in a row each is run: 2 at least where a network remembers something.
        same (dict): From examples to one on which the same operations run, in both modes.
    """

    examples: tuple[Example, ...]
    proving: tuple[Example, ...]
    asked: tuple[Example, ...] = ()
    affordable: bool = False
    frames: int = 1
    same: Mapping[Example, Example] = field(default_factory=dict, compare=False)
    _modes: dict[Example, tuple[int, ...]] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of(cls, example: Any) -> Probe:
        """A probe of one example, whatever it was given as."""
        if isinstance(example, Probe):
            return example
        only = example if isinstance(example, Example) else Example.of(example)
        return cls((only,), (only,))

    def modes(self, model: nn.Module, one: Example) -> tuple[int, ...]:
        """See `modes`; asked once for a network and its copies, and for examples that do the same."""
        one = self.same.get(one, one)
        if one not in self._modes:
            self._modes[one] = modes(model, one)
        return self._modes[one]


LAYER = "layer "
"""What the paths of leaves begin with that are no outputs of the network."""


def is_of_layer(path: str) -> bool:
    """Whether a leaf is what a layer gave."""
    return path.startswith(LAYER)


def layer_of(path: str) -> str:
    """Name of the module that gave a leaf."""
    return path.removeprefix(LAYER).rpartition(", ")[0]


def modes(model: nn.Module, example: Example) -> tuple[int, ...]:
    """Evaluation mode, and training mode where the network runs so, since some want targets there; and `WHOLE`, where
    that is another one.
    """
    if not runs(model, example, True):
        return (False,)
    whole = any(map(has_own_way, model.modules())) and _gives(model, example, WHOLE) >= _gives(model, example, True)
    return (False, True, WHOLE) if whole else (False, True)


def taken_like(model: nn.Module, one: Example, other: Example) -> bool:
    """Whether a network takes an example as it takes another: in the same modes, and gives numbers where it does."""
    return all(_gives(model, one, training) >= _gives(model, other, training) for training in (False, True))


def _gives(model: nn.Module, example: Example, training: int) -> int:
    """0 where a network does not take an example, 1 where something of what it gives is no number, 2 otherwise."""
    try:
        found = run(model, example, training).leaves
    except Exception as e:  # whatever a network may raise
        if is_out_of_memory(e):
            raise
        return 0
    numbers = [leaf.value for leaf in found if isinstance(leaf.value, Tensor) and leaf.value.is_floating_point()]
    return 1 + all(bool(x.isfinite().all()) for x in numbers if x.layout == torch.strided and x.dtype.itemsize > 1)


def refused(example: Example, error: Exception) -> ModelError:
    """What to raise where a network does not run on an example that it has to run on."""
    return ModelError(f"The model does not run on an input of shape {example.shapes}: {first_line(error)}")


def runs(model: nn.Module, example: Example, training: int) -> bool:
    """Whether a network takes an example in a mode."""
    try:
        run(model, example, training)
    except Exception as e:  # whatever a network may raise; it is asked as it is, so no error of ours can hide here
        if is_out_of_memory(e):
            raise
        return False
    return True


@dataclass(frozen=True)
class Run:
    """What one run gave.

    Attributes:
        leaves (list[Leaf]): All that came out, tensors copied, of all frames; behind it what layers gave.
        drawn (bool): Whether random numbers were drawn.
        draws (tuple): What was drawn beside level ones; two runs in which it is equal drew the same numbers.
    """

    leaves: list[Leaf]
    drawn: bool
    draws: tuple[Any, ...] = ()


def run(
    model: nn.Module,
    example: Example,
    training: int,
    *,
    frames: int = 1,
    seed: int = 0,
    level: bool = False,
    inside: bool = False,
    held: Held | None = None,
) -> Run:
    """Run a network without leaving a trace of it; the k-th draw of random numbers depends on `seed` and k alone.

    Networks of other widths draw the same numbers as long as they ask for as many. With `level` all numbers of one draw
    are the same one, and they need not.

    Args:
        model (nn.Module): Any network; all of its state is put back.
        example (Example): What it is run on.
        training (int): Whether in training mode, in which batch-norm and dropout stay in evaluation, or `WHOLE`.
        frames (int): How often in a row, what it remembers in between.
        seed (int): Of the random numbers.
        level (bool): Whether all numbers of one draw are the same one.
        inside (bool): Whether the leaves are followed by what every module gave that is not merely handed on.
        held (Held | None): What the network holds, where that is known already.

    Returns:
        (Run): All that came out, with copies of tensors.
    """

    state = held or preserved(model)

    def whole() -> list[Leaf]:
        outputs: list[Leaf] = []
        within: list[Leaf] = []
        given: dict[int, Tensor] = {}
        calls: Counter[str] = Counter()

        def listen(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
            for tensor in tensors(output):
                if id(tensor) not in given:
                    calls[name] += 1
                    within.append(Leaf(f"{LAYER}{name}, {calls[name]}", plain(tensor)))
                given[id(tensor)] = tensor  # which keeps it, so that no other one gets its id

        with state, running(model, training), hooked() as hooks:
            if inside:
                heard = [(n, m) for n, m in model.named_modules() if n and not isinstance(m, torch.jit.ScriptModule)]
                hooks += [m.register_forward_hook(partial(listen, name)) for name, m in heard]
            for frame in range(frames):
                for path, value in leaves(example(model)):
                    value = plain(value) if isinstance(value, Tensor) else value  # before a buffer gets its own back
                    outputs.append(Leaf(f"{path} of frame {frame + 1}" if frames > 1 else path, value))
        return [*outputs, *within]

    if not state.draws:
        with random_draws.generators_kept():  # most networks draw nothing, and to watch operations takes longer
            before = random_draws.states()
            found = whole()
            if random_draws.states() == before:
                return Run(found, False)
    with random_draws.seeded(seed, level) as draws, draws:
        found = whole()
    return Run(found, draws.any, draws.told)
