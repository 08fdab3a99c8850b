"""Stages of a `slim`: whole or not there, done once, gone on with by the same command and by no other."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from checkpoints import narrow
from command_lines import ok
from torch import nn

from yoloprune.backend import compat, console, model_facts, run_folders
from yoloprune.checkpoint import saving
from yoloprune.commands import interruptions, slim, slim_earlier, slim_stages, slim_work
from yoloprune.commands.image_side import Side
from yoloprune.commands.slim_stages import Done, Stage, Stages
from yoloprune.errors import ArgumentError, BudgetError, WriteError
from yoloprune.planning.paired_bootstrap import Findings
from yoloprune.reporting import run_report
from yoloprune.runtimes.deployment import Deployment
from yoloprune.settings import checking
from yoloprune.settings.commands import COMMANDS
from yoloprune.settings.slim_request import SlimRequest

YOLO: Any = SimpleNamespace(task="detect")


def writes(text: str = "it", **told: Any) -> Callable[[Path], Done]:
    """A stage that writes one file."""

    def work(part: Path) -> Done:
        (part / "weights").mkdir(parents=True, exist_ok=True)
        file = part / "weights" / "model.txt"
        file.write_text(text)
        return Done(file, {"mAP50-95": 0.5}, **told)

    return work


def killed(part: Path) -> Done:
    """A stage that dies in the middle."""
    (part / "weights").mkdir(parents=True)
    (part / "weights" / "last.pt").write_text("half")
    raise KeyboardInterrupt


# A stage --------------------------------------------------------------------------------------------------------------
def test_a_stage_is_not_there_until_it_is_whole(tmp_path: Path) -> None:
    seen: list[list[str]] = []

    def look(part: Path) -> Done:
        done = writes()(part)
        seen.append([f.name for f in tmp_path.iterdir()])
        return done

    stage = Stages(tmp_path).run("prune", look)
    assert seen == [["1-prune.unfinished"]]
    assert [f.name for f in tmp_path.iterdir()] == ["1-prune"] and stage.file == tmp_path / "1-prune/weights/model.txt"


def test_what_is_read_afterwards_names_the_folder_that_is_there_afterwards(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Messages, Ultralytics' among them, pages, data and the checkpoint's own words."""

    def work(part: Path) -> Done:
        (part / "weights").mkdir(parents=True)
        (part / "labels").mkdir()
        for file in ("report.html", "report.json", "args.yaml", "labels/data.yaml"):
            (part / file).write_text(f"name={part.name} in {part}/weights")
        model = nn.Linear(1, 1)
        model.args, model.yaml = {"name": part.name}, {"yoloprune": {"cuts": [{"name": part.name}], "n": 1}}
        told = {"model": model, "train_args": {"save_dir": str(part)}}
        torch.save(told, part / "weights" / "best.pt")
        console.log("prune: ", f"saved {part}/weights/best.pt")
        compat.LOGGER.info("Results saved to %s", part)
        return Done(part / "weights" / "best.pt", {}, more={"next": f"yolo predict model={part}/weights/best.pt"})

    with caplog.at_level("INFO"):
        stage = Stages(tmp_path).run("prune", work)
    final = tmp_path / "1-prune"
    assert f"saved {final}/weights/best.pt" in caplog.text and f"Results saved to {final}" in caplog.text
    assert "unfinished" not in caplog.text
    assert stage.more == {"next": f"yolo predict model={final}/weights/best.pt"}
    for file in ("report.html", "report.json", "args.yaml", "labels/data.yaml"):
        assert (final / file).read_text() == f"name=1-prune in {final}/weights"
    told = compat.torch_safe_load(str(stage.file))[0]
    assert told["train_args"] == {"save_dir": str(final)} and told["model"].args == {"name": "1-prune"}
    assert told["model"].yaml == {"yoloprune": {"cuts": [{"name": "1-prune"}], "n": 1}}


def test_what_is_finished_is_not_done_again(tmp_path: Path) -> None:
    one, none = np.ones(1), np.zeros(1, dtype=int)
    found = Findings(np.ones((1, 1), dtype=bool), one, none, none, none, none, 1)
    first = Stages(tmp_path).run("prune", writes("one", found=found, kept={"flops": 0.5}, more={"a": 1}))
    again = Stages(tmp_path).run("prune", killed)
    assert (again.file.read_text(), again.row, again.kept, again.more) == ("one", first.row, {"flops": 0.5}, {"a": 1})
    assert again.found is not None and again.found.count == 1 and again.found.hits.dtype == bool
    assert again.found.mean_ap() == found.mean_ap()


def test_a_stage_that_died_is_given_what_it_left(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        Stages(tmp_path).run("finetune", killed)
    assert [f.name for f in tmp_path.iterdir()] == ["1-finetune.unfinished"]

    def go_on(part: Path) -> Done:
        assert (part / "weights" / "last.pt").read_text() == "half"
        (part / "weights" / "last.pt").unlink()
        return writes()(part)

    assert Stages(tmp_path).run("finetune", go_on).folder == tmp_path / "1-finetune"
    assert [f.name for f in tmp_path.iterdir()] == ["1-finetune"]


def test_a_model_elsewhere_stays_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    stage = Stages(tmp_path / "run")
    (tmp_path / "run").mkdir()
    assert stage.run("parent", lambda part: Done(tmp_path / "mine.pt", {})).file == tmp_path / "mine.pt"
    assert stage.run("parent", lambda part: Done(Path("mine.pt"), {})).file == tmp_path / "mine.pt"


def test_a_model_that_is_in_no_checkpoint_is_saved(tmp_path: Path) -> None:
    rows = tmp_path / "rows8n.yaml"
    rows.write_text(yaml.safe_dump(narrow()))
    asked = checking.build(SlimRequest, {"model": str(rows), "data": "b.yaml"})
    whole = saving.load(rows)
    work = slim_work.Work(asked, "b.yaml", Side(32, 32), Deployment())
    first = Stages(tmp_path).run("parent", lambda part: work.parent(part, whole, None, None))
    assert first.file == tmp_path / "1-parent" / "weights" / "parent.pt"
    built, saved = (yolo.model.state_dict() for yolo in (whole, saving.load(first.file)))
    assert all(torch.equal(v.half().float(), saved[k].float()) for k, v in built.items())
    assert first.more["sha256"] == slim_earlier.digest(first.file)


def test_a_live_model_goes_on_with_its_own_weights_alone(tmp_path: Path) -> None:
    rows = tmp_path / "rows8n.yaml"
    rows.write_text(yaml.safe_dump(narrow()))
    mine, other = (saving.load(rows) for _ in range(2))  # alike but for what was drawn
    asked = checking.build(SlimRequest, {"model": mine, "data": "b.yaml"})
    stages = Stages(tmp_path)
    first = stages.run(
        "parent",
        lambda part: slim_work.Work(asked, "b.yaml", Side(32, 32), Deployment()).parent(part, mine, None, None),
    )
    slim._require_same(first, stages, model_facts.digest(mine.model))
    with pytest.raises(ArgumentError, match="began with a model of other weights"):
        slim._require_same(first, stages, model_facts.digest(other.model))


def test_args_name_the_folder_that_is_there_in_the_end(tmp_path: Path) -> None:
    def work(part: Path) -> Done:
        done = writes()(part)
        run_folders.write_args(part, {"name": part.name, "save_dir": str(part), "epochs": 3, "data": str(part / "d")})
        return done

    folder = Stages(tmp_path).run("finetune", work).folder
    assert run_folders.read_yaml(folder / "args.yaml") == {
        "name": "1-finetune",
        "save_dir": str(folder),
        "epochs": 3,
        "data": str(folder / "d"),
    }


# A run ----------------------------------------------------------------------------------------------------------------
def request(folder: Path, words: str = "") -> SlimRequest:
    asked = ok(f"slim model=a.pt data=b.yaml project={folder} {words}")
    assert isinstance(asked, SlimRequest)
    return asked


def begin(folder: Path, words: str = "", *stages: tuple[str, Callable[[Path], Done]]) -> Path:
    """Run stages as the command does; the folder of the run."""
    asked = request(folder, words)
    told = {k: v for k, v in {**asked.kwargs(), "model": "a.pt", "data": "b.yaml"}.items() if v is not None}
    with slim_stages.opened(asked, YOLO, told) as run:
        for name, work in stages:
            run.run(name, work)
        return run.folder


PARENT = ("parent", writes())
CUT = ("prune", writes())
DEAD = ("finetune", killed)


def interrupted(folder: Path, words: str = "") -> None:
    with pytest.raises(KeyboardInterrupt):
        begin(folder, words, PARENT, CUT, DEAD)


def test_the_same_command_goes_on(tmp_path: Path) -> None:
    interrupted(tmp_path, "epochs=3")
    assert begin(tmp_path, "epochs=3", ("parent", killed), ("prune", killed)).name == "slim"


def test_a_run_that_is_over_gets_a_follower(tmp_path: Path) -> None:
    first = begin(tmp_path, "", PARENT, CUT)
    (first / run_report.JSON).write_text("{}")
    second = begin(tmp_path, "", PARENT, CUT)
    assert second != first and Stage.read(second / "2-prune").row == {"mAP50-95": 0.5}


SAID = (
    "max_drop=1.5 confidence=0.9 steps=3 way=train distill=parent score=taylor reduce=sum normalize=cost uniform "
    "epochs=7 imgsz=64 batch=4 freeze=2 device=cpu cache lr0=0.003 seed=4",
    "flops=0.6 schedule=cubic imgsz=auto steps=2 round_to=4 min_width=2 max_ratio=0.7 "
    "layers=model.2.*=0.3,model.4=0.5 keep=model.1,neck native=tied depth=only recover=lsq "
    "classes=person,dog",
    "latency=0.6 params=1.2M sparsity=0.2 format=onnx half threads=2 images=photos labels_conf=0.4 "
    "classes=0,16 native=False exist_ok=False",
    "latency=30fps format=openvino quantize=8 data=b.yaml",
)


@pytest.mark.parametrize("words", SAID)
def test_args_yaml_asks_for_what_was_asked_for(words: str, tmp_path: Path) -> None:
    line = f"slim model=a.pt project={tmp_path} {words}" + ("" if "images=" in words else " data=b.yaml")
    asked = ok(" ".join(dict.fromkeys(line.split())))
    told = {k: v for k, v in asked.kwargs().items() if v is not None}
    with slim_stages.opened(asked, YOLO, {**told, "model": "a.pt"}) as run:
        again = ok(f"slim cfg={run.folder / 'args.yaml'}")
    assert again.settings == asked.settings
    kept = {k: v for k, v in asked.passed.items() if k != "exist_ok"}  # a new folder
    assert {k: v for k, v in again.passed.items() if v is not None} == kept


def test_every_own_key_of_a_slim_is_tried() -> None:
    said = {word.partition("=")[0] for words in SAID for word in words.split()}
    assert {option.name for option in COMMANDS["slim"].options} <= said


def test_args_yaml_of_a_run_means_the_same_files_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.pt", "b.yaml", "teacher.pt"):
        (tmp_path / name).touch()
    (tmp_path / "parent").mkdir()  # a folder, and a word of labels_from=
    told = {"model": "a.pt", "data": "b.yaml", "distill_model": "teacher.pt", "times": "t.csv"}
    here = {k: str(tmp_path / v) for k, v in told.items()}
    assert run_folders.as_written(told) == {**here, "times": "t.csv"}  # which is not there
    assert run_folders.as_written({"labels_from": "parent"}) == {"labels_from": "parent"}


def test_another_wish_is_told_with_both_ways_out(tmp_path: Path) -> None:
    interrupted(tmp_path, "epochs=3")
    with pytest.raises(ArgumentError, match=r"slim is an interrupted run .* epochs=3 and not 4.* name= to begin anew"):
        begin(tmp_path, "epochs=4", PARENT)
    assert begin(tmp_path, "epochs=4 name=other", PARENT).name == "other"


def test_what_was_written_anew_since_the_first_stage_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the run went on in between, which writes args.yaml again."""
    monkeypatch.chdir(tmp_path)
    asked, read = request(tmp_path / "runs"), {"model": "a.yaml", "data": "b.yaml"}
    told = {k: v for k, v in {**asked.kwargs(), **read}.items() if v is not None}
    for name in read.values():
        (tmp_path / name).touch()

    def goes_on() -> None:
        with pytest.raises(KeyboardInterrupt), slim_stages.opened(asked, YOLO, told) as run:
            for name, work in (PARENT, CUT):
                run.run(name, work)
            raise KeyboardInterrupt

    goes_on()
    goes_on()
    began = (tmp_path / "runs" / "slim" / "1-parent" / slim_earlier.FACTS).stat().st_mtime
    for name in read.values():
        os.utime(tmp_path / name, (began + 1e-3, began + 1e-3))
        with pytest.raises(ArgumentError, match=rf"with .*{name} as it was before .* name= to begin anew"):
            goes_on()
        os.utime(tmp_path / name, (began - 1, began - 1))
    goes_on()
    assert [f.name for f in (tmp_path / "runs").iterdir()] == ["slim"]


def test_data_written_anew_as_it_was_is_the_same(tmp_path: Path) -> None:
    data, stage = tmp_path / "b.yaml", tmp_path / "1-parent" / slim_earlier.FACTS
    data.write_text("nc: 2")
    stage.parent.mkdir()
    stage.write_text(json.dumps({"more": {slim_earlier.DATA: slim_earlier.digest(data)}}))
    os.utime(stage, (1, 1))
    told = {"model": "a.pt", "data": str(data)}
    assert slim_earlier.changed_since(tmp_path, told) == []
    copied = tmp_path / "2-prune" / slim_earlier.FACTS  # before its parent, as a copy of the folder may have it
    copied.parent.mkdir()
    copied.write_text(json.dumps({"more": {}}))
    os.utime(copied, (0, 0))
    assert slim_earlier.changed_since(tmp_path, told) == []
    data.write_text("nc: 3")
    assert slim_earlier.changed_since(tmp_path, told) == [str(data)]


def test_where_it_lies_and_how_much_it_says_are_no_other_wish(tmp_path: Path) -> None:
    interrupted(tmp_path, "name=mine")
    assert begin(tmp_path, "name=mine exist_ok=True verbose=False").name == "mine"


def test_another_device_is_no_other_wish_unless_a_time_was_met_there(tmp_path: Path) -> None:
    interrupted(tmp_path, "device=0,1 workers=8")
    folder = begin(tmp_path, "device=cpu workers=0", ("parent", killed), ("prune", killed))
    assert (folder.name, run_folders.read_yaml(folder / "args.yaml")["device"]) == ("slim", "cpu")
    interrupted(tmp_path / "timed", "device=0 latency=0.5")
    with pytest.raises(ArgumentError, match="device=0 and not cpu"):
        begin(tmp_path / "timed", "device=cpu latency=0.5", PARENT)


def test_another_export_is_no_other_wish_until_there_is_one(tmp_path: Path) -> None:
    interrupted(tmp_path, "format=ncnn")
    folder = begin(tmp_path, "format=onnx half=True", ("parent", killed), ("prune", killed))
    told = run_folders.read_yaml(folder / "args.yaml")
    assert (folder.name, told["format"], told["half"]) == ("slim", "onnx", True)
    with pytest.raises(ArgumentError, match="half=True and not None"):
        begin(tmp_path, "quantize=8", PARENT)  # without format= it is an argument of the trainings
    begin(tmp_path, "format=onnx", ("parent", killed), ("prune", killed), ("export", writes()))
    with pytest.raises(ArgumentError, match="format=onnx and not ncnn"):
        begin(tmp_path, "format=ncnn", PARENT)


def test_a_format_whose_time_was_met_is_not_another(tmp_path: Path) -> None:
    interrupted(tmp_path, "format=ncnn latency=0.5")
    with pytest.raises(ArgumentError, match="format=ncnn and not onnx"):
        begin(tmp_path, "format=onnx latency=0.5", PARENT)


def test_another_model_begins_anew(tmp_path: Path) -> None:
    interrupted(tmp_path)
    asked = request(tmp_path)
    with slim_stages.opened(asked, YOLO, {**asked.kwargs(), "model": "z.pt", "data": "b.yaml"}) as run:
        assert run.folder.name != "slim"


def test_what_is_refused_before_anything_was_trained_leaves_nothing(tmp_path: Path) -> None:
    def refused(part: Path) -> Done:
        raise BudgetError("out of reach")

    with pytest.raises(BudgetError):
        begin(tmp_path / "new", "flops=0.1", PARENT, ("prune", refused))
    assert not (tmp_path / "new").exists()
    with pytest.raises(BudgetError):
        begin(tmp_path, "", PARENT, CUT, ("prune", refused))
    assert (tmp_path / "slim" / "2-prune").is_dir()  # what took long stays


def test_what_broke_before_anything_was_trained_leaves_nothing_and_promises_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(part: Path) -> Done:
        raise RuntimeError("out of memory")

    with caplog.at_level("INFO"), pytest.raises(RuntimeError):
        begin(tmp_path / "new", "", PARENT, ("train", broken))
    assert not (tmp_path / "new").exists() and "goes on" not in caplog.text
    with caplog.at_level("INFO"), pytest.raises(RuntimeError):
        begin(tmp_path, "", PARENT, CUT, ("finetune", broken))
    assert f"the same command goes on where it was; so far everything is in {tmp_path / 'slim'}" in caplog.text


def test_a_stage_that_could_not_be_gives_its_number_back(tmp_path: Path) -> None:
    def out_of_reach(part: Path) -> Done:
        raise BudgetError("out of reach")

    stages = Stages(tmp_path)
    stages.run("parent", writes())
    with pytest.raises(BudgetError):
        stages.run("prune", out_of_reach)
    stages.skip()
    assert stages.run("prune", writes()).folder == tmp_path / "2-prune"


def test_an_interrupt_says_what_is_kept_and_how_to_go_on(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt, match="no stage was finished, and the same command begins anew"):
        begin(tmp_path, "flops=0.5", PARENT, ("prune", lambda part: (_ for _ in ()).throw(KeyboardInterrupt)))
    assert list(tmp_path.iterdir()) == []  # nothing but the figures of the parent, in nobody's way
    goes_on = f"the same command goes on where it was; so far everything is in {tmp_path / 'slim'}"
    with pytest.raises(KeyboardInterrupt) as caught:
        begin(tmp_path, "", PARENT, CUT, DEAD)
    assert str(caught.value) == goes_on


def test_a_full_disk_in_the_first_training_loses_no_epoch(tmp_path: Path) -> None:
    def full(part: Path) -> Done:
        with contextlib.suppress(KeyboardInterrupt):
            killed(part)
        error = WriteError(part / "weights" / "last.pt", "full")
        interruptions.tell(error, f"go on with: yoloprune finetune model={part} resume")  # as the training itself does
        raise error

    with pytest.raises(WriteError, match=r"project= folder\. The same command goes on where it was"):
        begin(tmp_path, "", PARENT, ("train", full))
    assert (tmp_path / "slim" / "2-train.unfinished" / "weights" / "last.pt").is_file()


def test_results_are_not_written_over(tmp_path: Path) -> None:
    first = begin(tmp_path, "", PARENT, CUT)
    (first / run_report.JSON).write_text("{}")
    with pytest.raises(ArgumentError, match="holds a run of slim"):
        begin(tmp_path, "exist_ok=True", PARENT)
    assert (first / "2-prune").is_dir()


HOLD = """
import sys, time
from pathlib import Path
from yoloprune import files
handle = files.taken(Path(sys.argv[1]))
print("held" if handle else "taken", flush=True)
sys.stdin.readline()
"""


def test_a_run_that_goes_on_is_left_alone_and_free_when_it_is_killed(tmp_path: Path) -> None:
    interrupted(tmp_path)
    lock = tmp_path / "slim" / slim_earlier.LOCK
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        assert begin(tmp_path, "", PARENT).name != "slim"  # of its own
        other.kill()
    assert begin(tmp_path, "", ("parent", killed), ("prune", killed)).name == "slim"


def test_the_facts_are_plain(tmp_path: Path) -> None:
    folder = Stages(tmp_path).run("prune", writes(more={"path": tmp_path})).folder
    told = json.loads((folder / slim_earlier.FACTS).read_text())
    assert told["file"] == str(Path("weights") / "model.txt") and told["more"] == {"path": str(tmp_path)}


def test_the_arguments_of_an_export_are_no_arguments_of_a_training() -> None:
    asked = checking.build(SlimRequest, {"model": "a.pt", "data": "b", "format": "onnx", "half": True, "lr0": 0.1})
    assert slim_work.Work(asked, "b.yaml", Side(64, 64), Deployment()).training == {"data": "b.yaml", "lr0": 0.1}
    asked = checking.build(SlimRequest, {"model": "a.pt", "data": "b", "quantize": 8})
    assert slim_work.Work(asked, "b.yaml", Side(64, 64), Deployment()).training == {"data": "b.yaml", "quantize": 8}


def test_runs_of_a_name_come_latest_first(tmp_path: Path) -> None:
    for name in ("slim", "slim-2", "slim10", "slim-x", "slimmer"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "args.yaml").write_text("mode: slim")
    (tmp_path / "slim-3").mkdir()  # without args.yaml
    found = run_folders.earlier_runs("detect", "slim", {"project": str(tmp_path)})
    assert [f.name for f in found] == ["slim10", "slim-2", "slim"]
    only = run_folders.earlier_runs("detect", "slim", {"project": str(tmp_path), "exist_ok": True})
    assert [f.name for f in only] == ["slim"]
