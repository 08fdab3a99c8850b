"""Sparse training in Ultralytics' own trainer: optimizers, budgets, recoveries, resuming, distillation, the clock."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import untrained
from sparse_loop import TINY, zeros
from ultralytics import YOLO
from ultralytics.engine.trainer import BaseTrainer
from ultralytics.nn import tasks

import yoloprune
from yoloprune.backend import evaluation, yolo_tracing
from yoloprune.checkpoint import saving
from yoloprune.commands.demo_images import make_shapes
from yoloprune.errors import ArgumentError, BudgetError
from yoloprune.importance import dead_channels

pytestmark = pytest.mark.slow

QUICK: dict[str, Any] = {
    "epochs": 3,
    "imgsz": 32,
    "batch": 4,
    "nbs": 4,
    "optimizer": "AdamW",
    "lr0": 1e-3,
    "plots": False,
    "amp": False,
    "warmup_epochs": 0,
    "device": "cpu",
    "flops": 0.8,
    "round_to": 1,
    "min_width": 1,
}
KEY = "yoloprune_sparse"
Hook = Callable[[BaseTrainer], None]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shapes(tmp_path_factory.mktemp("shapes") / "data", train=16, val=4, imgsz=32)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained(tmp_path_factory.mktemp("model"), TINY, 32)


def train(model: Any, data: Path, folder: Path, hooks: dict[str, Hook] | None = None, **changed: Any) -> BaseTrainer:
    """Train sparse into `folder`/run with further callbacks; returns the trainer."""
    yolo = model if isinstance(model, YOLO) else yoloprune.YOLO(model)
    for event, hook in (hooks or {}).items():
        yolo.add_callback(event, hook)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(saving, "load", lambda _: yolo)  # the callbacks stay on this object
        told = {**QUICK, "data": str(data), "project": str(folder), "name": "run", "native": False} | changed
        return yoloprune.train_sparse(model, **{k: v for k, v in told.items() if v is not None}).trainer


def rows(folder: Path) -> list[dict[str, float]]:
    with (folder / "run" / "sparsity.csv").open() as f:
        return [{k: float(v) for k, v in r.items()} for r in csv.DictReader(f)]


def saved(folder: Path, name: str = "last") -> torch.nn.Module:
    return YOLO(folder / "run" / "weights" / f"{name}.pt").model


def once(action: Hook, epoch: int) -> Hook:
    """The action at the first event of this epoch (and not when the epoch is done again)."""
    done: list[int] = []

    def act(trainer: BaseTrainer) -> None:
        if trainer.epoch == epoch and not done:
            done.append(1)
            action(trainer)

    return act


def test_loggers_get_what_the_run_has_reached_and_the_csv_of_ultralytics_stays_its_own(
    data: Path, tiny: Path, tmp_path: Path
) -> None:
    """A logger is called after this callback, as those that Ultralytics adds itself."""
    sent: list[dict[str, float]] = []

    def last(trainer: BaseTrainer) -> None:
        trainer.callbacks["on_fit_epoch_end"].append(lambda t: sent.append(dict(t.metrics)))

    train(tiny, data, tmp_path, {"on_train_start": last}, epochs=3, val=False)
    logged = [{k: m[f"sparsity/{k}"] for k in ("dead", "flops", "params")} for m in sent[:3]]
    assert logged == [pytest.approx({k: r[k] for k in ("dead", "flops", "params")}, rel=1e-4) for r in rows(tmp_path)]
    with (tmp_path / "run" / "results.csv").open() as f:
        table = list(csv.reader(f))
    assert not any("sparsity" in name for name in table[0]) and len({len(line) for line in table}) == 1


# ---- what is promised ------------------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize("optimizer", ["SGD", "MuSGD", "Adam", "AdamW", "auto"])
def test_every_optimizer_reaches_the_target_exactly(optimizer: str, data: Path, tiny: Path, tmp_path: Path) -> None:
    """Zero means zero in the live model, the EMA and both checkpoints; cutting the dead leaves what was asked for."""
    trainer = train(tiny, data, tmp_path, optimizer=optimizer)
    found = zeros(trainer.model)
    assert found
    assert found == zeros(trainer.ema.ema) == zeros(saved(tmp_path)) == zeros(saved(tmp_path, "best"))
    parent = YOLO(tmp_path / "run" / "weights" / "best.pt")
    graph = yolo_tracing.trace_yolo(parent.model, imgsz=32)
    assert dead_channels.dead(parent.model, graph).any()
    small = yoloprune.prune(parent, project=str(tmp_path), name="prune", imgsz=32)
    kept = json.loads((tmp_path / "prune" / "report.json").read_text())["kept"]["flops"]
    assert abs(kept - 0.8) <= 0.01
    assert abs(evaluation.gflops(small.model, 32) / evaluation.gflops(parent.model, 32) - 0.8) <= 0.01


@pytest.mark.long
@pytest.mark.parametrize(
    ("budget", "value", "kind"), [("params", 0.85, "params"), ("sparsity", 0.4, "channels")], ids=["params", "sparsity"]
)
def test_other_budgets(budget: str, value: float, kind: str, data: Path, tiny: Path, tmp_path: Path) -> None:
    train(tiny, data, tmp_path, flops=None, **{budget: value})
    yoloprune.prune(tmp_path / "run" / "weights" / "best.pt", project=str(tmp_path), name="prune", imgsz=32)
    kept = json.loads((tmp_path / "prune" / "report.json").read_text())["kept"][kind]
    assert abs(kept - (1 - value if budget == "sparsity" else value)) <= 0.01


def test_accumulation(data: Path, tiny: Path, tmp_path: Path) -> None:
    """4 batches make one step under nbs=16; the hooks see 6 steps in 6 epochs, the real ones."""
    real: list[int] = []

    def count(trainer: BaseTrainer) -> None:
        trainer.optimizer.register_step_post_hook(lambda *_: real.append(1))

    train(tiny, data, tmp_path, {"on_train_start": count}, nbs=16, epochs=6)
    assert rows(tmp_path)[-1]["steps"] == len(real) == 6
    assert abs(rows(tmp_path)[-1]["flops"] - 0.8) <= 0.01


# ---- recoveries of the trainer ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("epoch", [1, 2], ids=["in the ramp", "where the target is met"])
def test_recovery_from_nan(epoch: int, data: Path, tiny: Path, tmp_path: Path) -> None:
    """Weights, loss, gradients and EMA are NaN for an epoch; Ultralytics goes back to last.pt, with a new EMA."""

    def poison(trainer: BaseTrainer) -> None:
        for p in trainer.model.parameters():
            p.data.fill_(torch.nan)

    trainer = train(tiny, data, tmp_path, {"on_train_epoch_start": once(poison, epoch)}, epochs=4)
    assert [r["epoch"] for r in rows(tmp_path)] == [1, 2, 3, 4]
    assert [r["steps"] for r in rows(tmp_path)] == [4, 8, 12, 16]  # the lost steps are not counted
    assert abs(rows(tmp_path)[-1]["flops"] - 0.8) <= 0.01
    found = zeros(trainer.model)
    assert found == zeros(trainer.ema.ema) == zeros(saved(tmp_path, "best")) != {}
    assert all(p.isfinite().all() for p in saved(tmp_path, "best").parameters())


def test_retry_after_running_out_of_memory(data: Path, tiny: Path, tmp_path: Path) -> None:
    """At the third batch; the epoch begins again at half the batch, with 8 instead of 4 steps."""

    def arm(trainer: BaseTrainer) -> None:
        whole, calls = trainer.preprocess_batch, []

        def short(batch: Any) -> Any:
            calls.append(1)
            if len(calls) == 3:
                raise RuntimeError("CUDA out of memory.")
            return whole(batch)

        trainer.preprocess_batch = short  # type: ignore[method-assign]

    trainer = train(tiny, data, tmp_path, {"on_train_start": arm}, nbs=1)
    assert trainer.batch_size == 2
    assert [r["steps"] for r in rows(tmp_path)] == [8, 16, 24]
    assert abs(rows(tmp_path)[-1]["flops"] - 0.8) <= 0.01
    assert zeros(trainer.model) == zeros(saved(tmp_path, "best")) != {}


# ---- stopped early ---------------------------------------------------------------------------------------------------


def interrupt(trainer: BaseTrainer) -> None:
    raise KeyboardInterrupt


@pytest.mark.long
@pytest.mark.parametrize("distill", [False, True], ids=["alone", "with a teacher"])
@pytest.mark.parametrize("stop", [1, 3], ids=["in the ramp", "in the hold phase"])
def test_interrupted_run(
    stop: int, distill: bool, data: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """last.pt loads safely, says how far it is, can be cut as far as it got, and resuming reaches the target."""
    hook = {"on_train_epoch_start": once(interrupt, stop + 1)}
    with pytest.raises(KeyboardInterrupt):
        train(tiny, data, tmp_path, hook, epochs=5, distill_model=str(tiny) if distill else None)
    last = tmp_path / "run" / "weights" / "last.pt"
    model = tasks.torch_safe_load(last, safe_only=True)[0]["ema"]
    state, before = model.yaml[KEY], zeros(model)
    assert before
    assert state["met"] == (stop == 3)
    assert state["progress"] == pytest.approx((stop + 1) / 5)
    assert state["reached"]["flops"] == pytest.approx(0.8, abs=0.01) or stop == 1
    assert (tmp_path / "run" / "weights" / "best.pt").exists() == (stop == 3)
    yoloprune.prune(last, project=str(tmp_path), name="prune", imgsz=32)
    kept = json.loads((tmp_path / "prune" / "report.json").read_text())["kept"]["flops"]
    assert kept == pytest.approx(state["reached"]["flops"])

    victims: list[list[int]] = []
    whole = yoloprune.SparseTraining.on_train_start

    def seen(self: yoloprune.SparseTraining, trainer: BaseTrainer) -> None:
        whole(self, trainer)
        victims.append(self._live.victims.nonzero()[0].tolist())

    monkeypatch.setattr(yoloprune.SparseTraining, "on_train_start", seen)
    trainer = yoloprune.train_sparse(last, resume=True).trainer
    assert victims == [state["victims"]]
    assert [r["epoch"] for r in rows(tmp_path)] == [1, 2, 3, 4, 5]
    assert abs(rows(tmp_path)[-1]["flops"] - 0.8) <= 0.01
    found = zeros(trainer.model)
    assert found == zeros(saved(tmp_path)) == zeros(saved(tmp_path, "best"))
    assert stop == 1 or found == before
    assert saved(tmp_path).yaml[KEY]["met"] is True


@pytest.mark.long
def test_epochs_that_are_done_again_have_one_row(data: Path, tiny: Path, tmp_path: Path) -> None:
    """A run goes on from an older checkpoint than its last, as after a full disk; a row was torn by a power cut."""
    train(tiny, data, tmp_path, save_period=1)
    before = rows(tmp_path)[0]
    with (tmp_path / "run" / "sparsity.csv").open("a") as f:
        f.write("4,12,0.")
    yoloprune.train_sparse(tmp_path / "run" / "weights" / "epoch0.pt", resume=True)
    assert [r["epoch"] for r in rows(tmp_path)] == [1, 2, 3]
    assert rows(tmp_path)[0] == before and rows(tmp_path)[1]["steps"] == 2 * before["steps"]
    with (tmp_path / "run" / "sparsity_layers.csv").open() as f:
        assert [int(r["epoch"]) for r in csv.DictReader(f)] == [1, 2, 3]


def test_time_stops_by_the_clock(data: Path, tiny: Path, tmp_path: Path) -> None:
    """Three seconds out of a thousand epochs: the target is met when the trainer stops."""
    trainer = train(tiny, data, tmp_path, epochs=1000, time=3 / 3600)
    assert trainer.epoch < 900
    assert [r["epoch"] for r in rows(tmp_path)] == [float(e + 1) for e in range(trainer.epoch + 1)]
    assert abs(rows(tmp_path)[-1]["flops"] - 0.8) <= 0.01
    shares = [r["dead"] for r in rows(tmp_path)]
    assert any(0 < s < shares[-1] for s in shares)  # there was a ramp, not one blow at the end
    assert saved(tmp_path, "best").yaml[KEY]["met"] is True


def test_stopped_between_batches(data: Path, tiny: Path, tmp_path: Path) -> None:
    """As a platform cancels a run: nothing is forced, and the checkpoint says that the target is not met."""

    def stop(trainer: BaseTrainer) -> None:
        trainer.stop = True

    trainer = train(tiny, data, tmp_path, {"on_train_batch_end": once(stop, 1)}, epochs=5)
    assert trainer.epoch == 1
    state = saved(tmp_path).yaml[KEY]
    assert state["met"] is False
    assert state["progress"] == pytest.approx(0.25)
    assert not (tmp_path / "run" / "weights" / "best.pt").exists()
    assert json.loads((tmp_path / "run" / "report.json").read_text())["met"] is False


# ---- what else a run may have ----------------------------------------------------------------------------------------


def test_frozen_layers(data: Path, tiny: Path, tmp_path: Path) -> None:
    """model.1 has the smallest scales of all, and stays as it is under a penalty that pushes on everything."""
    model = yoloprune.YOLO(tiny)
    for norm in (model.model.model[1].bn, model.model.model[3].bn):
        norm.weight.data.fill_(1e-3)
    trainer = train(model, data, tmp_path, freeze=[1], penalty="prox")
    norms = [m.bn.weight for m in trainer.model.model[1:4:2]]
    torch.testing.assert_close(norms[0].data, torch.full((16,), 1e-3))
    assert int((norms[1] == 0).sum()) > 0


def test_best_is_the_best_of_those_that_met_the_target(data: Path, tiny: Path, tmp_path: Path) -> None:
    """Fitness is made to fall: the first epoch in the hold phase is the best one that counts."""

    def fall(trainer: BaseTrainer) -> None:
        whole = trainer.validator

        class Falling:
            def __getattr__(self, name: str) -> Any:
                return getattr(whole, name)

            def __call__(self, *args: Any, **kwargs: Any) -> Any:
                stats = whole(*args, **kwargs)
                return {**stats, "fitness": 1.0 - 0.1 * trainer.epoch} if args else stats

        trainer.validator = Falling()

    train(tiny, data, tmp_path, {"on_train_start": fall}, epochs=5)
    states = [saved(tmp_path, name).yaml[KEY] for name in ("best", "last")]
    assert [s["met"] for s in states] == [True, True]
    assert [s["progress"] for s in states] == pytest.approx([0.6, 1.0])


@pytest.mark.parametrize("target", [{"flops": 0.01}, {"flops": None, "params": "1k"}])
def test_a_budget_out_of_reach_is_refused_before_labels_are_read(target: dict[str, Any], tmp_path: Path) -> None:
    data = make_shapes(tmp_path / "data", train=4, val=4, imgsz=32)
    with pytest.raises(BudgetError, match="out of reach"):
        train(untrained(tmp_path, TINY, 32), data, tmp_path, **target)
    assert not list((tmp_path / "data").rglob("*.cache"))  # which Ultralytics leaves beside the labels it has read


@pytest.mark.parametrize("freeze", [5, 8], ids=["the backbone", "all but the head"])
def test_frozen_layers_count_before_the_first_epoch(freeze: int, data: Path, tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match=f"flops=0.8 .* out of reach.* freeze={freeze} holds cannot die"):
        train(tiny, data, tmp_path, freeze=freeze)
    assert not (tmp_path / "run" / "results.csv").exists()


def test_sparse_training_needs_a_target() -> None:
    with pytest.raises(ArgumentError, match=r"needs a target, e.g. SparseConfig\(Budget\(flops=0.5\)\)"):
        yoloprune.SparseTraining(yoloprune.SparseConfig(yoloprune.Budget()))
