"""`images=` in `finetune` and `slim`: who labels, what is refused before anything is made, and the whole line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from checkpoints import BACKBONE, FAST, HEADS, build, run_python
from command_lines import error, ok
from conftest import settle

import yoloprune
from yoloprune import cli
from yoloprune.backend import console, datasets, found_labels, run_folders
from yoloprune.checkpoint import saving
from yoloprune.commands import parent_labels, prune
from yoloprune.commands.demo_images import NAMES, make_shapes
from yoloprune.errors import ArgumentError, DataError
from yoloprune.settings import checking
from yoloprune.settings.requests import FinetuneRequest, PruneRequest

LINE = "finetune model=a.pt images=photos"


def model_of(folder: Path, task: str = "detect", nc: int = 3) -> Path:
    """A checkpoint that is quite sure of something everywhere."""
    told = {"nc": nc, "kpt_shape": [2, 3], "backbone": BACKBONE, "head": [HEADS[task]]}
    yolo = build(folder / f"{task}-{nc}.yaml", told, task)
    settle(yolo.model)
    yolo.model.names = dict(enumerate(NAMES[:nc]))
    if task == "detect":
        for branch in yolo.model.model[-1].cv3:
            torch.nn.init.constant_(branch[-1].bias, 0.0)  # scores around one half
    yolo.ckpt = {"train_args": {"task": task, "imgsz": 64}}
    yolo.save(folder / f"{task}-{nc}.pt")
    return folder / f"{task}-{nc}.pt"


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images whose labels are not looked at."""
    data = make_shapes(tmp_path_factory.mktemp("photos"), train=10, val=2, imgsz=64)
    folder = data.parent / "images" / "train"
    assert len(list(folder.iterdir())) == 10
    shutil.rmtree(data.parent / "labels")
    return folder


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_of(tmp_path_factory.mktemp("parent"))


@pytest.fixture(scope="module")
def cut(parent: Path, photos: Path) -> prune.PruneResult:
    told = {"model": parent, "images": photos, "flops": 0.8, "imgsz": 64, "project": str(parent.parent)}
    return prune.run(checking.build(PruneRequest, told))


@pytest.fixture(scope="module")
def pruned(cut: prune.PruneResult) -> Path:
    return cut.file


# What is asked --------------------------------------------------------------------------------------------------------
def test_what_does_not_go_together_is_refused_before_any_work() -> None:
    assert "must not be combined with data=" in error(f"{LINE} data=b.yaml")
    assert "must not be combined with resume" in error(f"{LINE} resume")
    assert "labels_from=b.pt: must come with images=" in error("finetune model=a.pt labels_from=b.pt")
    assert "must not be combined with data=" in error("slim model=a.pt images=photos data=b.yaml")
    for command in ("finetune", "slim"):
        assert "labels_conf=0.4: must come with images=" in error(f"{command} model=a.pt data=b.yaml labels_conf=0.4")
    assert "labels_conf=2: must be a fraction" in error(f"{LINE} labels_conf=2")
    assert (getattr(ok(LINE), "labels_conf"), getattr(ok(LINE), "images")) == (0.25, "photos")  # noqa: B009


@pytest.mark.slow
@pytest.mark.long
def test_who_labels(pruned: Path, parent: Path, photos: Path, tmp_path: Path) -> None:
    def asked(model: Path, **more: Any) -> Any:
        request = checking.build(FinetuneRequest, {"model": model, "images": str(photos), **more})
        found = parent_labels.of_finetune(saving.load(model), request)
        return None if found is None else found[1]

    other = model_of(tmp_path)
    assert asked(pruned) == str(parent)  # on record, and at hand
    assert asked(pruned, distill_model=str(other)) == str(other)
    assert asked(pruned, distill_model=str(other), labels_from=str(parent)) == str(parent)
    assert asked(pruned, images=None) is None
    alone = tmp_path / "alone.pt"
    shutil.copyfile(pruned, alone)
    with pytest.raises(ArgumentError, match=rf"^images={photos}: the parent .* Give labels_from=path/to/detect-3.pt"):
        asked(alone)
    with pytest.raises(ArgumentError, match=r"was not pruned by yoloprune. Give labels_from="):
        asked(other)
    gone = str(tmp_path / "gone")  # the images first: nobody is to be named for none
    with pytest.raises(DataError, match=f"^images={gone}: "):
        asked(other, images=gone)


def test_who_cannot_label_is_refused_in_one_line(
    pruned: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(model: Path, labels_from: Path) -> str:
        words = [f"model={model}", f"images={photos}", f"labels_from={labels_from}", f"project={tmp_path / 'runs'}"]
        assert cli.main(["finetune", *words]) == 2
        [line] = capsys.readouterr().err.strip().splitlines()
        return line

    fewer, poses, classifier = (model_of(tmp_path, *told) for told in (("detect", 2), ("pose", 3), ("classify", 3)))
    assert f"must know all classes of the model, and does not know {NAMES[2]}" in said(pruned, fewer)
    assert "must be a detect model. Received: a pose model" in said(pruned, poses)
    assert "labels are written for detect, segment, pose, obb models, not for classify" in said(classifier, classifier)
    assert not (tmp_path / "runs").exists()


def test_labels_of_a_model_with_fewer_classes_have_its_numbers(parent: Path, pruned: Path) -> None:
    model, teacher = saving.load(pruned), saving.load(parent)
    model.model.names = {0: NAMES[2], 1: NAMES[0]}
    by = parent_labels.labeller(teacher, model, "it", 0.25, {})
    assert (by.numbers, by.names, by.imgsz) == ({0: 1, 2: 0}, [NAMES[2], NAMES[0]], 64)
    assert by.model.model is not teacher.model  # which prediction would fuse


def test_what_is_refused_leaves_no_folder(pruned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nowhere = [f"model={pruned}", f"images={tmp_path / 'nowhere'}", f"project={tmp_path / 'runs'}"]
    assert cli.main(["finetune", *nowhere]) == 1
    assert "nowhere: there is no such file or folder" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_prune_names_the_same_images_next(cut: prune.PruneResult, photos: Path) -> None:
    assert cut.next_step.splitlines()[0] == f"yoloprune finetune model={cut.file} images={photos} imgsz=64"


def test_where_validation_measures_nothing_that_is_said(
    parent: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(console, "warn", told.append)
    by = parent_labels.labeller(saving.load(parent), saving.load(parent), "it", 0.25, {})

    found = found_labels.Found(tmp_path / "data.yaml", images=12, objects=3, bare=11, held=1, measured=1)
    monkeypatch.setattr(found_labels, "write", lambda *_, **__: found)
    parent_labels.write("finetune", (by, "it.pt"), str(photos), tmp_path / "labels", {})
    assert told == []
    found.measured = 0
    parent_labels.write("finetune", (by, "it.pt"), str(photos), tmp_path / "labels", {})
    assert told == [
        f"finetune: images={photos}: it.pt found nothing in the images for validation, so mAP measures nothing. Give "
        "more images, or a lower labels_conf="
    ]


# The line -------------------------------------------------------------------------------------------------------------
@pytest.mark.long
@pytest.mark.slow
def test_a_pruned_model_is_trained_on_what_its_parent_finds(pruned: Path, photos: Path, tmp_path: Path) -> None:
    before = {f: f.stat().st_mtime_ns for f in photos.parents[1].rglob("*")}
    tuned = yoloprune.finetune(pruned, images=photos, project=str(tmp_path), **FAST)
    run = tmp_path / "finetune"
    told = datasets.check(run / run_folders.PARENT_LABELS / "data.yaml")
    assert told["names"] == tuned.names == dict(enumerate(NAMES))
    assert [len(list(Path(told[split]).iterdir())) for split in ("train", "val")] == [9, 1]
    lines = [f.read_text() for f in (run / run_folders.PARENT_LABELS / "labels").rglob("*.txt")]
    assert len(lines) == 10 and any(lines)
    assert {f: f.stat().st_mtime_ns for f in photos.parents[1].rglob("*")} == before
    assert not list(tmp_path.rglob("frames"))
    report = json.loads((run / "report.json").read_text())
    assert report["labels_from"].endswith("detect-3.pt")
    assert "how far it agrees with detect-3.pt" in report["verdict"]
    script = "import sys; from ultralytics import YOLO; print(YOLO(sys.argv[1]).val(plots=False, workers=0).names)"
    assert str(dict(enumerate(NAMES))) in run_python(script, run / "weights" / "best.pt")


@pytest.mark.long
@pytest.mark.slow
def test_a_training_without_labels_for_validation_says_that_nothing_was_measured(
    pruned: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = make_shapes(tmp_path / "data", train=4, val=2, imgsz=64)
    for text in (data.parent / "labels" / "val").iterdir():
        text.write_text("")
    yoloprune.finetune(pruned, data=str(data), project=str(tmp_path), **{**FAST, "verbose": True})
    report = json.loads((tmp_path / "finetune" / "report.json").read_text())
    assert report["verdict"] == "nothing was measured, for no validation image has a label"
    assert (report["start"], report["metrics"]) == ({}, {})
    said = next(m for m in caplog.messages if m.startswith("finetune: nothing was measured"))
    assert "ended at" not in caplog.text and "next: yolo export" in said


@pytest.mark.long
@pytest.mark.slow
def test_slim_needs_no_labels(parent: Path, photos: Path, tmp_path: Path) -> None:
    told = {"images": str(photos), "flops": 0.8, "project": str(tmp_path), **FAST}
    yoloprune.slim(parent, **told)
    run = tmp_path / "slim"
    stages = [f.name for f in sorted(run.glob("[0-9]-*"))]
    assert stages == ["1-labels", "2-parent", "3-prune", "4-finetune"]
    data = run / "1-labels" / run_folders.PARENT_LABELS / "data.yaml"
    assert datasets.check(data)["names"] == dict(enumerate(NAMES))
    for stage in ("3-prune", "4-finetune"):
        assert yaml.safe_load((run / stage / "args.yaml").read_text())["data"] == str(data)
    assert "how far models agree" in json.loads((run / "report.json").read_text())["said"][-1]
    with pytest.raises(ArgumentError, match="images: must come with a trained model"):
        yoloprune.slim("yolov8n.yaml", **told)
