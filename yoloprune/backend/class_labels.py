"""A data set of more classes than the model's: links to its images, labels of the model's classes, matched by name."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from yoloprune import files
from yoloprune.backend import calibration_images, compat, console, datasets, plain_images, run_folders
from yoloprune.errors import DataError

SPLITS = ("train", "val", "test")
NOT_COPIED = frozenset({*SPLITS, "path", "names", "nc", "download", "minival", "yaml_file"})


def matched(kept: Sequence[str] | None, data: Any) -> dict[int, int] | None:
    """From a data set's numbers of the classes that a model kept to the model's own numbers.

    Args:
        kept (Sequence[str] | None): Names of the model's classes, None where it has all that it was trained for.
        data (Any): What was given as `data=`.

    Returns:
        (dict[int, int] | None): None where the labels are the model's already, or do not know all of its classes.

    Raises:
        DataError: If the YAML is missing or wrong.
    """
    if not kept or not isinstance(data, (str, Path)) or not str(data).endswith((".yaml", ".yml")):
        return None
    labels = names_in(data)
    if labels == list(kept) or not set(kept) <= set(labels):
        return None
    return {number: kept.index(name) for number, name in enumerate(labels) if name in kept}


def few(kept: Sequence[str] | None, data: Any, seed: int) -> contextlib.AbstractContextManager[Any]:
    """As many training images as ranking and repair look at, those that show one of the classes first, see `view`."""
    return view(kept, data, draw=calibration_images.DRAWN, seed=seed)


def names_in(data: str | Path) -> list[str]:
    """Class names of a data YAML, in the order of their numbers."""
    names = datasets.check(data).get("names") or {}
    return list(names.values() if isinstance(names, dict) else names)


@contextlib.contextmanager
def view(kept: Sequence[str] | None, data: Any, *, draw: int | None = None, seed: int = 0) -> Iterator[Any]:
    """A data set as a model with fewer classes shall see it, for the time of a `with` block.

    Args:
        kept (Sequence[str] | None): See `matched`.
        data (Any): What was given as `data=`.
        draw (int | None): So many training images are enough, and those that show one of the classes come first; None
            stands for all splits.
        seed (int): Of the draw.

    Yields:
        (Any): The YAML of a data set in a temporary folder; `data` itself where its classes are the model's.
    """
    found = matched(kept, data)
    if kept is None or found is None:
        yield data
        return
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        file = write(kept, data, found, Path(folder), draw=draw, seed=seed)
        with told_as(data, file):
            yield file


@contextlib.contextmanager
def told_as(data: Any, file: Path) -> Iterator[None]:
    """While active, what is said of a data set that is gone in a moment names that of the user, and its images."""
    link = re.compile(f"{re.escape(str(file.parent / 'images'))}[^\\s,:]*[^\\s,:.]")

    def own(found: re.Match[str]) -> str:
        return os.readlink(found[0]) if os.path.islink(found[0]) else found[0]

    def said(text: str) -> str:
        return link.sub(own, text.replace(str(file), str(data)))

    try:
        with console.told_as(said):
            yield
    except DataError as e:
        raise type(e)(said(str(e))) from e


def write(
    kept: Sequence[str],
    data: str | Path,
    found: Mapping[int, int],
    folder: Path,
    *,
    draw: int | None = None,
    seed: int = 0,
) -> Path:
    """Write a data set of a model's classes; that of the user is only read.

    Args:
        kept (Sequence[str]): Names of the model's classes.
        data (str | Path): The YAML of the data set.
        found (Mapping[int, int]): From `matched`.
        folder (Path): Where it goes.
        draw (int | None): See `view`.
        seed (int): Of the draw.

    Returns:
        (Path): Its YAML.

    Raises:
        DataError: If the data set is missing or wrong.
    """
    told = datasets.check(data)
    splits = [s for s in SPLITS if told.get(s) and (draw is None or s == "train")]
    bar = compat.TQDM(
        desc=console.title("classes: ") + f"labels of {len(set(found.values()))} of {len(told['names'])} classes",
        disable=not console.is_main_process(),
    )
    for split in splits:
        with datasets.one_line(data):
            images = plain_images.files_in(told[split])
        shown = _write_split(images, found, folder / "images" / split, draw, seed, bar)
        lacking = [name for i, name in enumerate(kept) if shown is not None and str(i) not in shown]
        if draw is not None and 0 < len(lacking) < len(kept):  # of none at all the ranking says so
            console.warn(f"data={data}: no training image shows {' or '.join(lacking)}; nothing is ranked for that")
    bar.close()
    rest = described(told)
    names = dict(enumerate(kept))
    places = {s: f"images/{s if s in splits else splits[0]}" for s in SPLITS if told.get(s)}
    file = folder / "data.yaml"
    run_folders.write_yaml(file, {"path": str(folder.resolve()), **places, **rest, "nc": len(names), "names": names})
    return file


def described(told: Mapping[str, Any]) -> dict[str, Any]:
    """What the YAML of a data set says beside its images and classes, e.g. its keypoints."""
    known = (bool, int, float, str, list, dict)
    return {k: v for k, v in told.items() if k not in NOT_COPIED and isinstance(v, known)}


def _write_split(
    images: Sequence[str], found: Mapping[int, int], folder: Path, draw: int | None, seed: int, bar: Any
) -> set[str] | None:
    """Link images and write their labels: all of them, or some, those with a label first.

    Returns:
        (set[str] | None): Numbers of the classes that the images show, None where not all of them were looked at.
    """
    labels = compat.img2label_paths(list(images))
    order = range(len(images)) if draw is None else np.random.default_rng(seed).permutation(len(images)).tolist()
    folder.mkdir(parents=True)
    texts = folder.parents[1] / "labels" / folder.name
    texts.mkdir(parents=True)
    bare: list[int] = []
    taken: set[str] = set()
    shown: set[str] = set()

    def take(i: int, lines: Sequence[str]) -> None:
        name = files.unlike(Path(images[i]).name, taken)  # of the same name in another folder
        files.link(Path(images[i]).absolute(), folder / name)
        (texts / name).with_suffix(".txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        bar.update(1)

    for i in order:
        if draw is not None and len(taken) >= draw:
            return None
        text = Path(labels[i])
        lines = relabelled(text.read_text(encoding="utf-8-sig", errors="replace"), found) if text.is_file() else []
        shown.update(line.split()[0] for line in lines)
        if lines or draw is None:
            take(i, lines)
        else:
            bare.append(i)
    for i in bare[: (draw or 0) - len(taken)]:
        take(i, [])
    return shown


def relabelled(text: str, found: Mapping[int, int]) -> list[str]:
    """The lines of a label file that are about some classes, with other numbers; what is no label stays as it is."""
    lines = []
    for line in filter(str.strip, text.splitlines()):
        first, *rest = line.strip().split(maxsplit=1)  # at tabs as well, as Ultralytics does
        try:
            number = int(float(first))
        except (ValueError, OverflowError):
            lines.append(line)  # for Ultralytics to complain of
            continue
        if number in found:
            lines.append(" ".join([str(found[number]), *rest]))
    return lines
