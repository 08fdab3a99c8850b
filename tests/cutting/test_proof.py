"""The proof of a cut where the parent's own signal is dead: wrong surgery is refused all the same, right cuts pass."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import ultralytics
from conftest import conv, cut_copy, cutting_alive, filled, noise, settle, shipped
from torch import Tensor, nn

import yoloprune
from yoloprune import Budget, Limits
from yoloprune.backend import yolo_tracing
from yoloprune.commands import cut_and_repair
from yoloprune.cutting import pair, proof, surgery
from yoloprune.cutting.comparison import TOLERANCE, Look, compare, verify
from yoloprune.cutting.pair import Pair, Seen, Shared
from yoloprune.cutting.proof import prove
from yoloprune.errors import VerifyError
from yoloprune.importance import criteria
from yoloprune.planning import greedy_selection
from yoloprune.planning.plan import Keep, Plan
from yoloprune.probing.examples import Example
from yoloprune.probing.held_state import preserved
from yoloprune.probing.survey import survey_around
from yoloprune.tracing.trace_network import trace

IMAGE = noise(2, 3, 6, 6)
HALF = Limits(round_to=1, min_width=1)


def fresh(name: str) -> ultralytics.YOLO:
    """A model of a YAML, not trained at all: its signal dies out on the way to the outputs."""
    torch.manual_seed(0)
    return ultralytics.YOLO(f"{name}.yaml")


def plan_for(model: nn.Module, seed: int = 0) -> Plan:
    """A plan of an Ultralytics model for 60 % of its FLOPs, by random scores."""
    graph = yolo_tracing.trace_yolo(model)
    scores = criteria.importance(model, graph, "random", seed=seed).channels
    return graph.plan(greedy_selection.select(graph, scores, Budget(flops=0.6), Limits()))


def fading(gamma: float = 1e-4) -> nn.Sequential:
    """A network whose batch-norms let next to nothing through, as after a training that collapsed."""
    torch.manual_seed(0)
    norms = [nn.BatchNorm2d(8) for _ in range(3)]
    for norm in norms:
        nn.init.constant_(norm.weight, gamma)
    layers = [(conv(i, 8, 3), norm, nn.ReLU()) for i, norm in zip((3, 8, 8), norms, strict=True)]
    return nn.Sequential(*(module for layer in layers for module in layer), conv(8, 2)).eval()


@pytest.fixture
def wrong_inputs(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Make the surgery take other inputs of one layer than the plan says, as many."""
    right = surgery.cut

    def at(name: str) -> None:
        def cut(model: nn.Module, plan: Plan) -> nn.Module:
            keep = plan.keep[name]
            assert keep.inputs is not None and keep.of[1] is not None
            others = [i for i in range(keep.of[1]) if i not in keep.inputs]
            inputs = tuple(sorted([*others, *keep.inputs][: len(keep.inputs)]))
            assert inputs != keep.inputs
            return right(model, Plan({**plan.keep, name: replace(keep, inputs=inputs)}))

        monkeypatch.setattr(surgery, "cut", cut)

    return at


# A signal that dies out -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("layer", ["model.1.conv", "model.4.m.0.cv1.conv", "model.6.cv2.conv", "model.8.m.0.cv2.conv"])
@pytest.mark.slow
def test_wrong_surgery_on_a_fresh_model_is_refused(wrong_inputs: Callable[[str], None], layer: str) -> None:
    yolo = fresh("yolov8n-cls")
    plan = plan_for(yolo.model)
    wrong_inputs(layer)
    child, x = surgery.cut(copy.deepcopy(yolo.model), plan), yolo_tracing.example(yolo.model, 2)
    assert verify(yolo.model, child, plan, x) <= TOLERANCE  # the check with the true weights sees nothing
    with pytest.raises(VerifyError, match="differs from its masked parent"):
        cut_and_repair.cut(yolo, plan, "none", None)


def test_wrong_surgery_on_any_network_is_refused(wrong_inputs: Callable[[str], None]) -> None:
    wrong_inputs("3")
    with pytest.raises(VerifyError, match="differs from its masked parent"):
        yoloprune.prune_module(fading(), IMAGE, Budget(ratio=0.4), HALF)


@pytest.mark.long
@pytest.mark.parametrize("name", shipped("yolov8n-cls", "yolo12n"))
@pytest.mark.slow
def test_right_cuts_of_fresh_models_pass(name: str) -> None:
    yolo = fresh(name)
    for seed in range(2):
        proof = cut_and_repair.cut(yolo, plan_for(yolo.model, seed), "none", None).proof
        assert 0 < proof.error <= TOLERANCE and not proof.not_compared


def test_the_model_that_is_handed_back_is_checked_itself() -> None:
    """A fault that surgery did not make shows with the true weights only."""
    model = settle(fading(), IMAGE)
    plan = (graph := trace(model, IMAGE)).plan(cutting_alive(graph, 0))
    child = cut_copy(model, plan)
    assert prove(model, child, plan, IMAGE).error <= TOLERANCE
    child[-1].weight.data.mul_(1.01)
    with pytest.raises(VerifyError):
        prove(model, child, plan, IMAGE)


@pytest.mark.parametrize("largest", range(4))
def test_the_largest_error_is_reported(monkeypatch: pytest.MonkeyPatch, largest: int) -> None:
    """Of two modes, each with the network as it is and brought to life."""
    told = iter([3e-5 if i == largest else 1e-6 for i in range(4)])
    monkeypatch.setattr(proof, "compare", lambda *_, **__: Look(next(told), frozenset({""}), frozenset(), frozenset()))
    found = prove(fading(), fading(), Plan({}), IMAGE)
    assert found.error == 3e-5 and len(found.looks) == 4


# What the second check copes with -------------------------------------------------------------------------------------
def proved(model: nn.Module, example: Tensor) -> float:
    """Error of a random cut, by the whole proof."""
    plan = (graph := trace(model, example)).plan(cutting_alive(graph, 0))
    return prove(model, cut_copy(model, plan), plan, example).error


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions(dtype: torch.dtype, wrong_inputs: Callable[[str], None]) -> None:
    model = fading()
    plan = (graph := trace(model, IMAGE)).plan(cutting_alive(graph, 0))
    model.to(dtype)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    assert prove(model, cut_copy(model, plan), plan, IMAGE.to(dtype)).error <= TOLERANCE
    after = model.state_dict()
    assert all(after[k].dtype == v.dtype and torch.equal(after[k], v) for k, v in before.items())
    wrong_inputs("3")
    with pytest.raises(VerifyError, match="differs"):
        prove(model, surgery.cut(copy.deepcopy(model), plan), plan, IMAGE.to(dtype))


def test_scales_of_zero_as_after_sparse_training() -> None:
    """The live copy gives the dead channels other scales; it is masked and cut like the parent."""
    model = settle(fading(), IMAGE)
    for i in (1, 4):
        model[i].weight.data[::2] = 0
    plan = (graph := trace(model, IMAGE)).plan(cutting_alive(graph, 1))
    assert prove(model, cut_copy(model, plan), plan, IMAGE).error <= TOLERANCE
    assert not model[1].weight[::2].any()


def test_a_network_in_which_all_is_alive_has_the_first_check_only() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(conv(3, 8), nn.ReLU(), conv(8, 2)).eval()
    for layer in (model[0], model[2]):
        layer.bias.data += 9
    plan = (graph := trace(model, IMAGE)).plan(cutting_alive(graph, 0))
    assert len(prove(model, cut_copy(model, plan), plan, IMAGE).looks) == 2  # two modes


class Logarithm(nn.Sequential):
    """Takes the logarithm of what only its batch-norm's bias keeps positive."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).log().mean((2, 3))


def test_a_live_copy_that_says_nothing_refuses_nothing() -> None:
    torch.manual_seed(0)
    model = Logarithm(conv(3, 8), nn.ReLU(), conv(8, 4), nn.BatchNorm2d(4)).eval()
    nn.init.constant_(model[3].bias, 100)
    assert not settle(copy.deepcopy(model), IMAGE)(IMAGE).isfinite().all()
    assert proved(model, IMAGE) <= TOLERANCE


class WantsTargets(nn.Module):
    """Fails in training mode without targets, and keeps what a detection head keeps."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.shape = fading(), None
        self.register_buffer("calls", torch.zeros(1, dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            raise ValueError("targets")
        self.shape, self.anchors = x.shape, torch.ones(x.shape[2:])
        self.calls += 1
        return self.body(x)


def test_models_that_want_targets_and_remember() -> None:
    model = WantsTargets()
    plan = (graph := trace(model.eval(), IMAGE)).plan(cutting_alive(graph, 0))
    names = [set(vars(m)) for m in model.modules()]
    assert prove(model, cut_copy(model, plan), plan, IMAGE).error <= TOLERANCE
    assert [set(vars(m)) for m in model.modules()] == names
    assert model.shape is None and model.calls == 0


@pytest.mark.slow
def test_the_parent_is_left_as_it_was() -> None:
    model = fresh("yolov8n").model
    model.train()
    model.model[0].eval()
    plan = plan_for(model)
    before, told = {k: v.clone() for k, v in model.state_dict().items()}, copy.deepcopy(model.yaml)
    parameters, modes = [id(p) for p in model.parameters()], [m.training for m in model.modules()]
    kept = {k: v for k, v in vars(model.model[-1]).items() if not k.startswith("_")}
    states = random.getstate(), torch.get_rng_state()
    assert prove(model, cut_copy(model, plan), plan, yolo_tracing.example(model, 2)).error <= TOLERANCE
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert [id(p) for p in model.parameters()] == parameters
    assert [m.training for m in model.modules()] == modes
    assert model.yaml == told
    assert all(vars(model.model[-1])[k] is v for k, v in kept.items())
    assert random.getstate() == states[0] and torch.equal(torch.get_rng_state(), states[1])
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


# What hides a wrong cut -----------------------------------------------------------------------------------------------
class Hides(nn.Module):
    """`rule` reads the width of a layer, which no trace sees, in one of two ways to an output."""

    def __init__(self, rule: Callable[[Hides, Tensor, Tensor], object], **more: object) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.f, self.p, self.q, self.rule = conv(3, 8), conv(8, 8), conv(8, 2), conv(8, 2), rule
        for key, value in more.items():
            setattr(self, key, value)

    @property
    def share(self) -> float:
        """1 before a cut of `f`."""
        return self.f.out_channels / 8

    def forward(self, x: Tensor) -> object:
        y = self.a(x).relu()
        return self.p(y), self.rule(self, y, self.f(y))


def late(m: Hides, y: Tensor, z: Tensor) -> Tensor:
    """What `q` makes of channels that the width has scaled."""
    return m.q(z * m.share)


RULES: dict[str, Callable[[Hides, Tensor, Tensor], object]] = {
    "evaluation only": lambda m, y, z: m.q(z) if m.training else late(m, y, z),
    "training only": lambda m, y, z: late(m, y, z) if m.training else m.q(z),
    "beside boxes": lambda m, y, z: torch.cat([m.p(y) * 1e5, late(m, y, z)], 1),
    "beside boxes, flat": lambda m, y, z: torch.cat([m.p(y) * 1e5, late(m, y, z)], 1).flatten(),
    "one way of two": lambda m, y, z: late(m, y, z) if m.training and torch.rand(1) > 0.7 else m.q(z),
    "one way of two, Python": lambda m, y, z: late(m, y, z) if m.training and random.random() > 0.7 else m.q(z),
    "random channels": lambda m, y, z: m.q(z + torch.rand_like(z) * m.share) if m.training else m.q(z),
    "zero": lambda m, y, z: (late(m, y, z) - 5).relu(),
    "empty": lambda m, y, z: (out := late(m, y, z))[out > 1e9],
    "one class": lambda m, y, z: late(m, y, z) > 1e9,
    "not a number": lambda m, y, z: late(m, y, z) * torch.where(y.amax((1, 2, 3), True) > 20, 1.0, float("nan")),
    "float32 only": lambda m, y, z: m.q(z + m.share * (0.1 if z.dtype == torch.float32 else 0.0)) + 1e4 - 1e4,
    "the second image": lambda m, y, z: late(m, y, z) if remembered(m) else m.q(z),
}


def remembered(m: Hides) -> bool:
    """Whether it ran before."""
    before, m.ran = getattr(m, "ran", False), True
    return before


GATES: dict[str, tuple[Callable[[Hides, Tensor, Tensor], object], object]] = {
    "LayerScale": (lambda m, y, z: m.q(y + m.g * z * m.share), nn.Parameter(torch.full((1, 1, 1, 1), 1e-6))),
    "ReZero": (lambda m, y, z: m.q(y + m.g * z * m.share), nn.Parameter(torch.zeros(()))),
    "closed by a sigmoid": (lambda m, y, z: m.q(y + m.g.sigmoid() * z * m.share), nn.Parameter(torch.tensor([-50.0]))),
    "zero convolution": (lambda m, y, z: m.q(y) + m.g(z * m.share), filled(conv(8, 2), [0.0] * 16, [0.0] * 2)),
}


def cut_of_f(model: Hides) -> tuple[nn.Module, Plan]:
    """Half of what `f` makes goes."""
    kept = (0, 2, 4, 6)
    plan = Plan({"f": Keep(outputs=kept, of=(8, None)), "q": Keep(inputs=kept, of=(None, 8))})
    if isinstance(getattr(model, "g", None), nn.Conv2d):
        plan = Plan({"f": plan.keep["f"], "g": plan.keep["q"]})
    elif hasattr(model, "g"):  # y and z are added
        everything = {"a": Keep(outputs=kept, of=(8, None)), "p": plan.keep["q"], "q": plan.keep["q"]}
        plan = Plan({**everything, "f": Keep(outputs=kept, inputs=kept, of=(8, 8))})
    return cut_copy(model, plan), plan


@pytest.mark.parametrize("rule", RULES)
def test_a_wrong_cut_does_not_hide(rule: str) -> None:
    model = Hides(RULES[rule]).eval()
    child, plan = cut_of_f(model)
    with pytest.raises(VerifyError, match=r"differs from its masked parent|has shape"):
        prove(model, child, plan, survey_around(model, (Example((IMAGE,)),)))


@pytest.mark.parametrize("gate", GATES)
def test_a_wrong_cut_does_not_hide_behind_a_closed_gate(gate: str) -> None:
    rule, g = GATES[gate]
    model = Hides(rule, g=copy.deepcopy(g)).eval()
    child, plan = cut_of_f(model)
    assert verify(model, child, plan, IMAGE) <= TOLERANCE  # the check with the true weights sees nothing
    with pytest.raises(VerifyError, match="differs"):
        prove(model, child, plan, IMAGE)


@pytest.mark.parametrize("rule", [r for r in RULES if r not in ("zero", "not a number")])
def test_the_same_without_the_fault_passes(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is what draws at random, finds nothing, or sorts refused for that."""
    monkeypatch.setattr(Hides, "share", 1.0)
    model = Hides(RULES[rule]).eval()
    child, plan = cut_of_f(model)
    found = prove(model, child, plan, survey_around(model, (Example((IMAGE,)),)))
    assert found.error <= TOLERANCE
    assert bool(found.not_compared) is (rule in ("empty", "one class"))


def test_what_was_not_compared_is_named() -> None:
    model = Hides(lambda m, y, z: (m.q(z) > 1e9, torch.zeros(3))).eval()
    child, plan = cut_of_f(model)
    at = "in evaluation mode on the example"
    lines = prove(model, child, plan, IMAGE).not_compared
    assert f"output [1][0] {at}: empty, or of one class; what the layers give was compared in its place" in lines
    assert f"output [1][1] {at}: zero, empty, not a number, or of one class, whatever is cut" in lines


def test_an_output_that_stays_zero_is_refused() -> None:
    model = Hides(lambda m, y, z: m.q(z) * 0.0).eval()
    child, plan = cut_of_f(model)
    with pytest.raises(VerifyError, match=r"Output \[1\] in evaluation mode on the example: zero, .* proves nothing"):
        prove(model, child, plan, IMAGE)


def test_float64_decides_only_where_the_network_does_the_same_there() -> None:
    """Sorting differs by rounding as well, so float64 is asked; what it does there is another thing."""
    model = Hides(lambda m, y, z: m.q(z + (1e-6 * m.share if z.dtype == torch.float32 else 0.0)).flatten(1).argsort(1))
    child, plan = cut_of_f(model.eval())
    with pytest.raises(VerifyError, match="float64 cannot decide: the network does something else there"):
        prove(model, child, plan, noise(2, 3, 40, 40))


# Settling -------------------------------------------------------------------------------------------------------------
def test_statistics_are_those_of_the_example() -> None:
    model = settle(fading().train(), IMAGE)
    assert all(m.training for m in model.modules())
    x = IMAGE
    for module in model.eval():
        if isinstance(module, nn.BatchNorm2d):
            torch.testing.assert_close(module.running_mean, x.mean((0, 2, 3)))
            torch.testing.assert_close(module.running_var, x.var((0, 2, 3)))
            assert module.weight.min() >= 0.2 and module.bias.all() and not module.num_batches_tracked
        x = module(x)
    assert x.std() > 0.05


def test_settling_changes_batch_norms_only() -> None:
    model = WantsTargets()
    names = [set(vars(m)) for m in model.modules()]
    settle(model, IMAGE)
    assert [set(vars(m)) for m in model.modules()] == names
    assert model.shape is None and model.calls == 0 and model.body[1].running_mean.any()


def test_one_value_per_channel_gets_the_statistics_of_all_channels() -> None:
    """As one image has after global pooling: [1, 3, 8] has mean 4 and variance 13."""
    pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(3))
    settle(pooled, torch.tensor([1.0, 3, 8]).reshape(1, 3, 1, 1).expand(1, 3, 2, 2))
    assert pooled[1].running_mean.tolist() == [4, 4, 4]
    assert pooled[1].running_var.tolist() == [13, 13, 13]
    gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), conv(3, 1), nn.BatchNorm2d(1))
    assert settle(gate, noise(1, 3, 2, 2))[2].running_var.tolist() == [0]


def test_a_live_copy_is_the_same_every_time() -> None:
    one, two, other = (settle(fading(), IMAGE, seed=seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(v, two[k]) for k, v in one.items())
    assert not torch.equal(one["1.weight"], other["1.weight"])


# ---- what is asked once ----------------------------------------------------------------------------------------------

KEPT = Plan({"0": Keep(outputs=(0, 2, 5), of=(8, None)), "1": Keep(outputs=(0, 2, 5), of=(8, None)),
             "3": Keep(inputs=(0, 2, 5), outputs=(0, 2, 3), of=(6, 8))})  # fmt: skip


def losing() -> tuple[nn.Module, nn.Module]:
    """A network whose output is narrower after the cut."""
    model = settle(nn.Sequential(conv(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), conv(8, 6)))
    return model, surgery.cut(copy.deepcopy(model), KEPT)


def test_what_an_output_kept_is_marked_once_in_each_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    """One image and two, as it is and brought to life: that is the same for all."""
    marks: list[bool] = []
    whole = Pair.masked_run

    def noted(self: Pair, written: float = 0.0) -> Any:
        marks.extend([self.training] if written else [])
        return whole(self, written)

    monkeypatch.setattr(Pair, "masked_run", noted)
    model, child = losing()
    found = prove(model, child, KEPT, survey_around(model, (Example((IMAGE,)),)))
    assert len(found.looks) == 8 and sorted(marks) == [False, True]


def test_what_a_network_holds_is_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of parent and cut model, as they are and brought to life, whatever number of looks there is."""
    asked: list[nn.Module] = []
    monkeypatch.setattr(pair, "preserved", lambda model: asked.append(model) or preserved(model))
    model, child = losing()
    found = prove(model, child, KEPT, survey_around(model, (Example((IMAGE,)),)))
    assert len(found.looks) == 8 and len(asked) == len({*map(id, asked)}) == 4


def test_copies_in_float64_are_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[nn.Module] = []
    whole = nn.Module.double
    monkeypatch.setattr(nn.Module, "double", lambda self: made.append(self) or whole(self))
    model, child = losing()
    seen, shared = Seen(), Shared()
    for image in (IMAGE, IMAGE[:1]):
        look = compare(model, child, KEPT, Example((image,)), False, tolerance=1e-13, seen=seen, shared=shared)
        assert look.error < 1e-13
    assert len(made) == 2 and list(shared.networks) == [model, child] and seen.alike


def test_the_same_numbers_in_the_other_mode_are_decided_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    whole = Pair.in_float64
    monkeypatch.setattr(Pair, "in_float64", lambda self: asked.append(self.training) or whole(self))
    model, child = losing()
    shared = Shared()
    for training in (False, True, False):
        look = compare(model, child, KEPT, Example((IMAGE,)), training, tolerance=1e-13, shared=shared)
        assert look.error < 1e-13
    assert asked == [False]
    child[3].weight.data *= 1 + 1e-4  # other numbers, and wrong ones
    shared.networks.clear()
    with pytest.raises(VerifyError, match="differs"):
        compare(model, child, KEPT, Example((IMAGE,)), True, tolerance=1e-13, shared=shared)
