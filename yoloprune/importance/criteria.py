"""Model and graph to one importance per channel: the words of `score=`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from torch import Tensor, nn

from yoloprune.errors import ArgumentError, DataError
from yoloprune.importance import data_criteria, weight_criteria
from yoloprune.importance.reduction import Gates, Reduce, Values, reduce_to_channels
from yoloprune.planning.channel_graph import ChannelGraph

Normalize = Literal["none", "mean", "max"]
Batches = Iterable[Any] | None
Loss = Callable[[nn.Module, Any], Tensor] | None


@dataclass(frozen=True)
class Criterion:
    """One word of `score=`.

    Attributes:
        needs (str): What it looks at beside the weights: "nothing", "images", or "labels" with them.
        values (Callable): From model, graph, batches and loss to values per channel at the axes that it looks at; what
            it finds out about branches goes into a dict, by name.
        per_cost (bool): Whether its values compare between layers, so that costs of channels can be set against them.
    """

    needs: Literal["nothing", "images", "labels"]
    values: Callable[[nn.Module, ChannelGraph, Batches, Loss, Gates], Values]
    per_cost: bool = False


def _of_weights(of: Callable[[nn.Module], Tensor | None]) -> Criterion:
    return Criterion("nothing", lambda model, graph, batches, loss, gates: weight_criteria.values_of(model, graph, of))


def _activation(model: nn.Module, graph: ChannelGraph, batches: Batches, loss: Loss, gates: Gates) -> Values:
    return data_criteria.activation(model, graph, batches or ())


def _output(model: nn.Module, graph: ChannelGraph, batches: Batches, loss: Loss, gates: Gates) -> Values:
    return data_criteria.output(model, graph, batches or (), gates)


def _taylor(model: nn.Module, graph: ChannelGraph, batches: Batches, loss: Loss, gates: Gates) -> Values:
    return data_criteria.taylor(model, graph, batches or (), loss or data_criteria.own_loss, gates)


CRITERIA: dict[str, Criterion] = {
    "bn": _of_weights(weight_criteria.batch_norm),
    "l1": _of_weights(weight_criteria.l1),
    "l2": _of_weights(weight_criteria.l2),
    "lamp": _of_weights(weight_criteria.lamp),
    "fpgm": _of_weights(weight_criteria.fpgm),
    "activation": Criterion("images", _activation),
    "output": Criterion("images", _output, per_cost=True),
    "taylor": Criterion("labels", _taylor, per_cost=True),
}
"""The words of `score=`, beside "random", a control that looks at nothing at all."""


class Importance(NamedTuple):
    """What a criterion says.

    Attributes:
        channels (np.ndarray): Of each channel class, shape (classes,); infinite for classes without a member that the
            criterion looks at.
        branches (np.ndarray): Of each branch of the graph, shape (branches,), in the unit in which channels add up.
    """

    channels: np.ndarray
    branches: np.ndarray


def importance(
    model: nn.Module,
    graph: ChannelGraph,
    criterion: str = "bn",
    *,
    reduce: Reduce = "mean",
    normalize: Normalize = "none",
    batches: Iterable[Any] | None = None,
    loss: Callable[[nn.Module, Any], Tensor] | None = None,
    seed: int = 0,
) -> Importance:
    """Importance of each channel class and each branch.

    A branch is worth the sum over the channels that it puts out of what a gate on each does ("taylor" and "output", not
    normalized), and else the sum over the channels inside it.

    Args:
        model (nn.Module): The traced model.
        graph (ChannelGraph): Its channels.
        criterion (str): A key of `CRITERIA`, or "random" as a control.
        reduce (str): How the values of a class's members become one: "mean", "max", "sum" or "l2", their norm.
        normalize (str): Divide by the "mean" or "max" of the group, so that groups compare; "none" leaves values alone.
        batches (Iterable[Any] | None): For "activation" and "output", images of shape (B, C, H, W). For "taylor", what
            the model makes a loss of: `model(batch)` is the loss, or a tuple that begins with it, as in Ultralytics.
        loss (Callable | None): From the model and a batch to the loss, where the model does not make it itself.
        seed (int): Seed of "random".

    Returns:
        (Importance): Of channels and branches.

    Raises:
        ArgumentError: If a word is unknown, or the criterion looks at data and gets none.
        DataError: If `batches` is empty, or what is measured is not a number.
    """
    for name, value, known in (("reduce", reduce, Reduce), ("normalize", normalize, Normalize)):
        if value not in get_args(known):
            raise ArgumentError(f"{name}={value}: must be one of {', '.join(get_args(known))}. Received: {value}")
    if criterion == "random":
        drawn = np.random.default_rng(seed).random(graph.n_classes)
        return Importance(drawn, _of_branches(graph, drawn, {}))
    if criterion not in CRITERIA:
        raise ArgumentError(f"score={criterion}: must be one of {sorted([*CRITERIA, 'random'])}.")
    if CRITERIA[criterion].needs != "nothing" and batches is None:
        raise ArgumentError(f"score={criterion}: must come with data, on which it is measured. Received no data")
    gates: Gates = {}
    values = reduce_to_channels(graph, CRITERIA[criterion].values(model, graph, batches, loss, gates), reduce)
    if (graph.prunable & np.isnan(values)).any():
        what = "the weights" if CRITERIA[criterion].needs == "nothing" else "the images, or what comes of them,"
        raise DataError(f"score={criterion}: {what} are not all numbers (NaN or infinite), so nothing can be ranked.")
    if normalize != "none":
        for g in range(len(graph.groups)):
            members = graph.classes(g)
            if np.isfinite(values[members]).all():
                values[members] /= max(float(getattr(np, normalize)(values[members])), 1e-12)
    return Importance(values, _of_branches(graph, values, gates if normalize == "none" else {}))


def _of_branches(graph: ChannelGraph, values: np.ndarray, gates: Gates) -> np.ndarray:
    """Importance of each branch, shape (branches,): by its gates, or where it has none by the channels inside it."""
    inside = (np.concatenate([graph.classes(g) for g in branch.groups]) for branch in graph.branches)
    return np.array(
        [
            float((gates[branch.name] if branch.name in gates else values[classes]).sum())
            for branch, classes in zip(graph.branches, inside, strict=True)
        ]
    )
