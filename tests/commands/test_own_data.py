"""Which images `prune` looks at when data= does not say: those that the model was trained on, if they are at hand."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import ultralytics
import yaml

import yoloprune
from yoloprune.backend import console, datasets, evaluation
from yoloprune.commands import cut_and_repair
from yoloprune.commands.demo_images import make_shapes
from yoloprune.errors import ArgumentError, DataError
from yoloprune.planning.plan import Plan
from yoloprune.repair import least_squares
from yoloprune.selection.calibration import calibration, data_set
from yoloprune.settings.checking import build
from yoloprune.settings.requests import PruneRequest


class Reached(Exception):
    """What was to be seen was seen."""


LOOSE = {"round_to": 4, "min_width": 4}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shapes(tmp_path_factory.mktemp("own") / "data", train=12, val=4, imgsz=64)


@pytest.fixture(scope="module")
def trained(tiny: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint as after training on the data."""
    yolo = ultralytics.YOLO(tiny)
    yolo.model.names = dict(enumerate(yaml.safe_load(data.read_text())["names"].values()))
    yolo.ckpt["train_args"] = {"task": "detect", "imgsz": 64, "data": str(data)}
    file = tmp_path_factory.mktemp("trained") / "best.pt"
    yolo.save(file)
    return file


def looked_at(model: Any, **told: Any) -> Any:
    return data_set(model, build(PruneRequest, {"model": "best.pt", **told}))


@pytest.mark.long
@pytest.mark.slow
def test_prune_repairs_on_the_data_of_the_checkpoint(trained: Path, data: Path, tmp_path: Path) -> None:
    told = {"flops": 0.6, "project": str(tmp_path), **LOOSE}
    own = yoloprune.prune(trained, name="own", **told)
    named = yoloprune.prune(trained, name="named", data=str(data), **told)
    without = yoloprune.prune(trained, name="without", data=False, **told)
    assert yaml.safe_load((tmp_path / "own" / "args.yaml").read_text())["data"] == str(data)
    assert own.model.state_dict().keys() == named.model.state_dict().keys()
    for value, other in zip(own.model.state_dict().values(), named.model.state_dict().values(), strict=True):
        assert torch.equal(value, other)
    assert any(
        a.shape != b.shape or not torch.equal(a, b)
        for a, b in zip(own.model.parameters(), without.model.parameters(), strict=True)
    )


@pytest.mark.parametrize(
    ("told", "looks"),
    [
        ({"flops": 0.5}, True),
        ({"params": 0.5, "score": "l2"}, True),  # the repair does
        ({"ratio": 0.5, "recover": "none"}, True),  # the score does
        ({"score": "taylor"}, True),
        ({"recover": "bn"}, True),
        ({}, False),  # takes only what is dead already
        ({"flops": 0.5, "score": "l2", "recover": "fold"}, False),
        ({"flops": 0.5, "data": False}, "nothing"),
        ({"flops": 0.5, "data": "False"}, "nothing"),
        ({"flops": 0.5, "data": "others.yaml"}, "others.yaml"),
        ({"data": "others.yaml"}, "others.yaml"),
    ],
)
def test_images_are_looked_at_where_they_are_needed(
    trained: Path, data: Path, told: dict[str, Any], looks: bool | str
) -> None:
    expected = {True: str(data), False: None, "nothing": False}.get(looks, looks)
    assert looked_at(yoloprune.load(trained), **told) == expected


@pytest.mark.parametrize("data", [{"data": False}, {}])
@pytest.mark.parametrize(("key", "value"), [("recover", "bn"), ("recover", "lsq"), ("score", "taylor")])
def test_what_needs_images_asks_for_them_where_there_are_none(
    tiny: Path, key: str, value: str, data: dict[str, bool]
) -> None:
    with pytest.raises(ArgumentError, match=rf"^{key}={value}: must come with data="):
        yoloprune.prune(tiny, flops=0.5, **{key: value}, **data)


@pytest.mark.long
@pytest.mark.slow
def test_a_folder_of_images_is_as_good_as_the_data_set_that_has_them(
    trained: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ranked by outputs, which ask for no labels, and refitted on the same images in the same order."""
    said: list[str] = []
    monkeypatch.setattr(console, "warn", lambda text: said.append(text))
    told = {"flops": 0.6, "project": str(tmp_path), "score": "output", **LOOSE}
    of_set = yoloprune.prune(trained, name="set", data=str(data), **told)
    images = data.parent / "images" / "train"
    of_folder = yoloprune.prune(trained, name="folder", images=images, **told)
    assert yaml.safe_load((tmp_path / "folder" / "args.yaml").read_text())["images"] == str(images)
    assert not [text for text in said if "without data=" in text]
    for one, other in zip(of_set.model.parameters(), of_folder.model.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.slow
def test_images_are_somewhere_and_only_there(trained: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"^images=photos: must not be combined with data="):
        yoloprune.prune(trained, flops=0.5, images="photos", data=str(data))
    (tmp_path / "empty").mkdir()
    for place in ("gone", "empty"):
        with pytest.raises(DataError, match=rf"^images={tmp_path / place}: (?!calibrate)"):
            yoloprune.prune(trained, flops=0.5, images=tmp_path / place, project=str(tmp_path / "runs"))
    assert not (tmp_path / "runs").exists()
    with pytest.raises(ArgumentError, match=r"^score=taylor: .* labels"):
        yoloprune.prune(trained, flops=0.5, images=data.parent / "images" / "train", score="taylor")


def test_data_that_is_elsewhere_or_other_is_not_taken(trained: Path, data: Path, tmp_path: Path) -> None:
    model = yoloprune.load(trained)
    copied = tmp_path / "data"
    shutil.copytree(data.parent, copied)
    told = {**yaml.safe_load(data.read_text()), "path": str(copied)}

    def own(**changed: Any) -> str | None:
        file = copied / data.name
        file.write_text(yaml.safe_dump({**told, **changed}))
        model.overrides["data"] = str(file)
        return datasets.own(model)

    assert own() == str(copied / data.name)
    assert own(names=["Circle", "box", "arrow"]) is None
    assert own(train="images/gone") is None
    assert own(train=None) is None
    (copied / data.name).unlink()
    assert datasets.own(model) is None


@pytest.mark.long
@pytest.mark.slow
def test_the_user_is_told_which_data_it_is_and_why_there_is_none(
    trained: Path, data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    said: list[str] = []
    monkeypatch.setattr(console, "log", lambda _, text: said.append(text))
    monkeypatch.setattr(console, "warn", said.append)
    yoloprune.prune(trained, flops=0.6, project=str(tmp_path), **LOOSE)
    assert f"data={data}, the model's own" in said[0] and not any("costs accuracy" in text for text in said)
    assert f" data={data}" in said[-1]  # what to type next
    said.clear()
    moved = ultralytics.YOLO(trained)  # what weights that have not moved make of drawn images is chance
    next(m for m in moved.model.modules() if isinstance(m, torch.nn.BatchNorm2d)).weight.data[0] = 0.9
    yoloprune.prune(moved, flops=0.6, project=str(tmp_path), data=False, **LOOSE)
    assert [text for text in said if text.endswith("which costs accuracy")]  # with data=False nobody asks which
    moved.overrides["data"] = "cells.yaml"
    said.clear()
    yoloprune.prune(moved, flops=0.6, project=str(tmp_path), **LOOSE)
    assert [text for text in said if "accuracy; data=cells.yaml, which this model was trained on, is not at" in text]
    said.clear()
    yoloprune.prune(moved, flops=0.6, project=str(tmp_path), score="l1", **LOOSE)  # chosen by the user
    assert not [text for text in said if "accuracy" in text]


COMMANDS = {"sweep": yoloprune.sweep, "finetune": yoloprune.finetune, "val": yoloprune.val}


@pytest.mark.parametrize("name", COMMANDS)
def test_data_is_asked_for_before_ultralytics_downloads_what_the_checkpoint_names(
    name: str, tiny: Path, trained: Path
) -> None:
    with pytest.raises(ArgumentError, match=f"^{name} needs 'data', e.g. data=coco8.yaml$"):
        COMMANDS[name](tiny)
    with pytest.raises(ArgumentError, match=f"^{name} needs 'data', e.g. data=coco8.yaml$"):
        COMMANDS[name](trained, data=False)
    elsewhere = yoloprune.load(trained)
    elsewhere.overrides["data"] = "coco.yaml"
    with pytest.raises(ArgumentError, match=f"^{name} needs 'data'.*coco.yaml, which the model was trained on, is not"):
        COMMANDS[name](elsewhere)


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.slow
def test_the_data_of_the_checkpoint_is_taken(
    name: str, trained: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reached(_: Any, given: dict[str, Any]) -> None:
        assert given["data"] == str(data)
        raise Reached

    monkeypatch.setattr(evaluation, "validate", reached)
    monkeypatch.setattr(yoloprune.YOLO, "train", lambda self, **given: reached(self, given))
    with pytest.raises(Reached):
        COMMANDS[name](trained, project=str(tmp_path))


@pytest.mark.slow
def test_what_was_missed_is_at_most_all(trained: Path, monkeypatch: pytest.MonkeyPatch, data: Path) -> None:
    """Of an output that hardly varies in an untrained parent, any error is many times its variance."""
    said: list[str] = []
    monkeypatch.setattr(console, "log", lambda _, text: said.append(text))
    monkeypatch.setattr(least_squares, "refit", lambda *_, **__: {"a": (1e20, 7.0), "b": (0.5, 0.1)})
    parent = yoloprune.load(trained)
    cut_and_repair.cut(parent, Plan({}), "lsq", calibration(parent, data, 64, {}).images)
    assert "off by 75.0% of their variance before, by 55.0% now" in said[-1]


@pytest.mark.parametrize(("device", "told"), [({}, True), ({"device": "cpu"}, False)])
def test_a_gpu_that_lies_idle_is_named(
    trained: Path, data: Path, monkeypatch: pytest.MonkeyPatch, device: dict[str, str], told: bool
) -> None:
    said: list[str] = []
    monkeypatch.setattr(console, "log", lambda _, text: said.append(text))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    images = calibration(yoloprune.load(trained), data, 64, device).images
    assert images is not None and images[0].device.type == "cpu"
    assert [text for text in said if "device=0 is faster" in text] == said and bool(said) == told
