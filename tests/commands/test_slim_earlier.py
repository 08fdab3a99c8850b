"""Runs of `slim`: gone on with by the same command and by no other."""

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

import pytest
from command_lines import ok
from slim_paper import killed, writes

from yoloprune.backend import run_folders
from yoloprune.commands import interruptions, slim_earlier, slim_stages
from yoloprune.commands.slim_stages import Done, Stage
from yoloprune.errors import ArgumentError, BudgetError, WriteError
from yoloprune.reporting import run_report
from yoloprune.settings.commands import COMMANDS
from yoloprune.settings.slim_request import SlimRequest

YOLO: Any = SimpleNamespace(task="detect")


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


def test_runs_of_a_name_come_latest_first(tmp_path: Path) -> None:
    for name in ("slim", "slim-2", "slim10", "slim-x", "slimmer"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "args.yaml").write_text("mode: slim")
    (tmp_path / "slim-3").mkdir()  # without args.yaml
    found = run_folders.earlier_runs("detect", "slim", {"project": str(tmp_path)})
    assert [f.name for f in found] == ["slim10", "slim-2", "slim"]
    only = run_folders.earlier_runs("detect", "slim", {"project": str(tmp_path), "exist_ok": True})
    assert [f.name for f in only] == ["slim"]
