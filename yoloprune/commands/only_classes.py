"""Before any channel goes: the classes that nobody asked for leave the head, and the data set is read without them."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from textwrap import shorten
from typing import Any, NamedTuple

import ultralytics

from yoloprune.backend import class_labels, class_rows, console, evaluation, run_folders, yaml_markers
from yoloprune.checkpoint import saving
from yoloprune.errors import ArgumentError


class Kept(NamedTuple):
    """Which classes a model is cut to.

    Attributes:
        names (list[str] | None): Those that it knows, where it knew more once: now or by an earlier cut.
        record (Mapping[str, Any] | None): What is said of this cut in the checkpoint, None where all classes stay.
    """

    names: list[str] | None
    record: Mapping[str, Any] | None

    def noted(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        """The provenance of a pruning that began so."""
        return {**facts, **({yaml_markers.CLASSES: self.record} if self.record else {})}

    def columns(self) -> tuple[dict[str, int], dict[str, int]]:
        """Of the printed table, for the parent and for the pruned model."""
        if self.record is None:
            return {}, {}
        return {"classes": self.record["of"]}, {"classes": len(self.record["names"])}


def require(parent: ultralytics.YOLO, asked: Sequence[int | str] | None, data: Any) -> None:
    """Raise where classes are asked for that the model or the data set lacks, before work starts.

    Args:
        parent (YOLO): The model.
        asked (Sequence[int | str] | None): `classes=`; None where all stay.
        data (Any): The data set, nothing where there is none.

    Raises:
        ArgumentError: If the model has no such class, or none would be left out, or the data has no labels for one.
        DataError: If the YAML is missing or wrong.
    """
    if asked is None:
        return
    names = class_rows.names_of(parent.model)
    wanted = [names[i] for i in class_rows.chosen(parent.model, asked)]
    if not isinstance(data, (str, Path)) or not str(data).endswith((".yaml", ".yml")):
        return
    known = class_labels.names_in(data)
    if known and (missing := [name for name in wanted if name not in known]):
        raise ArgumentError(
            f"classes={','.join(map(str, asked))}: data={data} has no {' and no '.join(missing)}; its classes are "
            f"{shorten(', '.join(known), 200, placeholder=' …')}. Give data= that has them, or other classes"
        )


def cut(parent: ultralytics.YOLO, asked: Sequence[int | str] | None, imgsz: int) -> tuple[ultralytics.YOLO, Kept]:
    """Leave the classes that were asked for, and prove that the model says of them what it said.

    Args:
        parent (YOLO): The model, stays untouched.
        asked (Sequence[int | str] | None): `classes=`; None where all stay.
        imgsz (int): Image size for which FLOPs are counted.

    Returns:
        (tuple[YOLO, Kept]): The model with these classes, the same object where all stay.

    Raises:
        ArgumentError: If the model has no such class, or none would be left out.
        ModelError: If its head does not score every class by itself.
        VerifyError: If its outputs for these classes are others.
    """
    if asked is None:
        return parent, Kept(yaml_markers.kept_classes(parent), None)
    kept = class_rows.chosen(parent.model, asked)
    record = class_rows.told(parent.model, kept)
    model = class_rows.only(parent.model, kept)
    error = class_rows.prove(parent.model, model, kept)
    left = evaluation.measure(model, imgsz)
    console.log(
        "prune: ",
        f"{', '.join(record['names'])} of {record['of']} classes stay, with the parent's weights to the bit and its "
        f"outputs (error {error:.1e}); budgets count what is left: {left['params']:,} parameters, "
        f"{left['GFLOPs']:.2f} GFLOPs",
    )
    return saving.with_model(parent, model), Kept(record["names"], record)


@contextlib.contextmanager
def trained_on(yolo: ultralytics.YOLO, passed: Mapping[str, Any], name: str) -> Iterator[dict[str, Any]]:
    """The arguments of a training; where `data=` has more classes than the model, with a data set of the model's alone.

    It lies in the folder of the run, which is claimed for it, so stock Ultralytics resumes and validates on it too.

    Args:
        yolo (YOLO): The model.
        passed (Mapping[str, Any]): Ultralytics' arguments.
        name (str): Of the command, and of the run where none is given.

    Yields:
        (dict[str, Any]): Ultralytics' arguments.
    """
    kept = yaml_markers.kept_classes(yolo)
    found = None if passed.get("resume") else class_labels.matched(kept, passed.get("data"))
    if kept is None or found is None:
        yield dict(passed)
        return
    with run_folders.new_run(yolo.task, name, passed) as folder:
        shutil.rmtree(folder / run_folders.LABELS, ignore_errors=True)  # of a run before, with exist_ok
        file = class_labels.write(kept, passed["data"], found, folder / run_folders.LABELS)
        console.log(
            f"{name}: ",
            f"data={passed['data']} has other classes as well: labels of {', '.join(kept)} are matched by name, "
            f"numbered as the model's, and written to {file}; your files are only read",
        )
        yield {**passed, "data": str(file), "save_dir": str(folder)}
