"""Run a model and watch it through forward hooks; whatever is touched is put back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.utils.hooks import RemovableHandle

from yoloprune.errors import DataError


@contextlib.contextmanager
def running(model: nn.Module, training: bool = True) -> Iterator[None]:
    """No gradients; training mode, in which heads run all their branches, but not for dropout and batch-norm."""
    modes = [(m, m.training) for m in model.modules()]
    try:
        model.train(training)
        for m in model.modules():
            if isinstance(m, (_BatchNorm, _DropoutNd)):
                m.eval()
        with torch.no_grad():
            yield
    finally:
        for m, training in modes:
            m.training = training


@contextlib.contextmanager
def preserved(model: nn.Module) -> Iterator[None]:
    """Put back every attribute that a forward pass changes, e.g. the anchors that a head remembers."""
    saved = [(m, {k: dict(v) if k == "_buffers" else v for k, v in vars(m).items()}) for m in model.modules()]
    buffers = [(b, b.clone()) for b in model.buffers()]
    try:
        yield
    finally:
        for module, state in saved:
            vars(module).clear()
            vars(module).update(state)
        for buffer, value in buffers:
            buffer.copy_(value)


@contextlib.contextmanager
def placed(target: torch.device, *models: nn.Module) -> Iterator[None]:
    """Models on a device for the time of a `with` block."""
    homes = [next(m.parameters()).device for m in models]
    try:
        for model in models:
            model.to(target)
        yield
    finally:
        for model, home in zip(models, homes, strict=True):
            model.to(home)


@contextlib.contextmanager
def hooked() -> Iterator[list[RemovableHandle]]:
    """A list of hooks that are removed at the end."""
    handles: list[RemovableHandle] = []
    try:
        yield handles
    finally:
        for handle in handles:
            handle.remove()


def feed(model: nn.Module, batches: Iterable[Tensor]) -> None:
    weight, fed = next(model.parameters()), False
    for batch in batches:
        model(batch.to(weight.device, weight.dtype))
        fed = True
    if not fed:
        raise DataError("There are no calibration images.")


def follow(
    parent: nn.Module, names: Iterable[str], kinds: type | tuple[type, ...], hooks: list[RemovableHandle]
) -> dict[str, str]:
    """From modules to the one of these kinds whose input is their output itself; filled when the parent runs."""
    found: dict[str, str] = {}

    def mark(name: str, module: nn.Module, inputs: Any, output: Tensor) -> None:
        output.made_by = name  # type: ignore[attr-defined]  # on the tensor itself: it lives and dies with it

    def look(name: str, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if (source := getattr(inputs[0], "made_by", None)) is not None:
            found[source] = name

    for name, module in parent.named_modules():
        if isinstance(module, kinds) and getattr(module, "track_running_stats", True):
            hooks.append(module.register_forward_pre_hook(partial(look, name)))
    hooks += [parent.get_submodule(name).register_forward_hook(partial(mark, name)) for name in names]
    return found


def trains_without_targets(model: nn.Module, inputs: tuple[Any, ...]) -> bool:
    """Whether a plain forward pass works in training mode; some networks want targets there."""
    try:
        with preserved(model), running(model):
            model(*inputs)
    except Exception:  # whatever a network may raise; it is asked as it is, so no error of ours can hide here
        return False
    return True
