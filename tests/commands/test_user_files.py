"""What is in other people's folders stays, whatever is refused, runs out of room, or is done again."""

from __future__ import annotations

import pathlib
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from checkpoints import build, untrained
from sparse_loop import TINY
from ultralytics.engine.trainer import BaseTrainer

import yoloprune
from yoloprune import files
from yoloprune.commands.demo_images import make_shapes
from yoloprune.errors import ArgumentError, BudgetError, DataError, ModelError, PlanError, WriteError
from yoloprune.settings.command_line import parse

pytestmark = pytest.mark.slow

SMALL = {"round_to": 1, "min_width": 1}
QUICK: dict[str, Any] = {
    "imgsz": 32,
    "batch": 4,
    "nbs": 4,
    "optimizer": "AdamW",
    "plots": False,
    "amp": False,
    "warmup_epochs": 0,
    "device": "cpu",
    "workers": 0,
    "epochs": 1,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_shapes(tmp_path_factory.mktemp("shapes") / "data", train=4, val=4, imgsz=32))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained(tmp_path_factory.mktemp("model"), TINY, 32)


@pytest.fixture(scope="module")
def small(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model after a cut with free widths."""
    told = {"data": False, "imgsz": 32, "project": str(tmp_path_factory.mktemp("small")), "native": False, **SMALL}
    return Path(yoloprune.prune(tiny, flops=0.8, **told).ckpt_path)


def sparse(model: Any, data: str, project: Path, **more: Any) -> Any:
    told = {**QUICK, "flops": 0.9, "project": str(project), "name": "run", "exist_ok": True, **SMALL}
    return yoloprune.train_sparse(model, data=data, **told | more)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


# ---- refused ---------------------------------------------------------------------------------------------------------

REFUSED = {
    "reach": ({"flops": 0.01}, BudgetError),
    "native reach": ({"flops": 0.2, "native": True, "max_ratio": 0.1}, BudgetError),
    "freeze": ({"freeze": 8}, BudgetError),
    "a list of layers frozen": ({"freeze": list(range(8))}, BudgetError),
    "met already": ({"flops": None, "params": "9M"}, BudgetError),
}


@pytest.mark.parametrize("why", REFUSED)
def test_a_refusal_comes_before_any_file(why: str, data: str, tiny: Path, tmp_path: Path) -> None:
    """A folder of the user's, a finished run and the target of a link stay; where nothing was, nothing is."""
    refused, error = REFUSED[why]
    run, target = tmp_path / "run", tmp_path / "target"
    (run / "weights").mkdir(parents=True)
    target.mkdir()
    (tmp_path / "link").symlink_to(target, target_is_directory=True)
    for name in ("args.yaml", "labels.jpg", "results.csv", "weights/best.pt"):
        (run / name).write_text("mine")
    for more in ({}, {"name": "link"}, {"save_dir": str(target)}, {"name": "."}, {"name": "new", "exist_ok": False}):
        with pytest.raises(error):
            sparse(tiny, data, tmp_path, **refused | more)
    assert contents(tmp_path).keys() == {
        f"run/{n}" for n in ("args.yaml", "labels.jpg", "results.csv", "weights/best.pt")
    }
    assert set(contents(tmp_path).values()) == {b"mine"}
    assert {f.name for f in tmp_path.iterdir()} == {"run", "target", "link"}


@pytest.mark.long
def test_reach_is_that_of_the_classes_of_the_data_set(data: str, tmp_path: Path) -> None:
    """A head for 80 classes is so heavy that 0.77 of the FLOPs is out of reach; one for the data set's three is not."""
    build(tmp_path / "many.yaml", {**TINY, "nc": 80})
    with pytest.raises(BudgetError):
        yoloprune.prune(tmp_path / "many.yaml", flops=0.77, data=False, imgsz=32, project=str(tmp_path), **SMALL)
    sparse(tmp_path / "many.yaml", data, tmp_path, flops=0.77)
    assert (tmp_path / "run" / "weights" / "last.pt").is_file()


@pytest.mark.long
def test_a_trainer_that_is_refused_leaves_no_folder(data: str, tiny: Path, small: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "results.csv").write_text("mine")
    sealed = sparse(tiny, data, tmp_path / "sparse").trainer.last
    told = {**QUICK, "data": data, "project": str(tmp_path)}
    for exist_ok in (False, True):
        with pytest.raises(ValueError, match="CUDA"):
            yoloprune.finetune(small, **told | {"device": "7", "name": "run", "exist_ok": exist_ok})
        with pytest.raises(PlanError, match="do not have the shape"):
            yoloprune.finetune(small, **told, name="run", exist_ok=exist_ok, pretrained=str(tiny))
        with pytest.raises(ModelError, match="bring its dead channels back"):
            yoloprune.YOLO(sealed).train(**told, name="run", exist_ok=exist_ok)
    assert {f.name for f in tmp_path.iterdir()} == {"run", "sparse"}
    assert contents(tmp_path / "run") == {"results.csv": b"mine"}


# ---- its own input ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["model", "pretrained", "distill_model"])
def test_a_training_does_not_write_over_what_it_reads(given: str, data: str, small: Path, tmp_path: Path) -> None:
    best = tmp_path / "f" / "weights" / "best.pt"
    best.parent.mkdir(parents=True)
    shutil.copy(small, best)
    told = {**QUICK, "data": data, "project": str(tmp_path), "name": "f", "exist_ok": True}
    told |= {} if given == "model" else {given: str(best)}
    with pytest.raises(ArgumentError, match="would be written over"):
        yoloprune.finetune(best if given == "model" else small, **told)
    assert contents(tmp_path / "f") == {"weights/best.pt": small.read_bytes()}
    yoloprune.finetune(best, **told | {"exist_ok": False})
    assert (tmp_path / "f-2" / "weights" / "best.pt").is_file()


@pytest.mark.long
def test_every_earlier_best_is_kept(data: str, tiny: Path, tmp_path: Path) -> None:
    bests = []
    for seed in range(3):
        sparse(tiny, data, tmp_path, seed=seed, epochs=2)
        bests.append((tmp_path / "run" / "weights" / "best.pt").read_bytes())
    assert len(set(bests)) == 3
    assert set(bests) <= set(contents(tmp_path / "run" / "weights").values())


# ---- out of room, or killed ------------------------------------------------------------------------------------------


def no_room() -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("name", ["last.pt", "best.pt", "epoch1.pt"])
def test_checkpoints_of_an_epoch_are_all_new_or_all_old(
    name: str, data: str, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    """The disk is full at one file of the second epoch: those of the first stay, and the run goes on from there."""
    write, before = pathlib.Path.write_bytes, {}

    def full(self: Path, content: bytes) -> int:
        if before and self.name == name:
            write(self, content[: len(content) // 2])
            no_room()
        return write(self, content)

    def later(trainer: BaseTrainer) -> None:
        if trainer.epoch == 1:
            before.update(contents(trainer.wdir))
            trainer.best_fitness = None  # the second epoch is the best as well

    monkeypatch.setattr(pathlib.Path, "write_bytes", full)
    yolo = yoloprune.YOLO(small)
    yolo.add_callback("on_train_epoch_end", later)
    told = {**QUICK, "data": data, "project": str(tmp_path), "name": "f", "epochs": 3, "save_period": 1}
    with pytest.raises(WriteError, match=f"Cannot write {tmp_path / 'f' / 'weights' / name}: No space left on device"):
        yoloprune.finetune(yolo, **told)
    weights = tmp_path / "f" / "weights"
    assert contents(weights) == before and before.keys() == {"best.pt", "epoch0.pt", "last.pt"}
    monkeypatch.undo()
    assert yoloprune.finetune(weights / "last.pt", resume=True).trainer.epoch == 2


def test_stripping_replaces_a_checkpoint_in_one_step(
    data: str, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, before = torch.save, {}

    def full(content: Any, file: Any, *args: Any, **kwargs: Any) -> None:
        if isinstance(content, dict) and content.get("epoch") == -1:  # stripped
            file = file if hasattr(file, "write") else open(file, "wb")  # noqa: SIM115
            file.write(b"half of it")
            no_room()
        save(content, file, *args, **kwargs)

    monkeypatch.setattr(torch, "save", full)
    yolo = yoloprune.YOLO(small)
    yolo.add_callback("on_model_save", lambda trainer: before.update(contents(trainer.wdir)))
    last = tmp_path / "f" / "weights" / "last.pt"
    with pytest.raises(WriteError, match=f"Cannot write {last}: No space left on device"):
        yoloprune.finetune(yolo, **{**QUICK, "data": data, "project": str(tmp_path), "name": "f"})
    assert contents(last.parent) == before and torch.load(last, weights_only=False)["optimizer"]
    assert torch.save is full


@pytest.mark.long
@pytest.mark.parametrize("command", ["train_sparse", "finetune"])
def test_an_epoch_that_is_done_again_is_told_once(
    command: str, data: str, tiny: Path, small: Path, tmp_path: Path
) -> None:
    """A kill between the row of an epoch and its checkpoint."""
    rows: list[str] = []

    class Killed(BaseException):
        pass

    def kill(trainer: BaseTrainer) -> None:
        if trainer.epoch == 1:
            rows.extend(trainer.csv.read_text().splitlines())
            trainer.csv.write_text("\n".join([*rows, rows[-1].replace("1,", "2,", 1), ""]))
            raise Killed

    yolo = yoloprune.YOLO(tiny if command == "train_sparse" else small)
    yolo.add_callback("on_train_epoch_end", kill)
    more = {"flops": 0.9, **SMALL} if command == "train_sparse" else {}
    with pytest.raises(Killed):
        getattr(yoloprune, command)(yolo, data=data, **{**QUICK, "epochs": 3, "project": str(tmp_path), **more})
    last = next(tmp_path.rglob("last.pt"))
    getattr(yoloprune, command)(last, resume=True)
    after = (last.parent.parent / "results.csv").read_text().splitlines()
    assert [line.split(",")[0].strip() for line in after] == ["epoch", "1", "2", "3"] and after[:2] == rows[:2]


PRUNE = {"data": False, "imgsz": 32, "name": "p", "exist_ok": True, **SMALL}


@pytest.fixture(scope="module", params=[True, False], ids=["native before", "free before"])
def earlier(request: pytest.FixtureRequest, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bool]:
    """The folder of a project with one prune, and whether that is a native one."""
    project = tmp_path_factory.mktemp("earlier")
    yoloprune.prune(tiny, flops=0.95, native=request.param, **PRUNE, project=str(project))
    return project, request.param


def leave_no_room_for(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full as soon as half of this file is written."""
    write = files.write_at_once

    def full(path: Path, content: Any) -> None:
        def half(file: Any) -> None:
            file.write(b"half of it")
            no_room()

        write(path, half if path.name == name else content)

    monkeypatch.setattr(files, "write_at_once", full)


@pytest.mark.long
@pytest.mark.parametrize("name", ["pruned.pt", "pruned.yaml", "args.yaml", "widths.png", "report.json", "report.html"])
def test_a_prune_leaves_all_of_the_old_or_all_of_the_new(
    name: str, earlier: tuple[Path, bool], tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(earlier[0], tmp_path, dirs_exist_ok=True)
    told, before = {**PRUNE, "project": str(tmp_path)}, contents(tmp_path)
    leave_no_room_for(name, monkeypatch)
    with pytest.raises(WriteError, match=rf"Cannot write {tmp_path / 'p'}[\w/]*/{name}: No space left on device"):
        yoloprune.prune(tiny, flops=0.9, native=True, **told)
    assert contents(tmp_path) == before
    with pytest.raises(WriteError):
        yoloprune.prune(tiny, flops=0.9, native=True, **told | {"name": "new"})
    assert {f.name for f in tmp_path.iterdir()} == {"p"}  # nothing of a run that never had anything


@pytest.mark.long
def test_the_prune_after_one_that_had_no_room_replaces_all(
    earlier: tuple[Path, bool], tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, native = earlier
    shutil.copytree(project, tmp_path, dirs_exist_ok=True)
    told, before = {**PRUNE, "project": str(tmp_path)}, contents(tmp_path)
    with monkeypatch.context() as patched, pytest.raises(WriteError):
        leave_no_room_for("report.html", patched)
        yoloprune.prune(tiny, flops=0.9, native=True, **told)
    yoloprune.prune(tiny, flops=0.9, native=not native, **told)
    after = contents(tmp_path)
    assert ("p/weights/pruned.yaml" in after) == (not native)
    assert all(after[k] != before.get(k) for k in after)


# ---- done again ------------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_a_sparse_run_is_done_again_from_its_args(data: str, tiny: Path, tmp_path: Path) -> None:
    own = {"params": 0.9, "flops": None, "ramp_end": 0.9, "keep": "model.0", "native": False, "max_ratio": 0.7}
    first = sparse(tiny, data, tmp_path, **own, seed=3)
    before = contents(tmp_path / "run")
    again = yoloprune.train_sparse(tiny, cfg=str(tmp_path / "run" / "args.yaml"))
    states = [yolo.model.yaml["yoloprune_sparse"]["config"] for yolo in (first, again)]
    assert states[0] == states[1] and states[1]["budget"] == {"flops": None, "params": 0.9, "ratio": None}
    assert again.trainer.save_dir == tmp_path / "run-2" and again.trainer.args.seed == 3
    assert contents(tmp_path / "run") == before
    assert parse(["finetune", f"cfg={tmp_path / 'run' / 'args.yaml'}"]).passed["imgsz"] == 32


@pytest.mark.long
def test_a_resumed_run_keeps_its_settings_and_does_not_pass_its_end_for_its_beginning(
    data: str, tiny: Path, tmp_path: Path
) -> None:
    def stop(trainer: BaseTrainer) -> None:
        if trainer.epoch == 1:
            raise KeyboardInterrupt

    yolo = yoloprune.YOLO(tiny)
    yolo.add_callback("on_train_epoch_start", stop)
    with pytest.raises(KeyboardInterrupt):
        sparse(yolo, data, tmp_path, epochs=3, ramp_end=0.5)
    last, args = tmp_path / "run" / "weights" / "last.pt", tmp_path / "run" / "args.yaml"
    before = contents(tmp_path)
    for key, value in {"epochs": 8, "lr0": 0.5, "name": "other"}.items():
        with pytest.raises(
            ArgumentError, match=rf"resume: this run has {key}=\S+, which cannot change. Received: {value}"
        ):
            yoloprune.train_sparse(last, resume=True, **{key: value})
    with pytest.raises(ArgumentError, match=r"resume: this run has freeze=None, which cannot change.* Received: 1$"):
        yoloprune.train_sparse(last, resume=True, freeze=1)  # Ultralytics would take it
    told = yaml.safe_load(Path(data).read_text())
    others = tmp_path.parent / "others.yaml"
    for names, why in ((["cat"], "1 and not 3"), (["cat", "dog", "cow"], "class 0 is cat")):
        others.write_text(yaml.safe_dump({**told, "path": str(Path(data).parent), "names": names}))
        with pytest.raises(ArgumentError, match=f"resume: data=.* has other classes than this run .*{why}"):
            yoloprune.train_sparse(last, resume=True, data=str(others))
    with pytest.raises(DataError, match="there is no such file"):
        yoloprune.train_sparse(last, resume=True, data="nothing.yaml")
    assert contents(tmp_path) == before
    yoloprune.train_sparse(last, resume=True, epochs=3, patience=7)
    told = yaml.safe_load(args.read_text())
    assert told["train-sparse"]["ramp_end"] == 0.5 and told["patience"] == 7
    with pytest.raises(ArgumentError, match="train-sparse needs 'model'"):
        parse(["train-sparse", f"cfg={args}"])
    request = parse(["train-sparse", f"cfg={args}", "model=a.pt"])
    assert request.settings["ramp_end"] == 0.5 and not {"resume", "save_dir", "exist_ok"} & set(request.passed)


@pytest.mark.long
def test_a_prune_is_done_again_from_its_args(tiny: Path, tmp_path: Path) -> None:
    told = {"data": False, "imgsz": 32, "project": str(tmp_path), "name": "p", "exist_ok": True, **SMALL}
    yoloprune.prune(tiny, flops=0.9, **told)
    before = contents(tmp_path / "p")
    yoloprune.prune(tiny, cfg=str(tmp_path / "p" / "args.yaml"))
    assert contents(tmp_path / "p") == before
    args = [yaml.safe_load((tmp_path / name / "args.yaml").read_text()) for name in ("p", "p-2")]
    assert args[0]["flops"] == args[1]["flops"] == 0.9 and args[0]["save_dir"] == str(tmp_path / "p")


# ---- what else is the user's -----------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize("command", ["train_sparse", "finetune"])
def test_callbacks_of_a_live_object_are_called_and_ours_do_not_stay(
    command: str, data: str, tiny: Path, small: Path, tmp_path: Path
) -> None:
    yolo, called = yoloprune.YOLO(tiny if command == "train_sparse" else small), []
    yolo.add_callback("on_train_epoch_end", lambda trainer: called.append(trainer.epoch))
    before = {event: list(functions) for event, functions in yolo.callbacks.items()}
    more = {"flops": 0.9, **SMALL} if command == "train_sparse" else {}
    getattr(yoloprune, command)(yolo, data=data, project=str(tmp_path), **{**QUICK, "epochs": 2, **more})
    assert called == [0, 1]
    assert before == {event: list(functions) for event, functions in yolo.callbacks.items()}


def test_a_sparse_training_on_the_object_is_not_joined_by_a_second(data: str, tiny: Path, tmp_path: Path) -> None:
    yolo = yoloprune.YOLO(tiny)
    yoloprune.SparseTraining(yoloprune.SparseConfig(yoloprune.Budget(flops=0.9))).attach(yolo)
    with pytest.raises(ArgumentError, match="has a SparseTraining attached"):
        sparse(yolo, data, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
@pytest.mark.parametrize("native", [True, False], ids=["native", "free"])
def test_weights_of_other_widths_are_not_mixed_in(native: bool, data: str, tiny: Path, tmp_path: Path) -> None:
    """Into a pruned model, and those of one into another, whatever widths they have."""
    told = {"data": False, "imgsz": 32, "project": str(tmp_path), "native": native, **SMALL}
    files = [yoloprune.prune(tiny, flops=flops, name="p", **told).ckpt_path for flops in (0.95, 0.9)]
    for model, weights in ((files[0], tiny), (tiny, files[0]), (files[0], files[1])):
        yolo = yoloprune.YOLO(model)
        before = {k: v.clone() for k, v in yolo.model.state_dict().items()}
        for source in (weights, yoloprune.YOLO(weights).model, {"model": yoloprune.YOLO(weights).model}):
            with pytest.raises(PlanError, match="do not have the shape"):
                yolo.load(source)
        assert all(v.equal(before[k]) for k, v in yolo.model.state_dict().items())
        with pytest.raises(PlanError, match="do not have the shape"):
            yolo.train(data=data, pretrained=str(weights), project=str(tmp_path), name="f", **QUICK)
    assert {f.name for f in tmp_path.iterdir()} == {"p", "p-2"}
    yoloprune.YOLO(files[0]).load(files[0])


@pytest.mark.long
@pytest.mark.parametrize("command", ["train_sparse", "finetune"])
def test_a_training_that_is_over_is_not_to_be_resumed(
    command: str, data: str, tiny: Path, small: Path, tmp_path: Path
) -> None:
    """An interrupt after the first of two epochs, after the last one is saved, and after its model is stripped."""

    def interrupt(trainer: BaseTrainer) -> None:
        raise KeyboardInterrupt

    said: list[str] = []
    events = {"one": ("on_model_save", 2), "all": ("on_model_save", 1), "stripped": ("on_train_end", 1)}
    for name, (event, epochs) in events.items():
        yolo = yoloprune.YOLO(tiny if command == "train_sparse" else small)
        yolo.add_callback(event, interrupt)
        more = {"flops": 0.9, **SMALL} if command == "train_sparse" else {}
        told = {**QUICK, "epochs": epochs, "project": str(tmp_path), "name": name, **more}
        with pytest.raises(KeyboardInterrupt) as caught:
            getattr(yoloprune, command)(yolo, data=data, **told)
        said.append(str(caught.value))
    weights = [tmp_path / name / "weights" for name in events]
    assert said == [
        f"go on with: yoloprune {command.replace('_', '-')} model={weights[0] / 'last.pt'} resume",
        *(f"the training was over; its model is {w / 'best.pt'}" for w in weights[1:]),
    ]
