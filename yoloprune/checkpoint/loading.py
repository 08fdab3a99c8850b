"""Open what Ultralytics can open: checkpoints, model YAMLs, official names; nothing is installed on the way."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import ultralytics
from torch import nn

from yoloprune.backend import compat, console, model_facts, official_weights, records
from yoloprune.checkpoint import foreign_files
from yoloprune.checkpoint.models import RTDETR, YOLO
from yoloprune.errors import ArgumentError, ModelError, first_line, raised_by
from yoloprune.probing.held_state import copied
from yoloprune.torch_internals import CHILDREN, drop_hooks, is_out_of_memory

ModelSource = str | Path | ultralytics.YOLO
"""What a model is given as: checkpoint, model YAML, official name, or a live object."""


def load(model: str | Path | ultralytics.YOLO, *, prunable: bool = True) -> ultralytics.YOLO:
    """Load a model in float32 and evaluation mode, through Ultralytics' own loader and without any download.

    Args:
        model (str | Path | YOLO): Checkpoint (.pt), model YAML, or a live object, which stays untouched.
        prunable (bool): Whether a fused model is refused, and one that a later yoloprune pruned.

    Returns:
        (YOLO): A new object; a subclass of `ultralytics.YOLO` whose training keeps pruned widths.

    Raises:
        ModelError: If the file is missing, is not a YOLO checkpoint, or the model is fused or exported.
    """
    if isinstance(model, compat.Model):
        if not isinstance(model.model, nn.Module):
            raise ModelError(f"{model.model_name} is an exported model. Use the .pt checkpoint it was exported from.")
        if prunable:
            model_facts.check_prunable(model.model)
        records.require_sound(model_facts.student(model.model), "model")
        if prunable:
            records.require_known(model_facts.student(model.model), "model")
        copy = with_model(model, _copy_of(model.model).cpu().float().eval())
        for event, functions in model.callbacks.items():
            copy.callbacks[event] = list(functions)  # the user's; what is added to this object stays off the other
        return copy
    yolo: ultralytics.YOLO = _opened(model)
    yolo.model = model_facts.student(yolo.model)  # an interrupted run with a teacher saved both
    if prunable:
        model_facts.check_prunable(yolo.model)
        records.require_known(yolo.model, str(model))
    yolo.model.float().eval()
    return yolo


def _copy_of(model: nn.Module) -> nn.Module:
    """A copy of a live network that can be saved, whatever was done with it.

    It is without the user's hooks, which may be functions that no other process finds; those by which torch computes
    weights stay.
    """
    copy = copied(model)
    dropped = sum(drop_hooks(module, _is_of_torch) for module in copy.modules())
    if dropped:
        console.warn(f"model: {dropped} hooks of the live network are left out")
    return copy


def _is_of_torch(hook: Any) -> bool:
    return str(getattr(hook, "__module__", "")).partition(".")[0] == "torch"


def reopen(model: Any) -> ultralytics.YOLO:
    """Load the `last.pt` of an interrupted run.

    Raises:
        ModelError: If the file is missing or no checkpoint.
        ArgumentError: If the run is finished: Ultralytics would start another, with other data, in silence.
    """
    if not isinstance(model, (str, Path)):
        raise ArgumentError("resume: needs the path of the last.pt of the interrupted run as model=.")
    yolo: ultralytics.YOLO = _opened(model)
    if not yolo.ckpt or not yolo.ckpt_path or yolo.ckpt.get("optimizer") is None:
        raise ArgumentError(f"resume: the run of {model} is finished, or this is not its last.pt.")
    _require_home(Path(yolo.ckpt_path).resolve(), yolo.ckpt)
    return yolo


def goes_on(file: Path) -> bool:
    """Whether a checkpoint is of a run that has epochs left, so that resuming it goes on with it."""
    checkpoint = _opened(file).ckpt or {}
    epochs = (checkpoint.get("train_args") or {}).get("epochs", 0)
    return checkpoint.get("optimizer") is not None and checkpoint["epoch"] + 1 < epochs


def _require_home(file: Path, ckpt: Mapping[str, Any]) -> None:
    """Refuse a copy: Ultralytics would write into the folder of the run that it was copied from."""
    told = (ckpt.get("train_args") or {}).get("save_dir")
    if not told:
        return
    home = Path(told)
    if home.exists() and not file.parent.samefile(home / "weights" if (home / "weights").exists() else home):
        raise ArgumentError(
            f"resume: {file} is a copy of the run in {home}, into which it would be written. Resume "
            f"{home / 'weights' / 'last.pt'}, or move that folder away."
        )
    if not home.exists():
        console.warn(f"resume: the run was in {home}, and its results are written there again")


@contextlib.contextmanager
def told_who_wrote(yolo: ultralytics.YOLO) -> Iterator[None]:
    """Where a network does not run, say which release of Ultralytics, or of a fork, wrote its checkpoint."""
    try:
        yield
    except ModelError as e:
        wrote, here = (yolo.ckpt or {}).get("version"), ultralytics.__version__
        if e.__cause__ is None or wrote in (None, here):
            raise
        raise ModelError(
            f"{e}. The checkpoint was written by version {wrote} of Ultralytics or of a fork of it, and {here} is "
            "installed: use the release that wrote it"
        ) from e


def image_size(yolo: ultralytics.YOLO, given: Any) -> int:
    """Side of the images for which FLOPs are counted and channels ranked, a multiple of the model's stride: `imgsz=`,
    else the size that the checkpoint was trained at, else 640; raises ArgumentError if it is not positive.
    """
    size = (yolo.overrides.get("imgsz") or 640) if given is None else given
    if min(size if isinstance(size, (list, tuple)) else [size]) < 1:
        raise ArgumentError(f"imgsz={size}: must be a positive number. Received: {size}")
    stride = getattr(yolo.model, "stride", None)
    size = int(size) if isinstance(size, float) else size
    side: int = compat.check_imgsz(size, stride=32 if stride is None else stride, max_dim=1)
    return side


def with_model(yolo: ultralytics.YOLO, model: nn.Module) -> ultralytics.YOLO:
    """Return a new `YOLO` object like another one but around another module; `copy.copy` would share the module.

    Args:
        yolo (YOLO): Where task, checkpoint data and overrides come from; stays untouched.
        model (nn.Module): Ultralytics model to put in.

    Returns:
        (YOLO): Without trainer, predictor, metrics and callbacks of the other.
    """
    kind = YOLO if type(yolo) is ultralytics.YOLO else type(yolo)
    new = kind.__new__(kind)
    new.__dict__.update({**vars(yolo), CHILDREN: {}, "overrides": dict(yolo.overrides)})
    new.callbacks = compat.get_default_callbacks()
    new.trainer = new.predictor = new.metrics = None
    new.model = model
    return new


def at_side(yolo: ultralytics.YOLO, imgsz: int) -> ultralytics.YOLO:
    """The same network as if it had been trained at an image size, at which what comes of it then trains and predicts.

    Args:
        yolo (YOLO): Stays untouched.
        imgsz (int): Side of the images in pixels.
    """
    new = with_model(yolo, yolo.model)
    told = (yolo.ckpt or {}).get("train_args") or {}
    new.ckpt = {**(yolo.ckpt or {}), "train_args": {**told, "imgsz": imgsz}}
    new.overrides["imgsz"] = imgsz
    return new


def _opened(model: Any) -> YOLO:
    if not isinstance(model, (str, os.PathLike)):
        raise ModelError(
            f"A {type(model).__name__} is no model that can be opened. Give a path or the YOLO object; any other "
            "network goes to yoloprune.prune_module."
        )
    file = _existing(model)
    try:
        with compat.replaced({"AUTOINSTALL": False}):  # or packages that a checkpoint names are installed by pip
            # RT-DETR's class has all that is used of the other
            yolo = cast(YOLO, RTDETR(file)) if _says_rtdetr(file) else YOLO(file)
    except Exception as e:  # unpickling a file that is not a checkpoint can raise anything
        if raised_by(e) != "ultralytics" or is_out_of_memory(e):
            raise
        reason = first_line(e).removeprefix("ERROR ❌️ ")
        reason = foreign_files.remedy(file, e) or reason
        raise ModelError(f"{model} is not a YOLO model that Ultralytics can load: {reason}") from e
    if not isinstance(model_facts.student(yolo.model), compat.BaseModel):
        raise ModelError(foreign_files.BARE_NETWORK.format(file=file))
    records.require_sound(model_facts.student(yolo.model), str(model))
    return yolo


def _says_rtdetr(file: str) -> bool:
    """Whether a model YAML is of an RT-DETR, which has a class of its own; of a checkpoint Ultralytics finds out."""
    if not file.endswith((".yaml", ".yml")):
        return False
    rows = compat.tasks.yaml_model_load(file).get("head")
    return isinstance(rows, list) and "RTDETR" in str(rows[-1:])


def _existing(path: str | os.PathLike[str]) -> str:
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
    if not Path(file).exists() and (official := official_weights.official_name(file)) is not None:
        file = official_weights.fetch(official)
        suffix = ".pt"
    if not Path(file).exists():
        raise ModelError(
            f"{file} is not there. Give the path of a .pt checkpoint, or an official name such as yolov8n.pt."
        )
    if Path(file).is_dir():
        inside = [f for f in (Path(file, "weights", "best.pt"), Path(file, "best.pt")) if f.is_file()]
        raise ModelError(f"{file} is a folder. Give the .pt checkpoint{f' {inside[0]}' if inside else ''} in it.")
    if suffix != ".pt" or not Path(file).is_file():
        if Path(file).is_file() and foreign_files.looks_pickled(file):
            raise ModelError(f"{file} does not end in .pt, by which Ultralytics knows a checkpoint. Rename it.")
        if any(file.endswith(known.rstrip("/")) for known in compat.export_formats()["Suffix"] if known):
            raise ModelError(
                f"{file} is not a .pt checkpoint. Exported models cannot be pruned: use what they came from. Stock "
                "commands such as 'yolo val' take them."
            )
        raise ModelError(f"{file} is no model. Give the path of a .pt checkpoint, or of a model YAML.")
    whole = os.path.abspath(file)  # a damaged file with the bare name of an official one would be fetched again
    seen = {name: compat.check_yolov5u_filename(name, verbose=False).replace("'", "") for name in (whole, file)}
    for name, read in seen.items():
        if Path(read).is_file():
            return name
    raise ModelError(f"Ultralytics reads {path} as {seen[file]}, which is not there. Rename the file, or its folder.")
