# Written by scripts/signatures.py from settings/commands.py.
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

from ultralytics.models.yolo.model import YOLO as StockYOLO

from yoloprune.planning.channel_graph import ChannelGraph

__all__ = ["compare", "finetune", "info", "latency", "mask", "plot"]
__all__ += ["prune", "slim", "sweep", "trace", "train_sparse", "val"]

ModelSource: TypeAlias = str | Path | StockYOLO

def slim(
    model: ModelSource,
    *,
    flops: float | str | None = None,
    params: float | str | None = None,
    sparsity: float | None = None,
    latency: float | str | None = None,
    max_drop: float | None = None,
    confidence: float | None = None,
    steps: int | None = None,
    schedule: Literal["even", "cubic"] = "even",
    way: Literal["auto", "prune", "sparse", "train"] = "auto",
    distill: Literal["parent"] | None = None,
    threads: int | None = None,
    classes: str | int | Sequence[str | int] | None = None,
    score: Literal["auto", "bn", "l1", "l2", "lamp", "fpgm", "taylor", "output", "activation", "random"] = "auto",
    reduce: Literal["mean", "max", "sum", "l2"] = "mean",
    normalize: Literal["auto", "none", "mean", "max", "cost"] = "auto",
    uniform: bool = False,
    round_to: int = 8,
    min_width: int = 8,
    max_ratio: float = 0.8,
    layers: str | Mapping[str, float] | Sequence[tuple[str, float]] = (),
    keep: str | Sequence[str] = (),
    native: bool | Literal["tied"] | None = None,
    recover: Literal["auto", "none", "fold", "bn", "lsq"] = "auto",
    **ultralytics_arguments: Any,
) -> StockYOLO: ...
def train_sparse(
    model: ModelSource,
    *,
    flops: float | str | None = None,
    params: float | str | None = None,
    sparsity: float | None = None,
    penalty: Literal["select", "prox", "group", "l1"] = "select",
    penalty_weight: float | None = None,
    penalty_decay: bool = True,
    score: Literal["taylor", "gamma", "gamma-mean"] = "taylor",
    normalize: Literal["none", "cost"] = "cost",
    ramp_start: float = 0.1,
    ramp_end: float = 0.6,
    fade: float = 0.6,
    round_to: int = 8,
    min_width: int = 8,
    max_ratio: float = 0.8,
    layers: str | Mapping[str, float] | Sequence[tuple[str, float]] = (),
    keep: str | Sequence[str] = (),
    native: bool | Literal["tied"] | None = None,
    **ultralytics_arguments: Any,
) -> StockYOLO: ...
def prune(
    model: ModelSource,
    *,
    flops: float | str | None = None,
    params: float | str | None = None,
    ratio: float | None = None,
    latency: float | str | None = None,
    times: str | Path | None = None,
    threads: int | None = None,
    images: str | Path | None = None,
    classes: str | int | Sequence[str | int] | None = None,
    score: Literal["auto", "bn", "l1", "l2", "lamp", "fpgm", "taylor", "output", "activation", "random"] = "auto",
    reduce: Literal["mean", "max", "sum", "l2"] = "mean",
    normalize: Literal["auto", "none", "mean", "max", "cost"] = "auto",
    uniform: bool = False,
    round_to: int = 8,
    min_width: int = 8,
    max_ratio: float = 0.8,
    layers: str | Mapping[str, float] | Sequence[tuple[str, float]] = (),
    keep: str | Sequence[str] = (),
    native: bool | Literal["tied"] | None = None,
    recover: Literal["auto", "none", "fold", "bn", "lsq"] = "auto",
    **ultralytics_arguments: Any,
) -> StockYOLO: ...
def sweep(
    model: ModelSource,
    *,
    flops: float | str | Sequence[float | str] | None = None,
    params: float | str | Sequence[float | str] | None = None,
    ratio: float | Sequence[float] | None = None,
    within: float = 3.0,
    threads: int | None = None,
    classes: str | int | Sequence[str | int] | None = None,
    score: Literal["auto", "bn", "l1", "l2", "lamp", "fpgm", "taylor", "output", "activation", "random"] = "auto",
    reduce: Literal["mean", "max", "sum", "l2"] = "mean",
    normalize: Literal["auto", "none", "mean", "max", "cost"] = "auto",
    uniform: bool = False,
    round_to: int = 8,
    min_width: int = 8,
    max_ratio: float = 0.8,
    layers: str | Mapping[str, float] | Sequence[tuple[str, float]] = (),
    keep: str | Sequence[str] = (),
    native: bool | Literal["tied"] | None = None,
    recover: Literal["auto", "none", "fold", "bn", "lsq"] = "auto",
    **ultralytics_arguments: Any,
) -> list[dict[str, Any]]: ...
def mask(
    model: ModelSource,
    *,
    pattern: str = "unstructured",
    sparsity: float | None = None,
    score: Literal["auto", "magnitude", "taylor", "wanda", "random"] = "auto",
    scope: Literal["auto", "global", "layer", "output"] = "auto",
    head: bool = False,
    keep: str | Sequence[str] = (),
    images: str | Path | None = None,
    recover: Literal["auto", "none", "bn", "lsq"] = "auto",
    **ultralytics_arguments: Any,
) -> StockYOLO: ...
def finetune(
    model: ModelSource,
    *,
    distill: Literal["parent"] | None = None,
    **ultralytics_arguments: Any,
) -> StockYOLO: ...
def val(
    model: ModelSource,
    against: ModelSource | None = None,
    *,
    threads: int | None = None,
    **ultralytics_arguments: Any,
) -> list[dict[str, Any]]: ...
def info(
    model: ModelSource,
    *,
    keep: str | Sequence[str] = (),
    threads: int | None = None,
    **ultralytics_arguments: Any,
) -> list[dict[str, Any]]: ...
def plot(
    model: ModelSource,
    against: ModelSource | None = None,
    *,
    layer: str | Sequence[str] = (),
    kind: Literal["2d", "3d", "gamma"] = "2d",
    **ultralytics_arguments: Any,
) -> Path: ...
def latency(
    model: ModelSource,
    against: ModelSource | None = None,
    *,
    target: str | None = None,
    python: str = "python3",
    cmd: str | None = None,
    pattern: str | None = None,
    threads: int | None = None,
    round_to: int = 8,
    min_width: int = 8,
    max_ratio: float = 0.8,
    layers: str | Mapping[str, float] | Sequence[tuple[str, float]] = (),
    keep: str | Sequence[str] = (),
    **ultralytics_arguments: Any,
) -> Path: ...
def trace(model: ModelSource, *, imgsz: int | None = None, keep: tuple[str, ...] = ()) -> ChannelGraph: ...
def compare(
    models: Mapping[str, ModelSource],
    *,
    command: str = "val",
    threads: int | None = None,
    **passed: Any,
) -> list[dict[str, Any]]: ...
