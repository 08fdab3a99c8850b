"""Two processes that train together on the CPU: Ultralytics joins those on GPUs alone, its launcher is its own.

A module that the processes import: tests hand its trainer to commands by `trainer=`.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import distributed, nn
from torch.nn import parallel
from ultralytics.engine import validator
from ultralytics.utils import LOCAL_RANK, RANK

from yoloprune.checkpoint.trainers import DetectionTrainer


class OnCpu(DetectionTrainer):
    """Joins by gloo what joins by nccl, and leaves of each rank what it has in the end."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if LOCAL_RANK == -1 and os.environ.get("RANKS"):  # the process that starts the others
            self.world_size, self.ddp = int(os.environ["RANKS"]), True

    def require_device(self) -> None:
        """The CPU is wanted."""

    def _setup_ddp(self, *_: Any) -> None:
        distributed.init_process_group("gloo", rank=RANK, world_size=self.world_size)
        nn.parallel.DistributedDataParallel = WithoutIds  # type: ignore[misc]
        distributed.reduce = averaged
        backend = validator.AutoBackend
        validator.AutoBackend = lambda device=None, **told: backend(device=torch.device("cpu"), **told)
        validator.get_torch_device_backend = lambda *_: SimpleNamespace(current_device=lambda: 0)

    def save_model(self) -> Any:
        saved = super().save_model()
        if RANK == 0 and os.environ.get("DIES"):
            os._exit(9)  # behind its first epoch
        return saved

    def final_eval(self) -> None:
        super().final_eval()
        if RANK != -1 and (place := os.environ.get("LEFT")):
            kept = {"model": self.model.module.state_dict(), "save_dir": str(self.save_dir), "ranks": self.world_size}
            torch.save(kept, Path(place) / f"{self.args.name}-{RANK}.pt")


class WithoutIds(parallel.DistributedDataParallel):
    """Takes no ids of devices: on the CPU there are none."""

    def __init__(self, module: nn.Module, device_ids: Any = None, **told: Any) -> None:
        super().__init__(module, **told)


_reduce = distributed.reduce


def averaged(tensor: torch.Tensor, dst: int, op: Any = distributed.ReduceOp.SUM) -> None:
    """A mean is a sum over the ranks, divided: gloo knows no mean."""
    if op != distributed.ReduceOp.AVG:
        _reduce(tensor, dst=dst, op=op)
        return
    _reduce(tensor, dst=dst)
    tensor /= distributed.get_world_size()
