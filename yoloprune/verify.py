"""Proof by running: the cut model computes what its masked parent computes."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from yoloprune.errors import VerifyError
from yoloprune.plans import Plan
from yoloprune.watching import preserved, running, trains_without_targets

TOLERANCE = 1e-4
"""Largest accepted error relative to the largest absolute value of an output, in float32."""

_ADVICE = (
    "Nothing was saved. Something in the forward pass depends on a width in a way that the trace does not see; "
    "name the layers whose widths it reads in keep=."
)


@contextlib.contextmanager
def masked(model: nn.Module, plan: Plan, written: float = 0.0) -> Iterator[nn.Module]:
    """The masked parent: while active, the channels that the plan cuts are zero wherever a planned module reads them,
    and `written` wherever one writes them. It knows the plan only, nothing of how the plan was found.
    """
    handles, modules = [], dict(model.named_modules())
    for name, keep in plan.keep.items():
        if (module := modules.get(name)) is None:
            continue  # a loose parameter multiplies or adds channels that are zero on both sides
        dim = _channel_dim(module)
        if keep.inputs is not None:
            mask = _Mask(keep.inputs, keep.of[1], dim, 0.0)
            handles.append(module.register_forward_pre_hook(mask.inputs, with_kwargs=True))
        if keep.outputs is not None:
            mask = _Mask(keep.outputs, keep.of[0], dim, written)
            handles.append(module.register_forward_hook(mask.outputs))
    try:
        yield model
    finally:
        for handle in handles:
            handle.remove()


def _channel_dim(module: nn.Module) -> int:
    if isinstance(module, nn.Linear):
        return -1
    # counted from behind where possible: convolutions take one image without a batch dimension as well
    return -1 - len(module.kernel_size) if isinstance(module, nn.modules.conv._ConvNd) else 1


def verify(
    parent: nn.Module,
    model: nn.Module,
    plan: Plan,
    example: Tensor | tuple[Any, ...],
    training: bool | None = None,
) -> float:
    """Compare the cut model with the masked parent on one input.

    Both run in training mode with batch-norm and dropout in evaluation mode, where heads return everything they predict
    before any sorting; models that need targets to do so run in evaluation mode.

    Args:
        parent (nn.Module): The model before the cut.
        model (nn.Module): The model after the cut.
        plan (Plan): The plan that was cut.
        example (Tensor | tuple): Input, shape (B, C, H, W).
        training (bool): Answer of `trains_without_targets`, which is asked when it is not given.

    Returns:
        (float): Largest error relative to the largest absolute value of the same output.

    Raises:
        VerifyError: If an output has another shape, the error exceeds `TOLERANCE`, or all outputs are zero.
    """
    inputs = example if isinstance(example, tuple) else (example,)
    training = trains_without_targets(parent, inputs) if training is None else training
    worst = _difference(parent, model, plan, inputs, training)
    if worst > TOLERANCE:
        # Selecting the best queries inside a network makes outputs jump on a rounding error. In float64 those errors
        # are too small to reorder anything, and a wrong cut is as wrong as before.
        double = tuple(x.double() if isinstance(x, Tensor) and x.is_floating_point() else x for x in inputs)
        parent, model, inputs = copy.deepcopy(parent).double(), copy.deepcopy(model).double(), double
        training = training and _repeats(parent, inputs)
        worst = _difference(parent, model, plan, inputs, training)
    if worst > TOLERANCE:
        raise VerifyError(
            f"The cut model differs from its masked parent: relative error {worst:.1e}, "
            f"at most {TOLERANCE:.0e} is accepted. {_ADVICE}"
        )
    return worst


def vocal(parent: nn.Module, plan: Plan, inputs: tuple[Any, ...], training: bool) -> bool:
    """Whether the masked parent says anything that another network could be compared with: finite, and not all zero."""
    with masked(parent, plan):
        outputs = _run(parent, inputs, training)
    return any(a.any() for a in outputs) and all(bool(a.isfinite().all()) for a in outputs)


def _repeats(model: nn.Module, inputs: tuple[Any, ...]) -> bool:
    """Whether training mode gives the same twice, and not by luck: dropout by function draws random numbers."""

    def states() -> list[Tensor]:
        return [torch.get_rng_state(), *torch.cuda.get_rng_state_all()]

    before = states()
    once, again = _run(model, inputs, True), _run(model, inputs, True)
    return all(torch.equal(a, b) for a, b in zip([*before, *once], [*states(), *again], strict=True))


def _difference(parent: nn.Module, model: nn.Module, plan: Plan, inputs: tuple[Any, ...], training: bool) -> float:
    """Largest relative error over all outputs that the cut leaves comparable."""
    with masked(parent, plan):
        expected = _run(parent, inputs, training)
    try:
        got = _run(model, inputs, training)
    except Exception as e:  # whatever a network may raise when a width it counts on has changed
        said = (str(e).strip() or type(e).__name__).splitlines()[0].rstrip(".")
        raise VerifyError(f"The cut model does not run: {said}. {_ADVICE}") from e
    if expected and not any(a.any() for a in expected):
        raise VerifyError(
            "All outputs are zero on this example, which proves nothing. Give an example with other values."
        )
    if len(expected) != len(got):
        raise VerifyError(f"The cut model has {len(got)} outputs, its parent {len(expected)}.")
    marked = expected
    if any(a.shape != b.shape for a, b in zip(expected, got, strict=True)):
        with masked(parent, plan, written=1.0):
            marked = _run(parent, inputs, training)
    errors = []
    for a, mark, b in zip(expected, marked, got, strict=True):
        if a.shape != b.shape:
            a = _narrowed(a, mark, b)
        if a is not None:
            error = float((a - b).abs().max() / a.abs().max().clamp_min(1e-12)) if a.numel() else 0.0
            errors.append(error if error == error else float("inf"))  # not a number is as wrong as can be
    return max(errors, default=float("inf"))


def _narrowed(a: Tensor, marked: Tensor, b: Tensor) -> Tensor | None:
    """An output of the masked parent that itself lost channels, e.g. the neck's features, without the masked ones.

    Those are the channels that change when masked channels are written with another value than zero. None where more
    changes, because masked channels met each other in a product before (attention): not comparable.
    """
    changed = [d for d in range(a.ndim) if a.ndim == b.ndim and a.shape[d] != b.shape[d]]
    if len(changed) != 1 or a.shape[changed[0]] < b.shape[changed[0]]:
        raise VerifyError(f"An output has shape {tuple(b.shape)}, in the parent {tuple(a.shape)}.")
    alive = (a == marked).movedim(changed[0], 0).flatten(1).all(1)
    return a.index_select(changed[0], alive.nonzero().flatten()) if int(alive.sum()) == b.shape[changed[0]] else None


class _Mask:
    """Fills the masked channels of a tensor."""

    def __init__(self, kept: Sequence[int], width: int, dim: int, fill: float) -> None:
        self.kept = torch.zeros(width, dtype=torch.bool)
        self.kept[list(kept)] = True
        self.dim, self.fill = dim, fill

    def __call__(self, x: Tensor) -> Tensor:
        shape = [1] * x.ndim
        shape[self.dim] = -1
        return x.where(self.kept.to(x.device).reshape(shape), self.fill)

    def inputs(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Hook for a module's input, its first argument."""
        if args:
            return (self(args[0]), *args[1:]), kwargs
        first = next(iter(kwargs))
        return args, {**kwargs, first: self(kwargs[first])}

    def outputs(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        """Hook for a module's output."""
        return self(output)


def _run(model: nn.Module, inputs: tuple[Any, ...], training: bool) -> list[Tensor]:
    with preserved(model), running(model, training):
        leaves = tree_leaves(model(*inputs))
    return [t for t in leaves if isinstance(t, Tensor) and t.is_floating_point()]
