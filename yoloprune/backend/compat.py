"""Names of Ultralytics that are not public and that yoloprune relies on: one list, and what differs between releases.

A name is looked up in the installed release when it is read, as in `compat.parse_model(...)`, or before, by `require`.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from importlib import import_module
from typing import Any

import ultralytics

from yoloprune.errors import PruneError

OLDEST, NEWEST = "8.3.0", "8.4.190"
"""Releases of Ultralytics that yoloprune is tested with."""


@dataclass(frozen=True)
class ForeignName:
    """One name of Ultralytics.

    Attributes:
        module (str): Where it is looked up, below `ultralytics`.
        path (str): Name there, dotted for what a class holds.
        purpose (str): What yoloprune needs it for.
        positional (int | None): How many values are passed by position, None for what is not called.
        keywords (tuple[str, ...]): What is passed by name.
        earlier (str | None): What it was called in earlier releases.
        optional (bool): Whether yoloprune does without it, as in releases that do not have it yet.
    """

    module: str
    path: str
    purpose: str
    positional: int | None = None
    keywords: tuple[str, ...] = ()
    earlier: str | None = None
    optional: bool = False

    def owner(self) -> Any:
        """The module or class that holds it; raises ImportError or AttributeError if that is gone."""
        return reduce(getattr, self.path.split(".")[:-1], import_module(f"ultralytics.{self.module}"))

    def look_up(self) -> Any:
        """What it is in the installed release, None if it is not there."""
        with contextlib.suppress(ImportError, AttributeError):
            owner = self.owner()
            for name in (self.path.rpartition(".")[2], self.earlier):
                if name is not None and hasattr(owner, name):
                    return getattr(owner, name)
        return None

    def fault(self) -> str | None:
        """What is wrong with it in the installed release, in words; None if nothing is."""
        found = self.look_up()
        if found is None:
            return None if self.optional else "is not there"
        if self.positional is None:
            return None
        values = [None] * (self.positional + self._takes_self())
        try:
            inspect.signature(found).bind(*values, **dict.fromkeys(self.keywords))
        except TypeError as e:
            return f"does not take what yoloprune passes ({e})"
        return None

    def _takes_self(self) -> bool:
        """Whether it is a method, which takes its object first when it is read from the class."""
        owner, name = self.owner(), self.path.rpartition(".")[2]
        return inspect.isclass(owner) and inspect.isfunction(getattr(owner, name))


OPENING = (
    ForeignName("engine.model", "Model", "tells a live model from a path"),
    ForeignName("engine.model", "Model.task_map", "puts our trainers in the place of stock ones"),
    ForeignName("engine.model", "Model._smart_load", "finds the trainer of a task", 1),
    ForeignName("nn.tasks", "BaseModel", "tells a network of Ultralytics from others"),
    ForeignName("nn.tasks", "BaseModel.load", "takes over weights", 1, ("verbose",)),
    ForeignName("nn.tasks", "BaseModel.is_fused", "refuses fused networks", 0),
    ForeignName("nn.tasks", "BaseModel.info", "prints the summary of a network that is trained", 0),
    ForeignName("nn.tasks", "WorldModel", "is trained on prompts"),
    ForeignName("nn.tasks", "YOLOEModel", "is trained on prompts", optional=True),
    ForeignName("nn.modules", "Detect", "is what distillation compares"),
    ForeignName("utils", "LOGGER", "logs"),
    ForeignName("utils", "RANK", "tells the process that logs and saves"),
    ForeignName("utils", "LOCAL_RANK", "tells which GPU of its machine a process takes"),
    ForeignName("utils", "TQDM", "shows progress", 0, ("total", "initial", "desc", "leave", "disable")),
    ForeignName("utils", "colorstr", "colours the beginning of a message", 1),
    ForeignName("utils", "DEFAULT_CFG_DICT", "tells Ultralytics' arguments in a checkpoint from others"),
    ForeignName("utils.callbacks", "get_default_callbacks", "gives a new YOLO object callbacks of its own", 0),
    ForeignName("utils.checks", "AUTOINSTALL", "is off while a file is opened"),
    ForeignName("utils.checks", "check_imgsz", "rounds an image size to the stride", 1, ("stride", "max_dim")),
    ForeignName("utils.checks", "check_yolov5u_filename", "reads some file names as others", 1, ("verbose",)),
    ForeignName("utils.downloads", "GITHUB_ASSETS_NAMES", "lists official checkpoints"),
    ForeignName("utils.downloads", "attempt_download_asset", "finds or fetches an official checkpoint", 1),
    ForeignName("utils.tqdm", "is_noninteractive_console", "keeps bars from being drawn over", optional=True),
    ForeignName("utils.torch_utils", "select_device", "reads device=", 1, ("verbose",)),
    ForeignName("utils.torch_utils", "unwrap_model", "unwraps a network", 1, earlier="de_parallel"),  # 8.3.212
)
BUILDING = (
    ForeignName("nn", "tasks", "holds the classes that model YAMLs name"),
    ForeignName("nn.tasks", "parse_model", "builds rows of a model YAML", 2, ("verbose",)),
    ForeignName("nn.tasks", "guess_model_scale", "reads the scale from the name of a YAML", 1),
    ForeignName("nn.tasks", "BaseModel.forward", "runs once where a network is built, for its strides"),
    ForeignName("nn.tasks", "DetectionModel", "is built from a YAML", 0, ("cfg", "ch", "nc", "verbose")),
    ForeignName("nn.modules", "Conv.default_act", "is changed for the process by a YAML, and put back"),
    ForeignName("nn.modules", "Conv", "holds the activation that layers get"),
    ForeignName("utils.ops", "make_divisible", "rounds widths", 2),
)
FOLDERS = (
    ForeignName("cfg", "get_cfg", "fills in Ultralytics' arguments", 0, ("overrides",)),
    ForeignName("cfg", "get_save_dir", "chooses the folder of a run", 1),
    ForeignName("utils.files", "increment_path", "numbers a file that is there", 1),
)
MEASURING = (
    ForeignName("utils.torch_utils", "get_flops", "counts the FLOPs that Ultralytics prints", 2),
    ForeignName("nn.tasks", "BaseModel.fuse", "folds batch-norm as in deployment", 0, ("verbose",)),
)
RUNNING = (
    ForeignName("engine.exporter", "Exporter", "exports a network", 0, ("overrides",)),
    ForeignName("engine.exporter", "export_formats", "lists the formats", 0),
    ForeignName("nn.autobackend", "AutoBackend", "runs an export as predict does", 1, ("device", "fp16", "verbose")),
    ForeignName("utils.torch_utils", "attempt_compile", "compiles as predict", 1, ("device", "mode"), optional=True),
    ForeignName("utils", "USER_CONFIG_DIR", "holds the times that were measured"),
    ForeignName("utils.torch_utils", "get_cpu_info", "names the processor", 0),
)
DATA = (
    ForeignName("utils", "DATASETS_DIR", "is where data sets lie"),
    ForeignName("utils.checks", "check_file", "finds the YAML of a data set", 1, ("hard",)),
    ForeignName("data.utils", "check_det_dataset", "reads the YAML of a data set", 1, ("autodownload",)),
    ForeignName("data.utils", "img2label_paths", "finds the labels of images", 1),
    ForeignName("data.utils", "add_polygon_background", "makes one class more of outlines", 1, optional=True),
    ForeignName("data.utils", "check_font", "fetches a font, and is replaced while a YAML is read"),
)
IMAGES = (
    ForeignName("data.base", "BaseDataset", "lists and loads images", 2, ("augment", "prefix")),
    ForeignName("data.base", "BaseDataset.load_image", "loads an image", 1),
    ForeignName("data.base", "BaseDataset.get_labels", "is left to subclasses", 0),
    ForeignName("data.base", "BaseDataset.build_transforms", "is left to subclasses", 1),
    ForeignName("data.augment", "LetterBox", "fits an image into a square", 1, ("scaleup",)),
    ForeignName("data.augment", "classify_transforms", "crops an image for classification", 1),
    ForeignName("utils.patches", "imread", "reads an image", 1),
    ForeignName("utils.patches", "imwrite", "writes a frame of a video", 2),
    ForeignName("data.loaders", "LoadImagesAndVideos", "reads videos", 1, ("vid_stride",)),
    ForeignName("data.utils", "IMG_FORMATS", "tells images by the ends of their names"),
    ForeignName("data.utils", "VID_FORMATS", "tells videos by the ends of their names"),
    ForeignName("utils", "ASSETS", "has two photographs"),
    ForeignName("utils.plotting", "colors", "gives a class its colour", 1),
    ForeignName("data.dataset", "ClassificationDataset", "scans images"),
    ForeignName("data.dataset", "ClassificationDataset.verify_images", "scans images, and is held to a few", 0),
    ForeignName("data.dataset", "load_dataset_cache_file", "reads a pickle, and is replaced", 1),
    ForeignName("data.dataset", "save_dataset_cache_file", "writes a pickle, and is replaced", 4),
    ForeignName("engine.validator", "BaseValidator", "makes the data of a task", 0, ("save_dir", "args")),
    ForeignName("engine.validator", "BaseValidator.get_dataloader", "makes the data of a task", 2),
    ForeignName("engine.validator", "BaseValidator.preprocess", "makes a batch what a loss takes", 1),
)
TRAINING = (
    ForeignName("engine.trainer", "BaseTrainer.check_resume", "settles arguments before the first file", 1),
    ForeignName("engine.trainer", "BaseTrainer", "judges the name of an optimizer"),
    ForeignName("engine.trainer", "BaseTrainer.build_optimizer", "makes the optimizer, judges its name", 1, ("name",)),
    ForeignName("engine.trainer", "BaseTrainer.save_model", "writes checkpoints", 0),
    ForeignName("engine.trainer", "BaseTrainer.final_eval", "strips checkpoints", 0),
    ForeignName("engine.trainer", "BaseTrainer.get_model", "builds the network", 0, ("cfg", "weights", "verbose")),
    ForeignName("utils.torch_utils", "strip_optimizer", "strips the checkpoints of a training that was killed", 1),
    ForeignName("utils.plotting", "plot_results", "draws the curves of a training that was killed", 1),
    ForeignName("nn.tasks", "torch_safe_load", "reads a checkpoint whose folder is renamed", 1),
)
GROUPS = (OPENING, BUILDING, FOLDERS, MEASURING, RUNNING, DATA, IMAGES, TRAINING)
NAMES = {foreign.path: foreign for group in GROUPS for foreign in group}  # all of them

NEEDS: dict[str, tuple[tuple[ForeignName, ...], ...]] = {
    "info": (OPENING, RUNNING),
    "latency": (OPENING, FOLDERS, RUNNING),
    "trace": (OPENING,),
    **dict.fromkeys(("val", "compare"), (OPENING, FOLDERS, MEASURING, RUNNING, DATA, IMAGES)),
    "plot": (OPENING, FOLDERS),
    **dict.fromkeys(("prune", "sweep", "sensitivity", "mask"), GROUPS[:-1]),  # none trains
    "finetune": (OPENING, BUILDING, FOLDERS, DATA, IMAGES, TRAINING),
    "train-sparse": (OPENING, BUILDING, FOLDERS, DATA, TRAINING),
    **dict.fromkeys(("slim", "demo"), GROUPS),
}
"""What each command uses."""


def require(command: str) -> None:
    """Look up all that a command needs, before it does anything.

    Args:
        command (str): A key of `NEEDS`.

    Raises:
        PruneError: If the installed Ultralytics lacks a name, or does not take what is passed.
    """
    for foreign in (foreign for group in NEEDS[command] for foreign in group):
        if (fault := foreign.fault()) is not None:
            raise _changed(foreign, fault)


def has(path: str) -> bool:
    """Whether this release has a name that others lack."""
    return NAMES[path].look_up() is not None


def accepts(path: str, keyword: str) -> bool:
    """Whether something takes a parameter that earlier releases do not know."""
    return keyword in inspect.signature(_get(path)).parameters


def prompted_models() -> tuple[type, ...]:
    """Classes of models that are trained on prompts; early 8.3 has no YOLOE."""
    return tuple(kind for name in ("WorldModel", "YOLOEModel") if (kind := NAMES[name].look_up()) is not None)


@contextlib.contextmanager
def replaced(values: Mapping[str, Any]) -> Iterator[None]:
    """Put something else in the place of names, by their keys in `NAMES`, for the time of a `with` block."""
    before = {path: _get(path) for path in values}
    try:
        for path, value in values.items():
            setattr(NAMES[path].owner(), path.rpartition(".")[2], value)
        yield
    finally:
        for path, value in before.items():
            setattr(NAMES[path].owner(), path.rpartition(".")[2], value)


def __getattr__(name: str) -> Any:
    if name not in NAMES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return _get(name)


def _get(path: str) -> Any:
    found = NAMES[path].look_up()
    if found is None:
        raise _changed(NAMES[path], "is not there")
    return found


def _changed(foreign: ForeignName, fault: str) -> PruneError:
    return PruneError(
        f"ultralytics.{foreign.module}.{foreign.path}, which {foreign.purpose}, {fault}. Installed is ultralytics "
        f"{ultralytics.__version__}; yoloprune works with {OLDEST} to {NEWEST}. Install one of these."
    )
