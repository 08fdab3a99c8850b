"""How large and how good a model is, in the figures that Ultralytics prints."""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Iterable, Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import nn

from yoloprune.backend import compat, datasets, model_facts
from yoloprune.errors import ArgumentError
from yoloprune.planning import quality
from yoloprune.probing.forward import hooked, running


def measure(model: nn.Module, imgsz: int) -> dict[str, float]:
    """Size of a model.

    Args:
        model (nn.Module): An Ultralytics model.
        imgsz (int): Image size for which FLOPs are counted.

    Returns:
        (dict[str, float]): "params", "GFLOPs" as Ultralytics prints them, and "MB" of a checkpoint.
    """
    sizes = {"params": sum(p.numel() for p in model.parameters()), "GFLOPs": round(gflops(model, imgsz), 4)}
    with contextlib.suppress(pickle.PicklingError, AttributeError, TypeError):  # of a live model that cannot be saved
        sizes["MB"] = round(stripped_size(model) / 1e6, 2)
    return sizes


def stripped_size(model: nn.Module) -> int:
    """Bytes of a checkpoint as Ultralytics' `strip_optimizer` leaves it: half precision, no optimizer, no second copy.

    Files differ by what training left in them, so that beside each other their sizes say nothing of a cut.
    """
    slim = deepcopy(model_facts.student(model)).half()
    network: Any = model_facts.network(slim)
    network.criterion, network.args, network.pt_path = None, {}, None  # which hang on where a model comes from
    torch.save({"model": slim}, counter := _Counter())  # type: ignore[arg-type]
    return counter.bytes


class _Counter:
    """A file that keeps nothing but how long it is."""

    def __init__(self) -> None:
        self.bytes = 0

    def write(self, data: bytes) -> int:
        self.bytes += len(data)
        return len(data)

    def flush(self) -> None:
        """Nothing waits."""


def gflops(model: nn.Module, imgsz: int) -> float:
    """GFLOPs as Ultralytics prints them.

    It counts on memory that nobody filled, where operations that read at computed places may read anywhere.
    """
    with hooked() as hooks:
        hooks.append(model.register_forward_pre_hook(_fill))
        return float(compat.get_flops(model, imgsz))


def _fill(model: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Hook that gives a network zeros in the place of what it was given."""
    return tuple(torch.zeros_like(x) if isinstance(x, torch.Tensor) else x for x in inputs)


def fused_copy(model: nn.Module) -> nn.Module:
    """The model as it runs in deployment, batch-norm folded; the original stays."""
    with torch.no_grad():  # releases that fold with gradients leave parameters whose gradients cannot be switched off
        return model_facts.network(deepcopy(model).float().eval()).fuse(verbose=False)


def device(name: Any) -> torch.device:
    """Device from Ultralytics' `device=` argument.

    Raises:
        ArgumentError: If it is not there, or no device of torch. Ultralytics takes the CPU where MPS is missing.
    """
    try:
        found = compat.select_device("" if name is None else name, verbose=False)
    except (ValueError, RuntimeError) as e:  # the first line names it, the others are a manual
        raise ArgumentError(f"device={name}: {str(e).splitlines()[0]}") from None
    if not isinstance(found, torch.device):
        raise ArgumentError(f"device={name}: must be cpu, mps or the number of a GPU. Received: {name}")
    if str(name).lower().startswith("mps") and not torch.backends.mps.is_available():
        raise ArgumentError(f"device={name}: there is no MPS device here. Use device=cpu")
    return found


OF_EXPORT = frozenset(
    {"format", "half", "int8", "quantize", "dynamic", "nms", "simplify", "opset", "workspace", "compile"}
)
"""Arguments that say how an export is made."""


def validate(yolo: Any, arguments: Mapping[str, Any]) -> None:
    """Run Ultralytics' validation with its own defaults for what is not given; of an export it takes no arguments."""
    if arguments.get("format"):
        arguments = {k: v for k, v in arguments.items() if k not in OF_EXPORT}
    with datasets.reading(arguments.get("data")):
        yolo.val(**{"plots": False, **arguments})
    if torch.cuda.is_initialized():  # a training on several GPUs that follows has its memory in other processes
        torch.cuda.empty_cache()


def metrics(yolo: Any) -> dict[str, float]:
    """Figures of the last validation, named as the field does: mAP50, mAP50-95, with the branch where there are two."""
    results = getattr(yolo.metrics, "results_dict", yolo.metrics) or {}
    short = {}
    for key, value in results.items():
        name, _, branch = key.removeprefix(quality.PREFIX).partition("(")
        if quality.is_quality(name):
            short[name + (f"({branch}" if branch not in {"", "B)"} else "")] = round(float(value), 5)
    return short


def measured_nothing(yolo: Any) -> bool:
    """Whether no image of the last validation had a label, where this release of Ultralytics counts them."""
    counts = getattr(yolo.metrics, "nt_per_class", None)
    return counts is not None and not sum(counts)


def loss(model: nn.Module, batches: Iterable[Mapping[str, Any]]) -> float:
    """Mean of Ultralytics' training loss over images, all its parts together; batch-norm as in evaluation.

    Args:
        model (nn.Module): From `model_facts.with_loss`.
        batches (Iterable): Labelled images as `calibration_images.labelled` gives them.
    """
    total, count = 0.0, 0
    with running(model):
        for batch in batches:
            items = model(batch)[1]  # each part as a mean over the batch; a tensor in earlier releases
            parts = items.values() if isinstance(items, Mapping) else items.flatten()
            total += sum(float(part) for part in parts) * len(batch["img"])
            count += len(batch["img"])
    return total / max(count, 1)


def by_class(yolo: Any) -> tuple[dict[str, float], dict[str, int] | None]:
    """Of the last validation, by class that the data has: mAP50-95, of masks or keypoints where there are such.

    Returns:
        (tuple): mAP50-95, 0..1, by name, empty for tasks without; labelled objects by name, None where this release of
            Ultralytics does not count them.
    """
    found = yolo.metrics
    metric = next((m for kind in ("seg", "pose", "box") if (m := getattr(found, kind, None)) is not None), None)
    if metric is None or not len(getattr(metric, "all_ap", ())):
        return {}, None
    classes = [int(c) for c in metric.ap_class_index]
    figures = {str(found.names[c]): round(float(ap), 5) for c, ap in zip(classes, metric.ap, strict=True)}
    counts = getattr(found, "nt_per_class", None)
    return figures, None if counts is None else {str(found.names[c]): int(counts[c]) for c in classes}
