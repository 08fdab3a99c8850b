"""Models that know other classes in one table: all figures are of the classes that they share, matched by name."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from textwrap import shorten
from typing import Any, NamedTuple

import numpy as np
import ultralytics

from yoloprune.backend import class_labels, class_rows, datasets, model_facts, yaml_markers
from yoloprune.errors import ArgumentError
from yoloprune.planning.paired_bootstrap import Findings


class Shared(NamedTuple):
    """The classes that count.

    Attributes:
        names (list[str]): In the order of the data set.
        labels (list[str]): All classes of the data set.
        known (Mapping[str, list[str]]): What each model calls its classes, in the order of its outputs.
    """

    names: list[str]
    labels: list[str]
    known: Mapping[str, list[str]]

    @property
    def told(self) -> list[str]:
        """Which classes count, for the reader of a table, where that is not all that every model knows."""
        if all(set(known) == set(self.names) for known in self.known.values()):
            return []
        whose = "models and labels share" if len(self.known) > 1 else "model and labels share"
        return [f"all figures are of the classes that {whose}: {_listed(self.names)}"]

    @contextlib.contextmanager
    def seen_by(self, model: str, passed: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Ultralytics' arguments for one model: the data set numbered as its classes are, with labels of these alone.

        Args:
            model (str): Its name in the table.
            passed (Mapping[str, Any]): Ultralytics' arguments.

        Yields:
            (dict[str, Any]): The same, perhaps with another `data`, which is there as long as the block runs.
        """
        known = self.known[model]
        if known == self.labels == self.names:
            yield dict(passed)
            return
        alike = known == self.labels  # where names may be there twice
        numbers = {i: i if alike else known.index(n) for i, n in enumerate(self.labels) if n in self.names}
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            yield {**passed, "data": class_labels.write(known, passed["data"], numbers, Path(folder))}

    def numbered(self, model: str, found: Findings | None) -> Findings | None:
        """What one of the models found, with classes numbered alike for all, so that images can be drawn in pairs."""
        if found is None:
            return None
        known, highest = self.known[model], max(found.classes.max(initial=0), found.label_classes.max(initial=0))
        numbers = np.full(max(len(known), int(highest) + 1), -1)
        for i, name in enumerate(self.names):
            numbers[known.index(name)] = i
        classes, labels = (numbers[a.astype(int)] for a in (found.classes, found.label_classes))
        return replace(found, classes=classes, label_classes=labels)


def of(
    models: Mapping[str, ultralytics.YOLO],
    exported: Mapping[str, Sequence[str]],
    passed: Mapping[str, Any],
    command: str,
) -> Shared | None:
    """The classes that all models of a table share with the data set.

    Args:
        models (Mapping[str, YOLO]): By name.
        exported (Mapping[str, Sequence[str]]): Class names of those among them that are files of another format.
        passed (Mapping[str, Any]): Ultralytics' arguments, `data` among them.
        command (str): What an error begins with.

    Returns:
        (Shared | None): None where no class was cut from any of them, or the data set has none that they share: then
            classes are not matched by name.

    Raises:
        ArgumentError: If the models share no class, or `classes=` has another meaning for each.
        DataError: If the YAML is missing or wrong.
    """
    data = passed.get("data")
    if not isinstance(data, (str, Path)) or not str(data).endswith((".yaml", ".yml")):
        return None
    labels = class_labels.names_in(data)
    cut = any(yaml_markers.kept_classes(yolo) is not None for yolo in models.values())
    if not cut and not any(set(names) < set(labels) for names in exported.values()):
        return None
    known = {
        name: _of_file(exported[name], labels) if name in exported else _of_checkpoint(yolo, data, labels)
        for name, yolo in models.items()
    }
    common = set.intersection(*map(set, known.values()))
    if not common:
        knows = "; ".join(f"{name} knows {_listed(names)}" for name, names in known.items())
        raise ArgumentError(f"{command}: no class is shared by all: {knows}. Give models that have one in common")
    first, *others = known.values()
    if passed.get("classes") is not None and any(names != first for names in others):
        raise ArgumentError(
            f"classes={passed['classes']}: counts other classes in each of these models. Leave it out: figures are of "
            f"the classes that they share, {_listed([n for n in first if n in common])}"
        )
    names = [name for name in labels if name in common]
    return Shared(names, labels, known) if names else None


def _of_checkpoint(yolo: ultralytics.YOLO, data: str | Path, labels: list[str]) -> list[str]:
    """Classes of a checkpoint; those of the data where it calls them by numbers, or takes what it is asked for."""
    if (kept := yaml_markers.kept_classes(yolo)) is not None:
        return kept
    names = class_rows.names_of(yolo.model)
    nameless = not set(names) & set(labels) and datasets.has_classes_of(yolo, data)
    return labels if nameless or model_facts.is_prompted(yolo.model) else names


def _of_file(names: Sequence[str], labels: list[str]) -> list[str]:
    """Classes of an exported file; those of the data where it was written without names."""
    return list(names) if set(names) & set(labels) else labels


def _listed(names: Sequence[str]) -> str:
    return shorten(", ".join(names), 200, placeholder=" …")
