"""The numbers that blocks keep about their widths, after a cut."""

from __future__ import annotations

import copy

import pytest
import torch
from conftest import conv, cut_copy, cutting_alive, cutting_plan, noise, settle, shipped
from torch import Tensor, nn
from ultralytics.nn.modules import block as blocks
from ultralytics.nn.modules.block import Attention, C2f, C3k2, CBFuse, CBLinear, RepNCSPELAN4

from yoloprune.cutting.comparison import verify
from yoloprune.cutting.surgery import cut
from yoloprune.cutting.width_attributes import corrected_numbers, removable_heads
from yoloprune.errors import PlanError
from yoloprune.planning.plan import Keep, Plan
from yoloprune.tracing.trace_network import trace

needs_area_attention = pytest.mark.skipif(not shipped("yolo12n"), reason="this Ultralytics has no area attention")


def planned(block: nn.Module, size: tuple[int, int], seed: int = 3) -> tuple[nn.Module, Plan]:
    """A block 16 wide between two convolutions, so that all of it may be cut, and a random plan that narrows it."""
    image = noise(4, 3, *size)
    model = settle(nn.Sequential(conv(3, 16), block, conv(16, 3)), image)
    graph = trace(model, image[:1], sized=corrected_numbers)
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
    graph = trace(model, noise(1, 3, 4, 4), sized=corrected_numbers)
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
    graph = trace(once, noise(1, 3, 4, 4), sized=corrected_numbers)
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
    graph = trace(model, noise(1, 3, 4, 4), sized=corrected_numbers)
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

    assert corrected_numbers(C3k2(8, 8))
    assert corrected_numbers(Renamed(8, 8))
    assert not corrected_numbers(conv(2, 2))


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
    assert not corrected_numbers(namesake)
    assert removable_heads(namesake) == 0
    model = nn.Sequential(conv(3, 8), namesake, conv(8, 2))
    plan = (graph := trace(model, noise(1, 3, 4, 4), sized=corrected_numbers)).plan(cutting_alive(graph, 0))
    small = cut_copy(model, plan)
    assert len(plan.keep["0"].outputs) < 8
    assert getattr(small[1], "c", None) == getattr(namesake, "c", None)
    assert verify(model, small, plan, noise(2, 3, 4, 4)) <= 1e-4


def test_a_fork_may_build_a_class_otherwise_under_its_name() -> None:
    other = type("Attention", (Gate,), {"__module__": "ultralytics.nn.modules.block"})(8)
    assert not corrected_numbers(other)
    assert removable_heads(other) == 0
