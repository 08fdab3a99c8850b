"""Sparse training without a trainer: scales by hand, and the trainer's loop with a made-up loss."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import settle
from torch import Tensor, nn
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils.torch_utils import EarlyStopping, ModelEMA

from yoloprune import Budget, Limits, SparseConfig, SparseTraining, host, scoring, tracing
from yoloprune.progress import Progress
from yoloprune.report import picture_sparsity
from yoloprune.scales import Scales

TINY = {
    "nc": 3,
    "backbone": [
        [-1, 1, "Conv", [8, 3, 2]],
        [-1, 1, "Conv", [16, 3, 2]],
        [-1, 1, "C2f", [16, True]],
        [-1, 1, "Conv", [32, 3, 2]],
        [-1, 1, "C2f", [32, True]],
    ],
    "head": [
        [-1, 1, "nn.Upsample", [None, 2, "nearest"]],
        [[-1, 2], 1, "Concat", [1]],
        [-1, 1, "C2f", [16]],
        [[7, 4], 1, "Detect", ["nc"]],
    ],
}
"""A detector at strides 4 and 8 with 224 prunable channel classes in 16 groups."""

FREE = Limits(round_to=1, min_width=1, native=False)
Norms = dict[str, nn.BatchNorm2d]


class Residual(nn.Module):
    """Two layers whose channels are added, so that they live or die together, and a third that reads them."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 2, 1, bias=False), nn.Conv2d(2, 2, 1, bias=False)
        self.na, self.nb = nn.BatchNorm2d(2), nn.BatchNorm2d(2)
        self.c, self.nc, self.d = nn.Conv2d(2, 4, 1, bias=False), nn.BatchNorm2d(4), nn.Conv2d(4, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.na(self.a(x)).relu()
        x = x + self.nb(self.b(x)).relu()
        return self.d(self.nc(self.c(x)).relu())


def residual(na: list[float], nb: list[float], nc: list[float], frozen: str = "") -> tuple[Residual, Scales]:
    """The network with scales written by hand."""
    model = Residual().eval()
    for norm, values in ((model.na, na), (model.nb, nb), (model.nc, nc)):
        norm.weight.data = torch.tensor(values)
    if frozen:
        model.get_submodule(frozen).weight.requires_grad = False
    return model, Scales(model, tracing.trace(model, torch.rand(1, 3, 4, 4)))


class Loop:
    """The loop of Ultralytics' trainer with the same events and attributes, and a made-up loss instead of data."""

    def __init__(self, sparse: SparseTraining, folder: Path, model: nn.Module | None = None, **changed: Any) -> None:
        told = {
            "epochs": 5,
            "batches": 4,
            "accumulate": 1,
            "optimizer": "SGD",
            "lr": 0.01,
            "time": None,
            "resume": False,
        }
        told |= {"patience": 100, "scale": 1.0} | changed
        self.sparse, self.save_dir = sparse, folder
        self.model = tiny() if model is None else model
        self.ema = ModelEMA(self.model)
        self.args = SimpleNamespace(imgsz=32, time=told["time"])
        self.train_loader = range(told["batches"])
        self.epochs, self.accumulate, self.batch_size = told["epochs"], told["accumulate"], 4
        self.epoch, self.resume, self.best_fitness = 0, told["resume"], None
        self.stopper = EarlyStopping(told["patience"])
        self.saved_as_best: list[int] = []
        self.scale = told["scale"]
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = getattr(torch.optim, told["optimizer"])(parameters, lr=told["lr"])
        self.image = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
        self.train_time_start = time.time()
        sparse.on_train_start(self)  # type: ignore[arg-type]

    def run(self, fitness: Callable[[int], float] = lambda epoch: 0.5) -> Loop:
        """Train to the end, or until patience is lost."""
        for epoch in range(self.epoch, self.epochs):
            self.epoch = epoch
            self.start()
            self.batches()
            if self.finish(fitness(self.epoch)):
                break
        return self

    def start(self) -> None:
        self.sparse.on_train_epoch_start(self)  # type: ignore[arg-type]

    def batches(self) -> None:
        self.model.train()
        for i in self.train_loader:
            self.sparse.on_train_batch_start(self)  # type: ignore[arg-type]
            (self.scale * sum(t.square().mean() for t in tensors(self.model(self.image)))).backward()
            if (self.epoch * len(self.train_loader) + i + 1) % self.accumulate == 0:
                self.optimizer.step()
                self.optimizer.zero_grad()
                self.ema.update(self.model)

    def finish(self, fitness: float) -> bool:
        self.sparse.on_train_epoch_end(self)  # type: ignore[arg-type]
        if self.best_fitness is None or self.best_fitness < fitness:
            self.best_fitness = fitness
        if self.best_fitness == fitness:
            self.saved_as_best.append(self.epoch)
        stop = self.stopper(self.epoch + 1, fitness)
        self.sparse.on_fit_epoch_end(self)  # type: ignore[arg-type]
        return stop


def tensors(output: Any) -> Iterator[Tensor]:
    """All tensors in a nest of lists and dictionaries."""
    if isinstance(output, Tensor):
        yield output
    else:
        for part in output.values() if isinstance(output, dict) else output:
            yield from tensors(part)


def tiny() -> DetectionModel:
    torch.manual_seed(0)
    return settle(DetectionModel(TINY, verbose=False))  # type: ignore[return-value]


def norms(model: nn.Module) -> Norms:
    return {n: m for n, m in host.student(model).named_modules() if isinstance(m, nn.BatchNorm2d)}


def zeros(model: nn.Module) -> dict[str, list[int]]:
    """Positions of the scales that are exactly zero, layers without any left out."""
    found = {n: torch.nonzero(m.weight.detach() == 0).flatten().tolist() for n, m in norms(model).items()}
    return {n: z for n, z in found.items() if z}


def config(**changed: Any) -> SparseConfig:
    return SparseConfig(**{"budget": Budget(ratio=0.3), "limits": FREE, "normalize": "none"} | changed)


# ---- scales by hand --------------------------------------------------------------------------------------------------


def test_group_shrinks_coupled_scales_by_their_common_norm() -> None:
    """Norms sqrt(9 + 16) = 5 and sqrt(0.36 + 0.64) = 1: factors 1 - 1/5 and 0. Of nc: 1 - 1/2, 1 - 1/4, 0, 0."""
    model, scales = residual([3.0, 0.6], [-4.0, -0.8], [2.0, -4.0, 1.0, 0.5])
    scales.shrink(1.0, coupled=True)
    torch.testing.assert_close(model.na.weight.data, torch.tensor([2.4, 0.0]))
    torch.testing.assert_close(model.nb.weight.data, torch.tensor([-3.2, 0.0]))
    torch.testing.assert_close(model.nc.weight.data, torch.tensor([1.0, -3.0, 0.0, 0.0]))
    assert [int((n.weight == 0).sum()) for n in (model.na, model.nb, model.nc)] == [1, 1, 2]


def test_prox_shrinks_every_scale_on_its_own() -> None:
    """The same scales lose 1 each, down to zero, whatever their partners."""
    model, scales = residual([3.0, 0.6], [-4.0, -0.8], [2.0, -4.0, 1.0, 0.5])
    scales.shrink(1.0, coupled=False)
    torch.testing.assert_close(model.na.weight.data, torch.tensor([2.0, 0.0]))
    torch.testing.assert_close(model.nb.weight.data, torch.tensor([-3.0, 0.0]))
    torch.testing.assert_close(model.nc.weight.data, torch.tensor([1.0, -3.0, 0.0, 0.0]))


def test_l1_adds_the_sign_to_the_gradient() -> None:
    model, scales = residual([3.0, -0.6], [-4.0, 0.0], [1.0] * 4)
    for norm in (model.na, model.nb, model.nc):
        norm.weight.grad = torch.full_like(norm.weight, 2.0)
    scales.pull(0.5)
    assert model.na.weight.grad.tolist() == [2.5, 1.5]
    assert model.nb.weight.grad.tolist() == [1.5, 2.0]


def test_sums_add_up_the_members_of_a_class() -> None:
    _, scales = residual([3.0, 0.5], [-4.0, -0.25], [1.0, 2.0, 8.0, 16.0])
    sums = scales.sums(scales.gamma.abs())[torch.from_numpy(scales.killable)]
    assert sorted(sums.tolist()) == [0.75, 1.0, 2.0, 7.0, 8.0, 16.0]


def test_relative_divides_by_the_mean_of_the_layer() -> None:
    _, scales = residual([3.0, 1.0], [-40.0, -40.0], [1.0, 2.0, 4.0, 9.0])
    assert scales.relative().tolist() == [1.5, 0.5, 1.0, 1.0, 0.25, 0.5, 1.0, 2.25]


def test_a_frozen_member_protects_its_partners() -> None:
    model, scales = residual([3.0, 0.6], [-4.0, -0.8], [2.0, -4.0, 1.0, 0.5], frozen="na")
    scales.shrink(1.0, coupled=True)
    assert model.na.weight.tolist() == pytest.approx([3.0, 0.6])
    assert model.nb.weight.tolist() == pytest.approx([-4.0, -0.8])
    assert model.nc.weight.tolist() == pytest.approx([1.0, -3.0, 0.0, 0.0])


def test_rates_are_those_of_the_groups_of_the_optimizer() -> None:
    model, scales = residual([1.0] * 2, [1.0] * 2, [1.0] * 4)
    bn, other = [model.na.weight, model.nb.weight], [model.nc.weight, *(m.weight for m in (model.a, model.b, model.c))]
    optimizer = torch.optim.SGD([{"params": bn, "lr": 0.25}, {"params": other, "lr": 0.75}])
    assert scales.rates(optimizer).tolist() == [0.25] * 4 + [0.75] * 4


def test_what_lives_does_not_read_as_zero_in_half_precision() -> None:
    """One class would vanish in the checkpoint as a whole; in the other a faint member has a partner that is seen."""
    model, scales = residual([1e-9, 1e-9], [0.0, 1.0], [1.0, 0.0, 1.0, 1.0])
    alive = scales.killable.copy()
    scales.rouse(model, alive)
    assert (model.na.weight.half() != 0).tolist() == [True, False]
    assert (model.nb.weight.half() != 0).tolist() == [True, True]
    assert float(model.nc.weight.detach().half()[1]) > 0


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


def test_a_step_that_overflowed_does_not_count(tmp_path: Path) -> None:
    loop = Loop(SparseTraining(config()), tmp_path, lr=0.0)
    loop.start()
    loop.batches()
    before = loop.sparse._live.score.clone()
    for norm in norms(loop.model).values():
        norm.weight.grad = torch.zeros_like(norm.weight)
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
    graph = host.trace_yolo(loop.model, imgsz=32)
    for model in (loop.model, loop.ema.ema):
        dead = scoring.dead(model.half().float(), graph)
        if budget.ratio:
            assert abs(dead.sum() / graph.prunable.sum() - 0.4) <= 0.01
        else:
            assert abs(loop.sparse.history[-1]["flops"] - 0.8) <= 0.01
    assert zeros(loop.model) == zeros(loop.ema.ema)
    assert (scoring.dead(loop.model, graph) == scoring.dead(loop.ema.ema, graph)).all()


@pytest.mark.parametrize("penalty", ["prox", "group"])
def test_the_push_is_steered_to_the_target(penalty: str, tmp_path: Path) -> None:
    """When the ramp ends, before anything is chosen, about as many scales are zero as the target asks for."""
    loop = Loop(SparseTraining(config(penalty=penalty)), tmp_path, epochs=10, batches=8, scale=0.0)
    share = []
    for loop.epoch in range(6):
        loop.start()
        loop.batches()
        scales = loop.sparse._live.scales
        share.append(float((scales.gamma[scales.pushed] == 0).float().mean()))
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
    lost = (before - scales.gamma.abs())[scales.pushed & (before > 0.1)]
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
    again = Loop(SparseTraining(first.sparse.config), tmp_path, kept, resume=True)
    again.epoch, again.best_fitness = stop + 1, first.best_fitness
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
    dead = scoring.dead(loop.ema.ema, host.trace_yolo(loop.model, imgsz=32))
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
    monkeypatch.setattr("yoloprune.progress.time.time", lambda: now[0])
    trainer: Any = SimpleNamespace(args=SimpleNamespace(time=1.0), train_time_start=1000.0, epochs=1000, epoch=0)
    progress = Progress(trainer, config())
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
    [(4, 20, "about 10 optimizer steps; mAP will suffer. Set nbs=4 "), (1, 20, "Use a smaller batch"), (1, 60, None)],
)
def test_few_steps_are_told_with_the_remedy(
    accumulate: int, epochs: int, told: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """4 batches per epoch, half of the epochs are ramp: 20 / 4 * 4 * 0.5 = 10, 40 and 120 steps."""
    said: list[str] = []
    monkeypatch.setattr(host, "warn", said.append)
    Loop(SparseTraining(config()), tmp_path, accumulate=accumulate, epochs=epochs)
    assert len(said) == (told is not None)
    assert told is None or told in said[0]


def test_picture_of_a_run(tmp_path: Path) -> None:
    """Drawn from the files of the run alone, with and without a results.csv."""
    Loop(SparseTraining(config()), tmp_path).run()
    plain = picture_sparsity(tmp_path / "plain.png", tmp_path / "sparsity.csv")
    lines = ["epoch,metrics/mAP50(B),metrics/mAP50-95(B)", *(f"{e},0.5,{0.1 * e}" for e in range(1, 6))]
    (tmp_path / "results.csv").write_text("\n".join(lines))
    full = picture_sparsity(tmp_path / "full.png", tmp_path / "sparsity.csv")
    assert plain is not None
    assert full is not None
    assert plain.read_bytes() != full.read_bytes()  # mAP is in one of them
    with (tmp_path / "sparsity_layers.csv").open() as f:
        rows = list(csv.DictReader(f))
    assert len(rows) == 5
    assert len(rows[0]) == 1 + 16
    assert 0 < max(float(v) for k, v in rows[-1].items() if k != "epoch") <= 0.8
