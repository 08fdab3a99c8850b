"""Each step of the line alone: interrupted sparse training, prune with a budget, validation, and wrong input."""

from __future__ import annotations

import csv
import hashlib
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny_line
import torch
from releases import needs_distillation
from tiny_line import QUICK, widths
from ultralytics import YOLO
from ultralytics.engine.trainer import BaseTrainer

import yoloprune
from yoloprune import cli
from yoloprune.backend import console, model_facts, yolo_tracing
from yoloprune.checkpoint import saving
from yoloprune.commands import interruptions
from yoloprune.errors import ArgumentError, ModelError, WriteError
from yoloprune.importance import dead_channels
from yoloprune.sparse.callback import EVENTS

pytestmark = pytest.mark.slow

work, data = tiny_line.work, tiny_line.data  # fixtures, made once a file


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


# ---- sparse training -------------------------------------------------------------------------------------------------


def test_callback_is_gone_afterwards(work: Path, data: Path, tiny: Path) -> None:
    model = YOLO(tiny)
    sparse = yoloprune.SparseTraining(yoloprune.SparseConfig(yoloprune.Budget(flops=0.6)))
    before = {event: list(calls) for event, calls in model.callbacks.items()}
    sparse.attach(model)
    assert sum(map(len, model.callbacks.values())) == sum(map(len, before.values())) + len(EVENTS)
    sparse.detach(model)
    assert {event: list(calls) for event, calls in model.callbacks.items()} == before


@pytest.mark.long
@pytest.mark.parametrize("stop", [1, 4], ids=["in the ramp", "in the hold phase"])
def test_interrupted_run_resumes(
    stop: int, work: Path, data: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C after an epoch; the resumed run reaches the target of the first, told nothing but the checkpoint."""
    whole = yoloprune.SparseTraining.on_fit_epoch_end

    def interrupted(self: yoloprune.SparseTraining, trainer: BaseTrainer) -> None:
        whole(self, trainer)
        if trainer.epoch == stop:
            raise KeyboardInterrupt

    name = f"stopped{stop}"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(yoloprune.SparseTraining, "on_fit_epoch_end", interrupted)
        yoloprune.train_sparse(
            tiny, data=str(data), epochs=6, flops=0.6, round_to=4, min_width=4, project=str(work), name=name, **QUICK
        )
    last = work / name / "weights" / "last.pt"
    before = YOLO(last).model
    dead = dead_channels.dead(before, yolo_tracing.trace_yolo(before, imgsz=64))
    assert dead.any()  # what had faded so far is zero in the checkpoint, also before the target is met
    assert before.yaml["yoloprune_sparse"]["met"] == (stop == 4)
    with pytest.raises(ArgumentError, match=r"has the target flops=0\.6, which cannot change"):
        yoloprune.train_sparse(last, flops=0.3, resume=True)
    for key, was, value in (("fade", 0.6, 0.9), ("round_to", 4, 2), ("penalty", "select", "l1")):
        with pytest.raises(ArgumentError, match=f"has {key}={was}, which cannot change. Received: {value}"):
            yoloprune.train_sparse(last, resume=True, **{key: value})
    with pytest.raises(ArgumentError, match="not cut yet") as caught:
        yoloprune.finetune(YOLO(last), data=str(data))
    assert str(last) in str(caught.value) and "\n" not in str(caught.value)  # the file, not the network
    again = last.with_name("again.pt")
    yoloprune.load(last).save(again)
    seals = ((YOLO(last), KeyError), (YOLO(again), KeyError), (yoloprune.YOLO(last), ModelError))
    for model, error in seals:  # dead channels would come back
        for told in ({"resume": True}, {"data": str(data), "epochs": 1}):
            with pytest.raises(error, match="yoloprune train-sparse"):
                model.train(project=str(work), **QUICK, **told)
    assert YOLO(last).val(data=str(data), imgsz=64, workers=0, plots=False, project=str(work)) is not None
    for told in ({"resume": True}, {"data": str(data)}):  # without the callback dead channels come back to life
        with pytest.raises(ArgumentError, match="not cut yet"):
            yoloprune.finetune(last, **told)
    yoloprune.train_sparse("nothing.pt", resume=str(last), flops=0.6)
    with (work / name / "sparsity.csv").open() as f:
        rows = list(csv.DictReader(f))
    assert [int(r["epoch"]) for r in rows] == [1, 2, 3, 4, 5, 6]
    assert 0.59 <= float(rows[-1]["flops"]) <= 0.6
    settings = json.loads((work / name / "report.json").read_text())["settings"]
    assert settings["budget"]["flops"] == 0.6 and settings["limits"]["round_to"] == 4
    after = YOLO(last).model
    if stop == 4:  # what was dead stays dead
        assert (dead_channels.dead(after, yolo_tracing.trace_yolo(after, imgsz=64)) == dead).all()
    assert YOLO(work / name / "weights" / "best.pt").model.yaml["yoloprune_sparse"]["met"] is True


# ---- prune and validate ----------------------------------------------------------------------------------------------


def test_a_budget_needs_no_sparse_training(work: Path, tiny: Path) -> None:
    small = yoloprune.prune(tiny, params=0.5, round_to=1, min_width=2, recover="none", project=str(work), name="budget")
    share = sum(p.numel() for p in small.model.parameters()) / sum(p.numel() for p in YOLO(tiny).model.parameters())
    assert 0.49 <= share <= 0.5


def test_a_model_that_was_not_pruned_is_fine_tuned_with_a_warning(
    tiny: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(console, "warn", said.append)
    monkeypatch.setattr(yoloprune.YOLO, "train", lambda *_, **__: pytest.fail("trains"))
    with pytest.raises(pytest.fail.Exception, match="trains"):
        yoloprune.finetune(tiny, data=str(data))
    assert said == ["finetune: yoloprune did not prune this model; it is trained at the widths that it has"]


@pytest.mark.parametrize("saved", [False, True])
def test_an_interrupted_training_says_how_it_goes_on(
    saved: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = tmp_path / "last one.pt"
    monkeypatch.setattr(saving, "goes_on", lambda _: True)
    if saved:
        last.touch()
    goes_on = f"go on with: yoloprune x 'model={last}' resume"
    dropped: list[bool] = []
    run = SimpleNamespace(drop_unused=lambda: dropped.append(True))
    for error, alone in (
        (KeyboardInterrupt(), ""),
        (WriteError(last, "why"), f"Cannot write {last}: why. Make room, "),
    ):
        yolo = SimpleNamespace(trainer=SimpleNamespace(last=last, run=run))
        with pytest.raises(type(error)) as caught, interruptions.going_on(yolo, "x"):
            raise error
        told = str(caught.value)
        left = goes_on if saved else "nothing was saved yet; the same command begins anew"
        assert told.startswith(alone) and told.lower().endswith(left.lower())
    assert dropped == [True, True]


def test_who_runs_others_tells_last_what_is_left() -> None:
    with pytest.raises(WriteError) as caught:
        try:
            raise WriteError(Path("a"), "why")
        except WriteError as e:
            interruptions.tell(e, "go on with the first")
            interruptions.tell(e, "go on with the second")
            raise
    assert (
        str(caught.value) == "Cannot write a: why. Make room, or choose another project= folder. Go on with the second"
    )


def test_an_interrupt_stays_one_where_the_checkpoint_cannot_be_read(tmp_path: Path) -> None:
    (last := tmp_path / "last.pt").touch()
    with (
        pytest.raises(KeyboardInterrupt, match=f"{last} is not a YOLO model"),
        interruptions.going_on(SimpleNamespace(trainer=SimpleNamespace(last=last)), "x"),
    ):
        raise KeyboardInterrupt


def test_keep_patterns(work: Path, tiny: Path) -> None:
    small = yoloprune.prune(
        tiny,
        flops=0.8,
        round_to=1,
        min_width=2,
        native=False,  # rows of a YAML of their own would have other names
        keep="model.2,model.4.cv1*",
        project=str(work),
        name="keep",
    )
    before, after = widths(tiny), model_facts.widths(small.model)
    for name in before:
        if name.startswith("model.2.") or name == "model.4.cv1.conv.weight":
            assert after[name][0] == before[name][0], name
    assert after != before


def test_live_model_is_left_alone(work: Path, tiny: Path) -> None:
    model = YOLO(tiny)
    before = {k: v.clone() for k, v in model.model.state_dict().items()}
    yoloprune.prune(model, flops=0.7, round_to=1, min_width=2, project=str(work), name="live")
    after = model.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_a_fused_model_is_validated(work: Path, data: Path, tiny: Path) -> None:
    """It has no gamma left to rank, but nothing keeps it from being measured."""
    yolo = YOLO(tiny)
    yolo.fuse()
    yolo.save(work / "fused.pt")
    [row] = yoloprune.val(work / "fused.pt", data=str(data), imgsz=64, workers=0, project=str(work), name="fused")
    assert row["model"] == "fused"  # not "model", which Ultralytics takes for the file's name, with a warning
    assert row["params"] == sum(p.numel() for p in yolo.model.parameters())
    with pytest.raises(ModelError, match="fused"):
        yoloprune.prune(work / "fused.pt", flops=0.5)


# ---- wrong input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "told", "code"),
    [
        (["prune", "model={missing}"], "missing.pt", 1),
        (["prune", "model={text}", "flops=0.5"], "text.pt", 1),
        (["prune", "model={fused}", "flops=0.5"], "fused", 1),
        (["prune", "model={tiny}", "flops=1.5"], "flops=1.5", 2),
        (["prune", "model={tiny}", "flops=abc"], "flops=abc", 2),
        (["prune", "model={tiny}", "flosp=0.5"], "Similar arguments are flops", 2),
        (["prune", "model={tiny}", "flops=0.5", "keep=model.99"], "keep=model.99", 2),
        (["prune", "model={tiny}"], "No channel is dead", 1),
        (["prune", "model={tiny}", "flops=0.01"], "out of reach", 1),
        (["prune", "model={tiny}", "flops=900G"], "already meets flops=900G", 1),
        (["finetune", "model={tiny}", "data={empty}", "epochs=1", "imgsz=64"], "empty", 1),
        (["train-sparse", "model={tiny}", "data={empty}", "epochs=1", "imgsz=64"], "empty", 1),
    ],
)
def test_wrong_input_is_one_clear_line(
    arguments: list[str],
    told: str,
    code: int,
    tiny: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    places = {name: str(tmp_path / f"{name}.pt") for name in ("missing", "text", "fused")}
    Path(places["text"]).write_text("not a checkpoint")
    fused = YOLO(tiny)
    fused.fuse()
    fused.save(places["fused"])
    for split in ("train", "val"):
        (tmp_path / "empty" / "images" / split).mkdir(parents=True)
    empty = tmp_path / "empty" / "data.yaml"
    empty.write_text(f"path: {empty.parent}\ntrain: images/train\nval: images/val\nnames: {{0: a}}\n")
    given = [a.format(tiny=tiny, empty=empty, **places) for a in arguments]
    before = digest(tiny)
    capsys.readouterr()
    assert cli.main(given) == code
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("yoloprune: error")]
    assert len(lines) == 1
    assert told in lines[0]
    assert digest(tiny) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_folder(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(ArgumentError, match="locked may not be written to"):
        yoloprune.prune(tiny, flops=0.7, round_to=1, min_width=2, project=str(tmp_path / "locked"))


@pytest.mark.parametrize("below", ["", "a/b"])
def test_output_folder_that_cannot_be_made(
    below: str, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file where the folder should go: refused for every user, root included, before the model is even read."""
    (tmp_path / "file").write_text("here already")
    monkeypatch.setattr(saving, "load", lambda *_: pytest.fail("work has begun"))
    with pytest.raises(ArgumentError, match="file is a file"):
        yoloprune.prune(tiny, flops=0.7, round_to=1, min_width=2, project=str(tmp_path / "file" / below))
    assert (tmp_path / "file").read_text() == "here already"


@needs_distillation
@pytest.mark.parametrize("command", [yoloprune.train_sparse, yoloprune.finetune])
def test_a_teacher_for_a_model_without_detection_head(command: Any, data: Path, tiny: Path) -> None:
    with pytest.raises(ArgumentError, match=r"distill: .* a detection head only, not classify models"):
        command("yolov8n-cls.yaml", data=str(data), distill_model=str(tiny))
