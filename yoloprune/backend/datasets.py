"""Data sets as Ultralytics describes them, looked at without network or installations."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from textwrap import shorten
from typing import Any

import ultralytics

from yoloprune.backend import compat, console, label_rows, model_facts, yaml_markers
from yoloprune.errors import COLOURS, ArgumentError, DataError, raised_by, raised_in
from yoloprune.torch_internals import is_out_of_memory

NO_IMAGES = "No valid images found"
"""How Ultralytics begins to say that all images or labels are wrong, with a line for each of them."""


def check(data: str | Path) -> dict[str, Any]:
    """What a data YAML says, paths resolved by Ultralytics; nothing is downloaded.

    Raises:
        DataError: If it is missing or wrong.
    """
    with one_line(data), compat.replaced({"check_font": lambda *_: None}):  # a font for plots, from the network
        found: dict[str, Any] = compat.check_det_dataset(data, autodownload=False)
    return found


def require(data: Any) -> None:
    """Raise where a data YAML is nowhere, before Ultralytics has made a run folder; other kinds are left to it.

    Raises:
        DataError: If there is no such file, and none of that name comes with Ultralytics.
    """
    if isinstance(data, (str, Path)) and "://" not in str(data) and str(data).endswith((".yaml", ".yml")):
        with one_line(data):
            found = compat.check_file(str(data), hard=False)
        if not found:
            raise DataError(f"data={data}: there is no such file, and none of that name comes with Ultralytics.")


def require_split(data: Any, split: Any) -> None:
    """Raise DataError where a data YAML has no such split, before work starts; unset it is val."""
    if not split or not isinstance(data, (str, Path)) or not str(data).endswith((".yaml", ".yml")):
        return
    told = check(data)
    if not told.get(split):
        known = [name for name in ("train", "val", "test") if told.get(name)]
        raise DataError(f"split={split}: data={data} has no such images, it has {', '.join(known)}.")


def training_images(data: str | Path, task: str) -> str | list[str]:
    """Folders or lists of the training images.

    Raises:
        DataError: If the data set is missing or wrong.
    """
    return _class_folders(data) if task == "classify" else check(data)["train"]


def has_classes_of(yolo: ultralytics.YOLO, data: str | Path) -> bool:
    """Whether the labels of a data set are about the model's classes: as many, and one at least of the same name.

    The same names in another order are other labels.

    Raises:
        DataError: If the YAML is missing or wrong.
    """
    if yolo.overrides.get("single_cls"):
        return True
    known, labels = _names(yolo.model), class_names(yolo, data)
    if not labels or len(labels) != len(known):
        return not labels
    if set(labels) == set(known):
        return labels == known
    anonymous = known == [str(i) for i in range(len(known))]  # as Ultralytics calls them before any training
    return anonymous or any(a == b for a, b in zip(known, labels, strict=True))


def class_count(yolo: ultralytics.YOLO, data: Any) -> int | None:
    """Number of classes of a data set, None where that is not told without fetching or unpacking it."""
    if not isinstance(data, (str, Path)) or not (Path(data).is_dir() or str(data).endswith((".yaml", ".yml"))):
        return None
    try:
        return len(class_names(yolo, data)) or None
    except DataError:  # the trainer will say
        return None


def require_channels(yolo: ultralytics.YOLO, data: Any) -> None:
    """Raise where a network shall look at images of another number of channels than it takes.

    Args:
        yolo (YOLO): The model; a training would adapt its first layer.
        data (Any): What was given as `data=`; what cannot be read without fetching or unpacking it is passed over.

    Raises:
        DataError: If the YAML says another number.
    """
    if yolo.task == "classify" or not isinstance(data, (str, Path)) or not str(data).endswith((".yaml", ".yml")):
        return
    try:
        told = int(check(data).get("channels", 3))
    except DataError:  # who reads it next will say
        return
    if told != (takes := model_facts.channels(yolo.model)):
        raise DataError(
            f"data={data}: its images have channels: {told}, and the model takes {takes} channels. Train the model on "
            "this data first, or give data= with images such as it was trained on."
        )


_said: set[str] = set()
"""Data sets of which keypoints were mentioned: commands run each other."""


def require_labels(yolo: ultralytics.YOLO, data: Any, command: str) -> None:
    """Raise where the labels of a data set are not of the kind that the model's task needs; a few files tell.

    What cannot be read without fetching or unpacking it is passed over. A detector takes the boxes of keypoints.

    Raises:
        DataError: If they are not, e.g. boxes for a segmentation model.
    """
    if not isinstance(data, (str, Path)) or not str(data).endswith((".yaml", ".yml")):
        return
    try:
        told = check(data)
    except DataError:  # who reads it next will say
        return
    if lacks := label_rows.lacking(yolo.task, told):
        instead = ", or images= with the folder of its images" if command in {"prune", "mask"} else ""
        raise DataError(f"data={data}: {lacks}. Give such a data set, or a model of its kind{instead}.")
    if yolo.task == "detect" and told.get("kpt_shape") and str(data) not in _said:
        _said.add(str(data))
        console.log(f"{command}: ", f"data={data} has keypoints (kpt_shape); a detect model takes its boxes alone")


def difference(yolo: ultralytics.YOLO, data: str | Path) -> str:
    """Where the classes of a data set and of a model differ first, in a few words."""
    known, labels = _names(yolo.model), class_names(yolo, data)
    if len(known) != len(labels):
        return f"{len(labels)} and not {len(known)}"
    at = next((i for i, (a, b) in enumerate(zip(labels, known, strict=True)) if a != b), 0)
    return f"class {at} is {labels[at]} and not {known[at]}"


def own(yolo: ultralytics.YOLO) -> str | None:
    """The data set that a model was trained on, as its checkpoint names it; None where it is not on this machine.

    Nothing is downloaded or unpacked. A file of that name with other classes is another data set; where all classes
    were trained as one, only an absolute path tells.
    """
    known = yolo.overrides.get("data")
    if not isinstance(known, str) or "://" in known or not (Path(known).is_dir() or known.endswith((".yaml", ".yml"))):
        return None
    try:
        found = training_images(known, yolo.task)
        if not found or not all(Path(f).exists() for f in (found if isinstance(found, list) else [found])):
            return None
        one = yolo.overrides.get("single_cls")
        same = Path(known).is_absolute() if one else _are_of(yolo, class_names(yolo, known))
        return known if same else None
    except DataError:
        return None


def given_or_own(yolo: ultralytics.YOLO, data: Any, command: str) -> Any:
    """`data=`, else the data set that the model was trained on. Ultralytics would download that, e.g. all of COCO.

    Raises:
        ArgumentError: If neither is there.
        DataError: If what is given has labels of another kind.
    """
    if data:
        require_labels(yolo, data, command)
        return data
    if data is None and (found := own(yolo)):
        console.log(f"{command}: ", f"data={found}, the model's own")
        return found
    known = yolo.overrides.get("data") if data is None else None
    elsewhere = f"; data={known}, which the model was trained on, is not at hand" if known else ""
    raise ArgumentError(f"{command} needs 'data', e.g. data=coco8.yaml{elsewhere}")


@contextlib.contextmanager
def one_line(data: Any) -> Iterator[None]:
    """What Ultralytics finds wrong with a data set is a DataError of one line; what fails in our calls of it is not."""
    try:
        yield
    except Exception as e:  # Ultralytics, which reads foreign files here, raises a dozen types
        if raised_by(e) != "ultralytics" or is_out_of_memory(e):
            raise
        raise _in_one_line(f"data={data}", e) from e


@contextlib.contextmanager
def reading(data: Any) -> Iterator[None]:
    """What Ultralytics' reader of images and labels raises in a training or validation is a DataError of one line."""
    try:
        yield
    except Exception as e:  # a dozen types, see `one_line`; what is raised elsewhere is not about the data
        if not raised_in(e).startswith("ultralytics.data.") or is_out_of_memory(e):
            raise
        raise _in_one_line(f"data={data}", e) from e


def _in_one_line(told: str, error: Exception) -> DataError:
    # What Ultralytics adds about its own folders has nothing to do with the user's
    said = str(error.__cause__ or error).partition("Note dataset download directory")[0]
    said, *findings = COLOURS.sub("", said).split("\n  ") if NO_IMAGES in said else [COLOURS.sub("", said)]
    said = " ".join([said, *findings[:1]]).removeprefix("calibrate: ").removeprefix("images: ")
    reason = shorten(said, 400, placeholder=" …") or type(error).__name__
    return DataError(f"{told}: {reason}")


def _are_of(yolo: ultralytics.YOLO, names: list[str]) -> bool:
    """Whether a model was trained on a data set of these classes; some of them may have been cut since."""
    kept = yaml_markers.kept_classes(yolo)
    return names == _names(yolo.model) or (kept is not None and set(kept) < set(names))


def _names(model: Any) -> list[str]:
    """Class names of a model, in the order of its outputs."""
    return list(model.names.values() if isinstance(model.names, dict) else model.names)


def class_names(yolo: ultralytics.YOLO, data: str | Path) -> list[str]:
    """Class names of a data set, in the order of their numbers; empty where it has none."""
    if yolo.task == "classify":
        return sorted(f.name for f in Path(_class_folders(data)).iterdir() if f.is_dir())
    told = check(data)
    if yolo.task == "semantic" and compat.has("add_polygon_background"):
        compat.add_polygon_background(told)  # which its trainer does
    names = told.get("names") or {}
    return list(names.values() if isinstance(names, dict) else names)


def _class_folders(data: str | Path) -> str:
    """Training folder of a classification data set. Ultralytics' own check would download or split what is missing."""
    root = Path(data) if Path(data).is_dir() else compat.DATASETS_DIR / data
    if not (root / "train").is_dir():
        raise DataError(f"data={data}: a classification data set is a folder with train/<class>/ inside.")
    return str(root / "train")
