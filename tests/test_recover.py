"""Repairs after the cut, against weights and statistics worked out by hand, and the images that they look at."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor, nn
from ultralytics.nn.tasks import DetectionModel

from yoloprune import budget, host, recover, refit, scoring, watching
from yoloprune.calibration import batches as load
from yoloprune.errors import DataError
from yoloprune.groups import Keep, Plan
from yoloprune.surgery import cut
from yoloprune.verify import verify

BETA = 0.7
CONSTANT = BETA / (1 + np.exp(-BETA))
"""SiLU(BETA): what a channel with gamma = 0 and beta = BETA emits."""


class Net(nn.Module):
    """Producer (2 channels, batch-norm, SiLU), any path without weights, consumer, rest."""

    def __init__(self, consumer: nn.Module, path: Callable[[Tensor], Tensor] = lambda x: x, *rest: nn.Module) -> None:
        super().__init__()
        self.producer, self.bn = nn.Conv2d(3, 2, 3, padding=1, bias=False), nn.BatchNorm2d(2)
        self.consumer, self.rest = consumer, nn.Sequential(*rest)
        self.path = path

    def forward(self, x: Tensor) -> Tensor:
        return self.rest(self.consumer(self.path(nn.functional.silu(self.bn(self.producer(x))))))


def randomize(model: nn.Module, seed: int = 0) -> nn.Module:
    """Weights and statistics away from their initial values, evaluation mode."""
    g = torch.Generator().manual_seed(seed)
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.weight.data.uniform_(0.5, 1.5, generator=g)
            m.bias.data.normal_(0, 0.3, generator=g)
            m.running_mean.normal_(0, 0.3, generator=g)
            m.running_var.uniform_(0.5, 1.5, generator=g)
    return model.eval()


def with_dead_channel(net: Net) -> Net:
    randomize(net)
    net.bn.weight.data[1], net.bn.bias.data[1] = 0, BETA
    return net


def plan(inputs: tuple[int, ...] = (0,), width: int = 2, **more: Keep) -> Plan:
    """Channel 1 of the producer goes, and all but `inputs` of the consumer's inputs."""
    gone = Keep(outputs=(0,), of=(2, None))
    return Plan({"producer": gone, "bn": gone, "consumer": Keep(inputs=inputs, of=(None, width)), **more})


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def fold(parent: nn.Module, model: nn.Module, the_plan: Plan) -> recover.Folded:
    return recover.fold(parent, model, the_plan, noise=noise(2, 3, 16, 16, seed=9))


def outputs(*models: nn.Module, x: Tensor | None = None) -> list[Tensor]:
    with torch.no_grad():
        return [m(noise(2, 3, 16, 16) if x is None else x) for m in models]


# ---- fold ------------------------------------------------------------------------------------------------------------


def test_dead_channel_moves_into_batch_norm_and_interior_is_exact():
    parent = with_dead_channel(Net(nn.Conv2d(2, 4, 3, padding=1, bias=False), lambda x: x, nn.BatchNorm2d(4)))
    model = cut(copy.deepcopy(parent), plan())
    before = model.rest[0].running_mean.clone()
    report = fold(parent, model, plan())
    assert report == recover.Folded({"consumer": "rest.0.running_mean"}, channels=1, dropped=0, skipped={})
    shift = parent.consumer.weight[:, 1].sum((1, 2)).detach() * CONSTANT
    torch.testing.assert_close(model.rest[0].running_mean, before - shift)
    a, b = outputs(parent, model)
    torch.testing.assert_close(a[..., 1:-1, 1:-1], b[..., 1:-1, 1:-1])
    assert (a - b)[..., 0, :].abs().max() > 1e-2  # the padded border sees less of the constant: the documented limit


def test_bias_is_preferred_and_only_kept_outputs_are_corrected():
    parent = with_dead_channel(Net(nn.Conv2d(2, 3, 1), lambda x: x, nn.Conv2d(3, 1, 1)))
    the_plan = plan(**{"rest.0": Keep(inputs=(0, 2), of=(None, 3))})
    the_plan.keep["consumer"] = Keep(outputs=(0, 2), inputs=(0,), of=(3, 2))
    model = cut(copy.deepcopy(parent), the_plan)
    report = fold(parent, model, the_plan)
    assert report.into == {"consumer": "consumer.bias", "rest.0": "rest.0.bias"}
    expected = (parent.consumer.bias + parent.consumer.weight[:, 1, 0, 0] * CONSTANT).detach()[[0, 2]]
    torch.testing.assert_close(model.consumer.bias.data, expected)


class Residual(nn.Module):
    """A second producer whose channel 1 is dead as well, added to the first: the sum is 2 · SiLU(beta)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(2, 2, 3, padding=1, bias=False), nn.BatchNorm2d(2)
        self.bn.weight.data[1], self.bn.bias.data[1] = 0, BETA

    def forward(self, x: Tensor) -> Tensor:
        return x + nn.functional.silu(self.bn(self.conv(x)))


def pyramid(x: Tensor) -> Tensor:
    """Repeated max-pooling and concatenation, as in SPPF."""
    y = [x]
    for _ in range(3):
        y.append(nn.functional.max_pool2d(y[-1], 5, 1, 2))
    return torch.cat(y, 1)


@pytest.mark.parametrize(
    ("path", "width", "inputs"),
    [
        (lambda x: torch.cat((x, x.flip(1)), 1), 4, (0, 3)),
        (lambda x: nn.functional.interpolate(x, scale_factor=2, mode="nearest"), 2, (0,)),
        (lambda x: nn.functional.interpolate(x, scale_factor=2, mode="bilinear"), 2, (0,)),
        (lambda x: nn.functional.avg_pool2d(x, 3, 2), 2, (0,)),
        (pyramid, 8, (0, 2, 4, 6)),
    ],
    ids=["concat", "nearest", "bilinear", "average", "sppf"],
)
def test_constants_follow_every_path(path: Callable[[Tensor], Tensor], width: int, inputs: tuple[int, ...]):
    parent = with_dead_channel(Net(nn.Conv2d(width, 4, 1), path))
    model = cut(copy.deepcopy(parent), plan(inputs, width))
    unfolded = copy.deepcopy(model)
    report = fold(parent, model, plan(inputs, width))
    assert (report.channels, report.dropped) == (width - len(inputs), 0)
    a, b, c = outputs(parent, model, unfolded)
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    assert (a - c).abs().max() > 1e-2


def test_residual_sum_is_folded_once_with_both_constants():
    parent = with_dead_channel(Net(nn.Conv2d(2, 4, 1)))
    parent.path = Residual().eval()
    gone = Keep(outputs=(0,), of=(2, None))
    the_plan = plan(**{"path.conv": Keep((0,), (0,), (2, 2)), "path.bn": gone})
    model = cut(copy.deepcopy(parent), the_plan)
    fold(parent, model, the_plan)
    expected = parent.consumer.bias + 2 * CONSTANT * parent.consumer.weight[:, 1, 0, 0]
    torch.testing.assert_close(model.consumer.bias, expected)
    a, b = outputs(parent, model)
    torch.testing.assert_close(a[..., 1:-1, 1:-1], b[..., 1:-1, 1:-1], rtol=1e-5, atol=1e-5)


def test_linear_after_global_pooling():
    parent = with_dead_channel(Net(nn.Linear(2, 3), lambda x: x.mean((2, 3))))
    model = cut(copy.deepcopy(parent), plan())
    assert fold(parent, model, plan()).into == {"consumer": "consumer.bias"}
    a, b = outputs(parent, model)
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_transposed_convolution_gets_the_mean_of_its_taps():
    parent = with_dead_channel(Net(nn.ConvTranspose2d(2, 3, 2, 2)))
    parent.consumer.weight.data[1] = torch.arange(12.0).reshape(3, 2, 2)  # means over taps 1.5, 5.5, 9.5
    model = cut(copy.deepcopy(parent), plan())
    fold(parent, model, plan())
    change = model.consumer.bias - parent.consumer.bias
    torch.testing.assert_close(change, torch.tensor([1.5, 5.5, 9.5]) * CONSTANT)
    a, b = outputs(parent, model)
    torch.testing.assert_close(a.mean((0, 2, 3)), b.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)


def test_depthwise_layers_are_not_consumers():
    parent = Net(nn.Conv2d(2, 4, 1))
    parent.path = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1, groups=2, bias=False), nn.BatchNorm2d(2))
    with_dead_channel(parent)
    parent.path[1].weight.data[1], parent.path[1].bias.data[1] = 0, 0.25
    gone = Keep(outputs=(0,), of=(2, None))
    the_plan = plan(**{"path.0": gone, "path.1": gone})
    model = cut(copy.deepcopy(parent), the_plan)
    assert fold(parent, model, the_plan).into == {"consumer": "consumer.bias"}
    torch.testing.assert_close(model.consumer.bias, parent.consumer.bias + 0.25 * parent.consumer.weight[:, 1, 0, 0])
    a, b = outputs(parent, model)
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_without_data_living_channels_are_dropped_and_with_data_their_mean_is_moved():
    parent = randomize(Net(nn.Conv2d(2, 4, 1)))
    model = cut(copy.deepcopy(parent), plan())
    report = fold(parent, model, plan())
    assert (report.channels, report.dropped) == (0, 1)
    torch.testing.assert_close(model.consumer.bias, parent.consumer.bias)

    images = [noise(3, 3, 8, 8), noise(1, 3, 8, 8, seed=2) + 1]  # positions count alike, batches do not
    report = recover.fold(parent, model, plan(), images)
    assert (report.channels, report.dropped) == (1, 0)
    with torch.no_grad():
        mean = nn.functional.silu(parent.bn(parent.producer(torch.cat(images))))[:, 1].mean()
    torch.testing.assert_close(model.consumer.bias, parent.consumer.bias + mean * parent.consumer.weight[:, 1, 0, 0])
    a, b = outputs(parent, model, x=torch.cat(images))
    torch.testing.assert_close(a.mean((0, 2, 3)), b.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)


def test_consumers_that_cannot_take_the_constant_are_reported():
    merge = nn.Sequential(nn.SiLU(), nn.BatchNorm2d(4))  # this batch-norm does not take the convolution's own output
    parent = with_dead_channel(Net(nn.Conv2d(2, 4, 1, bias=False), lambda x: x, merge))
    parent.idle = nn.Conv2d(2, 1, 1)
    the_plan = plan(idle=Keep(inputs=(0,), of=(None, 2)))
    model = cut(copy.deepcopy(parent), the_plan)
    state = copy.deepcopy(model.state_dict())
    report = fold(parent, model, the_plan)
    assert report.into == {} and report.channels == 0
    assert report.skipped == {
        "consumer": "has no bias, and no batch-norm takes its output",
        "idle": "does not run",
    }
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


def test_fold_leaves_the_parent_as_it_was():
    parent = with_dead_channel(Net(nn.Conv2d(2, 4, 3, bias=False), lambda x: x, nn.BatchNorm2d(4)))
    parent.rest.train()
    state, modes = copy.deepcopy(parent.state_dict()), [m.training for m in parent.modules()]
    model = cut(copy.deepcopy(parent), plan())
    recover.fold(parent, model, plan(), [noise(2, 3, 8, 8)])
    assert all(torch.equal(v, state[k]) for k, v in parent.state_dict().items())
    assert [m.training for m in parent.modules()] == modes
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in parent.modules())
    with pytest.raises(DataError, match="no calibration images"):
        recover.fold(parent, model, plan(), [])


@pytest.fixture(scope="module")
def yolo() -> tuple[nn.Module, nn.Module, Plan]:
    """Parent with a quarter of all prunable channels dead, the cut of exactly these, and the plan."""
    torch.manual_seed(0)
    parent = randomize(DetectionModel("yolov8n.yaml", verbose=False))
    graph = host.trace_yolo(parent)
    dead = np.zeros(graph.n_classes, dtype=bool)
    for g, group in enumerate(graph.groups):
        if group.frozen is None:
            dead[graph.classes(g)[1::4]] = True
    modules = dict(parent.named_modules())
    for axis, classes in zip(graph.axes, graph.class_of, strict=True):
        if axis.side == "outputs" and isinstance(modules.get(axis.module), nn.BatchNorm2d):
            modules[axis.module].weight.data[torch.from_numpy(dead[classes])] = 0
    found = scoring.dead(parent, graph)
    assert np.array_equal(found, dead)
    the_plan = graph.plan(budget.dead_only(graph, found))
    return parent, cut(copy.deepcopy(parent), the_plan), the_plan


def logits(model: nn.Module, x: Tensor) -> Tensor:
    """What the last convolutions of the head put out without their bias, in one row."""
    last = [m for m in model.model[-1].modules() if isinstance(m, nn.Conv2d) and m.bias is not None]
    found: list[Tensor] = []
    handles = [m.register_forward_hook(lambda m, i, y: found.append(y - m.bias.reshape(-1, 1, 1))) for m in last]
    with torch.no_grad():
        model.eval()(x)
    for handle in handles:
        handle.remove()
    return torch.cat([y.flatten() for y in found])


def missed(parent: nn.Module, model: nn.Module, x: Tensor) -> float:
    """Largest error of any logit, in standard deviations of all logits."""
    a, b = logits(parent, x), logits(model, x)
    return float((a - b).abs().max() / a.std())


def test_yolo_equals_its_unmasked_parent(yolo: tuple[nn.Module, nn.Module, Plan]):
    parent, model, the_plan = copy.deepcopy(yolo)
    verify(parent, model, the_plan, host.example(parent))
    x = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(3))
    folded = copy.deepcopy(model)
    report = recover.fold(parent, folded, the_plan)
    assert not report.skipped and not report.dropped and len(report.into) > 40
    # No position of a YOLO's output is out of reach of a border, so take the border away: replicated, constants go on.
    for m in (parent, model, folded):
        for conv in m.modules():
            if isinstance(conv, nn.Conv2d):
                conv.padding_mode = "replicate"
    assert missed(parent, folded, x) < 1e-4
    assert missed(parent, model, x) > 1e-2


def test_yolo_with_data_finds_the_same_constants(yolo: tuple[nn.Module, nn.Module, Plan]):
    parent, model, the_plan = copy.deepcopy(yolo)
    by_noise, by_data = copy.deepcopy(model), model
    recover.fold(parent, by_noise, the_plan)
    recover.fold(parent, by_data, the_plan, [noise(1, 3, 64, 64)])
    for (name, a), (_, b) in zip(by_noise.state_dict().items(), by_data.state_dict().items(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4, msg=name)


# ---- reestimate ------------------------------------------------------------------------------------------------------


def test_statistics_are_those_numpy_computes_and_all_flags_return():
    model = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm2d(3, momentum=0.03), nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2))
    randomize(model)
    model[3].train()  # modes differ and have to come back each
    model[1].num_batches_tracked += 7
    weights = {k: v.clone() for k, v in model.named_parameters()}
    images = [noise(4, 3, 5, 5), 2 * noise(4, 3, 5, 5, seed=2) + 1]
    recover.reestimate(model, images)
    for got, statistic in ((model[1].running_mean, np.mean), (model[1].running_var, partial_var)):
        expected = np.mean([statistic(x.numpy(), axis=(0, 2, 3)) for x in images], axis=0)
        np.testing.assert_allclose(got.numpy(), expected, rtol=1e-5, atol=1e-6)
    hidden = []  # the second layer sees what the first makes of each batch
    for x in images:
        h = (x - x.mean((0, 2, 3), keepdim=True)) / (x.var((0, 2, 3), correction=0, keepdim=True) + 1e-5).sqrt()
        with torch.no_grad():
            hidden.append(model[2](h * model[1].weight.reshape(1, -1, 1, 1) + model[1].bias.reshape(1, -1, 1, 1)))
    torch.testing.assert_close(model[3].running_mean, torch.stack([h.mean((0, 2, 3)) for h in hidden]).mean(0))
    torch.testing.assert_close(model[3].running_var, torch.stack([h.var((0, 2, 3)) for h in hidden]).mean(0))

    assert [m.training for m in model] == [False, False, False, True]
    assert (model[1].momentum, model[3].momentum) == (0.03, 0.1)
    assert (int(model[1].num_batches_tracked), int(model[3].num_batches_tracked)) == (7, 0)
    assert all(torch.equal(v, weights[k]) and v.grad is None for k, v in model.named_parameters())


def partial_var(x: np.ndarray, axis: tuple[int, ...]) -> np.ndarray:
    return np.var(x, axis=axis, ddof=1)


@pytest.mark.parametrize("images", [[], [noise(2, 5, 4, 4)]], ids=["none", "wrong channels"])
def test_reestimate_restores_after_an_error(images: list[Tensor]):
    model = randomize(nn.Sequential(nn.BatchNorm2d(3, momentum=0.03)))
    mean = model[0].running_mean.clone()
    with pytest.raises((DataError, RuntimeError)):
        recover.reestimate(model, images)
    assert model[0].momentum == 0.03 and not model[0].training
    assert torch.equal(model[0].running_mean, mean)


# ---- refit -----------------------------------------------------------------------------------------------------------


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
    missed = refit.refit(parent, model, Dependent.plan, IMAGES, ridge=1e-10)
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
    recover.fold(parent, folded, Dependent.plan, IMAGES)
    for m in (model, folded):
        refit.refit(parent, m, Dependent.plan, IMAGES, ridge=1e-10)
        shift = 0.5 * parent.consumer.weight.detach()[:, 2, 0, 0]
        torch.testing.assert_close(m.rest[0].running_mean, parent.rest[0].running_mean - shift, rtol=1e-4, atol=1e-5)
        a, b = outputs(parent, m)
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_without_bias_and_batch_norm_the_weights_make_the_mean_as_well():
    parent = Dependent(nn.Conv2d(3, 4, 1, bias=False), 0.5, nn.Softmax(1)).eval()
    model = cut(copy.deepcopy(parent), Dependent.plan)
    refit.refit(parent, model, Dependent.plan, IMAGES, ridge=1e-10)
    with torch.no_grad():
        x = parent.producer(torch.cat(IMAGES)).movedim(1, -1).reshape(-1, 3).double().numpy()
    expected = np.linalg.lstsq(x[:, :2], x @ parent.consumer.weight[:, :, 0, 0].T.double().detach().numpy(), rcond=None)
    np.testing.assert_allclose(model.consumer.weight[:, :, 0, 0].detach().T, expected[0], rtol=1e-4, atol=1e-5)


def test_layers_are_fitted_in_network_order_to_inputs_already_repaired():
    parent = Dependent(nn.Conv2d(3, 4, 1), 0.5, nn.SiLU(), nn.Conv2d(4, 2, 1)).eval()
    model = cut(copy.deepcopy(parent), Dependent.plan)
    missed = refit.refit(parent, model, Dependent.plan, IMAGES, ridge=1e-10)
    assert missed["rest.1"][0] < 1e-8  # what the repaired consumer sends on needs no repair
    torch.testing.assert_close(model.rest[1].weight, parent.rest[1].weight)


def test_a_large_ridge_keeps_the_weights_and_corrects_means_as_fold_does():
    parent = Dependent(nn.Conv2d(3, 4, 1), 0.5).eval()
    model = cut(copy.deepcopy(parent), Dependent.plan)
    folded = copy.deepcopy(model)
    recover.fold(parent, folded, Dependent.plan, IMAGES)
    refit.refit(parent, model, Dependent.plan, IMAGES, ridge=1e12)
    torch.testing.assert_close(model.consumer.weight, folded.consumer.weight)
    torch.testing.assert_close(model.consumer.bias, folded.consumer.bias, rtol=1e-4, atol=1e-5)


def test_ridge_in_one_dimension():
    x, y = torch.tensor([-1.0, 0.0, 1.0]), torch.tensor([1.0, 4.0, 7.0])  # y = 4 + 3 x
    # From weight 1: |y - 4 - (1 + d) x|² + λ d² with λ = 0.5 · Σx² = 1 is least where 2 (2 - d) = d, at d = 4/3.
    change, mean, (before, after) = refit._solve(
        torch.ones(1, 1), torch.zeros(1), x.reshape(1, 3, 1), y.reshape(3, 1), 0.5
    )
    assert float(change) == pytest.approx(4 / 3)
    assert float(mean) == pytest.approx(4)
    assert before == pytest.approx((2**2 + 4**2 + 6**2) / 18)  # y - x, over the variance 3² + 0 + 3²
    assert after == pytest.approx(2 * (2 / 3) ** 2 / 18)  # slope 2 - 4/3 is left


def test_every_output_has_its_own_weights(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(refit, "STEPS", 300)
    x, y = noise(1, 60, 3), noise(60, 2, seed=2) + 1
    importance = torch.rand(60, 2, generator=torch.Generator().manual_seed(3)).clamp_min(0.2)
    change, shift, (before, after) = refit._solve(torch.zeros(2, 3), torch.zeros(2), x, y, 1e-9, importance)
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
    got = refit._importance(parent, the_plan, y.clone(), follower, "2").numpy()
    z = y.numpy()
    if norm:
        gamma, beta, mean, var = (
            t.detach()[[0, 2]].numpy()
            for t in (parent[1].weight, parent[1].bias, parent[1].running_mean, parent[1].running_var)
        )
        z = (z - mean) / np.sqrt(var + 1e-5) * gamma + beta
    sigmoid = 1 / (1 + np.exp(-z))
    slope = (sigmoid * (1 + z * (1 - sigmoid))) ** 2
    np.testing.assert_allclose(got, np.maximum(slope / slope.max(), refit.FLOOR), rtol=1e-4)
    assert refit._importance(parent, the_plan, y, follower, None) is None


def test_batch_norm_and_activation_are_found_by_what_they_take():
    shared = nn.SiLU()  # Ultralytics uses one object for all its blocks
    parent = nn.Sequential(
        nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2), shared, nn.Conv2d(2, 2, 1), shared, nn.Conv2d(2, 2, 1)
    )
    names = ("0", "1", "3", "5")
    with watching.running(parent), watching.hooked() as hooks:
        norms = watching.follow(parent, names, nn.BatchNorm2d, hooks)
        activations = watching.follow(parent, names, refit.ACTIVATIONS, hooks)
        parent(noise(1, 3, 4, 4))
    assert norms == {"0": "1"}
    assert {k: parent.get_submodule(v) for k, v in activations.items()} == {"1": shared, "3": shared}


def test_depthwise_layers_are_fitted_channel_by_channel():
    parent = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1, groups=3))
    model = copy.deepcopy(parent)
    model[0].weight.data[1] = 0
    refit.refit(parent, model, Plan({}), IMAGES, ridge=1e-10)
    torch.testing.assert_close(model[0].weight, parent[0].weight, rtol=1e-4, atol=1e-5)


def test_layers_that_run_twice_are_left_alone():
    shared = nn.Conv2d(3, 3, 1)
    parent = nn.Sequential(shared, nn.SiLU(), shared, nn.ConvTranspose2d(3, 1, 2, 2))
    model = copy.deepcopy(parent)
    model[0].weight.data += 1
    state = copy.deepcopy(model.state_dict())
    assert refit.refit(parent, model, Plan({}), IMAGES) == {}
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    with pytest.raises(DataError, match="no calibration images"):
        refit.refit(parent, model, Plan({}), [])


def test_rare_positions_are_drawn_with_preference(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(refit, "ROWS", 20)
    output = 0.1 * noise(1, 4, 32, 32)
    output[0, :, 3, :10] += 5  # an object of ten positions among 1024
    target = refit._Target(Keep(outputs=(0, 2), of=(4, None)), seed=0)
    target(nn.Conv2d(1, 4, 1), None, output)
    assert int((target.positions[1] == 3).sum()) == 10
    torch.testing.assert_close(target.rows, output.movedim(1, -1)[target.positions][:, [0, 2]])


def test_images_beyond_the_memory_bound_are_left_out(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(refit, "PIXELS", 3 * 12 * 12 + 1)
    assert refit._together(IMAGES).shape == (3, 3, 12, 12)
    monkeypatch.setattr(refit, "PIXELS", 1)
    assert refit._together(IMAGES).shape == (1, 3, 12, 12)


def test_yolo_is_closer_to_its_parent_after_each_repair(yolo: tuple[nn.Module, nn.Module, Plan]):
    parent = copy.deepcopy(yolo[0])
    graph = host.trace_yolo(parent)
    alive = np.ones(graph.n_classes, dtype=bool)
    for g, group in enumerate(graph.groups):
        if group.frozen is None:
            alive[graph.classes(g)[::4]] = False  # living channels
    the_plan = graph.plan(alive)
    model = cut(copy.deepcopy(parent), the_plan)
    images = [torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(5))]
    errors = [missed(parent, model, images[0])]
    recover.fold(parent, model, the_plan, images)
    errors.append(missed(parent, model, images[0]))
    refit.refit(parent, model, the_plan, images)
    errors.append(missed(parent, model, images[0]))
    assert errors[0] > errors[1] > 5 * errors[2], errors


# ---- calibration images ----------------------------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Five images twice as wide as high, red channel 10 · i, green 100, blue 200; one file that is no image."""
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(5):
        pixels = np.full((20, 40, 3), (10 * i, 100, 200), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    (folder / "broken.png").write_text("not an image")
    path = tmp_path / "data.yaml"
    path.write_text(yaml.safe_dump({"path": str(tmp_path), "train": "images", "val": "images", "names": ["a"]}))
    return path


def test_images_are_letterboxed_rgb_in_equal_batches_and_nothing_is_written(data: Path):
    before = sorted(data.parent.rglob("*"))
    got = load(data, 32, n=9, batch=4)
    assert [tuple(b.shape) for b in got] == [(3, 3, 32, 32), (2, 3, 32, 32)]  # five can be read; not 4 and 1
    images = torch.cat(got)
    assert images.dtype == torch.float32
    assert sorted((images[:, 0, 16, 16] * 25.5).round().tolist()) == [0, 1, 2, 3, 4]
    torch.testing.assert_close(images[:, 1:, 16, 16], torch.tensor([100.0, 200.0]).div(255).expand(5, 2))
    assert (images[:, :, :8] == 114 / 255).all() and (images[:, :, -8:] == 114 / 255).all()  # 32x16 in the middle
    assert sorted(data.parent.rglob("*")) == before


def test_choice_depends_on_the_seed_alone(data: Path):
    first, again, other = (load(data, 32, n=3, seed=s)[0] for s in (1, 1, 2))
    assert torch.equal(first, again) and len(first) == 3
    assert not torch.equal(first, other)


def test_grey_images(data: Path):
    (images,) = load(data, 32, channels=1)
    assert images.shape == (5, 1, 32, 32)


def test_classification_images_are_cropped_not_letterboxed(data: Path):
    (data.parent / "train").mkdir()
    (data.parent / "images").rename(data.parent / "train" / "a")
    (images,) = load(data.parent, 16, task="classify")
    assert images.shape == (5, 3, 16, 16)
    torch.testing.assert_close(images[:, 1], torch.full((5, 16, 16), 100 / 255))


def test_missing_or_empty_data_is_an_error_of_one_line(data: Path, tmp_path: Path):
    for name in ("nowhere.yaml", "no/folder.yaml"):
        with pytest.raises(DataError, match="does not exist") as e:
            load(tmp_path / name, 32)
        assert "\n" not in str(e.value)
    with pytest.raises(DataError, match="train/<class>/"):
        load(tmp_path, 32, task="classify")
    for image in (data.parent / "images").glob("?.png"):
        image.unlink()
    with pytest.raises(DataError, match="none of its 1 training images can be read"):
        load(data, 32)
    (data.parent / "images" / "broken.png").unlink()
    with pytest.raises(DataError, match="No images found"):
        load(data, 32)
