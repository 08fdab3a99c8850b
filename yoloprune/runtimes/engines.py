"""Networks opened on a runtime: torch as it is, or what Ultralytics' own exporter writes, run by Ultralytics' backend.

What is timed is therefore what `yolo predict model=pruned.onnx` runs.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import nn

from yoloprune import torch_internals
from yoloprune.backend import compat, console, evaluation, model_facts
from yoloprune.errors import ArgumentError
from yoloprune.runtimes import registry, threads
from yoloprune.runtimes.deployment import Deployment
from yoloprune.runtimes.registry import TORCH, missing

MARKS = re.compile("\x1b\\[[0-9;]*m|ERROR|❌|\ufe0f")
"""Colours and signs that Ultralytics puts into its messages."""

Engine = Callable[[torch.Tensor], Any]
Run = Callable[[], None]
"""Runs one batch, and returns when that is done."""


def opened(model: nn.Module | str, deployment: Deployment, imgsz: int, folder: Path) -> Run:
    """What runs a batch of images through a network.

    Args:
        model (nn.Module | str): An Ultralytics model, stays untouched; or an exported file, which runs as it is.
        deployment (Deployment): How it runs.
        imgsz (int): Side of the square images.
        folder (Path): Empty; an export lies there as long as it runs.

    Raises:
        ArgumentError: If it cannot be exported or run here, with what Ultralytics or the runtime says.
    """
    if isinstance(model, str):
        form = registry.format_of(model)
        with threads.pinned(form, deployment.threads if form in threads.PINNED else None):
            engine, half = _file(model, deployment)
        channels = int(getattr(engine, "channels", 3))  # as the file says itself
    else:
        made = _torch(model, deployment) if deployment.format == TORCH else _exported(model, deployment, imgsz, folder)
        engine, half, channels = *made, model_facts.channels(model)
    images = torch.rand(deployment.batch, channels, imgsz, imgsz, device=deployment.device)
    images = images.half() if half else images

    def run() -> None:
        with torch.inference_mode():
            engine(images)
        wait_for(deployment.device)

    return run


def _torch(model: nn.Module, deployment: Deployment) -> tuple[Engine, bool]:
    """A fused copy in Ultralytics' backend, and whether it takes half precision."""
    told = {"device": deployment.device, "fp16": deployment.half, "verbose": False}
    if "channels_last" in deployment.arguments:
        told["channels_last"] = deployment.arguments["channels_last"]
    with console.quiet():
        engine = compat.AutoBackend(evaluation.fused_copy(model).to(deployment.device), **told).eval()
        half = bool(engine.fp16)
        if mode := deployment.arguments.get("compile"):
            engine = compat.attempt_compile(engine, device=deployment.device, mode=mode)
    return engine, half


def side_of(path: str, deployment: Deployment, imgsz: int, *, named: bool) -> int:
    """Side of the images that a file takes which was exported before: the one that it was made for, or any.

    Args:
        path (str): The file.
        deployment (Deployment): Where it runs.
        imgsz (int): The side of one that takes any.
        named (bool): Whether it has to take that.

    Raises:
        ArgumentError: If it does not run here, or not at such a size.
    """
    engine: Any = _file(path, deployment)[0]
    made = [int(n) for n in getattr(engine, "imgsz", None) or ()]
    if not made or getattr(engine, "dynamic", False) or set(made) == {imgsz}:
        return imgsz
    if named or len(set(made)) > 1:
        said = "x".join(map(str, made)) if len(set(made)) > 1 else made[0]
        raise ArgumentError(f"{path}: was exported for imgsz={said} and takes no other. Received: imgsz={imgsz}")
    return made[0]


def class_names(path: str, deployment: Deployment) -> list[str]:
    """Names of the classes of a file that was exported before, as it says itself.

    Raises:
        ArgumentError: If it does not run here.
    """
    engine: Any = _file(path, deployment)[0]
    names = getattr(engine, "names", None) or {}
    return [str(name) for name in (names.values() if isinstance(names, dict) else names)]


def _file(path: str, deployment: Deployment) -> tuple[Engine, bool]:
    """A file that was exported before in Ultralytics' backend for its format, and whether it takes half precision."""
    try:
        with console.quiet(), compat.replaced({"AUTOINSTALL": False}):
            engine = compat.AutoBackend(path, device=deployment.device, fp16=deployment.half, verbose=False).eval()
            return engine, bool(engine.fp16)
    except Exception as e:  # as in `_exported`
        if torch_internals.is_out_of_memory(e):
            raise
        said = " ".join(MARKS.sub("", str(e)).split()) or type(e).__name__
        raise ArgumentError(f"{path}: does not run here: {said}") from e


def _exported(model: nn.Module, deployment: Deployment, imgsz: int, folder: Path) -> tuple[Engine, bool]:
    """What Ultralytics exports, in its backend for that format, and whether it takes half precision."""
    with _foreign(deployment.format):
        engine = backend(_export(model, deployment, imgsz, folder / "network.pt"), deployment)
        return engine, bool(engine.fp16)


def exported(model: nn.Module, deployment: Deployment, imgsz: int, beside: Path) -> Path:
    """The file or folder that Ultralytics exports.

    Args:
        model (nn.Module): An Ultralytics model, stays untouched.
        deployment (Deployment): Format and arguments.
        imgsz (int): Side of the square images.
        beside (Path): A name in an existing folder, whose stem the export gets.

    Raises:
        ArgumentError: If it cannot be exported here, with what Ultralytics says.
    """
    with _foreign(deployment.format):
        return _export(model, deployment, imgsz, beside)


def _export(model: nn.Module, deployment: Deployment, imgsz: int, beside: Path) -> Path:
    network: Any = deepcopy(model).float().eval()
    network.pt_path = str(beside)  # the exporter writes beside it
    told = {"format": deployment.format, "imgsz": imgsz, "batch": deployment.batch, "device": str(deployment.device)}
    told = {"verbose": False, **deployment.arguments, **told, "mode": "export"}
    return Path(compat.Exporter(overrides=told)(model=network))


@contextlib.contextmanager
def _foreign(form: str) -> Iterator[None]:
    """While active nothing is said and nothing installed; what goes wrong becomes an ArgumentError of one line."""
    try:
        with console.quiet(), compat.replaced({"AUTOINSTALL": False}):  # or pip installs what is not there
            yield
    except ModuleNotFoundError as e:
        raise missing(form, e.name or str(e)) from None
    except Exception as e:  # exporter and runtime are foreign code, and each has its own kinds of errors
        if torch_internals.is_out_of_memory(e):
            raise
        said = " ".join(MARKS.sub("", str(e)).split()) or type(e).__name__
        raise ArgumentError(f"format={form}: does not run here: {said}") from e


def backend(file: Path, deployment: Deployment) -> Any:
    """An exported file in Ultralytics' backend, as `yolo predict` opens it."""
    return compat.AutoBackend(str(file), device=deployment.device, fp16=deployment.half, verbose=False).eval()


def wait_for(device: torch.device) -> None:
    """Until all that was launched is done."""
    backend: Any = getattr(torch, device.type, None)
    if device.type == "mps":
        torch.mps.synchronize()
    elif hasattr(backend, "synchronize"):  # cuda, xpu, npu, and the CPU, where it does nothing
        backend.synchronize(device)
