"""Proof by running: the cut model computes what its masked parent computes."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from yoloprune.errors import VerifyError
from yoloprune.groups import Plan

TOLERANCE = 1e-4
"""Largest accepted error relative to the largest absolute value of an output, in float32."""


@contextlib.contextmanager
def masked(model: nn.Module, plan: Plan) -> Iterator[nn.Module]:
    """The masked parent: while active, the channels that the plan cuts are zero wherever a planned module reads or
    writes them. It knows the plan only, nothing of how the plan was found.
    """
    handles = []
    for name, keep in plan.keep.items():
        module = model.get_submodule(name) if name in dict(model.named_modules()) else None
        if module is None:
            continue  # a loose parameter multiplies or adds channels that are zero on both sides
        dim = -1 if isinstance(module, nn.Linear) else 1
        if keep.inputs is not None:
            mask = _mask(keep.inputs, keep.of[0 if keep.of[1] is None else 1])
            handles.append(module.register_forward_pre_hook(_Zero(mask, dim)))
        if keep.outputs is not None:
            handles.append(module.register_forward_hook(_Zero(_mask(keep.outputs, keep.of[0]), dim)))
    try:
        yield model
    finally:
        for handle in handles:
            handle.remove()


def verify(parent: nn.Module, model: nn.Module, plan: Plan, example: Tensor) -> float:
    """Compare the cut model with the masked parent on one input.

    Both run in training mode with batch-norm and dropout in evaluation mode, where heads return everything they predict
    before any sorting; models that need targets to do so run in evaluation mode.

    Args:
        parent (nn.Module): The model before the cut.
        model (nn.Module): The model after the cut.
        plan (Plan): The plan that was cut.
        example (Tensor): Input, shape (B, C, H, W).

    Returns:
        (float): Largest error relative to the largest absolute value of the same output.

    Raises:
        VerifyError: If an output has another shape, or the error exceeds `TOLERANCE`.
    """
    worst = _difference(parent, model, plan, example)
    if worst > TOLERANCE:
        # Selecting the best queries inside a network makes outputs jump on a rounding error. In float64 those errors
        # are too small to reorder anything, and a wrong cut is as wrong as before.
        worst = _difference(copy.deepcopy(parent).double(), copy.deepcopy(model).double(), plan, example.double())
    if worst > TOLERANCE:
        raise VerifyError(
            f"The cut model differs from its masked parent: relative error {worst:.1e}, "
            f"at most {TOLERANCE:.0e} is accepted. Nothing was saved."
        )
    return worst


def _difference(parent: nn.Module, model: nn.Module, plan: Plan, example: Tensor) -> float:
    """Largest relative error over all outputs that the cut leaves comparable."""
    with masked(parent, plan):
        expected = _run(parent, example)
    got = _run(model, example)
    if len(expected) != len(got):
        raise VerifyError(f"The cut model has {len(got)} outputs, its parent {len(expected)}.")
    errors = []
    for a, b in zip(expected, got, strict=True):
        if a.shape == b.shape:
            error = float((a - b).abs().max() / a.abs().max().clamp_min(1e-12)) if a.numel() else 0.0
            errors.append(error if error == error else float("inf"))  # not a number is as wrong as can be
        elif a.ndim != b.ndim or sum(m != n for m, n in zip(a.shape, b.shape, strict=True)) != 1:
            raise VerifyError(f"An output has shape {tuple(b.shape)}, in the parent {tuple(a.shape)}.")
        # else a feature map among the outputs: its channels were cut
    return max(errors, default=float("inf"))


class _Zero:
    """Hook that multiplies a module's input or output by a mask along one dimension."""

    def __init__(self, mask: Tensor, dim: int) -> None:
        self.mask, self.dim = mask, dim

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], output: Any = None) -> Any:
        x = inputs[0] if output is None else output
        shape = [1] * x.ndim
        shape[self.dim] = -1
        return x * self.mask.to(x.device, x.dtype).reshape(shape)


def _mask(kept: tuple[int, ...], width: int | None) -> Tensor:
    mask = torch.zeros(width or 0)
    mask[list(kept)] = 1
    return mask


def _run(model: nn.Module, example: Tensor) -> list[Tensor]:
    modes = [(m, m.training) for m in model.modules()]
    try:
        with torch.no_grad():
            model.train()
            for m in model.modules():
                if isinstance(m, (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)):
                    m.eval()
            try:
                result = model(example)
            except Exception:
                result = model.eval()(example)
    finally:
        for m, training in modes:
            m.training = training
    return [t for t in tree_leaves(result) if isinstance(t, Tensor) and t.is_floating_point()]
