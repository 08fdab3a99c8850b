"""Model to channel graph: small forward passes in which every tensor carries labels of its channels.

`tracer` follows the operations, `rule_table` says what each does to labels, `symbolic_sizes` follows widths through
Python code, and `graph_builder` makes the graph out of what was seen.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from yoloprune.planning.channel_graph import ChannelGraph
from yoloprune.planning.layer_names import AS_THEY_ARE, LayerNames
from yoloprune.probing.computed_weights import require_numbers, require_plain_weights
from yoloprune.probing.examples import DRAWS, Example, Probe, refused, run
from yoloprune.probing.forward import WHOLE, running
from yoloprune.probing.held_state import Held, preserved
from yoloprune.probing.outputs import Leaf, leaves
from yoloprune.probing.own_code import read_aside
from yoloprune.probing.random_draws import Draws, seeded
from yoloprune.torch_internals import is_out_of_memory, one_thread
from yoloprune.tracing import graph_builder
from yoloprune.tracing.attribute_widths import NUMBER, Attributes
from yoloprune.tracing.flop_scaling import growths
from yoloprune.tracing.loose_ends import WHY
from yoloprune.tracing.symbolic_sizes import Sizes
from yoloprune.tracing.tracer import Tracer
from yoloprune.tracing.widths import Width

Corrected = Callable[[nn.Module], Collection[str]]
"""From a module to the names of its numbers that are corrected after a cut by who knows it."""


@one_thread()
def trace(
    model: nn.Module,
    example: Any,
    *,
    frozen: Mapping[str, str] | None = None,
    keep: Mapping[str, str] | None = None,
    sized: Corrected = lambda module: (),
    outputs: bool = False,
    area: float = 1.0,
    handing_on: Iterable[str] = (),
    names: LayerNames = AS_THEY_ARE,
) -> ChannelGraph:
    """Find out which channels of a model belong together and what each costs.

    The model is run on every example without gradients, in evaluation and in training mode (batch-norm and dropout stay
    in evaluation), because heads may use different layers in each. All module state is put back afterwards. A layer
    that no pass reaches stays as it is, and so do the channels that it might read: all that the module which holds it
    gets to see.

    Args:
        model (nn.Module): Any network; an Ultralytics model goes through `trace_yolo`, which fills in the rest.
        example (Tensor | tuple | Example | Probe): Input of the forward pass, e.g. shape (1, 3, 64, 64); FLOPs are
            those of the first one of a probe.
        frozen (Mapping[str, str]): Module-name prefix to reason: channels *made* inside (by convolution or linear
            layers) keep their number; channels that pass through may still be cut.
        keep (Mapping[str, str]): Module name to reason: all its output channels stay.
        sized (Callable): Names of the numbers of a module that are corrected after a cut by who knows it, so that it
            may write sizes as it likes. In any other one plain numbers freeze the channels that they count, but for
            those that it keeps by name.
        outputs (bool): Whether the network's own outputs may lose channels.
        area (float): Image area to count FLOPs for, relative to the example's.
        handing_on (Iterable[str]): Modules whose output channels get an axis of their own, with side "count".
        names (LayerNames): What the graph calls modules by.

    Returns:
        (ChannelGraph): Axes, groups, ties and costs.

    Raises:
        ModelError: If the model cannot be run on the example, its weights pass masks or quantizers, or are not
            a number.
    """
    require_plain_weights(model)
    require_numbers(model)
    probe = Probe.of(example)
    first, held = probe.examples[0], preserved(model)
    with _plainly():
        try:
            with held, running(model, training=False):
                growth = growths(model, first, area)
        except Exception as e:  # whatever a network may raise
            if is_out_of_memory(e):
                raise
            raise refused(first, e) from e
        ways = [(one, training) for one in probe.examples for training in probe.modes(model, one) if training < WHOLE]

        corrected: Corrected | None = sized
        closed = tuple(f"{prefix}." for prefix in frozen or ())  # whose numbers stay with their channels
        changing = {name: module for name, module in model.named_modules() if not f"{name}.".startswith(closed)}

        def follow(tracer: Tracer) -> list[list[Leaf]]:
            tracer.handing_on, tracer.called = frozenset(handing_on), names
            if corrected is not None:
                tracer.attributes = Attributes(changing, corrected)
            results = [_follow_all(tracer, held, sized, one, training, probe.frames) for one, training in ways]
            if tracer.overhear(tracer.unreached()):
                for one, training in ways:
                    _follow_all(tracer, held, sized, one, training, probe.frames)
            return results

        tracer = Tracer(model, frozen or {}, growth)
        try:
            results = _unless_looked_up(model, tracer, follow, ways, probe.frames)
        except Exception as e:  # whatever a network may raise that wants its numbers to be of the very type `int`
            if is_out_of_memory(e):
                raise
            tracer, corrected = Tracer(model, frozen or {}, growth), None
            results = _unless_looked_up(model, tracer, follow, ways, probe.frames)
        if results is None:
            tracer = Tracer(model, frozen or {}, growth)
            tracer.book.hashed_as_numbers = True
            results = follow(tracer)
        if counting := tracer.attributes.counting():
            aside = read_aside(model, counting, lambda: [run(model, *way, frames=probe.frames) for way in ways])
            tracer.attributes.hold(name for key in aside for name in counting[key])
    for leaf in itertools.chain.from_iterable(results):
        if isinstance(leaf.value, Width):
            leaf.value.number()
        elif not outputs and isinstance(leaf.value, Tensor) and (tag := tracer.tag(leaf.value)) is not None:
            tracer.book.freeze(tag.labels, "network output")
    for name, row in tracer.attributes.settle(tracer.book):
        tracer.axes[name, NUMBER] = row
    if not outputs:
        for labels in tracer.ends.labels(tracer.book.roots(), tracer.axes):
            tracer.book.freeze(labels, WHY)
    tracer.keep(keep or {})
    return graph_builder.build(model, tracer.book, tracer.axes, tracer.costs, tracer.unknown, names)


def _unless_looked_up(
    model: nn.Module,
    tracer: Tracer,
    follow: Callable[[Tracer], list[list[Leaf]]],
    ways: list[tuple[Example, int]],
    frames: int,
) -> list[list[Leaf]] | None:
    """What came out of all passes; None if the network looked a width up in a table and did something else for it."""
    try:
        results = follow(tracer)
    except Exception as e:  # whatever a network may raise that does not find a width in its table
        if is_out_of_memory(e) or not tracer.book.looked_up:
            raise
        return None
    if tracer.book.looked_up:
        for (one, training), found in zip(ways, results, strict=True):
            plain = run(model, one, training, frames=frames).leaves
            if not all(_is_same(a.value, b.value) for a, b in zip(plain, found, strict=False)):
                return None
    return results


def _is_same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and torch.equal(a, b)
    return bool(type(a) is type(b) and a == b) or isinstance(b, Width)


def _follow_all(
    tracer: Tracer,
    held: Held,
    sized: Corrected,
    example: Example,
    training: int,
    frames: int,
) -> list[Leaf]:
    """What came out of one run, or of several with other random numbers where it draws some."""
    found: list[Leaf] = []
    for seed in range(DRAWS):
        with seeded(seed) as draws:
            found += _follow(tracer, held, sized, example, training, frames, draws)
        if not draws.any:
            break
    return found


def _follow(
    tracer: Tracer,
    held: Held,
    sized: Corrected,
    example: Example,
    training: int,
    frames: int,
    draws: Draws,
) -> list[Leaf]:
    """One pass, or as many in a row as there are frames; what came out of all."""
    found: list[Leaf] = []
    with held, running(tracer.model, training), tracer.following(), tracer, Sizes(tracer, sized), draws:
        tracer.attributes.put()
        for _ in range(frames):
            found += leaves(example(tracer.model))
            tracer.counting = False  # FLOPs are those of plain inference, the first pass
        tracer.ends.end_pass()
    return found


@contextlib.contextmanager
def _plainly() -> Iterator[None]:
    """Attention in single steps."""
    cuda = torch.backends.cuda
    switches: tuple[tuple[Any, Any], ...] = (
        (cuda.enable_flash_sdp, cuda.flash_sdp_enabled),  # of the CPU as well
        (cuda.enable_mem_efficient_sdp, cuda.mem_efficient_sdp_enabled),
    )
    kernels = [(switch, is_on()) for switch, is_on in switches]
    for switch, _ in kernels:
        switch(False)
    try:
        yield
    finally:
        for switch, was_on in kernels:
            switch(was_on)
