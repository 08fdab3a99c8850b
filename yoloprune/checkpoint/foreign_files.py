"""Files that hold a network, or hold weights, but are no checkpoint of Ultralytics: what they are, and what to do."""

from __future__ import annotations

import contextlib
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

NO_ATTRIBUTE = re.compile(r"Can't get attribute '(?P<name>[^']+)' on <module '(?P<module>[^']+)'")


BARE_NETWORK = (
    "{file} holds a bare network, as torch.save(yolo.model, ...) writes one, and no checkpoint. Put it into a YOLO "
    "object and write that: yolo = YOLO('yolov8n.yaml'); yolo.model = torch.load(..., weights_only=False); "
    "yolo.save('model.pt'). Networks that are not of Ultralytics go to yoloprune.prune_module"
)


def looks_pickled(file: str | Path) -> bool:
    """Whether torch.save wrote a file, as it writes checkpoints; TorchScript, which has code in it, is none."""
    if not zipfile.is_zipfile(file):
        return False
    names: list[str] = []
    with contextlib.suppress(zipfile.BadZipFile), zipfile.ZipFile(file) as archive:
        names = [name.partition("/")[2] for name in archive.namelist()]
    return "data.pkl" in names and not any(name.startswith("code/") for name in names)


def remedy(file: str | Path, error: Exception) -> str:
    """What is missing for a file that Ultralytics cannot open, and how to get it; empty where that is not known.

    Args:
        file (str | Path): The file.
        error (Exception): What was raised.
    """
    if found := NO_ATTRIBUTE.search(str(error)):
        name, module = found["name"], found["module"]
        if module.rpartition(".")[2] == "__main__":  # of this process, in which the file is opened
            return (
                f"its class {name} was defined in the script that made the file, and cannot be found from elsewhere. "
                "Put the class into a file of its own, import it from there in that script, and save again"
            )
        return f"the installed {module} has no {name}. Install the version, or the fork, that wrote the file"
    if isinstance(error, ModuleNotFoundError) and error.name:
        top = error.name.partition(".")[0]
        return f"it needs the module {error.name}. Install it, or run where {top}.py lies or have it in PYTHONPATH"
    if _is_state_dict(file):
        return (
            "it is a state dict, weights without a network. Build the network, fill it and write a checkpoint: yolo = "
            "YOLO('yolov8n.yaml'); yolo.model.load_state_dict(torch.load(...)); yolo.save('model.pt')"
        )
    return ""


def _is_state_dict(file: str | Path) -> bool:
    """Whether a file holds tensors by name, perhaps one level down; nothing but plain data is read."""
    content: Any = None
    if not looks_pickled(file):
        return False
    with contextlib.suppress(OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError):
        content = torch.load(file, map_location="cpu", weights_only=True)
    if not isinstance(content, Mapping):
        return False
    inside = [content, *(v for v in content.values() if isinstance(v, Mapping))]
    return any(one and all(isinstance(v, Tensor) for v in one.values()) for one in inside)
