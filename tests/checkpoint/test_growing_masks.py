"""Zeros that become more during a training: the share is met, they only grow, and a killed run goes on where it was."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import ultralytics
from checkpoints import Stopped, crash, run_of, stub
from torch import Tensor, distributed, multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

import yoloprune
from yoloprune import cli
from yoloprune.backend import console, run_folders, yaml_markers
from yoloprune.checkpoint import growing_masks, models, saving
from yoloprune.commands import growing
from yoloprune.cutting import masks
from yoloprune.errors import ArgumentError, ModelError
from yoloprune.selection import mask_choice
from yoloprune.settings.checking import build
from yoloprune.settings.mask_request import Growth, Zeros
from yoloprune.settings.requests import FinetuneRequest

pytestmark = pytest.mark.usefixtures("one_thread")

LIVELY: dict[str, Any] = {"optimizer": "AdamW", "lr0": 0.01, "warmup_epochs": 0, "nbs": 4, "amp": False}
"""A step for every batch, in which every weight moves."""


# By hand --------------------------------------------------------------------------------------------------------------
def loop(
    score: str, steps: int, pattern: str = "unstructured", *, frozen: bool = False, **more: Any
) -> tuple[growing_masks.Growing, Any]:
    """A layer of eight weights 1 to 8, of which three quarters are to go in four epochs of one batch, from the start
    to the end; its EMA lags behind.
    """
    model = nn.Sequential(nn.Linear(8, 1, bias=False))
    model[0].weight.data.copy_(torch.arange(1.0, 9.0))
    model[0].weight.requires_grad_(not frozen)
    told = {"pattern": pattern, "sparsity": 0.75, "score": score, "scope": "global", "steps": steps, "begin": 0.0}
    record = {"pattern": pattern, "layers": {"0": 0}, "ramp": {**told, "start": 0.0, "end": 1.0, "layers": ["0"]}}
    other = nn.Sequential(nn.Linear(8, 1, bias=False))
    for network in (model, other):
        network.yaml = {yaml_markers.KEY: {"version": 3, "widths": {}, yaml_markers.MASKS: record}}  # type: ignore[assignment]
    callbacks: dict[str, list[Any]] = {}
    trainer: Any = SimpleNamespace(
        args=SimpleNamespace(time=None),
        train_loader=[0],
        epochs=4,
        epoch=0,
        ema=SimpleNamespace(ema=other),
        stopper=SimpleNamespace(best_fitness=0.5),
        best_fitness=0.5,
        resume=False,
        callbacks=callbacks,
        add_callback=lambda event, function: callbacks.setdefault(event, []).append(function),
        **more,
    )
    return growing_masks.Growing(trainer, model, masks.Holder(model, ["0"])), trainer


def happened(trainer: Any, event: str) -> None:
    for function in trainer.callbacks[event]:
        function(trainer)


def stepped(growing: growing_masks.Growing, trainer: Any, epoch: int) -> list[int]:
    """An epoch of one batch; which of the eight weights are zero after it."""
    trainer.epoch = epoch
    happened(trainer, "on_train_epoch_start")
    happened(trainer, "on_train_batch_start")
    growing()
    growing.holder()
    return [i + 1 for i, w in enumerate(growing.holder.weights["0"][0].tolist()) if w == 0]


def test_the_smallest_go_on_a_cubic_curve() -> None:
    """Shares 0.75 (1 - (1 - k / 4)^3) of eight: 3.47, 5.25, 5.91 and 6 weights."""
    growing, trainer = loop("magnitude", 4)
    # The first batch ends at a quarter of the run, where the second choice of four is due already
    assert stepped(growing, trainer, 0) == [1, 2, 3, 4, 5]
    growing.holder.weights["0"].data[0, 0] = 100.0  # what is zero stays so, however large it would be
    assert stepped(growing, trainer, 1) == [1, 2, 3, 4, 5, 6] and not growing.met
    assert stepped(growing, trainer, 2) == [1, 2, 3, 4, 5, 6] and growing.met


def test_few_steps_are_few_jumps() -> None:
    """Two: 0.75 (1 - 1 / 8) of eight is 5.25, and at half of the run the rest."""
    growing, trainer = loop("magnitude", 2)
    assert stepped(growing, trainer, 0) == [1, 2, 3, 4, 5] and growing.chosen == 1
    assert stepped(growing, trainer, 1) == [1, 2, 3, 4, 5, 6] and growing.chosen == 2


def test_what_the_loss_hangs_on_stays() -> None:
    """Weight times gradient, of which the largest are those of 1 and 2."""
    growing, trainer = loop("taylor", 1)
    growing.holder.weights["0"].grad = torch.tensor([[9.0, 4.0, 1.0, 1.0, 0.5, 0.5, 0.1, 0.1]])
    assert stepped(growing, trainer, 0) == [3, 4, 5, 6, 7, 8]


def test_the_score_is_a_running_mean() -> None:
    growing, trainer = loop("taylor", 1)
    weight = growing.holder.weights["0"]
    trainer.epochs, growing.progress.ramp_start = 100, 0.5
    for gradient in (1.0, 2.0):
        weight.grad = torch.full((1, 8), gradient)
        growing()
    expected = 0.9 * torch.arange(1.0, 9.0) + 0.1 * 2 * torch.arange(1.0, 9.0)
    assert torch.allclose(growing.score.mean["0"][0], expected)


@pytest.mark.parametrize("gradient", [[torch.inf, *[1.0] * 7], [torch.nan] * 8, [0.0] * 8])
def test_a_step_that_overflowed_teaches_nothing(gradient: list[float]) -> None:
    """Clipped by a norm that is infinite, what was finite is zero. Zeros that are due then wait for a sound step."""
    growing, trainer = loop("taylor", 1)
    weight = growing.holder.weights["0"]
    weight.grad = torch.tensor([gradient])
    assert stepped(growing, trainer, 0) == [] and not growing.met
    weight.grad = torch.tensor([[9.0, 4.0, 1.0, 1.0, 0.5, 0.5, 0.1, 0.1]])
    assert stepped(growing, trainer, 1) == [3, 4, 5, 6, 7, 8] and growing.met
    before = growing.score.mean["0"].clone()
    weight.grad = torch.tensor([gradient])
    stepped(growing, trainer, 2)
    assert torch.equal(growing.score.mean["0"], before)


def test_an_epoch_that_is_done_again_counts_once() -> None:
    """As after NaN and after running out of memory: the ramp does not run ahead."""
    growing, trainer = loop("magnitude", 4)
    for _ in range(3):
        assert stepped(growing, trainer, 0) == [1, 2, 3, 4, 5]
        assert growing.progress.share == 0.25


def test_two_of_four_go_over_three_of_four() -> None:
    """Of 1:4 the share is 0.75 at the end; the first of two choices, 0.66, leaves one of four already."""
    growing, trainer = loop("magnitude", 8, "1:4")
    trainer.epochs = 16
    assert stepped(growing, trainer, 0) == [1, 5]  # 0.75 (1 - (7 / 8)^3) = 0.25
    assert stepped(growing, trainer, 2) == [1, 2, 5, 6]  # 0.75 (1 - (6 / 8)^3) = 0.43
    assert stepped(growing, trainer, 6) == [1, 2, 3, 5, 6, 7]  # 0.75 (1 - (4 / 8)^3) = 0.66


def test_the_ema_has_the_zeros_and_only_what_met_the_share_is_best(tmp_path: Path) -> None:
    growing, trainer = loop("magnitude", 4, save_dir=tmp_path)
    ema = trainer.ema.ema[0].weight
    stepped(growing, trainer, 0)
    growing.finish_epoch()
    assert (ema[0] == 0).tolist() == [True] * 5 + [False] * 3
    assert growing.told["layers"] == {"0": 5} and "ramp" in growing.told
    assert trainer.best_fitness == growing_masks.NOT_YET and trainer.stopper.best_fitness == 0.0
    for epoch in (1, 2):
        stepped(growing, trainer, epoch)
        growing.finish_epoch()
    assert (ema[0] == 0).tolist() == [True] * 6 + [False] * 2
    assert growing.told == {"pattern": "unstructured", "layers": {"0": 6}} and trainer.best_fitness is None
    assert [row["share"] for row in csv.DictReader((tmp_path / "zeros.csv").open())] == ["0.625", "0.75", "0.75"]


def test_a_last_epoch_without_a_step_meets_the_share_all_the_same(tmp_path: Path) -> None:
    growing, trainer = loop("magnitude", 4, save_dir=tmp_path)
    trainer.epoch = 3
    growing.finish_epoch()
    assert growing.met and int(growing.holder.gone["0"].sum()) == 6


def test_an_epoch_without_a_step_takes_what_is_due_at_its_end(tmp_path: Path) -> None:
    """A large nbs= makes a step every few epochs; the ramp ends after two of the four, and so does its last choice."""
    growing, trainer = loop("magnitude", 4, save_dir=tmp_path)
    growing.progress.ramp_end = 0.5
    found = []
    for trainer.epoch in range(3):
        happened(trainer, "on_train_epoch_start")
        happened(trainer, "on_train_batch_start")
        happened(trainer, "on_train_epoch_end")
        growing.finish_epoch()
        found.append((int(growing.holder.gone["0"].sum()), growing.met))
    assert found == [(6, False), (6, True), (6, True)]  # three choices of four: 0.75 (1 - 1 / 64) of eight is 5.91


def test_frozen_layers_stay_whole() -> None:
    growing, trainer = loop("magnitude", 4, frozen=True)
    assert stepped(growing, trainer, 0) == stepped(growing, trainer, 3) == []


# Trainings ------------------------------------------------------------------------------------------------------------
def zeros(model: nn.Module) -> dict[str, Tensor]:
    """Where the weights of masked layers are zero."""
    told = yaml_markers.masks_of(model)
    assert told is not None
    return {name: ~kept for name, kept in masks.found_in(model, told["layers"]).items()}


def share(model: nn.Module) -> float:
    found = zeros(model)
    return sum(int(z.sum()) for z in found.values()) / sum(z.numel() for z in found.values())


def assert_within(before: dict[str, Tensor], after: dict[str, Tensor]) -> None:
    """What was zero is."""
    assert before.keys() == after.keys()
    assert all((after[name] | ~was).all() for name, was in before.items())


@pytest.mark.slow
def test_a_finetune_ends_with_the_share_that_was_asked_for(
    parent: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, warned = parent.read_bytes(), list[str]()
    monkeypatch.setattr(console, "warn", warned.append)
    told = {**run_of(tmp_path, epochs=4, **LIVELY), "sparsity": 0.8, "ramp_end": 0.5, "keep": "model.1"}
    words = [f"{k}={v}" for k, v in {"model": parent, "data": data, **told}.items()]
    assert cli.main(["finetune", *words]) == 0
    folder = tmp_path / "runs" / "finetune"
    best, last = (ultralytics.YOLO(str(folder / "weights" / f"{name}.pt")).model for name in ("best", "last"))
    for model in (best, last):
        assert share(model) == pytest.approx(0.8, abs=0.001)
        assert yaml_markers.masks_of(model)["pattern"] == "unstructured" and "ramp" not in yaml_markers.masks_of(model)
    assert not any(name.startswith("model.1.") for name in zeros(best)) and parent.read_bytes() == before
    rows = [float(row["share"]) for row in csv.DictReader((folder / "zeros.csv").open())]
    assert rows == sorted(rows) and rows[0] < 0.8 and rows[-1] == pytest.approx(0.8, abs=0.001)
    args = run_folders.read_yaml(folder / "args.yaml")
    assert args["finetune"] == {"pattern": "unstructured", "sparsity": 0.8, "ramp_end": 0.5, "keep": ["model.1"]}
    told = build(FinetuneRequest, {"cfg": folder / "args.yaml"})
    assert told.growth is not None and (told.growth.sparsity, told.growth.keep) == (0.8, ("model.1",))
    found = json.loads((folder / "report.json").read_text())
    assert {row["layer"] for row in found["zeros"]} == set(zeros(best))
    empty = [row["layer"] for row in found["zeros"] if row["share"] == 1]
    ways = "a lower sparsity=, scope=layer or keep= leaves something of each"
    said = f"finetune: nothing is left of {', '.join(empty)}; {ways}"
    assert [s for s in warned if "nothing is left" in s] == ([said] if empty else [])
    with pytest.raises(KeyError, match="masked by yoloprune"):
        ultralytics.YOLO(str(folder / "weights" / "best.pt")).train(data=str(data), **run_of(tmp_path))
    again = yoloprune.finetune(folder / "weights" / "best.pt", data=str(data), **run_of(tmp_path, **LIVELY))
    assert_within(zeros(best), zeros(again.model))
    with pytest.raises(ArgumentError, match=r"sparsity=0\.7: must be above what is zero already, 80"):
        yoloprune.finetune(folder / "weights" / "best.pt", data=str(data), sparsity=0.7, keep="model.1")


@pytest.mark.slow
def test_an_interrupted_run_goes_on_to_the_share(parent: Path, data: Path, tmp_path: Path) -> None:
    """Steps of 2:4: first one of four goes; by stock means it cannot be resumed."""
    yolo = saving.load(parent)
    with pytest.raises(Stopped):
        told = {"pattern": "2:4", "ramp_start": 0.25, "ramp_end": 0.75, "steps": 2}
        live = models.YOLO(str(parent))
        live.add_callback("on_fit_epoch_end", crash)
        yoloprune.finetune(live, data=str(data), **told, **run_of(tmp_path, epochs=4, name="cut", **LIVELY))
    last = tmp_path / "runs" / "cut" / "weights" / "last.pt"
    half = ultralytics.YOLO(str(last)).model
    assert "ramp" in yaml_markers.masks_of(half) and not (last.parent / "best.pt").exists()
    with pytest.raises(KeyError, match="masked by yoloprune"):
        ultralytics.YOLO(str(last)).train(resume=True)
    with pytest.raises(ArgumentError, match=r"sparsity=0\.9: must not be combined with resume"):
        yoloprune.finetune(last, resume=True, sparsity=0.9)
    again = yoloprune.finetune(last, resume=True)
    asked = {"pattern": "2:4", "sparsity": 0.5, "ramp_start": 0.25, "ramp_end": 0.75, "steps": 2}
    assert run_folders.read_yaml(tmp_path / "runs" / "cut" / "args.yaml")["finetune"] == asked  # Ultralytics' is new
    assert again.trainer.start_epoch == 1
    for model in (again.trainer.ema.ema, again.trainer.model, again.model):
        assert_within(zeros(half), zeros(model))
        assert all(masks.is_n_of_m(model.get_submodule(name).weight, 2, 4) for name in zeros(model))
        assert share(model) == 0.5
    assert yolo.model.yaml.get(yaml_markers.KEY) is None


@pytest.mark.long
@pytest.mark.slow
def test_a_killed_process_leaves_a_run_that_goes_on(parent: Path, data: Path, tmp_path: Path) -> None:
    """Killed in the middle of an epoch, without a word."""
    code = f"""
import os, signal, sys
from yoloprune.checkpoint import models
import yoloprune
yolo = models.YOLO(sys.argv[1])
def kill(trainer):
    if trainer.epoch == 2:
        os.kill(os.getpid(), signal.SIGKILL)
yolo.add_callback("on_train_batch_end", kill)
told = {run_of(tmp_path, epochs=5, name="killed", **LIVELY)!r}
yoloprune.finetune(yolo, data=sys.argv[2], sparsity=0.9, ramp_start=0.0, ramp_end=0.8, **told)
"""
    done = subprocess.run([sys.executable, "-c", code, str(parent), str(data)], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()[-2000:]
    last = tmp_path / "runs" / "killed" / "weights" / "last.pt"
    half = ultralytics.YOLO(str(last)).model
    assert 0.5 < share(half) < 0.9
    again = yoloprune.finetune(last, resume=True)
    assert again.trainer.start_epoch == 2 and share(again.model) == pytest.approx(0.9, abs=0.001)
    assert_within(zeros(half), zeros(again.model))
    told = run_folders.read_yaml(last.parent.parent / "args.yaml")["finetune"]
    assert told == {"pattern": "unstructured", "sparsity": 0.9, "ramp_start": 0.0, "ramp_end": 0.8}
    epochs = [row["epoch"] for row in csv.DictReader((last.parent.parent / "zeros.csv").open())]
    assert epochs == ["1", "2", "3", "4", "5"]


@pytest.mark.slow
def test_a_masked_model_takes_more_and_earlier_layers_stay_masked(parent: Path, data: Path, tmp_path: Path) -> None:
    where: dict[str, Any] = {"project": str(tmp_path), "imgsz": 64}
    yoloprune.mask(parent, data=False, sparsity=0.5, recover="none", name="first", **where)
    first = saving.load(tmp_path / "first" / "weights" / "masked.pt").model
    file = tmp_path / "first" / "weights" / "masked.pt"
    told: dict[str, Any] = {"data": str(data), "sparsity": 0.7, "keep": "model.1"}
    yoloprune.mask(file, recover="lsq", score="magnitude", val=False, name="second", **told, **where)
    second = saving.load(tmp_path / "second" / "weights" / "masked.pt").model
    assert_within(zeros(first), zeros(second))
    tuned = yoloprune.finetune(
        file, data=str(data), sparsity=0.7, keep="model.1", **run_of(tmp_path, epochs=3, **LIVELY)
    )
    assert_within(zeros(first), zeros(tuned.model))
    others = {name: z for name, z in zeros(tuned.model).items() if not name.startswith("model.1.")}
    assert sum(int(z.sum()) for z in others.values()) / sum(z.numel() for z in others.values()) == pytest.approx(
        0.7, abs=0.001
    )


@pytest.mark.slow
def test_the_share_is_of_the_layers_that_are_trained(
    parent: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frozen ones are masked already, nine of ten weights, and count neither for the share nor for its beginning."""
    told: dict[str, Any] = {"data": False, "recover": "none", "project": str(tmp_path), "imgsz": 64}
    yoloprune.mask(parent, sparsity=0.9, keep=[f"model.{i}" for i in range(4, 7)], name="first", **told)
    file = tmp_path / "first" / "weights" / "masked.pt"
    before, said = zeros(saving.load(file).model), list[str]()
    monkeypatch.setattr(console, "log", lambda _, text: said.append(text))
    run = {"sparsity": 0.5, "freeze": 4, "ramp_start": 0.0, "ramp_end": 0.9, **run_of(tmp_path, epochs=4, **LIVELY)}
    tuned = yoloprune.finetune(file, data=str(data), **run)
    after = zeros(tuned.model)
    new = {name: z for name, z in after.items() if name not in before}
    assert {int(name.split(".")[1]) for name in new} <= set(range(4, 7)) and new
    gone, count = sum(int(z.sum()) for z in new.values()), sum(z.numel() for z in new.values())
    assert gone / count == pytest.approx(0.5, abs=0.001)
    assert_within(before, {name: after[name] for name in before})
    rows = [float(row["share"]) for row in csv.DictReader((tmp_path / "runs" / "finetune" / "zeros.csv").open())]
    assert rows[0] < 0.45 and rows[-1] == pytest.approx(0.5, abs=0.001)
    assert any(f"0.5 of the weights of {len(new)} layers become zero" in text for text in said)
    with pytest.raises(ArgumentError, match=r"^freeze=7: holds all layers in which weights could become zero"):
        yoloprune.finetune(parent, data=str(data), sparsity=0.5, freeze=7, **run_of(tmp_path / "other"))
    assert not (tmp_path / "other").exists()


@pytest.mark.slow
def test_groups_of_n_of_m_come_to_a_network_of_many_zeros(parent: Path, data: Path, tmp_path: Path) -> None:
    told: dict[str, Any] = {"data": False, "recover": "none", "project": str(tmp_path), "imgsz": 64}
    yoloprune.mask(parent, sparsity=0.7, name="first", **told)
    file = tmp_path / "first" / "weights" / "masked.pt"
    tuned = yoloprune.finetune(file, data=str(data), pattern="2:4", **run_of(tmp_path, epochs=2, **LIVELY))
    assert_within(zeros(saving.load(file).model), zeros(tuned.model))
    names, _ = mask_choice.layers(tuned.model, Zeros("2:4", 0.5, "auto", head=False, keep=()))
    assert masks.are_n_of_m(tuned.model, names, 2, 4)
    with pytest.raises(ArgumentError, match=r"^pattern=2:4: all these layers have so many zeros already"):
        yoloprune.finetune(tuned.trainer.best, data=str(data), pattern="2:4", **run_of(tmp_path / "other"))


@pytest.mark.slow
def test_refusals_leave_no_folder(parent: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of(tmp_path)
    with pytest.raises(ArgumentError, match=r"^keep=model\.99"):
        yoloprune.finetune(parent, data=str(data), sparsity=0.9, keep="model.99", **run)
    monkeypatch.setattr(yaml_markers, "untrainable", lambda model: "YOLOE")
    with pytest.raises(ModelError, match="no trainer for YOLOE"):
        yoloprune.finetune(parent, data=str(data), sparsity=0.9, **run)
    assert not (tmp_path / "runs").exists()


# Several processes ----------------------------------------------------------------------------------------------------
def _work(rank: int, folder: Path, file: Path) -> None:
    """One of two processes that train on images of their own, by the optimizer that our trainer makes."""
    os.environ.update(MASTER_ADDR="127.0.0.1")
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    yolo = saving.load(file)
    growing.begin(
        yolo,
        Growth("unstructured", 0.8, "auto", head=False, keep=(), score="taylor", steps=3, ramp_start=0.0, ramp_end=0.9),
    )
    trainer = stub("detect", time=None)
    trainer.train_loader, trainer.epochs, trainer.epoch, trainer.resume = [0] * 4, 1, 0, False
    trainer.callbacks = {"on_train_epoch_start": [], "on_train_batch_start": [], "on_train_epoch_end": []}
    model = DistributedDataParallel(trainer.get_model(cfg=yolo.model.yaml, weights=yolo.model, verbose=False))
    optimizer = trainer.build_optimizer(model, name="AdamW", lr=0.01, momentum=0.9, decay=1e-3, iterations=10)
    happened(trainer, "on_train_epoch_start")
    image = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(rank))
    for _ in range(4):
        happened(trainer, "on_train_batch_start")
        optimizer.zero_grad()
        out = model(image)
        tensors = out.values() if isinstance(out, dict) else out
        sum(t.square().mean() for t in tensors if isinstance(t, Tensor)).backward()  # type: ignore[union-attr]
        optimizer.step()
    torch.save((model.module.state_dict(), trainer.growing.met), folder / f"{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.long
@pytest.mark.slow
def test_two_processes_take_the_same_weights(parent: Path, tmp_path: Path) -> None:
    multiprocessing.spawn(_work, (tmp_path, parent), nprocs=2)
    (one, met), (two, _) = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    names, _ = mask_choice.layers(saving.load(parent).model, Zeros("unstructured", 0.8, "auto", head=False, keep=()))
    weights = [one[f"{name}.weight"] for name in names]
    assert met and all(torch.equal(w, two[f"{name}.weight"]) for name, w in zip(names, weights, strict=True))
    zero = sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights)
    assert zero == pytest.approx(0.8, abs=0.001)
