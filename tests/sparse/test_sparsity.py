"""Sparse training in the trainer's loop with a made-up loss: what goes, penalties, and the events of the loop."""

from __future__ import annotations

import copy
import csv
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import settle
from sparse_loop import FREE, Loop, norms, tiny, zeros
from torch import Tensor, nn
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils.torch_utils import ModelEMA

from yoloprune import Budget, Limits, SparseConfig, SparseTraining
from yoloprune.backend import console, yolo_tracing
from yoloprune.backend.training_ramp import Schedule
from yoloprune.errors import ArgumentError, BudgetError, ModelError
from yoloprune.importance import dead_channels
from yoloprune.reporting.plots import plot_sparsity
from yoloprune.settings.command_line import parse

pytestmark = pytest.mark.slow


def config(**changed: Any) -> SparseConfig:
    return SparseConfig(**{"budget": Budget(ratio=0.3), "limits": FREE, "normalize": "none"} | changed)


# ---- which channels go -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("score", "goes"), [("gamma", {"model.3.bn"}), ("gamma-mean", {"model.3.bn", "model.0.bn"})])
def test_scores_of_gamma(score: str, goes: set[str], tmp_path: Path) -> None:
    """Nothing is learned here, so that the scales stay as written until they fade.

    8 of 224 classes go. By size they all are of model.3, whose 0.02 and 0.1 are smallest; relative to the mean of the
    layer the four 0.02 (0.02 / 0.09 = 0.22) and the four 0.2 of model.0 (0.2 / 0.6 = 0.33) are, then come 1 and more.
    """
    model = tiny()
    for norm in norms(model).values():
        norm.weight.data.fill_(1.0)
    norms(model)["model.0.bn"].weight.data[4:] = 0.2
    norms(model)["model.3.bn"].weight.data = torch.tensor([0.02] * 4 + [0.1] * 28)
    loop = Loop(SparseTraining(config(budget=Budget(ratio=8 / 224), score=score)), tmp_path, model, lr=0.0).run()
    found = zeros(loop.model)
    assert set(found) == goes
    assert sum(map(len, found.values())) == 8
    assert found.get("model.0.bn", [4, 5, 6, 7]) == [4, 5, 6, 7]
    assert found["model.3.bn"][:4] == [0, 1, 2, 3]


def test_taylor_score_is_gamma_times_gradient(tmp_path: Path) -> None:
    """Gradients written by hand; the running score keeps 95 % per step: 0.95 * |1 * 2| + 0.05 * |1 * -4| = 2.1."""
    loop = Loop(SparseTraining(config()), tmp_path, lr=0.0)
    run = loop.sparse._live
    for norm in norms(loop.model).values():
        norm.weight.data.fill_(1.0)
    loop.start()
    for gradient in (2.0, -4.0):
        for norm in norms(loop.model).values():
            norm.weight.grad = torch.full_like(norm.weight, gradient)
        loop.optimizer.step()
    torch.testing.assert_close(run.score, torch.full_like(run.score, 2.1))


@pytest.mark.parametrize("there", [True, False], ids=["in these layers", "elsewhere, and clipped"])
def test_a_step_that_overflowed_does_not_count(there: bool, tmp_path: Path) -> None:
    loop = Loop(SparseTraining(config()), tmp_path, lr=0.0)
    loop.start()
    loop.batches()
    before = loop.sparse._live.score.clone()
    for norm in norms(loop.model).values():
        norm.weight.grad = torch.zeros_like(norm.weight)
        norm.bias.grad = torch.zeros_like(norm.bias)
    if there:
        norm.weight.grad.fill_(torch.inf)
        norms(loop.model)["model.1.bn"].weight.grad[0] = torch.nan
    loop.sparse._live.before_step(loop.optimizer, (), {})
    assert before.any()
    assert torch.equal(loop.sparse._live.score, before)


# ---- penalties -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("penalty", ["select", "prox", "group", "l1"])
@pytest.mark.parametrize("budget", [Budget(ratio=0.4), Budget(flops=0.8)], ids=["sparsity", "flops"])
def test_every_penalty_ends_at_the_budget(penalty: str, budget: Budget, tmp_path: Path) -> None:
    """Live model and EMA agree on what is dead, to the last scale; the rest of the network does not read as dead."""
    loop = Loop(SparseTraining(config(penalty=penalty, budget=budget)), tmp_path, batches=8).run()
    assert loop.sparse.met
    graph = yolo_tracing.trace_yolo(loop.model, imgsz=32)
    for model in (loop.model, loop.ema.ema):
        dead = dead_channels.dead(model.half().float(), graph)
        if budget.ratio:
            assert abs(dead.sum() / graph.prunable.sum() - 0.4) <= 0.01
        else:
            assert abs(loop.sparse.history[-1]["flops"] - 0.8) <= 0.01
    assert zeros(loop.model) == zeros(loop.ema.ema)
    assert (dead_channels.dead(loop.model, graph) == dead_channels.dead(loop.ema.ema, graph)).all()


def test_the_share_is_of_channels_that_no_yaml_sets_as_well(tmp_path: Path) -> None:
    """A model YAML has no argument for the width of a CBLinear's piece, 32 of 112 channels."""
    layers = [[-1, 1, "Conv", [16, 3, 2]], [-1, 1, "Conv", [32, 3, 2]], [-1, 1, "CBLinear", [[32]]]]
    layers += [[0, 1, "Conv", [32, 3, 2]], [[2, 3], 1, "CBFuse", [[0]]], [-1, 1, "Conv", [32, 3, 1]]]
    model = settle(DetectionModel({"nc": 3, "backbone": layers, "head": [[[5], 1, "Detect", ["nc"]]]}, verbose=False))
    limits = Limits(round_to=1, min_width=1, native=True)
    loop = Loop(SparseTraining(config(budget=Budget(ratio=0.25), limits=limits)), tmp_path, model).run()
    graph = yolo_tracing.trace_yolo(model, imgsz=32)
    dead = dead_channels.dead(model, graph).sum() / graph.prunable.sum()
    assert loop.sparse.history[-1]["dead"] == pytest.approx(dead, abs=1e-6) and 0.25 <= dead <= 0.35


@pytest.mark.parametrize("penalty", ["prox", "group"])
def test_the_push_is_steered_to_the_target(penalty: str, tmp_path: Path) -> None:
    """When the ramp ends, before anything is chosen, about as many scales are zero as the target asks for."""
    loop = Loop(SparseTraining(config(penalty=penalty)), tmp_path, epochs=10, batches=8, scale=0.0)
    share = []
    for loop.epoch in range(6):
        loop.start()
        loop.batches()
        scales = loop.sparse._live.scales
        share.append(float((scales.gamma[scales.penalised] == 0).float().mean()))
        if loop.epoch < 5:
            loop.finish(0.5)
    assert share[0] == 0
    assert 0.2 <= share[-1] <= 0.4


@pytest.mark.parametrize(("decay", "pushes"), [(True, 4.9), (False, 7.0)])
def test_l1_decays_over_the_ramp_or_stays(decay: bool, pushes: float, tmp_path: Path) -> None:
    """Of 20 steps, 2 to 11 are the ramp; two epochs hold steps 2 to 8, with weights 1, 0.9 … 0.4 or 1 seven times."""
    told = config(penalty="l1", penalty_weight=0.5, penalty_decay=decay)
    loop = Loop(SparseTraining(told), tmp_path, scale=0.0, lr=0.01)
    before = loop.sparse._live.scales.gamma.abs()
    for loop.epoch in range(2):
        loop.start()
        loop.batches()
        loop.finish(0.5)
    scales = loop.sparse._live.scales
    lost = (before - scales.gamma.abs())[scales.penalised & (before > 0.1)]
    assert len(lost) > 100
    torch.testing.assert_close(lost, torch.full_like(lost, 0.01 * 0.5 * pushes))


@pytest.mark.parametrize("penalty", ["prox", "group", "l1", "select"])
def test_frozen_layers_and_the_head_are_never_pushed(penalty: str, tmp_path: Path) -> None:
    """Without a loss the penalty alone moves scales: all that may die, and none of a frozen layer or its partners."""
    model = tiny()
    for name, parameter in model.named_parameters():
        parameter.requires_grad = not name.startswith("model.1.")
    before = {n: m.weight.detach().clone() for n, m in norms(model).items()}
    loop = Loop(SparseTraining(config(penalty=penalty)), tmp_path, model, scale=0.0).run()
    moved = {n for n, m in norms(loop.model).items() if not torch.equal(m.weight, before[n])}
    assert moved
    assert not moved & {n for n in before if n.startswith(("model.1.", "model.8."))}
    if penalty != "select":
        assert {"model.0.bn", "model.3.bn", "model.4.cv2.bn", "model.7.cv2.bn"} <= moved


# ---- the loop around it ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrapper", ["_orig_mod", "module", "student_model"])
def test_a_wrapped_model_is_found(wrapper: str, tmp_path: Path) -> None:
    """As torch.compile, DistributedDataParallel and distillation wrap it."""

    class Wrapped(nn.Module):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.add_module(wrapper, model)

        def forward(self, x: Tensor) -> Any:
            return getattr(self, wrapper)(x)

    loop = Loop(SparseTraining(config()), tmp_path, Wrapped(tiny())).run()
    assert zeros(loop.model)
    assert zeros(loop.model) == zeros(loop.ema.ema)


def test_hooks_run_on_real_steps_only(tmp_path: Path) -> None:
    """5 epochs of 4 batches, 2 batches per step."""
    loop = Loop(SparseTraining(config()), tmp_path, accumulate=2).run()
    assert [r["steps"] for r in loop.sparse.history] == [2, 4, 6, 8, 10]


def test_best_is_never_from_before_the_target_was_met(tmp_path: Path) -> None:
    """The fitness falls from epoch to epoch; the target is met at the end of the third of five."""
    loop = Loop(SparseTraining(config()), tmp_path).run(lambda epoch: 0.9 - 0.1 * epoch)
    assert loop.saved_as_best == [2]


def test_a_target_that_is_met_already_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match=r"already meets .*, so no channel has to die"):
        Loop(SparseTraining(config(budget=Budget(params=1e9))), tmp_path)


@pytest.mark.parametrize("resume", [False, True])
def test_best_of_an_earlier_run_in_the_folder_is_set_aside(resume: bool, tmp_path: Path) -> None:
    """Else it would seem to be the best of this one, with another target, if this one is interrupted."""
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "best.pt").write_text("earlier")
    Loop(SparseTraining(config()), tmp_path, resume=resume)
    left = {f.name: f.read_text() for f in (tmp_path / "weights").iterdir()}
    assert left == {"best.pt" if resume else "best-earlier.pt": "earlier"}


def test_patience_counts_from_when_the_target_is_met(tmp_path: Path) -> None:
    loop = Loop(SparseTraining(config(ramp_end=0.3)), tmp_path, epochs=20, patience=2).run(lambda e: 0.9 - 0.01 * e)
    assert loop.sparse.met
    assert loop.epoch == 7  # 0.3 of 20 epochs is the end of epoch 5, and two more are granted
    for more in (
        0,
        1,
    ):  # the final evaluation of best.pt: in old releases the same epoch, else the next
        loop.epoch += more
        loop.sparse.on_fit_epoch_end(loop)  # type: ignore[arg-type]
    assert [r["epoch"] for r in loop.sparse.history] == list(range(1, 9))


@pytest.mark.parametrize("stop", [1, 3], ids=["in the ramp", "in the hold phase"])
def test_resuming_goes_on_with_the_same_victims(stop: int, tmp_path: Path) -> None:
    """All that is kept is the EMA with its model.yaml; the best fitness comes back as the trainer saved it."""
    first = Loop(SparseTraining(config()), tmp_path)
    for first.epoch in range(stop + 1):
        first.start()
        first.batches()
        first.finish(0.9)
    kept = first.ema.ema.half().float()
    kept.yaml = first.model.yaml
    for parameter in kept.parameters():
        parameter.requires_grad = True
    again = Loop(SparseTraining(first.sparse.config), tmp_path, kept, resume=True, start_epoch=stop + 1)
    again.best_fitness = first.best_fitness
    run, before = again.sparse._live, first.sparse._live
    assert before.victims.any()
    assert (run.victims == before.victims).all()
    assert torch.equal(run.score, before.score) or stop == 3
    assert run.progress.steps == 4 * (stop + 1)
    assert again.sparse.met == (stop == 3)
    again.run(lambda epoch: 0.1)
    assert again.sparse.met
    if stop == 3:
        assert (run.victims == before.victims).all()
        assert again.saved_as_best == []  # the best of before is better
    with (tmp_path / "sparsity.csv").open() as f:
        assert [int(r["epoch"]) for r in csv.DictReader(f)] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("writer", ["this release", "one without fingerprints"])
def test_a_run_does_not_go_on_among_other_channels(writer: str, tmp_path: Path) -> None:
    """Frozen layers lose no channels, so their victims would be those of the layers behind them."""
    first = Loop(SparseTraining(config()), tmp_path)
    first.start()
    first.batches()
    first.finish(0.9)
    model = copy.deepcopy(first.model)
    if writer != "this release":
        del model.yaml["yoloprune_sparse"]["graph"]
    Loop(SparseTraining(first.sparse.config), tmp_path, copy.deepcopy(model), resume=True, start_epoch=1)
    for parameter in model.model[0].parameters():
        parameter.requires_grad = False
    with pytest.raises(ModelError, match=r"other channels may die now.* freeze="):
        Loop(SparseTraining(first.sparse.config), tmp_path, model, resume=True, start_epoch=1)


def test_checkpoint_of_the_ramp_says_how_far_it_is(tmp_path: Path) -> None:
    """After two of five epochs; what the state says is what the zeros of the EMA leave."""
    loop = Loop(SparseTraining(config(budget=Budget(flops=0.8))), tmp_path)
    for loop.epoch in range(2):
        loop.start()
        loop.batches()
        loop.finish(0.5)
    state = loop.ema.ema.yaml["yoloprune_sparse"]
    assert state["met"] is False
    assert state["progress"] == 0.4
    assert 0.8 < state["reached"]["flops"] < 0.95
    dead = dead_channels.dead(loop.ema.ema, yolo_tracing.trace_yolo(loop.model, imgsz=32))
    assert np.flatnonzero(dead).tolist() == state["victims"]
    assert zeros(loop.ema.ema)
    assert not zeros(loop.model)  # here they may still come back


def test_an_epoch_that_is_done_again_starts_from_what_was_before(tmp_path: Path) -> None:
    """As after NaN and after running out of memory; here it is the epoch in which the target is met."""
    loop = Loop(SparseTraining(config()), tmp_path)
    for loop.epoch in range(2):
        loop.start()
        loop.batches()
        loop.finish(0.5)
    run = loop.sparse._live
    before = (run.victims.copy(), run.score.clone(), run.progress.steps)
    loop.epoch = 2
    loop.start()
    loop.batches()
    loop.sparse.on_train_epoch_end(loop)  # type: ignore[arg-type]
    assert loop.sparse.met
    loop.best_fitness = float("inf")  # as the last checkpoint has it
    loop.ema = ModelEMA(loop.model)
    loop.start()
    assert (run.victims == before[0]).all()
    assert torch.equal(run.score, before[1])
    assert run.progress.steps == before[2]
    loop.batches()
    loop.finish(0.5)
    assert loop.saved_as_best == [2]
    assert zeros(loop.ema.ema) == zeros(loop.model) != {}


def test_a_new_optimizer_is_hooked_once(tmp_path: Path) -> None:
    """Some releases of Ultralytics build a new one after running out of memory."""
    loop = Loop(SparseTraining(config()), tmp_path)
    loop.start()
    loop.optimizer = torch.optim.AdamW(loop.model.parameters(), lr=1e-3)
    loop.run()
    assert loop.sparse.history[-1]["steps"] == 20
    assert zeros(loop.model)


def test_time_is_the_progress_when_the_trainer_goes_by_the_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One hour; 1000 epochs were asked for. A resumed run starts where the other stopped and has an hour again."""
    now = [1000.0]
    monkeypatch.setattr("yoloprune.backend.training_ramp.time.time", lambda: now[0])
    trainer: Any = SimpleNamespace(args=SimpleNamespace(time=1.0), train_time_start=1000.0, epochs=1000, epoch=0)
    progress = Schedule(trainer, 0.1, 0.6)
    for minutes, share in ((0, 0.0), (15, 0.25), (60, 1.0), (61, 1.0)):
        now[0] = 1000.0 + 60 * minutes
        progress.advance()
        assert progress.share == share
    progress.begin_at(0.5, 10)
    now[0] = 1000.0 + 60 * 30
    progress.advance()
    assert progress.share == 0.75


@pytest.mark.parametrize(
    ("accumulate", "epochs", "told"),
    [
        (4, 20, "only about 10 optimizer steps; mAP will suffer. Set nbs=4 (a step per batch) and epochs=50"),
        (4, 60, "only about 30 optimizer steps; mAP will suffer. Set nbs=4 (a step per batch)"),
        (1, 20, "only about 40 optimizer steps; mAP will suffer. Use a smaller batch, or epochs=50 of this training"),
        (4, 1, "about 0 optimizer steps (epochs=1 of 4 batches): channels do not fade, they go at once, and mAP with "),
        (1, 60, None),
    ],
)
def test_few_steps_are_told_with_the_remedy(
    accumulate: int, epochs: int, told: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """4 batches per epoch, half of the epochs are ramp: 20 / 4 * 4 * 0.5 = 10, 30, 40, half a step and 120 steps."""
    said: list[str] = []
    monkeypatch.setattr(console, "warn", said.append)
    Loop(SparseTraining(config()), tmp_path, accumulate=accumulate, epochs=epochs)
    assert len(said) == (told is not None)
    assert told is None or told in said[0]
    assert epochs != 1 or said[0].endswith("Set nbs=4 (a step per batch) and epochs=50 of this training")


@pytest.mark.slow
def test_picture_of_a_run(tmp_path: Path) -> None:
    """Drawn from the files of the run alone, with and without a results.csv."""
    Loop(SparseTraining(config()), tmp_path).run()
    plain = plot_sparsity(tmp_path / "plain.png", tmp_path / "sparsity.csv")
    lines = ["epoch,metrics/mAP50(B),metrics/mAP50-95(B)", *(f"{e},0.5,{0.1 * e}" for e in range(1, 6))]
    (tmp_path / "results.csv").write_text("\n".join(lines))
    full = plot_sparsity(tmp_path / "full.png", tmp_path / "sparsity.csv")
    assert plain is not None
    assert full is not None
    assert plain.read_bytes() != full.read_bytes()  # mAP is in one of them
    lines = [lines[0], *(f"{e},0,0" for e in range(1, 6))]  # as where nothing was validated
    (tmp_path / "results.csv").write_text("\n".join(lines))
    blind = plot_sparsity(tmp_path / "blind.png", tmp_path / "sparsity.csv")
    assert blind is not None and blind.read_bytes() == plain.read_bytes()
    with (tmp_path / "sparsity_layers.csv").open() as f:
        rows = list(csv.DictReader(f))
    assert len(rows) == 5
    assert len(rows[0]) == 1 + 16
    assert 0 < max(float(v) for k, v in rows[-1].items() if k != "epoch") <= 0.8


# ---- settings in Python ----------------------------------------------------------------------------------------------

WRONG: tuple[dict[str, Any], ...] = (
    {"normalize": "bogus"},
    {"penalty": "foo"},
    {"score": "foo"},
    {"ramp_start": 0.7, "ramp_end": 0.2},
    {"ramp_start": 0.6},
    {"ramp_start": -1.0},
    {"ramp_end": float("nan")},
    {"fade": 2.0},
    {"fade": float("nan")},
    {"penalty_weight": -1.0},
    {"penalty_decay": 1},
    {"budget": 0.5},
    {"limits": {"round_to": 8}},
)


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: " ".join(f"{k}={v}" for k, v in wrong.items()))
def test_what_the_command_line_refuses_python_refuses(wrong: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError, match=next(iter(wrong))):
        config(**wrong)


def test_settings_are_the_keys_of_the_command_that_say_the_same() -> None:
    told = config(budget=Budget(ratio=0.4), limits=Limits(keep=("model.0",), native=False), fade=0.5)
    given = {**told.settings(), "keep": "model.0"}
    settings = parse(["train-sparse", "model=a", "data=b", *(f"{k}={v}" for k, v in given.items())]).settings
    assert settings["sparsity"] == 0.4 and settings["keep"] == ("model.0",) and settings["fade"] == 0.5
    assert {k: v for k, v in settings.items() if v is not None} == told.settings()
