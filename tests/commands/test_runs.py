"""Folders of runs and their args.yaml, whatever kinds of values were given."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from ultralytics import cfg

import yoloprune
from yoloprune import csv_rows
from yoloprune.backend import run_folders
from yoloprune.commands import interruptions, row_by_row
from yoloprune.commands.demo_images import make_shapes
from yoloprune.errors import ArgumentError, BudgetError, PruneError


def test_args_are_plain_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("here.yaml").touch()
    given = {
        "model": Path("gone.pt"),
        "data": Path("here.yaml"),
        "project": Path("a") / "b",
        "device": torch.device("cpu"),
        "flops": 0.5,
        "keep": ("backbone", Path("x")),
        "name": None,
        "native": True,
    }
    run_folders.write_args(tmp_path, given)
    assert yaml.safe_load((tmp_path / "args.yaml").read_text()) == {
        "model": "gone.pt",
        "data": str(tmp_path / "here.yaml"),
        "project": str(Path("a") / "b"),
        "device": "cpu",
        "flops": 0.5,
        "keep": ["backbone", "x"],
        "name": None,
        "native": True,
    }


@pytest.mark.slow
def test_prune_takes_paths_and_devices(tiny: Path, tmp_path: Path) -> None:
    told = {"project": tmp_path, "name": Path("mine"), "device": torch.device("cpu"), "data": False, "native": False}
    yoloprune.prune(tiny, flops=0.7, round_to=1, min_width=2, **told)
    assert {f.name for f in (tmp_path / "mine").iterdir()} >= {"args.yaml", "report.json", "weights"}


# Rows -----------------------------------------------------------------------------------------------------------------
def rows_of(model: torch.nn.Module, folder: Path, *, killed: bool) -> list[dict[str, Any]]:
    """The rows that a run of a model called live.pt finds; it adds one, and is killed or over."""
    live: Any = SimpleNamespace(task="detect", model=model)
    told = {"mode": "sweep", "model": "live.pt", "project": str(folder)}
    with contextlib.suppress(KeyboardInterrupt), row_by_row.opened("sweep", live, told, told, "t.csv") as (run, rows):
        csv_rows.append_row(run / "t.csv", {"point": len(rows)})
        if killed:
            raise KeyboardInterrupt
        (run / "report.json").write_text("{}")
    return rows


def test_rows_go_on_with_their_own_model_and_with_no_other_of_its_name(tmp_path: Path) -> None:
    first, other = torch.nn.Conv2d(3, 4, 1), torch.nn.Conv2d(3, 4, 1)
    assert rows_of(first, tmp_path, killed=True) == []
    assert rows_of(other, tmp_path, killed=True) == []  # its weights are others, its name and its shape are not
    assert rows_of(first, tmp_path, killed=False) == [{"point": 0}]
    assert rows_of(other, tmp_path, killed=True) == [{"point": 0}]
    assert sorted(f.name for f in (tmp_path / "sweep").iterdir()) == ["args.yaml", "report.json", "t.csv"]


def test_rows_that_never_began_leave_no_folder(tmp_path: Path) -> None:
    live: Any = SimpleNamespace(task="detect", model=torch.nn.Conv2d(3, 4, 1))
    told = {"mode": "sweep", "model": "live.pt", "project": str(tmp_path / "runs")}
    with pytest.raises(BudgetError), row_by_row.opened("sweep", live, told, told, "t.csv"):
        raise BudgetError("out of reach")
    assert not (tmp_path / "runs").exists()


# Folders --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kept", ["results.csv", "weights/last.pt", "notes"])
def test_only_the_folder_of_a_training_that_never_began_goes(kept: str, tmp_path: Path) -> None:
    for folder in ("unused", "used", "somebody's"):
        (tmp_path / folder / "weights").mkdir(parents=True)
        (tmp_path / folder / "args.yaml").write_text("mode: train")
        (tmp_path / folder / "labels.jpg").write_text("picture")
    (tmp_path / "used" / kept).write_text("mine")
    for folder in ("unused", "used", "never made"):
        run_folders.Run(tmp_path / folder, made=True).drop_unused()
    run_folders.Run(tmp_path / "somebody's", made=False).drop_unused()
    assert not (tmp_path / "unused").exists()
    assert (tmp_path / "used" / kept).read_text() == "mine" and (tmp_path / "used" / "args.yaml").exists()
    assert (tmp_path / "somebody's" / "args.yaml").exists()


def test_folders_above_a_refused_run_go_as_well_where_nobody_else_is(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    first, second = (run_folders.claim(asked(tmp_path / "mine" / "a" / "b")) for _ in range(2))
    assert (first.folder.name, second.folder.name) == ("x", "x-2")
    first.drop_unused()
    assert {f.name for f in (tmp_path / "mine" / "a" / "b").iterdir()} == {"x-2"}
    third = run_folders.claim(asked(tmp_path / "mine" / "c" / "d"))
    third.drop_unused()
    assert {f.name for f in (tmp_path / "mine").iterdir()} == {"a"}
    second.drop_unused()  # which made none of the folders above it
    assert (tmp_path / "mine" / "a" / "b").is_dir()


def test_a_folder_above_that_goes_meanwhile_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make, gone = Path.mkdir, []

    def slow(self: Path, *args: Any, **told: Any) -> None:
        if not gone:
            gone.append(self)
            raise FileNotFoundError(2, "No such file or directory", str(self))
        make(self, *args, **told)

    monkeypatch.setattr(Path, "mkdir", slow)
    assert run_folders.claim(asked(tmp_path / "above")) == run_folders.Run(tmp_path / "above" / "x", made=True)


def asked(folder: Path, **more: object) -> SimpleNamespace:
    told = {"task": "detect", "mode": "train", "project": str(folder), "name": "x", "exist_ok": False, "save_dir": None}
    return SimpleNamespace(**told | more)


def test_a_name_that_another_process_takes_first_is_left_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    choose = cfg.get_save_dir

    def slow(arguments: SimpleNamespace) -> Path:
        folder = choose(arguments)
        if folder.name == "x":
            folder.mkdir()  # by somebody else, between the choice and the making
        return folder

    monkeypatch.setattr(cfg, "get_save_dir", slow)
    assert run_folders.claim(asked(tmp_path)) == run_folders.Run(tmp_path / "x-2", made=True)


def test_what_a_killed_run_left_goes_before_the_next_one_gets_its_name(tmp_path: Path) -> None:
    """Of the second run only parts of files are there, of the third a whole one as well."""
    told = {"project": str(tmp_path), "name": "prune"}
    first, second, third = (run_folders.new_run("detect", "prune", told).folder for _ in range(3))
    for folder in (second, third):
        part = folder / ".part-abc"
        (part / "weights").mkdir(parents=True)
        (part / "weights" / "pruned.pt").touch()
        (part / ".taken").touch()
        os.utime(part, (0, 0))
    (third / "args.yaml").touch()
    assert run_folders.new_run("detect", "prune", told).folder == second
    assert first.is_dir() and [f.name for f in third.iterdir()] == ["args.yaml"] and not [*second.iterdir()]


def test_a_folder_that_is_there_is_taken_only_when_told(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    assert run_folders.claim(asked(tmp_path)) == run_folders.Run(tmp_path / "x-2", made=True)
    assert run_folders.claim(asked(tmp_path, exist_ok=True)) == run_folders.Run(tmp_path / "x", made=False)
    assert run_folders.claim(asked(tmp_path, save_dir=str(tmp_path / "x"))) == run_folders.Run(
        tmp_path / "x", made=False
    )
    assert run_folders.claim(asked(tmp_path, save_dir=str(tmp_path / "y"))) == run_folders.Run(
        tmp_path / "y", made=True
    )
    (tmp_path / "z").write_text("a file")
    with pytest.raises(PruneError, match=r"Cannot write to .*z: something else is there"):
        run_folders.claim(asked(tmp_path, name="z", exist_ok=True))


def test_a_run_does_not_write_over_what_it_starts_from(tmp_path: Path) -> None:
    (tmp_path / "x" / "weights").mkdir(parents=True)
    best, link, other = tmp_path / "x" / "weights" / "best.pt", tmp_path / "link.pt", tmp_path / "other.pt"
    for file in (best, other):
        file.write_text("weights")
    link.symlink_to(best)
    for file in (best, str(best), link):
        with pytest.raises(ArgumentError, match="what this run starts from, and would be written over"):
            run_folders.claim(asked(tmp_path, exist_ok=True), [None, True, other, file])
    assert run_folders.claim(asked(tmp_path, exist_ok=True), [None, True, other, "yolov8n.yaml"]).made is False
    assert run_folders.claim(asked(tmp_path), [best]).folder.name == "x-2"


@pytest.mark.slow
def test_a_folder_from_which_ultralytics_opens_nothing_is_refused_before_a_training_from_python(
    tiny: Path, tmp_path: Path
) -> None:
    """It would train to the end there, look for a release on the network and fail."""
    data = make_shapes(tmp_path / "data", train=4, val=4, imgsz=32)
    free = yoloprune.prune(tiny, flops=0.7, native=False, score="l2", imgsz=32, device="cpu", project=str(tmp_path))
    with pytest.raises(ArgumentError, match="whose path has a quote in it"):
        free.train(data=str(data), epochs=1, imgsz=32, device="cpu", workers=0, project=str(tmp_path / "it's"))
    assert not (tmp_path / "it's").exists()


@pytest.mark.slow
def test_a_refused_training_leaves_no_folder(tiny: Path, tmp_path: Path) -> None:
    data = make_shapes(tmp_path / "data", train=4, val=4, imgsz=32)
    # refused before and after the labels are read
    for target, why in (({"flops": 0.01}, "Held by"), ({"flops": 0.5, "freeze": 8}, "freeze=8 holds cannot die")):
        with pytest.raises(BudgetError, match=why):
            yoloprune.train_sparse(
                tiny, data=str(data), epochs=1, imgsz=32, batch=4, workers=0, device="cpu", project=tmp_path, **target
            )
    assert {f.name for f in tmp_path.iterdir()} == {"data"}


@pytest.mark.parametrize("trainer", [None, SimpleNamespace(save_dir=None)], ids=["none", "of several data sets"])
def test_the_error_of_a_training_without_a_folder_is_told(trainer: SimpleNamespace | None) -> None:
    with pytest.raises(PruneError, match="why"), interruptions.going_on(SimpleNamespace(trainer=trainer), "x"):
        raise PruneError("why")
