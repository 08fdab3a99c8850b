"""What is done to a network of any kind after it was cut, and how a fresh one gets the same widths."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from torch import Tensor, nn

from yoloprune.backend import console
from yoloprune.cutting import masks, surgery
from yoloprune.errors import ArgumentError
from yoloprune.planning.plan import Plan
from yoloprune.repair import constant_folding, least_squares, recipes

Recover = Literal["auto", "none", "fold", "lsq"]

MASKED = 0.1
"""Share of weights that is zero in a network that somebody masked; by itself hardly any is."""

Model = TypeVar("Model", bound=nn.Module)


def repair(parent: nn.Module, child: nn.Module, plan: Plan, recover: Recover, batches: list[Any] | None) -> str:
    """Repair a cut network in place.

    Args:
        parent (nn.Module): The network before the cut.
        child (nn.Module): The network after it.
        plan (Plan): What was cut.
        recover (str): As `prune_module` takes it.
        batches (list | None): Inputs, where there are any.

    Returns:
        (str): What was done, in words.

    Raises:
        ArgumentError: If what is asked for needs other batches.
    """
    if recover == "none" or batches is None:
        return "nothing was repaired" + ("" if recover == "none" else ", for want of batches=")
    images = all(isinstance(b, Tensor) and b.ndim == 4 and b.shape[1:] == batches[0].shape[1:] for b in batches)
    if recover == "lsq" and not images:
        raise ArgumentError("recover=lsq: must come with batches= of images of one size. Received other inputs")
    folded = constant_folding.fold(parent, child, plan, batches)
    said = f"what {folded.channels} cut inputs gave moved into {len(folded.into)} layers"
    if "lsq" not in recipes.steps_of(recover, images=images):
        return said
    zero, count = _zeros(child)
    fitted = least_squares.refit(parent, child, plan, batches)
    if zero > MASKED * count and _zeros(child)[0] < zero / 2:
        console.warn(
            f"prune_module: {zero:,} of the {count:,} weights that were left were zero, and fitting gave them values. "
            "Where they are a mask, recover='fold' leaves it"
        )
    return f"{said}, {len(fitted)} layers fitted"


def _zeros(model: nn.Module) -> tuple[int, int]:
    """How many weights of layers that can be masked are zero, of how many."""
    names = [name for name, module in model.named_modules() if masks.maskable(module)]
    return sum(masks.zeros(model, names).values()), sum(masks.sizes(model, names).values())


def rebuild(model: Model, plan: Plan | Mapping[str, Any] | str | Path) -> Model:
    """Give a freshly built network the widths of a pruned one, so that `load_state_dict` takes the weights of that.

    Args:
        model (nn.Module): The full network as its own code builds it; changed in place.
        plan (Plan | Mapping | str | Path): What was cut: a plan, what `Plan.to_dict` or `Plan.widths` gives, or a file
            of `Plan.save`.

    Returns:
        (nn.Module): The same object, smaller.

    Raises:
        ArgumentError: If an argument is of another kind.
        PlanError: If the plan cannot be read, or does not fit the network.
    """
    if not isinstance(model, nn.Module):
        raise ArgumentError(f"model: must be a torch.nn.Module. Received: a {type(model).__name__}")
    if isinstance(plan, str | Path):
        plan = Plan.load(plan)
    elif isinstance(plan, Mapping):
        counted = any(isinstance(n, int) for entry in plan.values() for k, n in entry.items() if k != "heads")
        plan = Plan.from_widths(plan) if counted else Plan.from_dict(plan)
    if not isinstance(plan, Plan):
        raise ArgumentError(f"plan: must be a Plan, or a file of one. Received: a {type(plan).__name__}")
    return surgery.cut(model, plan)
