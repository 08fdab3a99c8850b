"""The cut, layer by layer with weights written by hand, and the numbers that blocks keep about their widths."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import pytest
import torch
from conftest import conv, cut_copy, cutting_alive, cutting_plan, filled, noise, settle, shipped
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from ultralytics.nn.modules import block as blocks
from ultralytics.nn.modules.block import Attention, C2f, C3k2, CBFuse, CBLinear, RepNCSPELAN4
from ultralytics.nn.tasks import DetectionModel

from yoloprune.backend import yolo_tracing
from yoloprune.cutting.comparison import verify
from yoloprune.cutting.surgery import cut
from yoloprune.cutting.width_attributes import has_width_attributes, removable_heads
from yoloprune.errors import PlanError
from yoloprune.planning.plan import Keep, Plan
from yoloprune.tracing.trace_network import trace

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


# Width attributes -----------------------------------------------------------------------------------------------------
def planned(block: nn.Module, size: tuple[int, int], seed: int = 3) -> tuple[nn.Module, Plan]:
    """A block 16 wide between two convolutions, so that all of it may be cut, and a random plan that narrows it."""
    image = noise(4, 3, *size)
    model = settle(nn.Sequential(conv(3, 16), block, conv(16, 3)), image)
    graph = trace(model, image[:1], sized=has_width_attributes)
    return model, cutting_plan(graph, seed)


@pytest.mark.parametrize(
    "block",
    [C2f(16, 16, 2, True), C2f(16, 16, 1, False), C3k2(16, 16, 1, True), RepNCSPELAN4(16, 16, 16, 8, 1)],
    ids=lambda b: type(b).__name__,
)
def test_width_of_the_halves(block: nn.Module) -> None:
    model, plan = planned(block, (8, 8))
    small = cut_copy(model, plan)
    kept = len(plan.keep["1.cv1.conv"].outputs)
    assert small[1].c * 2 == kept == small[1].cv1.conv.out_channels
    assert verify(model, small, plan, noise(2, 3, 8, 8)) <= 1e-4
    with torch.no_grad():
        x = small[0](noise(1, 3, 8, 8))
        assert torch.equal(small[1].eval().forward_split(x), small[1](x))


def test_attention_compensates_its_scale_in_the_queries() -> None:
    block = Attention(16, num_heads=2, attn_ratio=0.5)  # per head 4 queries, 4 keys, 8 values
    model = settle(nn.Sequential(conv(3, 16), block, conv(16, 3)), noise(4, 3, 4, 4))
    graph = trace(model, noise(1, 3, 4, 4), sized=has_width_attributes)
    at = {str(a): c for a, c in zip(graph.axes, graph.class_of, strict=True)}
    head = at["1.qkv.conv.outputs"].reshape(2, 16)
    alive = torch.ones(graph.n_classes, dtype=torch.bool).numpy()
    alive[head[:, 2]] = False  # one query, and with it one key, of each head
    cut_values = head[:, 8:10]  # two values of each head: a quarter
    alive[cut_values] = False
    alive[at["0.outputs"][:4]] = False  # the map keeps the shape of the values
    plan = graph.plan(alive)
    small = cut_copy(model, plan)
    assert (block.key_dim, block.head_dim, block.scale) == (4, 8, 4**-0.5)
    assert (small[1].key_dim, small[1].head_dim, small[1].num_heads) == (3, 6, 2)
    assert small[1].scale == 3**-0.5  # what the constructor would make of three queries
    queries = small[1].qkv.bn.weight.reshape(2, 12)[:, :3]  # (q·4^-0.5)·k = (q·(3/4)^0.5·3^-0.5)·k
    torch.testing.assert_close(queries, block.qkv.bn.weight.reshape(2, 16)[:, [0, 1, 3]] * (3 / 4) ** 0.5)
    assert small[1].qkv.conv.out_channels == 2 * (3 + 3 + 6)
    assert verify(model, small, plan, noise(2, 3, 4, 4)) <= 1e-4


def test_a_whole_head_of_attention() -> None:
    """The same widths as half of each head, told apart by the number of heads in the plan."""
    block = Attention(16, num_heads=2, attn_ratio=0.5)  # per head 4 queries, 4 keys, 8 values
    second = Keep(outputs=tuple(range(16, 32)), of=(32, None), heads=1)
    small = cut(nn.Sequential(copy.deepcopy(block)), Plan({"0.qkv.conv": second}))[0]
    assert (small.num_heads, small.key_dim, small.head_dim, small.scale) == (1, 4, 8, block.scale)
    halves = Keep(outputs=(0, 1, 4, 5, *range(8, 12), 16, 17, 20, 21, *range(24, 28)), of=(32, None))
    small = cut(nn.Sequential(copy.deepcopy(block)), Plan({"0.qkv.conv": halves}))[0]
    assert (small.num_heads, small.key_dim, small.head_dim, small.scale) == (2, 2, 4, 2**-0.5)


@pytest.mark.parametrize("heads", [0, 3])
def test_outputs_that_do_not_divide_into_heads_are_refused(heads: int) -> None:
    block = nn.Sequential(Attention(16, num_heads=2, attn_ratio=0.5))
    with pytest.raises(PlanError, match=f"16 outputs of 0.qkv.conv for {heads} heads"):
        cut(block, Plan({"0.qkv.conv": Keep(outputs=tuple(range(16, 32)), of=(32, None), heads=heads)}))
    assert (block[0].num_heads, block[0].qkv.conv.out_channels) == (2, 32)


@needs_area_attention
def test_a_whole_head_of_area_attention() -> None:
    block = blocks.AAttn(32, num_heads=4)  # per head 8 queries, 8 keys, 8 values
    kept = Keep(outputs=(*range(24), *range(72, 96)), of=(96, None), heads=2)
    small = cut(nn.Sequential(copy.deepcopy(block)), Plan({"0.qkv.conv": kept}))[0]
    assert (small.num_heads, small.head_dim) == (2, 8)
    assert getattr(small, "all_head_dim", 16) == 16
    halved = cut(
        nn.Sequential(copy.deepcopy(block)), Plan({"0.qkv.conv": Keep(outputs=tuple(range(0, 96, 2)), of=(96, None))})
    )[0]
    assert (halved.num_heads, halved.head_dim) == (4, 4)


@needs_area_attention
@pytest.mark.parametrize("area", [1, 4])
def test_area_attention_compensates_the_scale_in_the_queries(area: int) -> None:
    model, plan = planned(blocks.AAttn(16, num_heads=2, area=area), (4, 4))
    old, small = model[1], cut_copy(model, plan)
    kept = plan.keep["1.qkv.conv"].outputs
    new = len(kept) // 6
    assert 0 < new < 8
    assert small[1].head_dim == new
    assert getattr(small[1], "all_head_dim", 2 * new) == 2 * new  # older releases of Ultralytics do not keep it
    factor = (new / 8) ** 0.5
    for key in ("weight", "bias"):
        before, after = getattr(old.qkv.bn, key)[list(kept)], getattr(small[1].qkv.bn, key)
        is_query = torch.tensor([p % 24 < 8 for p in kept])
        torch.testing.assert_close(after, torch.where(is_query, before * factor, before))
    assert verify(model, small, plan, noise(2, 3, 4, 4)) <= 1e-4


@needs_area_attention
def test_area_attention_cut_twice() -> None:
    model, plan = planned(blocks.AAttn(16, num_heads=2), (4, 4))
    once = cut_copy(model, plan)
    graph = trace(once, noise(1, 3, 4, 4), sized=has_width_attributes)
    again = cutting_plan(graph, 5)
    twice = cut_copy(once, again)
    assert twice[1].head_dim < once[1].head_dim
    assert verify(once, twice, again, noise(2, 3, 4, 4)) <= 1e-4


class Branches(nn.Module):
    """CBLinear into two CBFuse: pieces of one convolution, each joined to another map."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.linear, self.fuse = conv(3, 8), CBLinear(8, [4, 6]), CBFuse([1])
        self.fuse2, self.a, self.b = CBFuse([0]), conv(8, 6), conv(8, 4)
        self.out, self.out2 = conv(6, 2), conv(4, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.stem(x)
        pieces = self.linear(y)
        return self.out(self.fuse([pieces, self.a(y)])), self.out2(self.fuse2([pieces, self.b(y)]))


def test_pieces_of_cblinear() -> None:
    model = Branches()
    graph = trace(model, noise(1, 3, 4, 4), sized=has_width_attributes)
    classes = {str(a): c for a, c in zip(graph.axes, graph.class_of, strict=True)}["linear.conv.outputs"]
    alive = torch.ones(graph.n_classes, dtype=torch.bool).numpy()
    alive[classes[[0, 3, 5]]] = False  # two of the first four, one of the other six
    plan = graph.plan(alive)
    small = cut_copy(model, plan)
    assert small.linear.c2s == [2, 5]
    assert model.linear.c2s == [4, 6]
    assert verify(model, small, plan, noise(2, 3, 4, 4)) <= 1e-4


def test_width_attributes_follow_subclasses() -> None:
    class Renamed(C3k2):  # of a user, and still what Ultralytics wrote
        pass

    assert has_width_attributes(C3k2(8, 8))
    assert has_width_attributes(Renamed(8, 8))
    assert not has_width_attributes(conv(2, 2))


class Rounds(nn.Module):
    """A block of a user in which `c` is a number of rounds."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.c, self.cv1 = 4, nn.Sequential()
        self.cv1.conv = nn.Conv2d(c, c, 1)
        self.cv2 = nn.Conv2d(c, c, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.cv1(x)
        for _ in range(self.c):
            y = y + 0.1 * self.cv2(y)
        return y


class Gate(nn.Module):
    """A block of a user without any such number."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.cv1, self.num_heads = nn.Conv2d(c, c, 1), 2

    def forward(self, x: Tensor) -> Tensor:
        return self.cv1(x).sigmoid()


@pytest.mark.parametrize("block", [Rounds, Gate])
@pytest.mark.parametrize("name", ["C2f", "PSA", "ELAN1", "Attention", "AAttn", "CBLinear"])
def test_a_name_does_not_make_a_class_one_of_ultralytics(block: type[nn.Module], name: str) -> None:
    torch.manual_seed(0)
    namesake = type(name, (block,), {})(8)
    assert not has_width_attributes(namesake)
    assert removable_heads(namesake) == 0
    model = nn.Sequential(conv(3, 8), namesake, conv(8, 2))
    plan = (graph := trace(model, noise(1, 3, 4, 4), sized=has_width_attributes)).plan(cutting_alive(graph, 0))
    small = cut_copy(model, plan)
    assert len(plan.keep["0"].outputs) < 8
    assert getattr(small[1], "c", None) == getattr(namesake, "c", None)
    assert verify(model, small, plan, noise(2, 3, 4, 4)) <= 1e-4


def test_a_fork_may_build_a_class_otherwise_under_its_name() -> None:
    other = type("Attention", (Gate,), {"__module__": "ultralytics.nn.modules.block"})(8)
    assert not has_width_attributes(other)
    assert removable_heads(other) == 0


# Stock classes --------------------------------------------------------------------------------------------------------
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
