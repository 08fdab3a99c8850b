"""The trainer's loop with a made-up loss on a tiny detector, for the tests of sparse training without a trainer."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from conftest import settle
from torch import Tensor, nn
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils.torch_utils import EarlyStopping, ModelEMA

from yoloprune import Limits, SparseTraining
from yoloprune.backend import model_facts

TINY = {
    "nc": 3,
    "backbone": [
        [-1, 1, "Conv", [8, 3, 2]],
        [-1, 1, "Conv", [16, 3, 2]],
        [-1, 1, "C2f", [16, True]],
        [-1, 1, "Conv", [32, 3, 2]],
        [-1, 1, "C2f", [32, True]],
    ],
    "head": [
        [-1, 1, "nn.Upsample", [None, 2, "nearest"]],
        [[-1, 2], 1, "Concat", [1]],
        [-1, 1, "C2f", [16]],
        [[7, 4], 1, "Detect", ["nc"]],
    ],
}
"""A detector at strides 4 and 8 with 224 prunable channel classes in 16 groups."""

FREE = Limits(round_to=1, min_width=1, native=False)
Norms = dict[str, nn.BatchNorm2d]


class Loop:
    """The loop of Ultralytics' trainer with the same events and attributes, and a made-up loss instead of data."""

    def __init__(self, sparse: SparseTraining, folder: Path, model: nn.Module | None = None, **changed: Any) -> None:
        told = {
            "epochs": 5,
            "batches": 4,
            "accumulate": 1,
            "optimizer": "SGD",
            "lr": 0.01,
            "time": None,
            "resume": False,
            "start_epoch": 0,
        }
        told |= {"patience": 100, "scale": 1.0} | changed
        self.sparse, self.save_dir, self.best = sparse, folder, folder / "weights" / "best.pt"
        self.model = tiny() if model is None else model
        self.ema = ModelEMA(self.model)
        self.args = SimpleNamespace(imgsz=32, time=told["time"], freeze=None)
        self.train_loader = range(told["batches"])
        self.epochs, self.accumulate, self.batch_size = told["epochs"], told["accumulate"], 4
        self.epoch = self.start_epoch = told["start_epoch"]
        self.resume, self.best_fitness = told["resume"], None
        self.stopper = EarlyStopping(told["patience"])
        self.saved_as_best: list[int] = []
        self.metrics: dict[str, float] = {}
        self.scale = told["scale"]
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = getattr(torch.optim, told["optimizer"])(parameters, lr=told["lr"])
        self.image = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
        self.train_time_start = time.time()
        sparse.on_train_start(self)  # type: ignore[arg-type]

    def run(self, fitness: Callable[[int], float] = lambda epoch: 0.5) -> Loop:
        """Train to the end, or until patience is lost."""
        for epoch in range(self.epoch, self.epochs):
            self.epoch = epoch
            self.start()
            self.batches()
            if self.finish(fitness(self.epoch)):
                break
        return self

    def start(self) -> None:
        self.sparse.on_train_epoch_start(self)  # type: ignore[arg-type]

    def batches(self) -> None:
        self.model.train()
        for i in self.train_loader:
            self.sparse.on_train_batch_start(self)  # type: ignore[arg-type]
            (self.scale * sum(t.square().mean() for t in tensors(self.model(self.image)))).backward()
            if (self.epoch * len(self.train_loader) + i + 1) % self.accumulate == 0:
                self.optimizer.step()
                self.optimizer.zero_grad()
                self.ema.update(self.model)

    def finish(self, fitness: float) -> bool:
        self.sparse.on_train_epoch_end(self)  # type: ignore[arg-type]
        if self.best_fitness is None or self.best_fitness < fitness:
            self.best_fitness = fitness
        if self.best_fitness == fitness:
            self.saved_as_best.append(self.epoch)
        stop = self.stopper(self.epoch + 1, fitness)
        self.sparse.on_fit_epoch_end(self)  # type: ignore[arg-type]
        return stop


def tensors(output: Any) -> Iterator[Tensor]:
    """All tensors in a nest of lists and dictionaries."""
    if isinstance(output, Tensor):
        yield output
    else:
        for part in output.values() if isinstance(output, dict) else output:
            yield from tensors(part)


def tiny() -> DetectionModel:
    torch.manual_seed(0)
    return settle(DetectionModel(TINY, verbose=False))  # type: ignore[return-value]


def norms(model: nn.Module) -> Norms:
    return {n: m for n, m in model_facts.student(model).named_modules() if isinstance(m, nn.BatchNorm2d)}


def zeros(model: nn.Module) -> dict[str, list[int]]:
    """Positions of the scales that are exactly zero, layers without any left out."""
    found = {n: torch.nonzero(m.weight.detach() == 0).flatten().tolist() for n, m in norms(model).items()}
    return {n: z for n, z in found.items() if z}
