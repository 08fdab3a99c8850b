"""`slim` on a tiny network and images drawn by code: what it leaves, that its figures are those of single commands,
and that an interrupted run goes on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny_line
import torch
import yaml
from checkpoints import narrow, untrained
from tiny_line import QUICK, widths
from ultralytics import YOLO

import yoloprune
from yoloprune.backend import compat, evaluation
from yoloprune.checkpoint import saving
from yoloprune.commands import finetune, slim, slim_report, slim_search, sweep_table
from yoloprune.commands.slim_stages import Stage
from yoloprune.errors import ArgumentError, BudgetError
from yoloprune.settings import checking, command_line
from yoloprune.settings.slim_request import SlimRequest

pytestmark = pytest.mark.slow

work, data = tiny_line.work, tiny_line.data  # fixtures, made once a file

CUT: dict[str, Any] = {"round_to": 4, "min_width": 4, "flops": 0.6, "keep": ["model.15.cv2.conv"]}
"""What the head reads first is kept, with which a short fine-tuning leaves this network no worse than the cut was."""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A YOLOv8 of an eighth of the width, which a short fine-tuning leaves no worse than the cut was."""
    return untrained(tmp_path_factory.mktemp("tiny"), narrow(), 64)


@pytest.fixture(scope="module")
def parent(work: Path, data: Path, tiny: Path) -> Path:
    """A network that knows the shapes a little."""
    model = YOLO(tiny)
    model.train(data=str(data), epochs=30, project=str(work), name="parent", val=False, save=False, **QUICK)
    return Path(model.trainer.last)


def slimmed(model: Path, data: Path, project: Path, **given: Any) -> slim.SlimResult:
    told = {"model": model, "data": str(data), "project": str(project), **QUICK, **given}
    return slim.run(checking.build(SlimRequest, told))


def epochs(stage: Path) -> list[int]:
    return [int(line.split(",")[0]) for line in (stage / "results.csv").read_text().splitlines()[1:]]


@pytest.fixture(scope="module")
def done(parent: Path, data: Path, work: Path) -> slim.SlimResult:
    return slimmed(parent, data, work / "done", epochs=2, format="onnx", **CUT)


@pytest.mark.long
def test_it_leaves_a_model_an_export_a_report_and_a_table(done: slim.SlimResult, work: Path) -> None:
    folder = work / "done" / "slim"
    assert done.way == "prune" and done.file == folder / "weights" / "best.pt" and done.exported is not None
    assert sorted(f.name for f in folder.iterdir()) == [
        "1-parent",
        "2-prune",
        "3-finetune",
        "4-export",
        "args.yaml",
        "report.html",
        "report.json",
        "weights",
    ]
    assert [f.name for f in (folder / "4-export").iterdir() if f.name != "slim.json"] == ["best.onnx"]
    report = json.loads((folder / "report.json").read_text())
    assert [row["model"] for row in report["table"]] == ["parent", "pruned", "fine-tuned", "exported"]
    assert report["exported"]["error"] < 1e-3 and report["way"] == "prune"
    assert set(report["stages"]) == {"1-parent", "2-prune", "3-finetune", "4-export"}
    told = report["seconds"]
    assert sum(told[k] for k in ("stages", "timing", "rest")) == pytest.approx(told["all"], abs=0.2)
    first, *_, exported = done.rows
    assert {"mAP50-95", "params", "GFLOPs", "MB", "ms", "ms onnx"} <= set(first) and exported["ms onnx"] > 0
    assert done.next_step.startswith("yolo predict ") and str(done.exported) in done.next_step
    assert done.model.figures is done  # type: ignore[attr-defined]


def test_nothing_names_the_folder_that_a_stage_had_while_it_ran(done: slim.SlimResult) -> None:
    folder = done.file.parents[1]
    for file in (f for f in folder.rglob("*") if f.suffix in {".yaml", ".json", ".html"}):
        assert "unfinished" not in file.read_text(), file
    for file in folder.rglob("*.pt"):  # an archive that is not compressed
        assert b"unfinished" not in file.read_bytes(), file
    told = compat.torch_safe_load(str(folder / "3-finetune" / "weights" / "best.pt"))[0]["train_args"]
    assert told["name"] == "3-finetune"


def test_the_page_of_the_cut_has_its_figures_and_those_of_what_was_cut(done: slim.SlimResult) -> None:
    folder = done.file.parents[1]
    report = json.loads((folder / "2-prune" / "report.json").read_text())
    rows = [{k: row[k] for k in ("mAP50", "mAP50-95")} for row in report["table"]]
    assert rows == [{k: row[k] for k in ("mAP50", "mAP50-95")} for row in done.rows[:2]]
    assert "not measured" not in report["verdict"] and "mAP50-95 goes from" in report["verdict"]


@pytest.mark.long
def test_the_figures_are_those_of_the_single_commands(
    done: slim.SlimResult, parent: Path, data: Path, tmp_path: Path
) -> None:
    yoloprune.prune(parent, data=str(data), imgsz=64, device="cpu", project=str(tmp_path), name="prune", **CUT)
    pruned = tmp_path / "prune" / "weights" / "pruned.pt"
    tuned = yoloprune.finetune(pruned, data=str(data), epochs=2, project=str(tmp_path), name="finetune", **QUICK)
    best = Path(tuned.trainer.best)
    row = yoloprune.val(best, data=str(data), imgsz=64, batch=8, device="cpu", workers=0, project=str(tmp_path))[0]
    mine = done.rows[2]
    assert {k: mine[k] for k in ("mAP50", "mAP50-95", "params", "GFLOPs", "MB")} == {
        k: row[k] for k in ("mAP50", "mAP50-95", "params", "GFLOPs", "MB")
    }
    ours, theirs = (YOLO(f).model.state_dict() for f in (done.file, best))
    assert ours.keys() == theirs.keys() and all(torch.equal(v, theirs[k]) for k, v in ours.items())

    start, single = (
        json.loads((run / "report.json").read_text())["start"]
        for run in (done.file.parents[1] / "3-finetune", tmp_path / "finetune")
    )
    assert start == single == {k: done.rows[1][k] for k in single}


@pytest.mark.long
def test_what_was_cut_is_validated_once(
    tiny: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    validated: list[dict[str, Any]] = []
    validate = evaluation.validate
    monkeypatch.setattr(evaluation, "validate", lambda *told: (validate(*told), validated.append(told)))
    slimmed(tiny, data, tmp_path, epochs=1, way="prune", **CUT)
    assert len(validated) == 2  # what was cut, and what training made of it; the parent knows no classes


def test_what_was_found_in_each_image_gives_the_figure_of_the_validation(done: slim.SlimResult) -> None:
    for stage in ("1-parent", "2-prune", "3-finetune"):
        told = Stage.read(done.file.parents[1] / stage)
        assert told.found is not None
        assert told.found.mean_ap()[0] == pytest.approx(told.row["mAP50-95"], abs=2e-4)
    assert max(row["mAP50-95"] for row in done.rows) > 0.01  # else zeros were compared


@pytest.mark.long
def test_the_same_command_says_that_it_is_over_and_another_name_does_it_again(
    done: slim.SlimResult, parent: Path, data: Path, work: Path, caplog: pytest.LogCaptureFixture, monkeypatch: Any
) -> None:
    folder = done.file.parents[1]
    with monkeypatch.context() as during:
        during.setattr(evaluation, "validate", lambda *_: pytest.fail("validates"))
        with caplog.at_level("INFO"):
            again = slimmed(parent, data, work / "done", epochs=2, format="onnx", **CUT)
    assert f"{folder} is this run and is finished" in caplog.text
    assert all(str(place) in caplog.text for place in (done.file, done.exported, folder / "report.html"))
    assert "shipped is the fine-tuned model" in caplog.text and done.next_step in caplog.text
    assert (again.file, again.exported, again.rounds) == (done.file, done.exported, done.rounds)
    assert again.rows == done.rows and again.difference == done.difference
    by_file, typed = json.loads((folder / "report.json").read_text())["repeat"]
    assert by_file == f"yoloprune slim cfg={folder / 'args.yaml'} name=again" and typed.count("name=") == 1
    request = command_line.parse(by_file.split()[1:])
    assert isinstance(request, SlimRequest)
    anew = slim.run(request)
    assert anew.file.parents[1] == folder.with_name("again")
    ours, theirs = (YOLO(f).model.state_dict() for f in (done.file, anew.file))
    assert all(torch.equal(v, theirs[k]) for k, v in ours.items())


def test_a_finished_run_of_another_file_is_not_this_one(done: slim.SlimResult, parent: Path, tmp_path: Path) -> None:
    folder = done.file.parents[1]
    told = yaml.safe_load((folder / "args.yaml").read_text())
    told = {k: v for k, v in told.items() if k not in {"mode", "save_dir"}}
    asked = checking.build(SlimRequest, told)
    arguments = {**asked.kwargs(), "model": str(parent), "data": told["data"]}
    arguments = {k: v for k, v in arguments.items() if v is not None}
    assert slim_report.finished(asked, saving.load(parent), arguments) == folder
    assert slim_report.finished(asked, saving.load(parent), {**arguments, "epochs": 3}) is None
    assert slim_report.finished(asked, saving.load(done.file), arguments) is None  # written there since


def test_its_page_has_classes_images_the_interval_and_the_pages_of_its_stages(done: slim.SlimResult) -> None:
    folder = done.file.parents[1]
    report, page = json.loads((folder / "report.json").read_text()), (folder / "report.html").read_text()
    assert {c["name"] for c in report["by_class"]} == {"circle", "square", "triangle"}
    assert all([*c["figures"]] == ["parent", "fine-tuned"] for c in report["by_class"])
    mean = sum(c["figures"]["parent"] for c in report["by_class"]) / 3
    assert mean == pytest.approx(done.rows[0]["mAP50-95"], abs=1e-4)
    assert len(report["images"]) == 8 and sum(len(image["labels"]) for image in report["images"]) > 0
    assert report["pages"] == {name: f"{name}/report.html" for name in ("2-prune", "3-finetune")}
    assert all(f'href="{place}"' in page and (folder / place).is_file() for place in report["pages"].values())
    assert f"mAP50-95 beside parent: {done.difference}" in page and "By class" in page and "The same images" in page
    of_cut = json.loads((folder / "2-prune" / "report.json").read_text())
    assert [*of_cut["by_class"][0]["figures"]] == ["parent", "pruned"]
    assert report["layers"] == of_cut["layers"] and all(row["ms"] > 0 < row["ms kept"] for row in of_cut["layers"])
    assert "torch on this machine" in page


# Interrupted ----------------------------------------------------------------------------------------------------------
def stops(monkeypatch: pytest.MonkeyPatch, epoch: int) -> None:
    """Every training is interrupted in the middle of an epoch."""
    train = YOLO.train

    def interrupted(self: Any, *args: Any, **kwargs: Any) -> Any:
        def stop(trainer: Any) -> None:
            if trainer.epoch == epoch:
                raise KeyboardInterrupt

        self.add_callback("on_train_batch_end", stop)
        return train(self, *args, **kwargs)

    monkeypatch.setattr(YOLO, "train", interrupted)


@pytest.mark.long
def test_it_goes_on_inside_a_training(
    parent: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as during:
        stops(during, epoch=2)
        with pytest.raises(KeyboardInterrupt):
            slimmed(parent, data, tmp_path, epochs=4, **CUT)
    folder = tmp_path / "slim"
    assert {f.name for f in folder.iterdir()} >= {"2-prune", "3-finetune.unfinished"}
    assert not (folder / "3-finetune").exists()
    with pytest.raises(ArgumentError, match="epochs=4 and not 5"):
        slimmed(parent, data, tmp_path, epochs=5, **CUT)
    pruned = (folder / "2-prune" / "weights" / "pruned.pt").stat().st_mtime_ns
    found = slimmed(parent, data, tmp_path, epochs=4, **CUT)
    assert found.file.parents[1] == folder and epochs(folder / "3-finetune") == [1, 2, 3, 4]
    assert (folder / "2-prune" / "weights" / "pruned.pt").stat().st_mtime_ns == pruned
    assert widths(found.file) == widths(folder / "2-prune" / "weights" / "pruned.pt")


@pytest.mark.long
def test_a_training_that_was_killed_behind_its_last_epoch_is_brought_to_its_end(
    parent: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as during:
        during.setattr(finetune, "report", dies)
        during.setattr("ultralytics.engine.trainer.BaseTrainer.final_eval", dies)
        with pytest.raises(KeyboardInterrupt):
            slimmed(parent, data, tmp_path, epochs=2, **CUT)
    folder = tmp_path / "slim"
    last = folder / "3-finetune.unfinished" / "weights" / "last.pt"
    assert not saving.goes_on(last) and compat.torch_safe_load(str(last))[0]["optimizer"] is not None
    slimmed(parent, data, tmp_path, epochs=2, **CUT)
    assert epochs(folder / "3-finetune") == [1, 2]
    assert compat.torch_safe_load(str(folder / "3-finetune/weights/last.pt"))[0]["optimizer"] is None
    assert (folder / "3-finetune" / "report.html").is_file()


@pytest.mark.long
def test_a_model_that_was_changed_since_is_told(
    parent: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / "mine.pt"
    shutil.copyfile(parent, mine)
    with monkeypatch.context() as during:
        stops(during, epoch=0)
        with pytest.raises(KeyboardInterrupt):
            slimmed(mine, data, tmp_path, epochs=2, **CUT)
    YOLO(parent).save(mine)
    with pytest.raises(ArgumentError, match="which was changed since"):
        slimmed(mine, data, tmp_path, epochs=2, **CUT)
    assert (tmp_path / "slim" / "2-prune").is_dir()


def test_a_budget_out_of_reach_leaves_nothing(parent: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(BudgetError):
        slimmed(parent, data, tmp_path / "new", epochs=1, flops=0.001)
    assert not (tmp_path / "new").exists()


# Other ways -----------------------------------------------------------------------------------------------------------
@pytest.mark.long
def test_weights_of_other_classes_are_trained_sparse_first(parent: Path, data: Path, tmp_path: Path) -> None:
    content = yaml.safe_load(data.read_text())
    other = data.with_name("other.yaml")
    other.write_text(yaml.safe_dump({**content, "names": {0: "a", 1: "b", 2: "c"}}))
    found = slimmed(parent, other, tmp_path, epochs=5, **CUT)
    folder = found.file.parents[1]
    assert found.way == "sparse" and epochs(folder / "2-train-sparse") == [1, 2]
    assert epochs(folder / "4-finetune") == [1, 2, 3]
    assert found.rows[0]["mAP50-95"] is None and found.difference is None  # the parent does not know the classes
    assert json.loads((folder / "2-train-sparse" / "report.json").read_text())["met"]
    assert found.rows[-1]["GFLOPs"] / found.rows[0]["GFLOPs"] == pytest.approx(0.6, abs=0.03)


@pytest.mark.long
def test_rounds_meet_the_budget_together(parent: Path, data: Path, tmp_path: Path) -> None:
    found = slimmed(parent, data, tmp_path, epochs=2, steps=2, **CUT)
    folder = found.file.parents[1]
    for row, both in zip(found.rounds, (("2-prune", "3-finetune"), ("4-prune", "5-finetune")), strict=True):
        cut, tuned = (Stage.read(folder / name).row["mAP50-95"] for name in both)
        assert row["folder"] == both[tuned >= cut - 0.005] and row["mAP50-95"] == (
            tuned if tuned >= cut - 0.005 else cut
        )
    first, last = (row["flops"] for row in found.rounds)
    assert 0.7 < first <= 0.8 and 0.5 < last <= 0.6
    whole, final = (evaluation.gflops(YOLO(f).model, 64) for f in (parent, found.file))
    assert final / whole == pytest.approx(last, abs=0.02)
    page, told = (folder / "report.html").read_text(), json.loads((folder / "report.json").read_text())
    assert "<h2>Rounds</h2>" in page and "widths.png" not in page  # of which that of a round has another parent
    layers = enumerate(YOLO(parent).model.model)
    assert [row["layer"] for row in told["layers"]] == [f"model.{i} ({type(m).__name__})" for i, m in layers]
    assert sum(row["MFLOPs kept"] for row in told["layers"]) < 0.65 * sum(row["MFLOPs"] for row in told["layers"])


@pytest.mark.long
def test_a_search_ends_with_what_held(
    parent: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slim_search, "_require_drop", lambda *_: None)  # so little training leaves little to lose
    monkeypatch.setattr(sweep_table, "may_lose", lambda within, _: within)
    found = slimmed(parent, data, tmp_path, epochs=2, max_drop=100, steps=2, round_to=4, min_width=4)
    assert [row["held"] for row in found.rounds] == [True, True]
    assert found.rounds[-1]["flops"] == pytest.approx(0.49, abs=0.04)
    assert found.file.read_bytes() == (found.file.parents[1] / "5-finetune" / "weights" / "best.pt").read_bytes()
    report = json.loads((found.file.parents[1] / "report.json").read_text())
    assert "of the FLOPs hold max_drop=100" in report["said"][0]


@pytest.mark.long
def test_in_python_it_takes_a_live_model_and_returns_one(parent: Path, data: Path, tmp_path: Path) -> None:
    told = {"data": str(data), "epochs": 1, "project": str(tmp_path), **QUICK, **CUT}
    model = yoloprune.slim(YOLO(parent), **told)
    assert isinstance(model, YOLO) and "fine-tuned" in repr(model.figures)  # type: ignore[attr-defined]
    assert (tmp_path / "slim" / "1-parent" / "weights" / "parent.pt").is_file()


# A validation, image by image -----------------------------------------------------------------------------------------
def test_val_against_tells_the_interval(
    done: slim.SlimResult, parent: Path, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    yoloprune.val(done.file, against=parent, data=str(data), imgsz=64, project=str(tmp_path), workers=0)
    told = json.loads((tmp_path / "val" / "report.json").read_text())["differences"]["fine-tuned"]
    assert told["images"] == 8 and told["low"] <= told["difference"] <= told["high"]
    first, second = (Stage.read(done.file.parents[1] / s) for s in ("1-parent", "3-finetune"))
    assert told["difference"] == pytest.approx(100 * (second.row["mAP50-95"] - first.row["mAP50-95"]), abs=0.05)
    assert "95% interval" in caplog.text


@pytest.mark.long
def test_classes_that_stay_are_validated_alone_from_the_parent_on(parent: Path, data: Path, tmp_path: Path) -> None:
    found = slimmed(parent, data, tmp_path, epochs=1, classes="circle", **CUT)
    assert found.model.names == {0: "circle"} and found.way == "prune"
    assert found.difference is not None and found.difference.images == 8
    labels = Stage.read(found.file.parents[1] / "1-parent").found
    assert labels is not None and set(labels.label_classes.tolist()) == {0}


@pytest.mark.parametrize(
    "wrong, why",
    [({"keep": "model.99"}, "keep=model.99: no layer"), ({"freeze": 99}, "freeze=99"), ({"flops": 0.001}, "reach")],
)
def test_what_cannot_be_is_told_before_anything_is_validated(
    wrong: dict[str, Any], why: str, parent: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "validate", lambda *_: pytest.fail("validates"))
    with pytest.raises((ArgumentError, BudgetError), match=why):
        slimmed(parent, data, tmp_path / "new", epochs=1, **{**CUT, **wrong})
    assert not (tmp_path / "new").exists()


def test_what_a_cut_cannot_reach_is_told_before_a_training(tiny: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match="out of reach"):
        slimmed(tiny, data, tmp_path / "new", epochs=2, way="train", flops=0.001)
    assert not (tmp_path / "new").exists()
