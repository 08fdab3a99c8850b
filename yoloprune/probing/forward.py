"""Run a model and watch it through forward hooks; modes and hooks are put back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle

from yoloprune.errors import DataError
from yoloprune.probing.outputs import mapped
from yoloprune.torch_internals import (
    BatchNorm,
    ConvNd,
    DispatchMode,
    Dropout,
    FunctionMode,
    schema_of,
    version_of,
)

WHOLE = 2
"""Training mode, also for batch-norms and dropouts of a class whose own `forward` may do anything there."""


def has_own_way(module: nn.Module) -> bool:
    """Whether a module is a batch-norm or dropout that does not run as torch has it."""
    if not isinstance(module, (BatchNorm, Dropout)):
        return False
    return "forward" in vars(module) or type(module).forward.__module__.partition(".")[0] != "torch"


@contextlib.contextmanager
def running(model: nn.Module, training: int = True) -> Iterator[None]:
    """No gradients; training mode, in which heads run all their branches, but not for dropout and batch-norm.

    Args:
        model (nn.Module): The network.
        training (int): Whether in training mode, or `WHOLE`.
    """
    modes = [(m, m.training) for m in model.modules()]
    try:
        if any(before is not bool(training) for _, before in modes):
            model.train(bool(training))
        for m, _ in modes:
            if m.training and isinstance(m, (BatchNorm, Dropout)) and not (training == WHOLE and has_own_way(m)):
                m.eval()
        with torch.inference_mode(False), torch.no_grad(), _NoDropout():
            yield
    finally:
        for m, before in modes:
            if m.training is not before:
                m.training = before


class _NoDropout(FunctionMode):
    """Dropout by function lets everything pass, as the layers do in evaluation mode."""

    FUNCTIONS = frozenset(
        f
        for name in ("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout")
        for f in (getattr(functional, name), getattr(torch, name, None), getattr(torch, f"{name}_", None))
        if f is not None
    ) | {torch.feature_dropout, torch.feature_dropout_}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in self.FUNCTIONS:
            return args[0] if args else kwargs["input"]
        if func is functional.scaled_dot_product_attention:
            named = {"dropout_p": 0.0} if len(args) < 5 else {}
            args, kwargs = (*args[:4], *(0.0 for _ in args[4:5]), *args[5:]), {**kwargs, **named}
        return func(*args, **kwargs)


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


def input_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """What a layer was given, its first argument, by position or by name."""
    return next(iter((*args, *kwargs.values())))


def in_batch(module: nn.Module, x: Tensor) -> Tensor:
    """What a layer was given or put out as a batch; layers take one image, or one row, without that dimension too."""
    single = len(module.kernel_size) + 1 if isinstance(module, ConvNd) else 1
    return x[None] if x.ndim == single else x


def at_home(model: nn.Module, values: Any) -> Any:
    """Tensors where a model has its weights, numbers in their precision, whatever they come in."""
    weight = next(model.parameters())
    return mapped(values, lambda x: x.to(weight.device, weight.dtype if x.is_floating_point() else None))


def feed(model: nn.Module, batches: Iterable[Any]) -> None:
    """Run a model on batches, each a tensor or all arguments as a tuple; raises DataError if there are none."""
    fed = False
    for batch in batches:
        model(*at_home(model, batch if isinstance(batch, tuple) else (batch,)))
        fed = True
    if not fed:
        raise DataError("There are no calibration images.")


def follow(
    parent: nn.Module,
    names: Iterable[str],
    kinds: type[nn.Module] | tuple[type[nn.Module], ...],
    hooks: list[RemovableHandle],
) -> dict[str, str]:
    """From modules to the one of these kinds whose input is their output itself; filled when the parent runs.

    A tensor that was changed in place in between is another one: a batch-norm behind an in-place activation does not
    follow the layer before that. Nor does one that follows something else as well, or one of several.

    Args:
        parent (nn.Module): Any network.
        names (Iterable[str]): Modules whose outputs are followed.
        kinds (type | tuple): Classes of what may follow them.
        hooks (list): Takes the hooks, which are the caller's to remove, see `hooked`.

    Returns:
        (dict[str, str]): Empty until the parent runs.
    """
    found: dict[str, str] = {}
    sources: dict[str, set[str | None]] = {}
    norms: dict[str | None, set[str]] = {}

    def mark(name: str, module: nn.Module, inputs: Any, output: Tensor) -> None:
        output.made_by = (name, version_of(output))  # type: ignore[attr-defined]  # it lives and dies with the tensor

    def look(name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = input_of(args, kwargs)
        source, version = getattr(given, "made_by", (None, None))
        source = source if version == version_of(given) else None
        sources.setdefault(name, set()).add(source)
        norms.setdefault(source, set()).add(name)
        if source is not None:
            found[source] = name
        if isinstance(module, BatchNorm):  # an activation may well be one object for all layers
            for other, norm in tuple(found.items()):
                if len(sources[norm]) > 1 or len(norms[other]) > 1:
                    del found[other]

    for name, module in parent.named_modules():
        if isinstance(module, kinds) and getattr(module, "track_running_stats", True):
            hooks.append(module.register_forward_pre_hook(partial(look, name), with_kwargs=True))
    hooks += [parent.get_submodule(name).register_forward_hook(partial(mark, name)) for name in names]
    return found


class Readers(DispatchMode):
    """Which of the modules that `follow` marks have outputs that something else reads than a batch-norm.

    Attributes:
        others (set[str]): Names of these modules.
    """

    def __init__(self) -> None:
        super().__init__()
        self.others: set[str] = set()

    def operation(self, func: Any, args: Any, kwargs: Any) -> Any:
        if "batch_norm" not in schema_of(func).name:
            read = [a for arg in args for a in (arg if isinstance(arg, list | tuple) else [arg])]
            self.others.update(a.made_by[0] for a in read if isinstance(a, Tensor) and hasattr(a, "made_by"))
        return func(*args, **kwargs)
