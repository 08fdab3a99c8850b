"""Stages of a `slim`: whole or not there, and done once."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from checkpoints import narrow
from slim_paper import killed, writes
from torch import nn

from yoloprune.backend import compat, console, model_facts, run_folders
from yoloprune.checkpoint import saving
from yoloprune.commands import slim, slim_earlier, slim_work
from yoloprune.commands.image_side import Side
from yoloprune.commands.slim_stages import Done, Stages
from yoloprune.errors import ArgumentError, BudgetError
from yoloprune.planning.paired_bootstrap import Findings
from yoloprune.runtimes.deployment import Deployment
from yoloprune.settings import checking
from yoloprune.settings.slim_request import SlimRequest


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


def test_a_stage_that_could_not_be_gives_its_number_back(tmp_path: Path) -> None:
    def out_of_reach(part: Path) -> Done:
        raise BudgetError("out of reach")

    stages = Stages(tmp_path)
    stages.run("parent", writes())
    with pytest.raises(BudgetError):
        stages.run("prune", out_of_reach)
    stages.skip()
    assert stages.run("prune", writes()).folder == tmp_path / "2-prune"


def test_the_facts_are_plain(tmp_path: Path) -> None:
    folder = Stages(tmp_path).run("prune", writes(more={"path": tmp_path})).folder
    told = json.loads((folder / slim_earlier.FACTS).read_text())
    assert told["file"] == str(Path("weights") / "model.txt") and told["more"] == {"path": str(tmp_path)}


def test_the_arguments_of_an_export_are_no_arguments_of_a_training() -> None:
    asked = checking.build(SlimRequest, {"model": "a.pt", "data": "b", "format": "onnx", "half": True, "lr0": 0.1})
    assert slim_work.Work(asked, "b.yaml", Side(64, 64), Deployment()).training == {"data": "b.yaml", "lr0": 0.1}
    asked = checking.build(SlimRequest, {"model": "a.pt", "data": "b", "quantize": 8})
    assert slim_work.Work(asked, "b.yaml", Side(64, 64), Deployment()).training == {"data": "b.yaml", "quantize": 8}
