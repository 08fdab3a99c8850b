"""How a network is run where it is shipped: format, precision, batch and threads, in the words of `yolo export`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from yoloprune.backend import compat
from yoloprune.errors import ArgumentError
from yoloprune.runtimes import registry, threads
from yoloprune.runtimes.registry import TORCH

EXPORT_KEYS = ("half", "int8", "quantize", "dynamic", "nms", "simplify", "opset", "workspace")
"""Ultralytics' arguments that an export takes besides format, image size, batch, device and data."""

TORCH_KEYS = ("half", "quantize", "compile", "channels_last")
"""Those that torch takes."""

HALF = frozenset({"16", "fp16", "w16a16"})
"""What `quantize=` may be where computing is at half precision."""


@dataclass(frozen=True)
class Deployment:
    """How a network is run.

    Attributes:
        format (str): "torch", or what `yolo export format=` takes.
        device (torch.device): Where it runs.
        batch (int): Images at once; times are per image.
        threads (int | None): Of the runtime, None for its own choice.
        arguments (Mapping): Further arguments of the export, or of torch.
    """

    format: str = TORCH
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    batch: int = 1
    threads: int | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def asked(cls, passed: Mapping[str, Any], device: torch.device, count: int | None, batch: Any = None) -> Deployment:
        """From Ultralytics' arguments, checked before there is any work.

        Args:
            passed (Mapping[str, Any]): What a command was given.
            device (torch.device): Where networks run.
            count (int | None): Threads of the runtime.
            batch (int | None): Images at once, None for one.

        Raises:
            ArgumentError: If the format is none, or what it needs is not installed, or it does not take an argument.
        """
        form = str(passed.get("format") or TORCH).strip().lower()
        runtime = registry.require(form)
        if count is not None and form not in threads.PINNED:
            able = ", ".join(threads.PINNED)
            raise ArgumentError(f"threads={count}: can be set for {able} only. Received: format={form}")
        if count is not None and count > (cores := os.cpu_count() or count):  # thousands end the process
            raise ArgumentError(f"threads={count}: must be at most {cores}, the processor cores of this machine")
        if batch is not None and (type(batch) is not int or batch < 1):
            raise ArgumentError(f"batch={batch}: must be an integer of at least 1 where time is measured")
        arguments = _arguments(form, passed)
        if runtime.calibrated or (form != TORCH and _is_int8(arguments)):
            if not passed.get("data"):  # Ultralytics would download some
                raise ArgumentError(f"format={form}: must come with data=, on whose images int8 is calibrated")
            arguments["data"] = passed["data"]
        return cls(form, device, batch or 1, count, arguments)

    @property
    def half(self) -> bool:
        """Whether it computes at half precision."""
        return bool(self.arguments.get("half")) or str(self.arguments.get("quantize")).lower() in HALF

    def facts(self) -> dict[str, Any]:
        """What times depend on besides the network, for reports."""
        gpu = self.device.type == "cuda"
        own = torch.get_num_threads() if self.format == TORCH else "the runtime's choice"
        return {
            "format": self.format,
            "runtime": registry.require(self.format).engine,
            "device": str(self.device),
            "processor": torch.cuda.get_device_name(self.device) if gpu else compat.get_cpu_info(),
            "threads": self.threads or own,
            "precision": "int8" if _is_int8(self.arguments) else "fp16" if self.half else "fp32",
            "batch": self.batch,
            "arguments": dict(self.arguments),
        }

    def __str__(self) -> str:
        return f"{self.format} on {self.device}"


def _arguments(form: str, passed: Mapping[str, Any]) -> dict[str, Any]:
    """Those that a format takes; raises ArgumentError where others were given."""
    own, others = (TORCH_KEYS, EXPORT_KEYS) if form == TORCH else (EXPORT_KEYS, TORCH_KEYS)
    for key in sorted(set(others) - set(own)):
        if passed.get(key):
            where = "with the format= of an export" if form == TORCH else "without format=, it is for torch alone"
            raise ArgumentError(f"{key}={passed[key]}: must come {where}. Received: format={form}")
    return {key: passed[key] for key in own if passed.get(key) is not None}


def _is_int8(arguments: Mapping[str, Any]) -> bool:
    """Whether weights or activations are quantized to eight bits."""
    return bool(arguments.get("int8")) or "8" in str(arguments.get("quantize"))
