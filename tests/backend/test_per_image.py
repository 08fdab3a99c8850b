"""What a validation found, image by image: taken batch by batch before it is thrown away."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from yoloprune.backend import per_image


class Validated:
    """A model whose validation finds something in three images, in batches of two and one."""

    def __init__(self, key: str = "tp") -> None:
        self.callbacks: dict[str, list[Any]] = {per_image.EVENT: []}
        self.key = key

    def add_callback(self, event: str, function: Any) -> None:
        self.callbacks[event].append(function)

    def val(self) -> None:
        stats: dict[str, list[np.ndarray]] = {k: [] for k in ("tp", self.key, "conf", "pred_cls", "target_cls")}
        validator = SimpleNamespace(metrics=SimpleNamespace(stats=stats))
        for found, labels, batch_is_over in ((2, 1, False), (0, 0, True), (1, 2, True)):
            stats["tp"].append(np.zeros((found, 10)))
            if self.key != "tp":
                stats[self.key].append(np.ones((found, 10)))
            stats["conf"].append(np.full(found, 0.5))
            stats["pred_cls"].append(np.full(found, 1.0))
            stats["target_cls"].append(np.full(labels, 2.0))
            if batch_is_over:
                for function in self.callbacks[per_image.EVENT]:
                    function(validator)
        for arrays in stats.values():
            arrays.clear()  # as Ultralytics does once it has its figures


def test_findings_and_labels_know_their_image() -> None:
    model = Validated()
    with per_image.watched(model) as watch:
        model.val()
    found = watch.findings()
    assert found is not None and found.count == 3
    assert found.images.tolist() == [0, 0, 2] and found.label_images.tolist() == [0, 2, 2]
    assert found.classes.tolist() == [1, 1, 1] and found.label_classes.tolist() == [2, 2, 2]
    assert not found.hits.any() and found.hits.shape == (3, 10)
    assert model.callbacks[per_image.EVENT] == []  # the user's object is as it was


def test_masks_and_keypoints_count_where_there_are_such() -> None:
    for key in ("tp_m", "tp_p"):
        model = Validated(key)
        with per_image.watched(model) as watch:
            model.val()
        found = watch.findings()
        assert found is not None and found.hits.all()


def test_a_task_without_map_has_none() -> None:
    watch = per_image.Watch()
    watch(SimpleNamespace(metrics=SimpleNamespace(top1=0.5)))
    watch(SimpleNamespace(metrics=SimpleNamespace(stats=[])))
    assert watch.findings() is None


def test_they_come_back_from_their_file(tmp_path: Path) -> None:
    model = Validated()
    with per_image.watched(model) as watch:
        model.val()
    found = watch.findings()
    assert found is not None
    found.mean_ap()  # which keeps something beside its fields
    per_image.save(tmp_path / "a.npz", found)
    again = per_image.load(tmp_path / "a.npz")
    assert again is not None and again.count == 3 and again.hits.dtype == bool and found.same_images(again)
    assert per_image.load(tmp_path / "b.npz") is None
