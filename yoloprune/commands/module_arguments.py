"""What `prune_module` is given: checked before any work, in one line each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from yoloprune.errors import ArgumentError, DataError, first_line
from yoloprune.probing.examples import Example, run
from yoloprune.probing.forward import at_home
from yoloprune.probing.outputs import tensors
from yoloprune.settings.budget import Budget, Limits
from yoloprune.torch_internals import is_out_of_memory


def check(model: Any, example: Any, wanted: Any, limits: Any, keep: Any) -> None:
    """Raise ArgumentError where an argument is not what it should be."""
    if isinstance(model, dict):
        raise ArgumentError(f"model: must be a network. Received: a dictionary; is it model[{_key_of(model)!r}]?")
    if isinstance(model, str | Path):
        raise ArgumentError(f"model: must be a network, not a path; load it first. Received: {str(model)[:80]}")
    if isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
        name = type(inner).__name__
        raise ArgumentError(f"model: was compiled; give the {name} that it was made from, model._orig_mod")
    wrong = (
        ("model", model, nn.Module, "a torch.nn.Module"),
        ("example", example, (Tensor, tuple), "a tensor, or all arguments of forward as a tuple"),
        ("wanted", wanted, Budget, "a Budget, e.g. Budget(ratio=0.5)"),
        ("limits", limits, Limits, "Limits, e.g. Limits(round_to=8); names of layers belong to keep="),
    )
    for name, value, kinds, allowed in wrong:
        if not isinstance(value, kinds):
            raise ArgumentError(f"{name}: must be {allowed}. Received: {_said(value)}")
    if any(isinstance(p, nn.UninitializedParameter) for p in model.parameters()):
        raise ArgumentError("model: has lazy layers that were never run. Run it once on an input, then prune it")
    if any(p.is_meta for p in model.parameters()):
        raise ArgumentError("model: is on the device meta and has no weights. Load them, then prune it")
    if isinstance(example, tuple) and not example:
        raise ArgumentError("example: must hold the arguments of forward. Received: an empty tuple")
    if isinstance(example, tuple) and all(type(n) is int for n in example):
        raise ArgumentError(f"example: must be an input, not its shape. Received: {example}; give torch.randn{example}")
    if limits.native:
        raise ArgumentError("native=True: only models built from a model YAML have one. Use prune().")
    if not isinstance(keep, str) and not (isinstance(keep, Sequence) and all(isinstance(k, str) for k in keep)):
        raise ArgumentError(f"keep: must be a name or pattern, or several. Received: {_said(keep)}")


def _key_of(checkpoint: dict[Any, Any]) -> Any:
    return next((key for key, value in checkpoint.items() if isinstance(value, nn.Module)), "model")


def _said(value: Any) -> str:
    text = str(value)
    name = f"{type(value).__module__}.{type(value).__name__}".removeprefix("builtins.")
    return f"{text} ({name})" if len(text) < 40 and "\n" not in text else f"a {name}"


@dataclass(frozen=True)
class Batches:
    """Batches of data, with targets or without.

    Attributes:
        inputs (list): Of each batch a tensor, or all arguments as a tuple.
        targets (list | None): What goes with them, for the loss.
        loss (Callable | None): From outputs and targets to the loss.
    """

    inputs: list[Any]
    targets: list[Any] | None
    loss: Callable[[Any, Any], Tensor] | None

    @classmethod
    def of(cls, batches: Iterable[Any] | None, loss: Callable[[Any, Any], Tensor] | None) -> Batches | None:
        """From what a user gave; raises ArgumentError or DataError where that is none."""
        if batches is None:
            if loss is not None:
                raise ArgumentError("loss: must come with batches=, pairs of inputs and targets. Received no batches")
            return None
        listed = [batches] if isinstance(batches, Tensor) else list(batches)
        if not listed:
            raise DataError("batches is empty.")
        if loss is None:
            return cls([tuple(b) if isinstance(b, list) else b for b in listed], None, None)
        if not all(isinstance(b, tuple | list) and len(b) == 2 for b in listed):
            raise ArgumentError(
                f"batches: with loss=, each must be a pair of inputs and targets. Received: {_said(listed[0])}"
            )
        return cls([inputs for inputs, _ in listed], [targets for _, targets in listed], loss)

    def require_taken(self, model: nn.Module) -> None:
        """Raise DataError where a network does not run on the first of them."""
        one = self.inputs[0]
        first = Example(one if isinstance(one, tuple) else (one,))
        try:
            run(model, Example(at_home(model, first.inputs)), False)
        except Exception as e:  # whatever a network may raise
            if is_out_of_memory(e):
                raise
            said = f"of shape {first.shapes}" if tensors(first.inputs) else _said(one)
            raise DataError(f"batches: the network does not run on the first, {said}: {first_line(e)}") from e

    def for_score(self, score: str) -> list[Any]:
        """What a criterion is measured on; raises ArgumentError where it needs a loss and there is none."""
        if score != "taylor":
            return self.inputs
        if self.targets is None:
            raise ArgumentError(
                "score=taylor: must come with loss=, and batches= of inputs and targets. Received no loss"
            )
        return list(zip(self.inputs, self.targets, strict=True))

    @property
    def loss_of(self) -> Callable[[nn.Module, Any], Tensor] | None:
        """From a network and one of the pairs to the loss."""
        loss = self.loss
        if loss is None:
            return None

        def of(model: nn.Module, pair: Any) -> Tensor:
            inputs, targets = pair
            return loss(model(*inputs) if isinstance(inputs, tuple) else model(inputs), targets)

        return of
