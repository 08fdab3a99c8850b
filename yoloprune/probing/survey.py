"""Which examples stand for all: the smallest image on which a network does what it does at the size that is asked for.

A trace and a proof on an image of 64 pixels say something about 640 only if the same operations run there. So the
operations of both are listed and compared, and those for one image and for two; where they differ, the larger image
decides, and both batches are followed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import floor
from typing import Any

from torch import nn

from yoloprune.probing.descent import Descendants
from yoloprune.probing.examples import Example, Probe, refused, taken_like
from yoloprune.probing.forward import running
from yoloprune.probing.held_state import held_tensors, preserved, state_of, weights_kept
from yoloprune.probing.operations import list_pass, listing
from yoloprune.probing.other_examples import other_batches, varied
from yoloprune.probing.outputs import mapped, tensors
from yoloprune.torch_internals import is_out_of_memory, one_thread

PROVED = 12e9
"""FLOPs of one pass up to which a cut is proved at the size that is asked for as well: 0.1 s on two cores."""


LONGEST_MEMORY = 8
"""So many images in a row are looked at for one with which a network that remembers does something else."""


@one_thread()
def survey(
    model: nn.Module, make: Callable[[int, int], Example], smallest: int, asked: int, also: tuple[Example, ...] = ()
) -> Probe:
    """Find the examples that stand for a network at one image size, for one image and for two.

    Args:
        model (nn.Module): The network.
        make (Callable): From image size and number of images to an example.
        smallest (int): Image size to begin with; it is doubled as often as needed.
        asked (int): Image size that was asked for.
        also (tuple[Example, ...]): Further ways of running the network, for layers that a plain pass does not reach.

    Returns:
        (Probe): Its first example is one image.

    Raises:
        ModelError: If the network does not run at the size that was asked for, or changes its own weights.
    """
    with weights_kept(model):
        sizes = [size for i in range(16) if (size := smallest << i) < asked] + [asked]
        at, work, cramped = first_to_run(model, make, sizes)
        large = make(asked, 1)
        lists = _Lists(model, large)
        wanted = lists.of(large)
        candidates = [make(s, 1) for s in sizes[sizes.index(at) : -1]] + [large]
        one = next(e for e in candidates if e is large or lists.of(e) == wanted)
        size = sizes[sizes.index(at) + candidates.index(one)]
        two = make(size, 2)
        alike = lists.of(two) == lists.of(one) and lists.numbers(two) == lists.numbers(one)
        wide = _wide(make, size, one, cramped if size == at else listing(model, one, training=False).cramped)
        same = {other: one for other in (two, *wide) if lists.of(other) == lists.of(one)}
        return Probe(
            examples=(one, *(() if alike else (two,)), *also),
            proving=(*(() if alike else (one,)), two, *(e for e in wide if e in same), *also),
            asked=(large, make(asked, 2)) if size < asked else (),
            affordable=work <= PROVED or lists.numbers(large) != lists.numbers(one),
            frames=lists.frames(one),
            same=same,
        )


def survey_around(model: nn.Module, examples: tuple[Example, ...]) -> Probe:
    """The probe of a network that is run on examples as they were given, and on another number of images.

    Args:
        model (nn.Module): The network.
        examples (tuple[Example, ...]): One at least.

    Returns:
        (Probe): Another number of images is among its examples where other operations run for it. A cut is proved on
            noise first where an example is one number everywhere, on which most mistakes make no difference.

    Raises:
        ModelError: If the network does not run on one of them, or changes its own weights.
    """
    with weights_kept(model):
        for example in examples:
            try:
                listing(model, example, training=False)
            except Exception as e:  # whatever a network may raise
                if is_out_of_memory(e):
                    raise
                raise refused(example, e) from e
        first, lists = examples[0], _Lists(model, examples[0])
        telling = [one for e in examples if (one := varied(e)) is not None and taken_like(model, one, e)]
        proving = (*telling, *examples)
        examples += tuple(one for one in telling if lists.of(one) != lists.of(first))
        others = other_batches(proving[0])
        other = next((one for one in others if lists.of(one) and taken_like(model, one, proving[0])), None)
        if other is not None:
            alike = lists.of(other) == lists.of(first) and lists.numbers(other) == lists.numbers(first)
            examples, proving = examples if alike else (*examples, other), (*proving, other)
        return Probe(examples, proving, frames=lists.frames(first))


def first_to_run(model: nn.Module, make: Callable[[int, int], Example], sizes: list[int]) -> tuple[int, float, float]:
    """The smallest size at which the network runs at all, the FLOPs that it has at the largest, and how cramped it is
    (see `Listing`).
    """
    for size in sizes:
        try:
            found = listing(model, make(size, 1), training=False)
        except Exception as e:  # whatever a network may raise, e.g. because the image is too small for it
            if is_out_of_memory(e):
                raise
            if size == sizes[-1]:
                raise refused(make(size, 1), e) from e
        else:
            return size, found.flops * (sizes[-1] / size) ** 2, found.cramped
    raise AssertionError("no size")


def _wide(make: Callable[[int, int], Example], size: int, one: Example, cramped: float) -> tuple[Example, ...]:
    """An image as wide as it takes for every pooling window to leave something out, where the small one is too narrow.

    Where windows cover the whole map, what they pool one after the other is the same, and a cut that takes one for the
    other computes the same there.
    """
    if cramped < 1:
        return ()
    width = size * (floor(cramped) + 1)
    rows = mapped(make(width, 1).inputs, lambda x: x[..., :size, :])
    return (replace(one, inputs=rows, title=f"an image of {width} x {size} pixels"),)


Listed = tuple[tuple[Any, ...], tuple[Any, ...]]
"""Of an example: operations and the numbers in them, each in evaluation and in training mode; two times () if it fails.
"""


class _Lists:
    """Lists the operations of examples, without the work where the network goes on with zeros as well."""

    def __init__(self, model: nn.Module, largest: Example) -> None:
        self.model, self.hollow = model, True
        self._held = preserved(model)
        self._known: dict[Example, Listed] = {}
        if not self.of(largest):
            self.hollow, self._known = False, {}

    def of(self, example: Example) -> tuple[Any, ...]:
        """Operations in evaluation and in training mode, the latter empty where it wants targets; () if it fails."""
        return self._listed(example)[0]

    def numbers(self, example: Example) -> tuple[Any, ...]:
        """The numbers in them, which may depend on the size of the images."""
        return self._listed(example)[1]

    def _listed(self, example: Example) -> Listed:
        if example not in self._known:
            self._known[example] = self._list(example)
        return self._known[example]

    def _list(self, example: Example) -> Listed:
        found = []
        for training in (False, True):
            try:
                one = listing(self.model, example, training=training, hollow=self.hollow, held=self._held)
                found.append((tuple(one.operations), tuple(one.numbers)))
            except Exception as e:  # whatever a network may raise: in training mode some want targets
                if is_out_of_memory(e):
                    raise
                found.append(((), ()))
        operations, numbers = zip(*found, strict=True)
        return (operations, numbers) if operations[0] else ((), ())

    def frames(self, example: Example) -> int:
        """How many images in a row show all that a network does which remembers something of those before; else 1.

        A head that keeps its anchors until the image size changes does less the second time, and what it keeps does
        not depend on the image: one tells all.
        """
        ran = self.of(example)
        return max(self._frames(example, training) for training in (False, True) if not training or (ran and ran[1]))

    def _frames(self, example: Example, training: bool) -> int:
        with self._held, running(self.model, training):
            before = state_of(self.model)
            seen = Descendants(tensors(example.inputs))
            passes = [self._pass(example, seen)]
            if state_of(self.model) == before:
                return 1
            remembers = seen.numbers or any(t in seen for t in held_tensors(self.model))
            passes.append(self._pass(example))
            if not remembers and len(passes[1]) < len(passes[0]) and set(passes[1]) <= set(passes[0]):
                return 1
            passes += [self._pass(example) for _ in range(LONGEST_MEMORY - 2)]
        return max(2, *(i + 1 for i, one in enumerate(passes) if one not in passes[:i]))

    def _pass(self, example: Example, within: Any = None) -> list[tuple[Any, ...]]:
        """One more image, with the numbers, which tell the frames of one size apart."""
        found = list_pass(self.model, example, self.hollow, within)
        return [*found.operations, *found.numbers]
