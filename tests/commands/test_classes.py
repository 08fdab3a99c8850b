"""`classes=`: from all classes to a few, through prune, finetune, val, sweep and info."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import ultralytics
import yaml
from checkpoints import BACKBONE, FAST, HEADS, build, run_python
from command_lines import error, ok
from conftest import settle

import yoloprune
from yoloprune import cli
from yoloprune.backend import (
    calibration_images,
    class_rows,
    datasets,
    evaluation,
    model_facts,
    own_network,
    run_folders,
    yaml_markers,
)
from yoloprune.checkpoint import saving
from yoloprune.commands import only_classes, shared_classes, slim_course
from yoloprune.commands.demo_images import NAMES, make_shapes
from yoloprune.errors import ArgumentError, BudgetError, DataError

KEPT = ["circle", "triangle"]  # numbers 0 and 2 of the parent


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shapes(tmp_path_factory.mktemp("classes") / "data", train=6, val=4, imgsz=64)


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that was trained on three classes."""
    told = {"nc": 3, "backbone": BACKBONE, "head": [HEADS["detect"]]}
    folder = tmp_path_factory.mktemp("whole")
    yolo = build(folder / "small.yaml", told)
    settle(yolo.model)
    yolo.model.names = dict(enumerate(NAMES))
    yolo.ckpt = {"train_args": {"task": "detect", "imgsz": 64, "data": str(data)}}
    yolo.save(folder / "whole.pt")
    return folder / "whole.pt"


@pytest.fixture(scope="module")
def fewer(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same after `classes=` alone."""
    folder = tmp_path_factory.mktemp("fewer")
    yoloprune.prune(whole, classes=["triangle", 0], data=False, project=str(folder))
    return folder / "prune" / "weights" / "pruned.pt"


def flops_of_one(whole: Path) -> tuple[float, float]:
    """With the first class alone, and with all three."""
    network = saving.load(whole).model
    one, all_three = (1e9 * evaluation.gflops(model, 64) for model in (class_rows.only(network, [0]), network))
    assert one / all_three < 1 - 3e-4  # two rows less in each last class layer
    return one, all_three


def test_with_a_side_left_open_flops_count_against_the_classes_that_stay(whole: Path, tmp_path: Path) -> None:
    one, all_three = flops_of_one(whole)
    between = (one + all_three) / 2
    with pytest.raises(ArgumentError, match="at imgsz 64 the model has no more than that"):
        yoloprune.prune(whole, classes=[0], flops=between, imgsz="auto", data=False, project=str(tmp_path))


def test_rounds_of_slim_count_flops_against_the_classes_that_stay(whole: Path) -> None:
    one, all_three = flops_of_one(whole)
    for classes, share in (([0], 1.0), (None, one / all_three)):
        work: Any = SimpleNamespace(request=SimpleNamespace(classes=classes), imgsz=64)
        found = slim_course.fractions(work, whole, {"flops": one})
        assert found == {"flops": pytest.approx(share, abs=1e-4)}


# The option -----------------------------------------------------------------------------------------------------------
def test_names_and_numbers_are_told_apart() -> None:
    def asked(text: str) -> Any:
        return getattr(ok(f"prune model=a.pt classes={text}"), "classes")  # noqa: B009

    assert asked("person,dog") == ("person", "dog")
    assert asked("[0,16]") == asked("0,16") == (0, 16)
    assert asked("3,dog") == (3, "dog")
    assert asked("none") is None
    assert "each once" in error("prune model=a.pt classes=dog,dog")
    assert "names or numbers of classes" in error("prune model=a.pt classes=dog,,cat")


def test_a_wrong_name_ends_with_the_nearest_in_one_line(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["prune", f"model={whole}", "classes=triangel", f"project={tmp_path}"]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert "classes=triangel: must be" in said[0]
    assert "(nearest: 'triangle', number 2)" in said[0]
    assert not list(tmp_path.iterdir())


# prune ----------------------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_classes_alone_cut_nothing_else(fewer: Path, whole: Path) -> None:
    parent, model = ultralytics.YOLO(whole), ultralytics.YOLO(fewer)
    assert (model.names, model.model.yaml["nc"], model.model.model[-1].nc) == (dict(enumerate(KEPT)), 2, 2)
    assert model_facts.widths(parent.model) == model_facts.widths(model.model)
    rows = parent.model.model[-1].cv3[0][-1].weight[[0, 2]]
    assert torch.equal(model.model.model[-1].cv3[0][-1].weight, rows)
    assert own_network.difference(model.model) is None  # and stock training keeps it
    report = json.loads((fewer.parents[1] / "report.json").read_text())
    assert report["classes"] == {"names": KEPT, "of": 3}
    assert [row["classes"] for row in report["table"]] == [3, 2]


@pytest.mark.slow
def test_without_classes_a_cut_of_nothing_is_refused(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match="No channel is dead"):
        yoloprune.prune(whole, data=False, project=str(tmp_path))


@pytest.mark.slow
def test_the_record_says_which_classes_stayed(fewer: Path, tmp_path: Path) -> None:
    model = saving.load(fewer)
    assert yaml_markers.kept_classes(model) == KEPT
    yoloprune.prune(model, classes="triangle", data=False, project=str(tmp_path))
    twice = saving.load(tmp_path / "prune" / "weights" / "pruned.pt")
    assert yaml_markers.kept_classes(twice) == ["triangle"]
    twice.model.names = {0: "something else"}  # trained on other data since
    assert yaml_markers.kept_classes(twice) is None


@pytest.mark.slow
def test_names_with_slashes_are_no_paths(whole: Path, data: Path, tmp_path: Path) -> None:
    """As Objects365 and LVIS have them; what earlier releases wrote, the part behind the last slash, is known again."""
    names = ["Cabinet/shelf", "dog", "a\\b"]
    model = saving.load(whole)
    model.model.names = dict(enumerate(names))
    yoloprune.prune(model, classes=["a\\b", "Cabinet/shelf"], data=False, project=str(tmp_path))
    pruned = saving.load(tmp_path / "prune" / "weights" / "pruned.pt")
    told = saving.provenance(pruned)
    assert told is not None and told["classes"] == {"names": ["Cabinet/shelf", "a\\b"], "of": 3}
    assert told["arguments"]["classes"] == ["a\\b", "Cabinet/shelf"]
    content = yaml.safe_load(data.read_text())
    file = tmp_path / "slashes.yaml"
    file.write_text(yaml.safe_dump({**content, "path": str(data.parent), "names": names}))
    for recorded in (["Cabinet/shelf", "a\\b"], ["shelf", "b"]):
        pruned.model.yaml[yaml_markers.KEY]["provenance"]["classes"]["names"] = recorded
        shared = shared_classes.of({"pruned": pruned}, {}, {"data": str(file)}, "val")
        assert shared is not None and not shared.told
        with shared.seen_by("pruned", {"data": str(file)}) as passed:
            assert datasets.class_names(pruned, passed["data"]) == ["Cabinet/shelf", "a\\b"]
    pruned.model.yaml[yaml_markers.KEY]["provenance"]["classes"]["names"] = ["Box/shelf", "b"]
    assert yaml_markers.kept_classes(pruned) is None  # a training of other classes


def test_info_tells_the_classes(fewer: Path, capsys: pytest.CaptureFixture[str], caplog: Any) -> None:
    yoloprune.info(fewer)
    assert "classes          circle, triangle of 3" in capsys.readouterr().out + caplog.text


@pytest.mark.slow
@pytest.mark.long
def test_ranking_sees_labels_of_these_classes_alone(
    whole: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    plain = calibration_images.labelled

    def labelled(*args: Any, **kwargs: Any) -> Any:
        for batch in plain(*args, **kwargs):
            seen.append((args[0].names, batch["cls"].flatten().tolist()))
            yield batch

    monkeypatch.setattr(calibration_images, "labelled", labelled)
    before = {f: f.stat().st_mtime_ns for f in data.parent.rglob("*")}
    pruned = yoloprune.prune(whole, classes=KEPT, flops=0.8, score="taylor", data=str(data), project=str(tmp_path))
    assert seen
    assert all(names == dict(enumerate(KEPT)) and set(classes) <= {0.0, 1.0} for names, classes in seen)
    assert {1.0} <= {c for _, classes in seen for c in classes}
    assert {f: f.stat().st_mtime_ns for f in data.parent.rglob("*")} == before
    assert yaml.safe_load((tmp_path / "prune" / "args.yaml").read_text())["data"] == str(data)
    assert len(pruned.names) == 2


@pytest.mark.slow
@pytest.mark.long
def test_where_no_image_shows_the_class_its_outputs_rank(
    whole: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = make_shapes(tmp_path / "data", train=6, val=4, imgsz=64)
    for text in (data.parent / "labels").rglob("*.txt"):
        text.write_text("0 0.5 0.5 0.2 0.2\n")
    why = f"data={data}: of 6 training images none has a label of triangle that Ultralytics accepts"
    asked = {"classes": ["triangle"], "flops": 0.8, "data": str(data), "project": str(tmp_path)}
    with pytest.raises(DataError) as e:
        yoloprune.prune(whole, score="taylor", **asked)
    assert str(e.value) == f"{why}, and score=taylor needs some. Use score=output."
    yoloprune.prune(whole, **asked)
    assert f"prune: {why}; channels are ranked by score=output, which needs none" in caplog.text
    yoloprune.prune(whole, score="output", name="named", **asked)
    plans = [yoloprune.load(tmp_path / run / "weights" / "pruned.pt") for run in ("prune", "named")]
    assert model_facts.widths(plans[0].model) == model_facts.widths(plans[1].model)


# finetune, val, sweep -------------------------------------------------------------------------------------------------
def test_a_model_with_fewer_classes_finds_its_own_data(fewer: Path, data: Path, whole: Path) -> None:
    model = saving.load(fewer)
    assert datasets.own(model) == str(data)
    model.model.names = {0: "another", 1: "thing"}
    assert datasets.own(model) is None


@pytest.mark.long
@pytest.mark.slow
def test_finetune_matches_labels_by_name(fewer: Path, data: Path, tmp_path: Path) -> None:
    tuned = yoloprune.finetune(fewer, data=str(data), project=str(tmp_path), **FAST)
    run = tmp_path / "finetune"
    told = datasets.check(run / run_folders.LABELS / "data.yaml")
    assert (tuned.names, told["names"]) == (dict(enumerate(KEPT)), dict(enumerate(KEPT)))
    assert yaml.safe_load((run / "args.yaml").read_text())["data"] == str(run / run_folders.LABELS / "data.yaml")
    assert not list(data.parent.rglob("*.cache"))
    script = "import sys; from ultralytics import YOLO; print(YOLO(sys.argv[1]).val(plots=False, workers=0).names)"
    assert str(dict(enumerate(KEPT))) in run_python(script, run / "weights" / "best.pt")


def test_a_training_that_is_refused_leaves_no_folder(fewer: Path, data: Path, tmp_path: Path) -> None:
    told = {"data": str(data), "project": str(tmp_path), "name": "finetune"}
    with pytest.raises(ArgumentError), only_classes.trained_on(saving.load(fewer), told, "finetune") as passed:
        assert Path(passed["data"]).is_relative_to(passed["save_dir"])
        raise ArgumentError("refused")
    assert not list(tmp_path.iterdir())


def test_data_of_the_models_classes_is_trained_on_as_it_is(whole: Path, data: Path) -> None:
    with only_classes.trained_on(saving.load(whole), {"data": str(data)}, "finetune") as passed:
        assert passed == {"data": str(data)}


@pytest.mark.slow
def test_sweep_judges_by_these_classes(whole: Path, data: Path, tmp_path: Path) -> None:
    rows = yoloprune.sweep(whole, classes=KEPT, flops=0.8, data=str(data), imgsz=64, project=str(tmp_path))
    assert [row["model"] for row in rows] == ["parent", "flops=0.8"]
    assert yaml.safe_load((tmp_path / "sweep" / "args.yaml").read_text())["data"] == str(data)


@pytest.mark.slow
def test_val_sets_both_side_by_side(whole: Path, fewer: Path, data: Path, tmp_path: Path) -> None:
    rows = yoloprune.val(fewer, against=whole, data=str(data), imgsz=64, project=str(tmp_path))
    assert rows[0]["mAP50-95"] == pytest.approx(rows[1]["mAP50-95"], abs=1e-3)
