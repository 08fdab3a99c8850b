"""Weights fitted by least squares to what the parent computes, against those worked out by hand or by NumPy."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from repairs import missed, noise, outputs, quarter_dead, randomize
from torch import Tensor, nn

from yoloprune.backend import yolo_tracing
from yoloprune.cutting.surgery import cut
from yoloprune.errors import DataError
from yoloprune.planning.plan import Keep, Plan
from yoloprune.probing.forward import follow, hooked, running
from yoloprune.repair import constant_folding, least_squares, ridge_solver


class Dependent(nn.Module):
    """Producer with channel 2 = channel 0 + 2 · channel 1 + `offset`, consumer, rest."""

    def __init__(self, consumer: nn.Module, offset: float, *rest: nn.Module) -> None:
        super().__init__()
        self.producer, self.consumer, self.rest = nn.Conv2d(3, 3, 1), consumer, nn.Sequential(*rest)
        rows = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1.0, 2.0, 0.0]]
        self.producer.weight.data = torch.tensor(rows)[..., None, None]
        self.producer.bias.data = torch.tensor([0.0, 0.0, offset])

    def forward(self, x: Tensor) -> Tensor:
        x = self.producer(x)
        return self.rest(self.consumer(x.permute(0, 2, 3, 1) if isinstance(self.consumer, nn.Linear) else x))

    plan = Plan(
        {
            "producer": Keep(outputs=(0, 1), of=(3, None)),
            "consumer": Keep(inputs=(0, 1), of=(None, 3)),
        }
    )


IMAGES = [noise(2, 3, 12, 12), noise(2, 3, 12, 12, seed=2)]


@pytest.mark.parametrize(
    ("consumer", "offset"),
    [
        (nn.Conv2d(3, 4, 1), 0.5),
        (nn.Conv2d(3, 4, 3, padding=1), 0.0),
        (nn.Conv2d(3, 4, 3, padding="same", dilation=2), 0.0),
        (nn.Conv2d(3, 4, (3, 2), stride=(2, 1), padding=(1, 0)), 0.0),
        (nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), 0.5),
        (nn.Linear(3, 4), 0.5),
    ],
    ids=["1x1", "3x3", "same", "stride", "reflect", "linear"],
)
def test_a_dependent_channel_is_replaced_by_those_it_depends_on(consumer: nn.Module, offset: float):
    parent = Dependent(copy.deepcopy(consumer), offset).eval()
    model = cut(copy.deepcopy(parent), Dependent.plan)
    missed = least_squares.refit(parent, model, Dependent.plan, IMAGES, ridge=1e-10)
    w = parent.consumer.weight.detach()
    torch.testing.assert_close(model.consumer.weight.data[:, 0], w[:, 0] + w[:, 2], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.consumer.weight.data[:, 1], w[:, 1] + 2 * w[:, 2], rtol=1e-4, atol=1e-5)
    change = model.consumer.bias - parent.consumer.bias
    torch.testing.assert_close(change.data, offset * w[:, 2].reshape(4, -1).sum(1), rtol=1e-4, atol=1e-5)
    before, after = missed["consumer"]
    assert before > 0.01 and after < 1e-9
    assert missed["producer"][0] < 1e-9  # sees what it saw in the parent


def test_mean_goes_into_the_batch_norm_whether_or_not_it_was_folded_before():
    parent = randomize(Dependent(nn.Conv2d(3, 4, 1, bias=False), 0.5, nn.BatchNorm2d(4)))
    model = cut(copy.deepcopy(parent), Dependent.plan)
    folded = copy.deepcopy(model)
    constant_folding.fold(parent, folded, Dependent.plan, IMAGES)
    for m in (model, folded):
        least_squares.refit(parent, m, Dependent.plan, IMAGES, ridge=1e-10)
        shift = 0.5 * parent.consumer.weight.detach()[:, 2, 0, 0]
        torch.testing.assert_close(m.rest[0].running_mean, parent.rest[0].running_mean - shift, rtol=1e-4, atol=1e-5)
        a, b = outputs(parent, m)
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_without_bias_and_batch_norm_the_weights_make_the_mean_as_well():
    parent = Dependent(nn.Conv2d(3, 4, 1, bias=False), 0.5, nn.Softmax(1)).eval()
    model = cut(copy.deepcopy(parent), Dependent.plan)
    least_squares.refit(parent, model, Dependent.plan, IMAGES, ridge=1e-10)
    with torch.no_grad():
        x = parent.producer(torch.cat(IMAGES)).movedim(1, -1).reshape(-1, 3).double().numpy()
    expected = np.linalg.lstsq(x[:, :2], x @ parent.consumer.weight[:, :, 0, 0].T.double().detach().numpy(), rcond=None)
    np.testing.assert_allclose(model.consumer.weight[:, :, 0, 0].detach().T, expected[0], rtol=1e-4, atol=1e-5)


def test_layers_are_fitted_in_network_order_to_inputs_already_repaired():
    parent = Dependent(nn.Conv2d(3, 4, 1), 0.5, nn.SiLU(), nn.Conv2d(4, 2, 1)).eval()
    model = cut(copy.deepcopy(parent), Dependent.plan)
    missed = least_squares.refit(parent, model, Dependent.plan, IMAGES, ridge=1e-10)
    assert missed["rest.1"][0] < 1e-8  # what the repaired consumer sends on needs no repair
    torch.testing.assert_close(model.rest[1].weight, parent.rest[1].weight)


def test_every_fitted_layer_is_a_tick():
    parent = nn.Sequential(nn.Conv2d(3, 4, 3), nn.SiLU(), nn.Conv2d(4, 2, 1), nn.ConvTranspose2d(2, 1, 2, 2))
    ticks: list[None] = []
    missed = least_squares.refit(parent, copy.deepcopy(parent), Plan({}), IMAGES, tick=lambda: ticks.append(None))
    assert len(ticks) == len(missed) == 2 and least_squares.layers(parent) == ["0", "2"]


def test_a_large_ridge_keeps_the_weights_and_corrects_means_as_fold_does():
    parent = Dependent(nn.Conv2d(3, 4, 1), 0.5).eval()
    model = cut(copy.deepcopy(parent), Dependent.plan)
    folded = copy.deepcopy(model)
    constant_folding.fold(parent, folded, Dependent.plan, IMAGES)
    least_squares.refit(parent, model, Dependent.plan, IMAGES, ridge=1e12)
    torch.testing.assert_close(model.consumer.weight, folded.consumer.weight)
    torch.testing.assert_close(model.consumer.bias, folded.consumer.bias, rtol=1e-4, atol=1e-5)


def test_ridge_in_one_dimension():
    x, y = torch.tensor([-1.0, 0.0, 1.0]), torch.tensor([1.0, 4.0, 7.0])  # y = 4 + 3 x
    # From weight 1: |y - 4 - (1 + d) x|² + λ d² with λ = 0.5 · Σx² = 1 is least where 2 (2 - d) = d, at d = 4/3.
    change, mean, (before, after) = ridge_solver.solve(
        torch.ones(1, 1), torch.zeros(1), x.reshape(1, 3, 1), y.reshape(3, 1), 0.5
    )
    assert float(change) == pytest.approx(4 / 3)
    assert float(mean) == pytest.approx(4)
    assert before == pytest.approx((2**2 + 4**2 + 6**2) / 18)  # y - x, over the variance 3² + 0 + 3²
    assert after == pytest.approx(2 * (2 / 3) ** 2 / 18)  # slope 2 - 4/3 is left


def test_every_output_has_its_own_weights(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ridge_solver, "STEPS", 30)
    x, y = noise(1, 60, 3), noise(60, 2, seed=2) + 1
    importance = torch.rand(60, 2, generator=torch.Generator().manual_seed(3)).clamp_min(0.2)
    change, shift, (before, after) = ridge_solver.solve(torch.zeros(2, 3), torch.zeros(2), x, y, 1e-9, importance)
    missed = total = 0
    for o in range(2):
        root = importance[:, o].sqrt().numpy()
        a = np.column_stack((x[0], np.ones(60)))
        (*w, c), (rest,), *_ = np.linalg.lstsq(root[:, None] * a, root * y[:, o].numpy(), rcond=None)
        np.testing.assert_allclose(change[o], w, rtol=1e-4, atol=1e-5)
        assert float(shift[o]) == pytest.approx(c, rel=1e-4)
        mean = np.average(y[:, o], weights=importance[:, o])
        missed, total = missed + rest, total + ((y[:, o].numpy() - mean) ** 2 * root**2).sum()
    assert before > after == pytest.approx(missed / total, rel=1e-4)


@pytest.mark.parametrize("norm", [True, False])
def test_importance_is_the_squared_slope_of_the_activation(norm: bool):
    parent = randomize(nn.Sequential(nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3), nn.SiLU(inplace=True)))
    the_plan = Plan({"1": Keep(outputs=(0, 2), of=(3, None))})
    y, follower = (noise(40, 2), "1") if norm else (noise(40, 3), None)
    got = least_squares._importance(parent, the_plan, y.clone(), follower, "2").numpy()
    z = y.numpy()
    if norm:
        gamma, beta, mean, var = (
            t.detach()[[0, 2]].numpy()
            for t in (parent[1].weight, parent[1].bias, parent[1].running_mean, parent[1].running_var)
        )
        z = (z - mean) / np.sqrt(var + 1e-5) * gamma + beta
    sigmoid = 1 / (1 + np.exp(-z))
    slope = (sigmoid * (1 + z * (1 - sigmoid))) ** 2
    np.testing.assert_allclose(got, np.maximum(slope / slope.max(), least_squares.FLOOR), rtol=1e-4)
    assert least_squares._importance(parent, the_plan, y, follower, None) is None


def test_batch_norm_and_activation_are_found_by_what_they_take():
    shared = nn.SiLU()  # Ultralytics uses one object for all its blocks
    parent = nn.Sequential(
        nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2), shared, nn.Conv2d(2, 2, 1), shared, nn.Conv2d(2, 2, 1)
    )
    names = ("0", "1", "3", "5")
    with running(parent), hooked() as hooks:
        norms = follow(parent, names, nn.BatchNorm2d, hooks)
        activations = follow(parent, names, least_squares.ACTIVATIONS, hooks)
        parent(noise(1, 3, 4, 4))
    assert norms == {"0": "1"}
    assert {k: parent.get_submodule(v) for k, v in activations.items()} == {"1": shared, "3": shared}


def test_depthwise_layers_are_fitted_channel_by_channel():
    parent = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1, groups=3))
    model = copy.deepcopy(parent)
    model[0].weight.data[1] = 0
    least_squares.refit(parent, model, Plan({}), IMAGES, ridge=1e-10)
    torch.testing.assert_close(model[0].weight, parent[0].weight, rtol=1e-4, atol=1e-5)


def test_layers_that_run_twice_are_left_alone():
    shared = nn.Conv2d(3, 3, 1)
    parent = nn.Sequential(shared, nn.SiLU(), shared, nn.ConvTranspose2d(3, 1, 2, 2))
    model = copy.deepcopy(parent)
    model[0].weight.data += 1
    state = copy.deepcopy(model.state_dict())
    assert least_squares.refit(parent, model, Plan({}), IMAGES) == {}
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    with pytest.raises(DataError, match="no calibration images"):
        least_squares.refit(parent, model, Plan({}), [])


class Single(Dependent):
    """The consumer takes an image without a batch dimension, and the last layer as many as are picked: none."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.producer(x)
        return self.consumer(x[0]), self.rest(x[:0])


def test_a_layer_of_a_single_image_is_fitted_and_one_of_none_left_alone():
    parent = Single(nn.Conv2d(3, 4, 3, padding=1), 0.0, nn.Conv2d(3, 4, 1)).eval()
    plan = Plan({**Single.plan.keep, "rest.0": Keep(inputs=(0, 1), of=(None, 3))})
    model = cut(copy.deepcopy(parent), plan)
    missed = least_squares.refit(parent, model, plan, [noise(1, 3, 12, 12)], ridge=1e-10)
    assert set(missed) == {"producer", "consumer"}
    w = parent.consumer.weight.detach()
    torch.testing.assert_close(model.consumer.weight.data[:, 1], w[:, 1] + 2 * w[:, 2], rtol=1e-4, atol=1e-5)
    assert model.rest[0].weight.equal(parent.rest[0].weight[:, :2])


@pytest.mark.parametrize("consumer", [nn.Conv2d(3, 4, 1), nn.Linear(3, 4)], ids=["conv", "linear"])
def test_of_a_single_position_the_constant_alone_makes_the_output(consumer: nn.Module):
    """As of a pooled map and of the last layer of a classifier, on one image: there is nothing to fit weights to."""
    parent = Dependent(consumer, 0.5).eval()
    model = cut(copy.deepcopy(parent), Dependent.plan)
    image = noise(1, 3, 1, 1)
    assert set(least_squares.refit(parent, model, Dependent.plan, [image])) == {"producer", "consumer"}
    assert model.consumer.weight.equal(parent.consumer.weight[:, :2])
    torch.testing.assert_close(model(image), parent(image))


def test_rare_positions_are_drawn_with_preference(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(least_squares, "ROWS", 20)
    output = 0.1 * noise(1, 4, 32, 32)
    output[0, :, 3, :10] += 5  # an object of ten positions among 1024
    target = least_squares._Target(Keep(outputs=(0, 2), of=(4, None)), seed=0)
    target(nn.Conv2d(1, 4, 1), None, output)
    assert int((target.positions[1] == 3).sum()) == 10
    torch.testing.assert_close(target.rows, output.movedim(1, -1)[target.positions][:, [0, 2]])


def test_images_beyond_the_memory_bound_are_left_out(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(least_squares, "PIXELS", 3 * 12 * 12 + 1)
    assert least_squares._together(IMAGES).shape == (3, 3, 12, 12)
    monkeypatch.setattr(least_squares, "PIXELS", 1)
    assert least_squares._together(IMAGES).shape == (1, 3, 12, 12)


@pytest.mark.slow
def test_yolo_is_closer_to_its_parent_after_each_repair():
    parent, *_ = quarter_dead()
    graph = yolo_tracing.trace_yolo(parent)
    alive = np.ones(graph.n_classes, dtype=bool)
    for g, group in enumerate(graph.groups):
        if group.frozen is None:
            alive[graph.classes(g)[::4]] = False  # living channels
    the_plan = graph.plan(alive)
    model = cut(copy.deepcopy(parent), the_plan)
    images = [torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(5))]
    errors = [missed(parent, model, images[0])]
    constant_folding.fold(parent, model, the_plan, images)
    errors.append(missed(parent, model, images[0]))
    least_squares.refit(parent, model, the_plan, images)
    errors.append(missed(parent, model, images[0]))
    assert errors[0] > errors[1] > 5 * errors[2], errors


@pytest.mark.parametrize("movable", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
def test_more_inputs_than_positions_are_solved_by_the_smaller_matrix(movable: bool, weighted: bool) -> None:
    """The same fit in both forms: where every row is there four times, there are more rows than inputs."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 5, 12, generator=generator).double()  # fits are as exact as their inputs
    y = torch.randn(5, 6, generator=generator).double()
    importance = torch.rand(5, 6, generator=generator) * 0.8 + 0.2 if weighted else None
    few = ridge_solver.solve(torch.zeros(6, 12), torch.zeros(6), x, y, 0.05, importance, movable=movable)
    times = 4
    many = ridge_solver.solve(
        torch.zeros(6, 12),
        torch.zeros(6),
        x.repeat(1, times, 1),
        y.repeat(times, 1),
        0.05,
        None if importance is None else importance.repeat(times, 1),
        movable=movable,
    )
    for a, b in zip(few[:2], many[:2], strict=True):
        assert torch.allclose(a, b, atol=1e-9)


def test_memory_follows_the_smaller_number() -> None:
    """Of 3 positions and 20,000 inputs no matrix of 20,000 squared (3 GB) is made."""
    x, y = noise(1, 3, 20_000), noise(3, 2)
    change, _, (before, after) = ridge_solver.solve(torch.zeros(2, 20_000), torch.zeros(2), x, y, 0.01)
    assert change.shape == (2, 20_000) and after < 0.01 < before


def test_layers_that_are_called_by_keyword() -> None:
    class Named(Dependent):
        def forward(self, x: Tensor) -> Tensor:
            return self.consumer(input=self.producer(input=x))

    parent = Named(nn.Conv2d(3, 4, 1), 0.5).eval()
    model = cut(copy.deepcopy(parent), Dependent.plan)
    least_squares.refit(parent, model, Dependent.plan, IMAGES, ridge=1e-9)
    for x in IMAGES:
        torch.testing.assert_close(model(x), parent(x), rtol=1e-4, atol=1e-5)


# Weights that a mask holds --------------------------------------------------------------------------------------------
def test_the_others_make_up_for_a_weight_that_is_held() -> None:
    """The second input is 2 a + b: where it is held at 0, the first, a, takes over as much of it as it can."""
    a, b = torch.tensor([1.0, -1.0, 1.0, -1.0]), torch.tensor([1.0, 1.0, -1.0, -1.0])  # orthogonal, mean 0
    x, y = torch.stack([a, 2 * a + b], 1)[None], torch.stack([2 * a + b, 5 * a], 1)
    free = torch.tensor([[True, False], [True, True]])
    change, shift, (before, after) = ridge_solver.solve(torch.zeros(2, 2), torch.zeros(2), x, y, 1e-9, None, free)
    torch.testing.assert_close(change, torch.tensor([[2.0, 0.0], [5.0, 0.0]]), rtol=1e-5, atol=1e-5)
    assert change[0, 1] == 0 and shift.abs().max() < 1e-6
    # of |2a + b|² = 20 and |5a|² = 100 nothing was made; what is left is |b|² = 4
    assert before == pytest.approx(1) and after == pytest.approx(4 / 120)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("movable", [True, False])
def test_every_output_is_fitted_on_its_own_free_weights(weighted: bool, movable: bool) -> None:
    """Against NumPy's least squares of each output on the columns that it may use, ridge and weights in rows."""
    x, y = noise(1, 80, 6).double(), noise(80, 3, seed=2).double() + 1
    generator = torch.Generator().manual_seed(3)
    importance = torch.rand(80, 3, generator=generator).double().clamp_min(0.2) if weighted else torch.ones(80, 3)
    free = torch.rand(3, 6, generator=generator) < 0.5
    weight = torch.where(free, noise(3, 6, seed=4), 0.0).double()
    given = importance if weighted else None
    change, shift, _ = ridge_solver.solve(weight, torch.zeros(3), x, y, 0.05, given, free, movable=movable)
    assert free.any(1).all() and not change[~free].any()
    middle = x[0].mean(0) * movable
    held = 0.05 * float((x[0] - middle).square().sum() / 6)
    for o in range(3):
        root = importance[:, o].double().sqrt()[:, None]
        used = free[o].nonzero().flatten()
        columns = torch.cat([(x[0] - middle)[:, used], torch.full((80, 1), float(movable))], 1) * root
        missing = (y[:, o] - x[0] @ weight[o])[:, None] * root
        rows = torch.cat([columns, torch.eye(len(used), len(used) + 1).double() * held**0.5])
        made = np.linalg.lstsq(rows.numpy(), torch.cat([missing, torch.zeros(len(used), 1)]).numpy(), rcond=None)[0][
            :, 0
        ]
        np.testing.assert_allclose(change[o, used], made[:-1], rtol=1e-6, atol=1e-9)
        assert float(shift[o]) == pytest.approx(made[-1] - float(made[:-1] @ middle[used].numpy()), abs=1e-8)


def test_a_masked_layer_is_refitted_and_its_zeros_are_zero_to_the_bit() -> None:
    parent = nn.Sequential(nn.Conv2d(3, 8, 3), nn.SiLU(), nn.Conv2d(8, 4, 3))
    model = copy.deepcopy(parent)
    free = {"2": torch.rand(4, 8, 3, 3, generator=torch.Generator().manual_seed(0)) < 0.5}
    model[2].weight.data[~free["2"]] = 0
    missed = least_squares.refit(parent, model, Plan({}), IMAGES, free=free)
    assert missed["2"][1] < missed["2"][0] and missed["0"][0] < 1e-10
    assert torch.equal(model[2].weight[~free["2"]], torch.zeros(int((~free["2"]).sum())))
    assert (model[2].weight[free["2"]] != parent[2].weight[free["2"]]).all()
