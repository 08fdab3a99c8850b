"""Training without labels: what the parent finds in images is written as labels, and trained on."""

from __future__ import annotations

import contextlib
import copy
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ultralytics

from yoloprune.backend import class_rows, console, found_labels, model_facts, run_folders, stills
from yoloprune.backend.found_labels import Labeller
from yoloprune.checkpoint import provenance, saving
from yoloprune.errors import ArgumentError
from yoloprune.settings.requests import FinetuneRequest

FRAMES = "frames"


def of_finetune(yolo: ultralytics.YOLO, request: FinetuneRequest) -> tuple[Labeller, str] | None:
    """Who labels for a fine-tuning, with its file; None where it has labels.

    Raises:
        ArgumentError: If nobody is named and the parent is not at hand, or who is cannot label for this model.
        DataError: If there are no images.
    """
    if request.images is None:
        return None
    stills.require(request.images)
    named = request.labels_from or request.passed.get("distill_model")
    if named is None:
        named = provenance.parent_file(yolo, f"images={request.images}", "labels_from")
    teacher = saving.load(named, prunable=False)
    told = str(named) if isinstance(named, (str, Path)) else str(teacher.model_name)
    return labeller(teacher, yolo, told, request.labels_conf, request.passed), told


def labeller(
    teacher: ultralytics.YOLO, yolo: ultralytics.YOLO, told: str, conf: float, passed: Mapping[str, Any]
) -> Labeller:
    """A model that labels for another one, which may be itself.

    Args:
        teacher (YOLO): Finds, at the image size that it was trained at; stays untouched.
        yolo (YOLO): Is trained on that.
        told (str): What the teacher is called, for errors.
        conf (float): Least score of a label.
        passed (Mapping[str, Any]): Ultralytics' arguments, of which `device` counts.

    Raises:
        ArgumentError: If labels are not written for this task, or the teacher does not know all classes.
    """
    if yolo.task not in found_labels.TASKS:
        raise ArgumentError(
            f"images: labels are written for {', '.join(found_labels.TASKS)} models, not for {yolo.task} models. "
            "Give data="
        )
    if teacher.task != yolo.task:
        raise ArgumentError(f"labels_from={told}: must be a {yolo.task} model. Received: a {teacher.task} model")
    shapes = [model_facts.network(y.model).yaml.get("kpt_shape") for y in (teacher, yolo)]
    if yolo.task == "pose" and shapes[0] != shapes[1]:
        raise ArgumentError(f"labels_from={told}: must have keypoints of kpt_shape {shapes[1]}. Received: {shapes[0]}")
    known, names = class_rows.names_of(teacher.model), class_rows.names_of(yolo.model)
    if missing := [name for name in names if name not in known]:
        raise ArgumentError(f"labels_from={told}: must know all classes of the model, and does not know {missing[0]}")
    numbers = {number: names.index(name) for number, name in enumerate(known) if name in names}
    if known == names:
        numbers = {number: number for number in range(len(names))}  # of two classes of one name each keeps its own
    probe = saving.with_model(teacher, copy.deepcopy(teacher.model))  # prediction fuses the one it runs
    return Labeller(probe, numbers, names, conf, saving.image_size(teacher, None), passed.get("device"))


@contextlib.contextmanager
def trained_on(
    yolo: ultralytics.YOLO, request: FinetuneRequest, by: tuple[Labeller, str] | None, passed: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """The arguments of a training; without labels, with the data set that is written into the folder of the run.

    The folder is claimed for it, so stock Ultralytics resumes and validates on it too.

    Args:
        yolo (YOLO): The model.
        request (FinetuneRequest): The images.
        by (tuple[Labeller, str] | None): From `of_finetune`.
        passed (Mapping[str, Any]): Ultralytics' arguments.

    Yields:
        (dict[str, Any]): Ultralytics' arguments.
    """
    if by is None or request.images is None:
        yield dict(passed)
        return
    with run_folders.new_run(yolo.task, request.command, passed) as folder:
        file = write(request.command, by, request.images, folder / run_folders.PARENT_LABELS, passed)
        yield {**passed, "data": str(file), "save_dir": str(folder)}


def write(command: str, by: tuple[Labeller, str], images: str, folder: Path, passed: Mapping[str, Any]) -> Path:
    """Label images, and say what was found.

    Args:
        command (str): Who asks.
        by (tuple[Labeller, str]): The model, and what it is called.
        images (str): `images=`.
        folder (Path): Where the data set goes; what is there goes.
        passed (Mapping[str, Any]): Ultralytics' arguments, of which `vid_stride` and `seed` count.

    Returns:
        (Path): Its YAML.

    Raises:
        DataError: If there are no images, or nothing is found in them.
    """
    shutil.rmtree(folder, ignore_errors=True)  # of a run before, with exist_ok
    taken = stills.stills(images, folder / FRAMES, stride=passed.get("vid_stride") or 1)
    found = found_labels.write(by[0], taken, folder, told=f"images={images}", seed=passed.get("seed") or 0)
    shutil.rmtree(folder / FRAMES, ignore_errors=True)  # those that were not read
    console.log(
        f"{command}: ",
        f"{by[1]} found {found.objects:,} objects in {found.images - found.bare:,} of {found.images:,} images, with "
        f"scores of {by[0].conf:g} and more; they are the labels, see {found.file}. {found.held:,} images are for "
        "validation, so mAP says how far the model agrees with these labels",
    )
    if not found.measured:
        console.warn(
            f"{command}: images={images}: {by[1]} found nothing in the images for validation, so mAP measures nothing. "
            "Give more images, or a lower labels_conf="
        )
    return found.file
