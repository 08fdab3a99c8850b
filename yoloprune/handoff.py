"""Checkpoint in and out: load what Ultralytics can load, save a pruned model as an ordinary stock checkpoint."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

import torch
import ultralytics
from torch import nn
from ultralytics.utils import DEFAULT_CFG_DICT, callbacks, checks

from yoloprune import builder, host, rows
from yoloprune.errors import ArgumentError, ModelError, PruneError
from yoloprune.groups import Plan
from yoloprune.provenance import make_provenance, plain, provenance, pruned_widths
from yoloprune.trainers import KEY, YOLO, mark_pruned

__all__ = [
    "YOLO",
    "image_size",
    "load",
    "make_provenance",
    "mark_pruned",
    "provenance",
    "pruned_widths",
    "reopen",
    "save",
    "with_model",
]

# ---- in --------------------------------------------------------------------------------------------------------------


def load(model: str | Path | ultralytics.YOLO, *, prunable: bool = True) -> YOLO:
    """Load a model in float32 and evaluation mode, through Ultralytics' own loader and without any download.

    Args:
        model (str | Path | YOLO): Checkpoint (.pt), model YAML, or a live object, which stays untouched.
        prunable (bool): Whether a fused model is refused.

    Returns:
        (YOLO): A new object; a subclass of `ultralytics.YOLO` whose training keeps pruned widths.

    Raises:
        ModelError: If the file is missing, is not a YOLO checkpoint, or the model is fused or exported.
    """
    if isinstance(model, ultralytics.engine.model.Model):
        if not isinstance(model.model, nn.Module):
            raise ModelError(f"{model.model_name} is an exported model. Use the .pt checkpoint it was exported from.")
        if prunable:
            host.check_prunable(model.model)
        return with_model(model, deepcopy(model.model).float().eval())
    file = _existing(model)
    try:
        with _installing_nothing():
            yolo = YOLO(file)
    except Exception as e:  # unpickling a file that is not a checkpoint can raise anything
        reason = (str(e).strip() or type(e).__name__).splitlines()[0].removeprefix("ERROR ❌️ ")
        raise ModelError(f"{model} is not a YOLO model that Ultralytics can load: {reason}") from e
    yolo.model = host.student(yolo.model)  # an interrupted run with a teacher saved both
    if prunable:
        host.check_prunable(yolo.model)
    yolo.model.float().eval()
    return yolo


def reopen(model: Any) -> YOLO:
    """Load the `last.pt` of an interrupted run.

    Raises:
        ModelError: If the file is missing.
        ArgumentError: If the run is finished: Ultralytics would start another, with other data, in silence.
    """
    if not isinstance(model, (str, Path)):
        raise ArgumentError("resume: needs the path of the last.pt of the interrupted run as model=.")
    yolo = YOLO(_existing(model))
    if not yolo.ckpt or yolo.ckpt.get("optimizer") is None:
        raise ArgumentError(f"resume: the run of {model} is finished, or this is not its last.pt.")
    return yolo


def image_size(yolo: ultralytics.YOLO, given: Any) -> int:
    """Side of the images for which FLOPs are counted and channels ranked, a multiple of the model's stride: `imgsz=`,
    else the size that the checkpoint was trained at, else 640; raises ArgumentError if it is not positive.
    """
    size = (yolo.overrides.get("imgsz") or 640) if given is None else given
    if min(size if isinstance(size, (list, tuple)) else [size]) < 1:
        raise ArgumentError(f"imgsz={size}: must be a positive number. Received: {size}")
    stride = getattr(yolo.model, "stride", None)
    size = int(size) if isinstance(size, float) else size
    return checks.check_imgsz(size, stride=32 if stride is None else stride, max_dim=1)


def with_model(yolo: ultralytics.YOLO, model: nn.Module) -> YOLO:
    """Return a new `YOLO` object like another one but around another module; `copy.copy` would share the module.

    Args:
        yolo (YOLO): Where task, checkpoint data and overrides come from; stays untouched.
        model (nn.Module): Ultralytics model to put in.

    Returns:
        (YOLO): Without trainer, predictor, metrics and callbacks of the other.
    """
    kind = YOLO if type(yolo) is ultralytics.YOLO else type(yolo)
    new = kind.__new__(kind)
    new.__dict__.update(vars(yolo), _modules={}, overrides=dict(yolo.overrides))
    new.callbacks = callbacks.get_default_callbacks()
    new.trainer = new.predictor = new.metrics = None
    new.model = model
    return new


def _existing(path: str | Path) -> str:
    """Name of a model file that Ultralytics' loader can open without going to the network.

    One exception: an official name such as yolov8n.pt, given without a folder, is fetched as Ultralytics does it.
    """
    file, suffix = str(path).strip(), Path(str(path).strip()).suffix.lower()
    if "://" in file:
        raise ModelError(f"{file} is not a local file, and yoloprune does not download. Give a path.")
    if suffix in {".yaml", ".yml"}:
        return file  # may also be one of those that come with Ultralytics
    if not suffix and Path(f"{file}.pt").is_file():
        file, suffix = f"{file}.pt", ".pt"  # "yolov8n" stands for the file, as in Ultralytics
    if not Path(file).exists() and (official := host.official_name(file)) is not None:
        host.fetch(file := official)
        suffix = ".pt"
    if not Path(file).exists():
        raise ModelError(
            f"{file} is not there. Give the path of a .pt checkpoint, or an official name such as yolov8n.pt."
        )
    if suffix != ".pt" or not Path(file).is_file():
        raise ModelError(f"{file} is not a .pt checkpoint. Exported models cannot be pruned: use what they came from.")
    file = os.path.abspath(file)  # a damaged file with the bare name of an official one would be fetched again
    if not Path(seen := checks.check_yolov5u_filename(file, verbose=False).replace("'", "")).is_file():
        raise ModelError(
            f"Ultralytics reads the name {path} as '{Path(seen).name}', which is not there. Rename the file."
        )
    return file


@contextmanager
def _installing_nothing() -> Iterator[None]:
    """Ultralytics pip-installs packages that a checkpoint names; opening a file must not."""
    before, checks.AUTOINSTALL = checks.AUTOINSTALL, False
    try:
        yield
    finally:
        checks.AUTOINSTALL = before


# ---- out -------------------------------------------------------------------------------------------------------------


def save(
    yolo: ultralytics.YOLO,
    path: str | Path,
    *,
    plan: Plan,
    provenance: Mapping[str, Any],
    native: Mapping[str, Any] | None = None,
) -> Path:
    """Write a pruned model as Ultralytics writes a finished one: half precision, stock classes, plain data.

    Args:
        yolo (YOLO): Holds the cut model; its `model.yaml` is still the parent's. Stays untouched.
        path (str | Path): File to write; it is replaced in one step, so an interrupted run leaves the old one.
        plan (Plan): What was cut from the parent.
        provenance (Mapping): From `make_provenance`.
        native (Mapping | None): A stock YAML of the cut model; written beside the checkpoint as well.

    Returns:
        (Path): The file written.

    Raises:
        PlanError: If the parent's YAML, cut by the plan, does not give this model.
        PruneError: If the file is the one that the model came from, or cannot be written.
    """
    path = Path(path)
    for source in {yolo.ckpt_path, getattr(yolo.model, "pt_path", None)} - {None}:
        if path.exists() and Path(source).exists() and path.samefile(source):
            raise PruneError(
                f"{path} is the file that the model came from and is not overwritten. Choose another name."
            )
    model = deepcopy(yolo.model).float()
    mark_pruned(model, plan, plain(provenance), native)
    stored = (yolo.ckpt or {}).get("train_args") or {}
    arguments = {k: v for k, v in {"task": yolo.task, **stored}.items() if k in DEFAULT_CFG_DICT}
    model.args, model.criterion = dict(arguments), None
    vars(model).pop("pt_path", None)  # the loader sets it; this one names a place on the machine of the parent
    _to_half(model)
    checkpoint = {
        **dict.fromkeys(("best_fitness", "ema", "updates", "optimizer", "scaler", "train_metrics", "train_results")),
        "epoch": -1,
        "model": model,
        "train_args": arguments,
        "date": datetime.now().astimezone().isoformat(),
        "version": ultralytics.__version__,
        "license": "AGPL-3.0 License (https://ultralytics.com/license)",
        "docs": "https://docs.ultralytics.com",
    }
    # Ultralytics takes a scale from names such as yolo11m-pruned.yaml and adds to the rows what goes with it.
    beside = path.with_suffix(".yaml") if not builder.scale_in(path.name) else path.with_name("pruned.yaml")
    if native is not None:
        said = {k: v for k, v in model.yaml.items() if k not in {KEY, "yaml_file"}}
        if beside.exists() and not _is_ours(beside):
            raise PruneError(f"{beside} is not a file of yoloprune and is not overwritten. Choose another folder.")
        _replace(beside, lambda f: f.write(rows.text(said).encode()))
    elif _is_ours(beside):  # of another model that was saved here before
        beside.unlink()
    _replace(path, lambda f: torch.save(checkpoint, f))
    return path


def _is_ours(file: Path) -> bool:
    """Whether yoloprune wrote a model YAML."""
    return file.is_file() and file.read_text(encoding="utf-8", errors="replace").startswith(rows.HEADER)


def _replace(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Write a file in one step, so that an interrupted run leaves the old one.

    Raises:
        PruneError: If it cannot be written.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "wb") as file:
            write(file)
        os.replace(part, path)
    except OSError as e:
        raise PruneError(f"Cannot write {path}: {e.strerror or e}. Choose another folder.") from e
    finally:
        if part.is_file():
            part.unlink()


def _to_half(model: nn.Module) -> None:
    limit = torch.finfo(torch.half).max
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.clamp_(-limit, limit)  # a large batch-norm variance would become infinite
    model.half().to(memory_format=torch.contiguous_format)
