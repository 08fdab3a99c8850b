from argparse import Namespace
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

autocast: Any

class BaseTrainer:
    args: Namespace
    model: Any
    """A path, and the network from the start of the training on."""
    resume: bool
    save_dir: Path
    wdir: Path
    last: Path
    best: Path
    csv: Path
    callbacks: dict[str, list[Callable[..., Any]]]
    optimizer: Any
    train_loader: Any
    ema: Any
    stopper: Any
    best_fitness: float | None
    metrics: dict[str, Any] | None
    epoch: int
    epochs: int
    start_epoch: int
    batch_size: int
    accumulate: int
    train_time_start: float

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...
    def check_resume(self, overrides: Mapping[str, Any]) -> None: ...
    def resume_training(self, ckpt: Any) -> None: ...
    def add_callback(self, event: str, callback: Callable[..., Any]) -> None: ...
    def build_optimizer(self, model: nn.Module, *args: Any, **kwargs: Any) -> Any: ...
    def final_eval(self) -> None: ...
    def get_model(self, cfg: Any = None, weights: Any = None, verbose: bool = True) -> nn.Module: ...
    def validate(self) -> Any: ...
    def save_model(self) -> Any: ...
