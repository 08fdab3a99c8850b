"""The engine that is always there: torch as it is, batch-norms fused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from yoloprune.backend import evaluation, model_facts
from yoloprune.runtimes.timing import take_turns


def latency(models: Sequence[nn.Module], imgsz: int, *, seconds: float = 4.0) -> list[float]:
    """Median time of one forward pass at batch 1, the models taking turns.

    Args:
        models (Sequence[nn.Module]): Models on the device where they shall be timed; fused copies of them are timed.
        imgsz (int): Side of the square image.
        seconds (float): About how long to measure in all.

    Returns:
        (list[float]): Milliseconds per image, in the order of the models.
    """
    runs = [_opened(m, imgsz) for m in models]
    with torch.inference_mode():
        return take_turns(runs, seconds)


def _opened(model: nn.Module, imgsz: int) -> Callable[[], None]:
    """What runs one image through a fused copy of a model, and returns when it is done."""
    fused = evaluation.fused_copy(model)
    device = next(fused.parameters()).device
    image = torch.rand(1, model_facts.channels(fused), imgsz, imgsz, device=device)

    def run() -> None:
        fused(image)
        _wait_for(device)

    return run


def _wait_for(device: torch.device) -> None:
    """Until all that was launched is done."""
    backend: Any = getattr(torch, device.type, None)
    if device.type == "mps":
        torch.mps.synchronize()
    elif hasattr(backend, "synchronize"):  # cuda, xpu, npu, and the CPU, where it does nothing
        backend.synchronize(device)
