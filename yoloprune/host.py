"""The only file that touches names of Ultralytics which are not public API."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn
from ultralytics.nn.tasks import BaseModel
from ultralytics.utils import LOGGER, RANK, colorstr
from ultralytics.utils.torch_utils import unwrap_model

from yoloprune import tracing
from yoloprune.errors import ArgumentError, ModelError
from yoloprune.groups import ChannelGraph
from yoloprune.surgery import has_width_attributes


def trace_yolo(model: nn.Module, *, imgsz: int = 640, keep: Iterable[str] = ()) -> ChannelGraph:
    """Trace an Ultralytics model: probe size from its stride, head frozen, FLOPs counted at `imgsz`.

    Args:
        model (nn.Module): An Ultralytics model (`YOLO(...).model`), unfused.
        imgsz (int): Image size for which FLOPs are counted.
        keep (Iterable[str]): Module names or shell patterns whose output channels stay; also "backbone" and "neck".

    Returns:
        (ChannelGraph): See `tracing.trace`.

    Raises:
        ModelError: If the model is not an Ultralytics model, is fused, or does not run.
        ArgumentError: If a `keep` pattern matches nothing.
    """
    check_prunable(model)
    noise = example(model)
    return tracing.trace(
        model,
        noise,
        frozen={head_name(model): f"{type(model.model[-1]).__name__} head"},
        keep=match(model, keep),
        sized=has_width_attributes,
        outputs=True,  # the neck's features are among the outputs, and follow the head's input side
        area=(imgsz / noise.shape[-1]) ** 2,
    )


def check_prunable(model: Any) -> None:
    """Raise ModelError unless this is an unfused Ultralytics model."""
    if not isinstance(model, BaseModel) or not isinstance(getattr(model, "model", None), nn.Sequential):
        raise ModelError(f"Not an Ultralytics YOLO model. Received: {type(model).__name__}.")
    if not any(isinstance(m, nn.BatchNorm2d) for m in model.modules()):
        raise ModelError(
            "The model is fused: its batch-norm layers are folded into the convolutions and there is no gamma left. "
            "Use the checkpoint from before fuse()."
        )


def student(model: nn.Module) -> nn.Module:
    """The network that is trained, out of the wrappers for several GPUs, compilation and distillation."""
    model = unwrap_model(model)
    return getattr(model, "student_model", model)


def is_main_process() -> bool:
    """Whether this process logs and saves."""
    return RANK in {-1, 0}


def log(prefix: str, message: str) -> None:
    """Log as Ultralytics does, with a coloured prefix."""
    LOGGER.info(f"{colorstr(prefix)}{message}")


def warn(message: str) -> None:
    """Warn as Ultralytics does."""
    LOGGER.warning(message)


def head_name(model: nn.Module) -> str:
    """Dotted name of the head, the last layer."""
    return f"model.{len(model.model) - 1}"


def example(model: nn.Module, batch: int = 1) -> torch.Tensor:
    """Seeded noise, the smallest image on which the coarsest feature map still has 2x2 cells, shape (batch, C, S, S)."""
    stride, weight = getattr(model, "stride", None), next(model.parameters())
    size = max(64, 2 * int(stride.max())) if isinstance(stride, torch.Tensor) else 64
    noise = torch.rand(batch, channels(model), size, size, generator=torch.Generator().manual_seed(0))
    return noise.to(weight.device, weight.dtype)


def channels(model: nn.Module) -> int:
    """Number of input channels, 3 unless the model YAML says otherwise."""
    return int(getattr(model, "yaml", {}).get("channels", 3))


def match(model: nn.Module, patterns: Iterable[str]) -> dict[str, str]:
    """Modules named by `keep` patterns, with the pattern as the reason.

    A pattern names a module and all inside it; `*` matches across dots; "backbone" and "neck" stand for their layers.

    Raises:
        ArgumentError: If a pattern matches no module.
    """
    names = [n for n, _ in model.named_modules() if n] + [n for n, _ in model.named_parameters()]
    n_backbone, n_layers = len(model.yaml["backbone"]), len(model.model) - 1
    parts = {"backbone": range(n_backbone), "neck": range(n_backbone, n_layers)}
    found: dict[str, str] = {}
    for pattern in patterns:
        if pattern in parts:
            roots = [f"model.{i}" for i in parts[pattern]]
            hits = [n for n in names if ".".join(n.split(".")[:2]) in roots]
        else:
            roots = [n for n in names if fnmatchcase(n, pattern)]
            hits = [n for n in names if any(n == r or n.startswith(f"{r}.") for r in roots)]
        if not hits:
            from difflib import get_close_matches

            near = get_close_matches(pattern, names, n=3, cutoff=0.5)
            raise ArgumentError(
                f"keep={pattern}: no layer of this model has that name. "
                + (f"Similar names are i.e. {near}." if near else f"Names look like '{names[1]}'.")
            )
        found.update(dict.fromkeys(hits, f"keep={pattern}"))
    return found
