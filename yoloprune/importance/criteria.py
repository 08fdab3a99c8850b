"""Model and graph to one importance per channel: the words of `score=`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal, get_args

import numpy as np
from torch import Tensor, nn

from yoloprune.errors import ArgumentError
from yoloprune.importance.data_criteria import ON_DATA, taylor
from yoloprune.importance.reduction import Reduce, reduce_to_channels
from yoloprune.importance.weight_criteria import CRITERIA, values_of
from yoloprune.planning.channel_graph import ChannelGraph

Normalize = Literal["none", "mean", "max"]


def score(
    model: nn.Module,
    graph: ChannelGraph,
    criterion: str = "bn",
    *,
    reduce: Reduce = "mean",
    normalize: Normalize = "none",
    batches: Iterable[Any] | None = None,
    loss: Callable[[nn.Module, Any], Tensor] | None = None,
    seed: int = 0,
) -> np.ndarray:
    """Importance of each channel class.

    Args:
        model (nn.Module): The traced model.
        graph (ChannelGraph): Its channels.
        criterion (str): A key of `CRITERIA` or `ON_DATA`, or "random" as a control.
        reduce (str): How the values of a class's members become one: "mean", "max", "sum" or "l2", their norm.
        normalize (str): Divide by the "mean" or "max" of the group, so that groups compare; "none" leaves values alone.
        batches (Iterable[Any] | None): For "activation", images of shape (B, C, H, W). For "taylor", what the model
            makes a loss of: `model(batch)` is the loss, or a tuple that begins with it, as in Ultralytics.
        loss (Callable | None): From the model and a batch to the loss, where the model does not make it itself.
        seed (int): Seed of "random".

    Returns:
        (np.ndarray): Scores, shape (classes,); infinite for classes without a member that the criterion looks at.

    Raises:
        ArgumentError: If a word is unknown, or the criterion looks at data and gets none.
        DataError: If `batches` is empty.
    """
    for name, value, known in (("reduce", reduce, Reduce), ("normalize", normalize, Normalize)):
        if value not in get_args(known):
            raise ArgumentError(f"{name}={value}: must be one of {', '.join(get_args(known))}. Received: {value}")
    if criterion == "random":
        return np.random.default_rng(seed).random(graph.n_classes)
    if criterion == "taylor" and batches is not None and loss is not None:
        found = taylor(model, graph, batches, loss)
    elif criterion in ON_DATA and batches is not None:
        found = ON_DATA[criterion](model, graph, batches)
    elif criterion in CRITERIA:
        found = values_of(model, graph, CRITERIA[criterion])
    elif criterion in ON_DATA:
        raise ArgumentError(f"score={criterion}: must come with data, on which it is measured. Received no data")
    else:
        raise ArgumentError(f"score={criterion}: must be one of {sorted([*CRITERIA, *ON_DATA, 'random'])}.")
    values = reduce_to_channels(graph, found, reduce)
    if normalize != "none":
        for g in range(len(graph.groups)):
            members = graph.classes(g)
            if np.isfinite(values[members]).all():
                values[members] /= max(float(getattr(np, normalize)(values[members])), 1e-12)
    return values
