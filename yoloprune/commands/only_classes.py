"""Before any channel goes: the classes that nobody asked for leave the head, and the data set is read without them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ultralytics

from yoloprune.backend import class_labels, class_rows, console, evaluation, yaml_markers
from yoloprune.checkpoint import saving


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


def labels_for(yolo: ultralytics.YOLO, data: Any, folder: Path, command: str) -> Any:
    """The data set that a model with fewer classes is trained on: written into a folder where `data=` has others too.

    Args:
        yolo (YOLO): The model.
        data (Any): What was given as `data=`.
        folder (Path): The run's.
        command (str): Who says so.
    """
    kept = yaml_markers.kept_classes(yolo)
    found = class_labels.matched(kept, data)
    if kept is None or found is None:
        return data
    file = class_labels.write(kept, data, found, folder / class_labels.FOLDER)
    console.log(
        f"{command}: ",
        f"data={data} has other classes as well: labels of {', '.join(kept)} are matched by name, numbered as the "
        f"model's, and written to {file}; your files are only read",
    )
    return str(file)
