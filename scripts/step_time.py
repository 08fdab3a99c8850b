"""What sparse training costs per step: training steps with and without its hooks, taking turns in one process.

    python scripts/step_time.py --model yolov8n.yaml --imgsz 320 --batch 16
    python scripts/step_time.py --model yolo11n.yaml --device 0

Two copies of a model train on the same batch of noise with drawn boxes: forward, loss, backward, clipping, optimizer
step, EMA update. One of them under `SparseTraining`, for one run from free start to hold phase, as many steps each.
Prints the median of the ratios of neighbouring steps, in all and by phase, and the mean ratio, in which the choices of
victims (about a hundred in a run of any length) count in full.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import mean, median
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from ultralytics import YOLO
from ultralytics.cfg import get_cfg
from ultralytics.utils.torch_utils import EarlyStopping, ModelEMA

from yoloprune import Budget, SparseConfig, SparseTraining
from yoloprune.backend import evaluation, model_facts


def made_up_batch(model: nn.Module, batch: int, imgsz: int, device: torch.device) -> dict[str, torch.Tensor]:
    """Noise with five boxes per image, as the loss of a detector wants it."""
    generator = torch.Generator().manual_seed(0)
    boxes = torch.rand(5 * batch, 4, generator=generator) * 0.4 + 0.3
    told = {
        "img": torch.rand(batch, model_facts.channels(model), imgsz, imgsz, generator=generator),
        "cls": torch.randint(len(model_facts.network(model).names), (5 * batch, 1), generator=generator).float(),
        "bboxes": boxes,
        "batch_idx": torch.arange(batch).repeat_interleave(5).float(),
    }
    return {k: v.to(device) for k, v in told.items()}


def stepper(
    model: nn.Module, data: dict[str, torch.Tensor], *, amp: bool = False
) -> tuple[Callable[[], None], torch.optim.Optimizer, ModelEMA]:
    """A function that trains for one step as Ultralytics' trainer does, its optimizer and its EMA."""
    model.train()
    model_facts.network(model).args = get_cfg(overrides={"task": "detect"})
    optimizer, ema = torch.optim.AdamW(model.parameters(), lr=1e-4), ModelEMA(model)
    kind = data["img"].device.type
    scaler = torch.amp.GradScaler(kind, enabled=amp and kind == "cuda")

    def step() -> None:
        with torch.autocast(kind, enabled=amp):
            loss, _ = model(data)
        scaler.scale(loss.sum()).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=10.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        ema.update(model)

    return step, optimizer, ema


def main() -> None:
    """Time the steps and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="yolov8n.yaml", help="a detection model")
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=40, help="pairs of steps, after three for warming up")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--amp", action="store_true", help="mixed precision, as Ultralytics trains on a GPU")
    parser.add_argument("--penalty", default="select", choices=["select", "prox", "group", "l1"])
    told = parser.parse_args()
    device = evaluation.device(told.device)

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    plain = YOLO(told.model).model.to(device)
    for parameter in plain.parameters():
        parameter.requires_grad = True  # off in stripped checkpoints
    pushed = copy.deepcopy(plain)
    data = made_up_batch(plain, told.batch, told.imgsz, device)
    without, _, _ = stepper(plain, data, amp=told.amp)
    train, optimizer, ema = stepper(pushed, data, amp=told.amp)
    sparse = SparseTraining(SparseConfig(Budget(flops=0.5), penalty=told.penalty))
    folder = Path(tempfile.mkdtemp())
    trainer: Any = SimpleNamespace(
        model=pushed,
        ema=ema,
        optimizer=optimizer,
        args=SimpleNamespace(imgsz=told.imgsz, time=None, freeze=None),
        train_loader=range(told.steps),
        epoch=0,
        epochs=1,
        accumulate=1,
        batch_size=told.batch,
        resume=False,
        best_fitness=None,
        stopper=EarlyStopping(),
        metrics={},
        save_dir=folder,
        best=folder / "best.pt",
    )

    def under() -> None:
        sparse.on_train_batch_start(trainer)
        train()

    for _ in range(3):
        without()
        train()
    sparse.on_train_start(trainer)
    sparse.on_train_epoch_start(trainer)
    times: list[tuple[str, float, float]] = []
    for i in range(told.steps):
        took = {}
        for name, step in (("without", without), ("with", under))[:: 1 if i % 2 else -1]:
            wait()
            start = time.perf_counter()
            step()
            wait()
            took[name] = time.perf_counter() - start
        times.append((sparse._live.phase, took["without"], took["with"]))
    print(f"{told.model}, imgsz {told.imgsz}, batch {told.batch}, penalty {told.penalty}, {device}, {told.steps} pairs")
    print(f"step without: {1e3 * median(t[1] for t in times):.1f} ms (median)")
    for phase in ("free", "ramp", "hold"):
        if ratios := [b / a for p, a, b in times if p == phase]:
            print(f"ratio, {phase}: {median(ratios):.4f} (median of {len(ratios)})")
    print(f"ratio of means: {mean(t[2] for t in times) / mean(t[1] for t in times):.4f}")
    print(f"median ratio: {median(b / a for _, a, b in times):.4f}")


if __name__ == "__main__":
    main()
