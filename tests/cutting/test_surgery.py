"""The cut, layer by layer with weights written by hand."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import pytest
import torch
from conftest import conv, cut_copy, cutting_alive, filled, noise, shipped
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from ultralytics.nn.tasks import DetectionModel

from yoloprune.backend import yolo_tracing
from yoloprune.cutting.surgery import cut
from yoloprune.errors import PlanError
from yoloprune.planning.plan import Keep, Plan

needs_area_attention = pytest.mark.skipif(not shipped("yolo12n"), reason="this Ultralytics has no area attention")


def only(layer: nn.Module, **keep: tuple[int, ...]) -> nn.Module:
    """Cut one layer; `of` is given as the last argument."""
    return cut(nn.ModuleDict({"layer": layer}), Plan({"layer": Keep(**keep)})).layer


def values(tensor: Tensor) -> list:
    return tensor.detach().squeeze().tolist()


# Layers ---------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("layer", [conv(3, 4), nn.BatchNorm2d(4), nn.Linear(3, 4)], ids=lambda m: type(m).__name__)
def test_weights_that_are_buffers_stay_buffers(layer: nn.Module) -> None:
    layer = copy.deepcopy(layer)
    for key, p in list(layer.named_parameters()):
        delattr(layer, key)
        layer.register_buffer(key, p.detach())
    last = layer.weight[3].clone()
    only(layer, outputs=(1, 3), of=(4, None if isinstance(layer, nn.BatchNorm2d) else 3))
    assert torch.equal(layer.weight[1], last) and len(layer.weight) == len(layer.bias) == 2
    assert not [*layer.parameters()] and {"weight", "bias"} <= {name for name, _ in layer.named_buffers()}


def test_what_a_layer_computes_of_others_is_not_set() -> None:
    layer = parametrizations.weight_norm(conv(3, 4), dim=None)
    only(layer, outputs=(0, 2), of=(4, 3))
    assert layer.out_channels == len(layer.bias) == 2 and len(layer.weight) == 4  # which a trace does not let happen


def test_the_memory_format_stays() -> None:
    layer = conv(6, 8, 3).to(memory_format=torch.channels_last)
    only(layer, outputs=(0, 2, 5), inputs=(1, 3, 4, 5), of=(8, 6))
    assert layer.weight.is_contiguous(memory_format=torch.channels_last) and not layer.weight.is_contiguous()
    assert only(conv(6, 8, 3), outputs=(0, 2), of=(8, 6)).weight.is_contiguous()


def test_convolution() -> None:
    layer = filled(conv(3, 4), [[1, 2, 3], [4, 5, 6], [7, 8, 9], [10, 11, 12]], [1, 2, 3, 4])
    only(layer, outputs=(0, 2), inputs=(1, 2), of=(4, 3))
    assert values(layer.weight) == [[2, 3], [8, 9]]
    assert values(layer.bias) == [1, 3]
    assert (layer.out_channels, layer.in_channels, layer.groups) == (2, 2, 1)


def test_convolution_inputs_only() -> None:
    layer = filled(conv(3, 2), [[1, 2, 3], [4, 5, 6]], [1, 2])
    only(layer, inputs=(2,), of=(None, 3))
    assert layer.weight.flatten().tolist() == [3, 6]
    assert values(layer.bias) == [1, 2]
    assert (layer.out_channels, layer.in_channels) == (2, 1)


def test_convolution_without_bias_keeps_its_kernel() -> None:
    layer = filled(conv(1, 2, 3, bias=False, stride=2), range(18))
    only(layer, outputs=(1,), of=(2, None))
    assert layer.weight.flatten().tolist() == list(range(9, 18))
    assert layer.bias is None
    assert layer.stride == (2, 2)


def test_depthwise_convolution() -> None:
    layer = filled(conv(3, 3, groups=3), [1, 2, 3], [4, 5, 6])
    only(layer, outputs=(0, 2), of=(3, None))
    assert layer.weight.flatten().tolist() == [1, 3]
    assert values(layer.bias) == [4, 6]
    assert (layer.out_channels, layer.in_channels, layer.groups) == (2, 2, 2)


def test_depthwise_convolution_with_multiplier() -> None:
    layer = filled(conv(3, 6, groups=3), range(6), range(6))
    only(layer, outputs=(0, 1, 4, 5), of=(6, None))
    assert layer.weight.flatten().tolist() == [0, 1, 4, 5]
    assert (layer.out_channels, layer.in_channels, layer.groups) == (4, 2, 2)


def test_transposed_convolution_has_its_inputs_first() -> None:
    layer = filled(nn.ConvTranspose2d(3, 2, 1), [[1, 2], [3, 4], [5, 6]], [7, 8])
    only(layer, outputs=(1,), inputs=(0, 2), of=(2, 3))
    assert layer.weight.shape == (2, 1, 1, 1)
    assert layer.weight.flatten().tolist() == [2, 6]
    assert layer.bias.tolist() == [8]
    assert (layer.out_channels, layer.in_channels) == (1, 2)


def test_groups_of_a_transposed_convolution_take_their_inputs_along() -> None:
    """Three groups, each makes three channels of two: without the middle one inputs 0, 1, 4 and 5 are left."""
    layer = filled(nn.ConvTranspose2d(6, 9, 1, groups=3), range(18), range(9))
    only(layer, outputs=(0, 1, 2, 6, 7, 8), of=(9, None))
    assert values(layer.weight) == [[0, 1, 2], [3, 4, 5], [12, 13, 14], [15, 16, 17]]
    assert layer.bias.tolist() == [0, 1, 2, 6, 7, 8]
    assert (layer.out_channels, layer.in_channels, layer.groups) == (6, 4, 2)


def test_linear() -> None:
    layer = filled(nn.Linear(3, 2), [[1, 2, 3], [4, 5, 6]], [7, 8])
    only(layer, outputs=(1,), inputs=(0, 1), of=(2, 3))
    assert layer.weight.tolist() == [[4, 5]]
    assert layer.bias.tolist() == [8]
    assert (layer.out_features, layer.in_features) == (1, 2)


@pytest.mark.parametrize("norm", [nn.BatchNorm1d, nn.BatchNorm2d])
def test_batch_norm(norm: type[nn.BatchNorm2d]) -> None:
    layer = filled(norm(3), [1, 2, 3], [4, 5, 6])
    layer.running_mean.copy_(torch.tensor([7.0, 8, 9]))
    layer.running_var.copy_(torch.tensor([10.0, 11, 12]))
    layer.num_batches_tracked.fill_(5)
    only(layer, outputs=(0, 2), of=(3, None))
    assert [values(t) for t in (layer.weight, layer.bias, layer.running_mean, layer.running_var)] == [
        [1, 3],
        [4, 6],
        [7, 9],
        [10, 12],
    ]
    assert layer.num_features == 2
    assert layer.num_batches_tracked.item() == 5
    assert {"running_mean", "running_var"} <= set(dict(layer.named_buffers()))


@pytest.mark.parametrize("options", [{"affine": False}, {"track_running_stats": False}], ids=str)
def test_batch_norm_without_some_of_its_tensors(options: Mapping[str, bool]) -> None:
    layer = only(nn.BatchNorm2d(3, **options), outputs=(1, 2), of=(3, None))
    assert layer(noise(2, 2, 4, 4)).shape == (2, 2, 4, 4)


@pytest.mark.parametrize("shape", [(4,), (4, 1, 1), (1, 4, 1, 1)], ids=str)
def test_loose_parameter(shape: tuple[int, ...]) -> None:
    class Inner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gamma = nn.Parameter(torch.arange(4.0).reshape(shape))

    model = nn.ModuleDict({"inner": Inner()})
    cut(model, Plan({"inner.gamma": Keep(outputs=(1, 3), of=(4, None))}))
    assert model.inner.gamma.flatten().tolist() == [1, 3]
    assert model.inner.gamma.ndim == len(shape)
    assert dict(model.named_parameters()).keys() == {"inner.gamma"}


def test_loose_parameter_of_the_model_itself() -> None:
    class Top(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gamma = nn.Parameter(torch.arange(3.0))

    assert cut(Top(), Plan({"gamma": Keep(outputs=(2,), of=(3, None))})).gamma.tolist() == [2]


def test_new_tensors_are_independent_of_the_old() -> None:
    layer = filled(conv(2, 2), [[1, 2], [3, 4]], [5, 6])
    old = layer.weight
    only(layer, outputs=(0,), of=(2, None))
    layer.weight.data.zero_()
    assert values(old) == [[1, 2], [3, 4]]
    assert layer.weight.is_leaf


@pytest.mark.parametrize("grad", [True, False])
def test_requires_grad_and_dtype_are_kept(grad: bool) -> None:
    layers = {"c": conv(2, 2), "t": nn.ConvTranspose2d(2, 2, 1), "l": nn.Linear(2, 2), "b": nn.BatchNorm2d(2)}
    model = nn.ModuleDict(layers).requires_grad_(grad).half()
    cut(model, Plan({k: Keep(outputs=(1,), of=(2, None)) for k in layers}))
    assert all(p.requires_grad is grad and p.dtype is torch.float16 for p in model.parameters())
    assert all(isinstance(p, nn.Parameter) for p in model.parameters())


def test_training_flag_is_kept() -> None:
    assert not only(conv(2, 2).eval(), outputs=(1,), of=(2, None)).training
    assert only(conv(2, 2).train(), outputs=(1,), of=(2, None)).training


def test_an_empty_plan_changes_nothing() -> None:
    model = nn.Sequential(conv(2, 2))
    weight = model[0].weight
    assert cut(model, Plan({})) is model
    assert model[0].weight is weight


# Refusals -------------------------------------------------------------------------------------------------------------
GOOD = Keep(outputs=(0, 1), of=(3, None))


@pytest.mark.parametrize(
    "name, keep",
    [
        ("d", Keep(outputs=(0,), of=(3, None))),
        ("act", Keep(outputs=(0,), of=(3, None))),
        ("b", Keep(outputs=(0,), of=(4, None))),
        ("b", Keep(outputs=(0,))),
        ("b", Keep(outputs=(3,), of=(3, None))),
        ("b", Keep(outputs=(-1, 1), of=(3, None))),
        ("b", Keep(outputs=(), of=(3, None))),
        ("b", Keep(outputs=(0, 0, 1), of=(3, None))),
        ("b", Keep(outputs=(0, 2, 1, 2), of=(3, None))),
        ("c", Keep(inputs=(0,), of=(None, 2))),
        ("c", Keep(inputs=(3,), of=(None, 3))),
        ("n", Keep(inputs=(0,), of=(None, 3))),
        ("n", Keep(inputs=(0,))),
        ("l", Keep(inputs=(5,), of=(None, 3))),
        ("gamma", Keep(outputs=(0,), of=(4, None))),
    ],
    ids=lambda v: v if isinstance(v, str) else "-".join(str(x) for x in vars(v).values()),
)
def test_a_plan_that_does_not_fit_changes_nothing(name: str, keep: Keep) -> None:
    layers = {"a": conv(3, 3), "b": conv(3, 3), "c": conv(3, 3), "n": nn.BatchNorm2d(3), "l": nn.Linear(3, 3)}
    model = nn.ModuleDict({**layers, "act": nn.ReLU()})
    model.gamma = nn.Parameter(torch.ones(3))
    tensors = dict(model.named_parameters())
    with pytest.raises(PlanError, match="plan does not fit"):
        cut(model, Plan({"a": GOOD, name: keep}))
    assert all(tensors[k] is p for k, p in model.named_parameters())
    assert model.a.out_channels == 3


# Stock classes --------------------------------------------------------------------------------------------------------
@pytest.mark.long
@pytest.mark.parametrize("name", shipped("yolov9t", "yolo12n"))
@pytest.mark.slow
def test_only_stock_classes_come_out(name: str) -> None:
    model = DetectionModel(f"{name}.yaml", verbose=False)
    model.requires_grad_(False)
    plan = (graph := yolo_tracing.trace_yolo(model)).plan(cutting_alive(graph, 0))
    small = cut_copy(model, plan)
    assert [type(m) for m in small.modules()] == [type(m) for m in model.modules()]
    assert [n for n, _ in small.named_parameters()] == [n for n, _ in model.named_parameters()]
    assert [n for n, _ in small.named_buffers()] == [n for n, _ in model.named_buffers()]
    assert all(type(p) is nn.Parameter and not p.requires_grad for p in small.parameters())
    for a, b in zip(model.modules(), small.modules(), strict=True):
        assert set(vars(a)) == set(vars(b))
        assert {k: type(v) for k, v in vars(a).items()} == {k: type(v) for k, v in vars(b).items()}


@pytest.mark.slow
def test_the_same_shape_from_widths_alone() -> None:
    model = DetectionModel("yolov8n.yaml", verbose=False)
    plan = (graph := yolo_tracing.trace_yolo(model)).plan(cutting_alive(graph, 0))
    a, b = cut_copy(model, plan), cut(copy.deepcopy(model), Plan.from_widths(plan.widths()))
    assert {k: v.shape for k, v in a.state_dict().items()} == {k: v.shape for k, v in b.state_dict().items()}
    b.load_state_dict(a.state_dict())
    x = noise(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(a.eval()(x)[0], b.eval()(x)[0])
