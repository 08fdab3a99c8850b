"""Model to channel graph: small forward passes in which every tensor carries labels of its channels.

`tracer` follows the operations, `rules` says what each does to labels, `sizes` follows widths through Python code, and
`grouping` makes the graph out of what was seen.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from yoloprune import grouping
from yoloprune.errors import ArgumentError, ModelError
from yoloprune.groups import ChannelGraph
from yoloprune.growth import growths
from yoloprune.sizes import Sizes
from yoloprune.tracer import Tracer
from yoloprune.watching import preserved, running, trains_without_targets


def trace(
    model: nn.Module,
    example: Tensor | tuple[Any, ...],
    *,
    frozen: Mapping[str, str] | None = None,
    keep: Mapping[str, str] | None = None,
    sized: Callable[[nn.Module], bool] = lambda module: False,
    outputs: bool = False,
    area: float = 1.0,
    also: Iterable[Callable[[], Any]] = (),
    handing_on: Iterable[str] = (),
) -> ChannelGraph:
    """Find out which channels of a model belong together and what each costs.

    The model is run twice without gradients, in evaluation and in training mode (batch-norm and dropout stay in
    evaluation), because heads may use different layers in each. All module state is put back afterwards. A layer that
    no pass reaches stays as it is, and what it would read is not known.

    Args:
        model (nn.Module): Any network; an Ultralytics model goes through `host.trace_yolo`, which fills in the rest.
        example (Tensor | tuple): Input of the forward pass, e.g. shape (1, 3, 64, 64).
        frozen (Mapping[str, str]): Module-name prefix to reason: channels *made* inside (by convolution or linear
            layers) keep their number; channels that pass through may still be cut.
        keep (Mapping[str, str]): Module name to reason: all its output channels stay.
        sized (Callable): Whether the width attributes of a module are corrected after a cut; sizes that any other
            module writes as plain numbers freeze the channels they count.
        outputs (bool): Whether the network's own outputs may lose channels.
        area (float): Image area to count FLOPs for, relative to the example's.
        handing_on (Iterable[str]): Modules whose output channels get an axis of their own, with side "count".
        also (Iterable[Callable]): Further ways in which the model is run, for layers that a plain pass does not reach.

    Returns:
        (ChannelGraph): Axes, groups, ties and costs.

    Raises:
        ModelError: If the model cannot be run on the example.
    """
    inputs = example if isinstance(example, tuple) else (example,)
    with _one_thread():
        try:
            with preserved(model), running(model, training=False):
                tracer = Tracer(model, frozen or {}, growths(model, inputs, area))
                tracer.handing_on = frozenset(handing_on)
        except Exception as e:  # whatever a network may raise
            raise ModelError(f"The model does not run on an input of shape {tuple(inputs[0].shape)}: {e}") from e
        plain = partial(model, *inputs)
        results = [_follow(tracer, sized, plain, training=False)]
        tracer.counting = False  # FLOPs are those of plain inference
        if trains_without_targets(model, inputs):
            results.append(_follow(tracer, sized, plain, training=True))
        results += [_follow(tracer, sized, run, training=False) for run in also]
    for leaf in tree_leaves(results):
        if not outputs and isinstance(leaf, Tensor) and (tag := tracer.tag(leaf)) is not None:
            tracer.book.freeze(tag.labels, "network output")
    tracer.keep(keep or {})
    return grouping.build(model, tracer.book, tracer.axes, tracer.costs, tracer.unknown)


def match(
    model: nn.Module, patterns: Iterable[str], parts: Mapping[str, Iterable[str]] | None = None
) -> dict[str, str]:
    """Modules and parameters named by `keep` patterns, with the pattern as the reason.

    Args:
        model (nn.Module): The network.
        patterns (Iterable[str]): Each names a module and all inside it; `*` matches across dots.
        parts (Mapping): Words that stand for several modules; the head, which stays, is not among them.

    Returns:
        (dict[str, str]): Name to reason.

    Raises:
        ArgumentError: If a pattern matches nothing.
    """
    names = [n for n, _ in model.named_modules() if n] + [n for n, _ in model.named_parameters()]
    found: dict[str, str] = {}
    for pattern in patterns:
        roots = (parts or {}).get(pattern) or [n for n in names if fnmatchcase(n, pattern)]
        hits = [n for n in names if any(n == r or n.startswith(f"{r}.") for r in roots)]
        if not hits:
            raise ArgumentError(f"keep={pattern}: {_hint(pattern, names, [p for p, n in (parts or {}).items() if n])}")
        found.update(dict.fromkeys(hits, f"keep={pattern}"))
    return found


def _hint(pattern: str, names: list[str], parts: list[str]) -> str:
    """What to write instead of a pattern that matches nothing."""
    near = get_close_matches(pattern, [*names, *parts], n=3, cutoff=0.5)
    inner = next((n for n in names if "." in n), names[0])
    like = f"Similar names are i.e. {near}." if near else f"Names look like '{inner}'."
    whole = f" Whole parts are {' and '.join(parts)}; the head stays in any case." if parts else ""
    return f"no layer of this model has that name. {like}{whole}"


def _follow(tracer: Tracer, sized: Callable[[nn.Module], bool], run: Callable[[], Any], *, training: bool) -> Any:
    with preserved(tracer.model), running(tracer.model, training), tracer.following(), tracer, Sizes(tracer, sized):
        return run()


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Waking threads costs more than the tiny operations of a trace."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
