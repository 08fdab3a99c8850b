"""A few images of a split that no ranking or repair looks at, as a data set of their own."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from yoloprune import files
from yoloprune.backend import class_labels, datasets, plain_images, run_folders
from yoloprune.errors import DataError


@contextlib.contextmanager
def few(data: str | Path, task: str, split: str, n: int, seed: int) -> Iterator[tuple[Path, int]]:
    """A data set whose every split is these images, for the time of a `with` block; labels stay where they are.

    Args:
        data (str | Path): Ultralytics data YAML, or the folder of a classification data set.
        task (str): Of the model.
        split (str): Which images.
        n (int): So many are drawn at random; all of them if there are fewer.
        seed (int): Of the draw.

    Yields:
        (tuple[Path, int]): What takes the place of `data=`, and how many images it has.

    Raises:
        DataError: If the data set is missing or wrong, or has no such split.
    """
    order = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
        folder = Path(place)
        if task == "classify":
            yield folder, _folders(Path(data), split, n, order, folder)
            return
        told = datasets.check(data)
        if not told.get(split):
            raise DataError(f"data={data}: it has no split={split}.")
        with datasets.one_line(data):
            listed = plain_images.files_in(told[split])
        drawn = sorted(listed[i] for i in order.permutation(len(listed))[:n])
        text = folder / "drawn.txt"
        text.write_text("\n".join(str(Path(f).absolute()) for f in drawn), encoding="utf-8")
        rest = class_labels.described(told)
        file = folder / "data.yaml"
        run_folders.write_yaml(file, {**dict.fromkeys(class_labels.SPLITS, str(text)), **rest, "names": told["names"]})
        with class_labels.told_as(data, file):
            yield file, len(drawn)


def _folders(data: Path, split: str, n: int, order: np.random.Generator, folder: Path) -> int:
    """Folders of the classes with links to some images."""
    root = Path(str(datasets.training_images(data, "classify"))).parent / split
    if not root.is_dir():
        raise DataError(f"data={data}: it has no split={split}.")
    listed = [(f.parent.name, f) for f in sorted(root.glob("*/*")) if f.is_file()]
    classes = [f.name for f in sorted(root.parent.glob("train/*")) if f.is_dir()]
    drawn = [listed[i] for i in order.permutation(len(listed))[:n]]
    for part in class_labels.SPLITS:
        for name in classes:
            (folder / part / name).mkdir(parents=True)
        for name, file in drawn:
            files.link(file.absolute(), folder / part / name / file.name)
    return len(drawn)
