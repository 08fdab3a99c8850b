"""Commands on a device that computes on the CPU and is as strict as a GPU, one line of what came out of each."""

from __future__ import annotations

import sys
import traceback
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import ultralytics.engine.trainer as trainers
import ultralytics.engine.validator as validators
from torch import Tensor, nn

import yoloprune


def device(library: Path) -> torch.device:
    """Load it."""
    torch.utils.rename_privateuse1_backend("strange")
    module: Any = types.ModuleType("torch.strange")
    for name, given in {"is_available": True, "device_count": 1, "current_device": 0, "is_initialized": True}.items():
        setattr(module, name, lambda given=given: given)
    for name in ("set_device", "manual_seed", "manual_seed_all", "synchronize", "empty_cache"):
        setattr(module, name, lambda *_: None)
    for name in ("memory_reserved", "memory_allocated", "max_memory_reserved", "max_memory_allocated"):
        setattr(module, name, lambda *_: 0)
    module._is_in_bad_fork = lambda: False
    module.get_rng_state = lambda *_: torch.zeros(8, dtype=torch.uint8)
    module.set_rng_state = lambda *_: None
    module.get_device_properties = lambda *_: types.SimpleNamespace(total_memory=1 << 33, name="strange")
    module.get_amp_supported_dtype = lambda: [torch.float16, torch.bfloat16]
    torch._register_device_module("strange", module)
    sys.modules["torch.strange"] = module
    torch.ops.load_library(str(library))
    Tensor.pin_memory = lambda self, *_, **__: self  # type: ignore[method-assign]
    return torch.device("strange:0")


def chain() -> nn.Module:
    """A network that is none of Ultralytics'."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 4, 3))


def main(library: Path, weights: Path, data: Path, home: Path) -> None:
    """Try each."""
    there = device(library)
    for part in (trainers, validators):
        part.select_device = lambda *_, **__: there
    told: dict[str, Any] = {"data": str(data), "imgsz": 64, "device": there, "project": str(home)}
    trained = {**told, "epochs": 2, "batch": 8, "workers": 0, "plots": False, "amp": False, "optimizer": "SGD"}

    def live() -> Any:
        yolo = yoloprune.load(weights)
        yolo.model.to(there)
        return yolo

    def of_batches() -> None:
        model, images = chain().to(there), torch.rand(2, 3, 16, 16)
        batches = [(images, torch.zeros(2, 4, 12, 12))]

        loss = nn.functional.mse_loss
        least = yoloprune.Limits(round_to=1, min_width=1)
        for how in ({"score": "taylor", "loss": loss, "batches": batches}, {"score": "output", "batches": [images]}):
            yoloprune.prune_module(model, images.to(there), yoloprune.Budget(flops=0.6), least, **how)

    lines: dict[str, Callable[[], Any]] = {
        "train-sparse": lambda: yoloprune.train_sparse(weights, flops=0.8, ramp_start=0.0, ramp_end=0.5, **trained),
        "prune": lambda: yoloprune.prune(weights, flops=0.7, **told),
        "prune a live model": lambda: yoloprune.prune(live(), flops=0.7, **told),
        "mask a live model": lambda: yoloprune.mask(live(), sparsity=0.5, **told),
        "sweep": lambda: yoloprune.sweep(weights, flops=[0.8], **told),
        "growing masks": lambda: yoloprune.finetune(weights, sparsity=0.5, **trained),
        "prune any network": of_batches,
    }
    for name, line in lines.items():
        try:
            line()
        except Exception:
            print(f"FAILED {name}\n{traceback.format_exc()}", flush=True)
        else:
            print(f"DONE {name}", flush=True)
    print(f"OF {len(lines)}", flush=True)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
