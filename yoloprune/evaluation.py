"""How large a model is, in the figures that Ultralytics prints."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from yoloprune import host


def measure(model: nn.Module, imgsz: int, file: str | Path | None = None) -> dict[str, float]:
    """Size of a model.

    Args:
        model (nn.Module): An Ultralytics model.
        imgsz (int): Image size for which FLOPs are counted.
        file (str | Path | None): Its checkpoint.

    Returns:
        (dict[str, float]): "params", "GFLOPs" as Ultralytics prints them, and "MB" of the file when there is one.
    """
    sizes = {"params": sum(p.numel() for p in model.parameters()), "GFLOPs": round(host.gflops(model, imgsz), 4)}
    if file is not None and Path(file).is_file():
        sizes["MB"] = round(Path(file).stat().st_size / 1e6, 2)
    return sizes
