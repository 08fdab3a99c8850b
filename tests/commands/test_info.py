"""What `info` tells beside the layers."""

from __future__ import annotations

import pytest
from ultralytics.nn.tasks import DetectionModel

import yoloprune
from yoloprune.backend import console, moved_layers

YAML = {"nc": 2, "backbone": [[-1, 1, "Conv", [8, 3, 2]], [-1, 1, "Conv", [8]]], "head": [[[1], 1, "Detect", ["nc"]]]}


def test_layers_that_moved_are_told_by_the_numbers_of_the_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(console, "log", lambda prefix, message: said.append(message))
    table = {"model.0": ["model.0"], "model.1": ["model.1", "model.2"], "model.1.cv1": ["model.1"]}
    monkeypatch.setattr(moved_layers, "table_of", lambda model: table | {"model.2": ["model.3"]})
    model = yoloprune.YOLO("yolov8n.yaml")
    model.model = DetectionModel(YAML, verbose=False)
    yoloprune.info(model, imgsz=32)
    assert said[-1].endswith("layer= and freeze=; as rows of the YAML by now 1 is 1 to 2, 2 is 3")
    assert "parameters" in said[-1].splitlines()[0]  # no heading that says nothing


def test_branches_that_are_gone_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(console, "log", lambda prefix, message: said.append(message))
    table = {"model.1": ["model.1"], "model.1.m.0": [], "model.2": [], "model.3": ["model.2"]}
    monkeypatch.setattr(moved_layers, "table_of", lambda model: table)
    model = yoloprune.YOLO("yolov8n.yaml")
    model.model = DetectionModel(YAML, verbose=False)
    yoloprune.info(model, imgsz=32)
    assert "2 is gone, 3 is 2" in said[-1]
    assert said[-1].endswith("branches that went as a whole: model.1.m.0, model.2")
