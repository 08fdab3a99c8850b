"""Whether a sparse training can meet its target: asked before anything is written, and of what the trainer built."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from torch import nn

from yoloprune.backend import host_arguments
from yoloprune.errors import BudgetError
from yoloprune.native import candidates
from yoloprune.planning import greedy_selection
from yoloprune.settings.sparse_config import SparseConfig
from yoloprune.sparse.batch_norm_scales import BatchNormScales


def require(model: nn.Module, config: SparseConfig, imgsz: int, freeze: Any = None) -> None:
    """Raise BudgetError if a training of a fresh model cannot meet its target, or has nothing to do.

    Args:
        model (nn.Module): As the trainer would build it; its layers are frozen as the trainer would.
        config (SparseConfig): The target.
        imgsz (int): Image size for which FLOPs are counted.
        freeze (int | list | None): Ultralytics' `freeze=`: the first layers, or these.
    """
    for name in host_arguments.held_still(model, freeze):
        model.get_parameter(name).requires_grad_(False)
    # Where native widths are not insisted on, free ones do what they cannot.
    limits = replace(config.limits, native=config.limits.native is True)
    choose(model, candidates.Channels(model, limits, imgsz), config, freeze)


def choose(model: nn.Module, found: candidates.Channels, config: SparseConfig, freeze: Any = None) -> candidates.Choice:
    """Some choice that meets the target without a channel that cannot die, as in a layer that `freeze=` holds.

    Args:
        model (nn.Module): The network that is trained.
        found (Channels): Its channels.
        config (SparseConfig): The target.
        freeze (int | list | None): What the error says about layers that are frozen.

    Raises:
        BudgetError: If there is none, or the model meets the target as it is.
    """
    scores = np.where(BatchNormScales(model, found.graph).removable, 0.0, np.inf)
    try:
        choice = found.choose(lambda graph: greedy_selection.select(graph, scores, config.budget, config.limits))
    except BudgetError as e:
        if not freeze:
            raise
        more = f"The channels of layers that freeze={freeze} holds cannot die."
        if isinstance(e, greedy_selection.OutOfReachError):
            raise e.because(more) from None
        raise BudgetError(f"{e} {more}") from None
    if choice.alive.all():
        raise BudgetError(f"The model already meets {config.budget}, so no channel has to die. Use 'yolo train'.")
    return choice
