"""Ultralytics' data sets without its caches of labels."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from yoloprune.backend import compat


@contextlib.contextmanager
def untouched(n: int, generator: np.random.Generator) -> Iterator[None]:
    """Ultralytics' data sets neither read caches of labels, which are pickles, nor write any.

    A data set for classification scans all its images first; here only `n`, drawn at random.
    """
    scan = compat.ClassificationDataset.verify_images

    def scan_some(self: Any) -> Any:
        self.samples = [self.samples[i] for i in generator.permutation(len(self.samples))[:n]]
        return scan(self)

    def missing(path: Path) -> dict[str, Any]:
        raise FileNotFoundError(path)

    def kept(prefix: str, path: Path, cache: dict[str, Any], version: str) -> None:
        cache["version"] = version  # as saving it does

    caches = {"load_dataset_cache_file": missing, "save_dataset_cache_file": kept}
    with compat.replaced({**caches, "ClassificationDataset.verify_images": scan_some}):
        yield
