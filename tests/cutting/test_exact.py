"""Rule 1 on real networks: the cut model equals its masked parent, in stock form, and can go on training."""

from __future__ import annotations

import copy
import re
from functools import cache

import pytest
import torch
from conftest import cut_copy, noise, settle, shipped
from torch import Tensor, nn
from ultralytics.cfg import get_cfg
from ultralytics.nn.modules.block import C2f
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils.torch_utils import get_flops

from yoloprune.backend import evaluation, model_facts, yolo_tracing
from yoloprune.cutting import surgery
from yoloprune.cutting.comparison import TOLERANCE, verify
from yoloprune.errors import VerifyError
from yoloprune.importance import criteria
from yoloprune.planning.channel_graph import ChannelGraph
from yoloprune.planning.cost import Cost
from yoloprune.planning.greedy_selection import select
from yoloprune.planning.plan import Plan
from yoloprune.settings.budget import Budget, Limits

pytestmark = pytest.mark.slow

NAMES = shipped("yolov8n", "yolo11n", "yolo26n", "yolov5n")
SHARES = (0.7, 0.5, 0.35)
PLANS = [(name, share) for name in NAMES for share in SHARES]


@cache
def parent(name: str) -> tuple[DetectionModel, ChannelGraph]:
    """A model that is alive in all its depth, and its channels; nobody may change it."""
    torch.manual_seed(0)
    model = settle(DetectionModel(f"{name}.yaml", verbose=False), noise(4, 3, 128, 128))
    return model, yolo_tracing.trace_yolo(model)


@cache
def cut(name: str, share: float) -> tuple[DetectionModel, Plan]:
    """A random plan for that share of the FLOPs, cut; nobody may change it."""
    model, graph = parent(name)
    scores = criteria.importance(model, graph, "random", seed=SHARES.index(share)).channels
    plan = graph.plan(select(graph, scores, Budget(flops=share), Limits()))
    return cut_copy(model, plan), plan


@pytest.mark.parametrize("name, share", PLANS)
def test_the_cut_model_equals_its_masked_parent(name: str, share: float) -> None:
    model, _ = parent(name)
    small, plan = cut(name, share)
    assert len(plan) > 50
    assert verify(model, small, plan, yolo_tracing.example(model, 2)) <= 1e-4
    assert TOLERANCE <= 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_the_check_would_notice(name: str) -> None:
    """The signal is alive everywhere: two columns that change places are seen, in whatever layer it happens."""
    model, _ = parent(name)
    small, plan = cut(name, 0.5)
    wrong = copy.deepcopy(small)
    body = [m for layer in wrong.model[:-1] for m in layer.modules() if isinstance(m, nn.Conv2d) and m.groups == 1]
    for layer in body[1::16]:
        right = layer.weight.data
        layer.weight.data = right[:, [1, 0, *range(2, right.shape[1])]]
        with pytest.raises(VerifyError, match="differs from its masked parent"):
            verify(model, wrong, plan, yolo_tracing.example(model))
        layer.weight.data = right
    assert verify(model, wrong, plan, yolo_tracing.example(model)) <= 1e-4


@pytest.mark.parametrize("name, share", PLANS)
def test_the_budget_is_met_as_ultralytics_counts(name: str, share: float) -> None:
    kept = get_flops(cut(name, share)[0]) / get_flops(parent(name)[0])
    assert share - 0.01 <= kept <= share


# First layers of the branches read the neck: their input side follows. Where they are depthwise (classes in 11, 12, 26)
# all of them follows, and the input side of the next. Branches named one2one read the same inputs.
FOLLOWS_INPUT = re.compile(r"(one2one_)?cv[234]\.\d\.(0|0\.1)\.conv\.weight")
FOLLOWS = re.compile(r"(one2one_)?cv3\.\d\.0\.0\.(conv|bn)\.\w+")


@pytest.mark.parametrize("name, share", PLANS)
def test_head_widths_are_untouched(name: str, share: float) -> None:
    model, graph = parent(name)
    small, _ = cut(name, share)
    head = model.model[-1]
    depthwise = next(m for m in head.cv3[0].modules() if isinstance(m, nn.Conv2d)).groups > 1
    after = dict(small.model[-1].named_parameters())
    assert after.keys() == dict(head.named_parameters()).keys()
    followers = 0
    for key, p in head.named_parameters():
        if depthwise and FOLLOWS.fullmatch(key):
            followers += after[key].shape != p.shape
        elif FOLLOWS_INPUT.fullmatch(key):
            assert after[key].shape[0] == p.shape[0]
            assert after[key].shape[2:] == p.shape[2:]
        else:
            assert after[key].shape == p.shape, key
    assert bool(followers) is depthwise
    assert {graph.groups[g].frozen for g in graph.group_of[~graph.prunable]} >= {"Detect head"}


@pytest.mark.parametrize("name", NAMES)
def test_all_branches_read_the_same_channels(name: str) -> None:
    """One-to-many and one-to-one branches, boxes and classes: whatever reads a level of the neck keeps the same."""
    _, plan = cut(name, 0.5)
    head = model_facts.head_name(parent(name)[0])
    for level in range(3):
        readers = set()
        for key, keep in plan.keep.items():
            if re.fullmatch(rf"{head}\.(one2one_)?cv[23]\.{level}\.0(\.0)?\.conv", key):
                readers.add(keep.inputs or keep.outputs)
        assert len(readers) == 1
    branches = {k.split(".")[2] for k in plan.keep if k.startswith(f"{head}.")}
    assert branches == {"cv2", "cv3", *(("one2one_cv2", "one2one_cv3") if name == "yolo26n" else ())}


@pytest.mark.parametrize("name", [n for n in NAMES if n != "yolov5n"])
def test_forward_split_works_after_the_cut(name: str) -> None:
    """Exporters replace `chunk` by `split` with the width that the block remembers."""
    small = copy.deepcopy(cut(name, 0.5)[0]).eval()
    x = noise(1, 3, 64, 64)
    with torch.no_grad():
        expected = small(x)[0]
        blocks = [m for m in small.modules() if isinstance(m, C2f)]
        for m in blocks:
            m.forward = m.forward_split
        assert len(blocks) >= 4
        assert torch.equal(small(x)[0], expected)


def batch() -> dict[str, Tensor]:
    """Two images with three objects, as the detection trainer passes them."""
    return {
        "img": torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)),
        "cls": torch.tensor([[0.0], [5.0], [79.0]]),
        "bboxes": torch.tensor([[0.5, 0.5, 0.4, 0.6], [0.3, 0.6, 0.5, 0.5], [0.7, 0.4, 0.3, 0.3]]),
        "batch_idx": torch.tensor([0.0, 0.0, 1.0]),
    }


@pytest.mark.parametrize("name", NAMES)
def test_a_training_step_gives_finite_gradients(name: str) -> None:
    small = copy.deepcopy(cut(name, 0.35)[0]).train()
    small.args = get_cfg()
    loss, _ = small(batch())
    assert torch.isfinite(loss).all()
    loss.sum().backward()
    grads = {n: p.grad for n, p in small.named_parameters() if p.requires_grad}
    assert len(grads) > 100
    assert all(g is not None and torch.isfinite(g).all() for g in grads.values())
    assert sum(float(g.abs().sum()) > 0 for g in grads.values()) > 0.9 * len(grads)


@pytest.mark.parametrize("name", NAMES)
def test_half_precision(name: str) -> None:
    """Checkpoints hold half precision: cutting before or after the conversion is the same, and it still computes."""
    model, _ = parent(name)
    small, plan = cut(name, 0.5)
    rounded = copy.deepcopy(model).half()
    a = surgery.cut(copy.deepcopy(rounded).float(), plan).half()
    b = surgery.cut(rounded, plan)
    assert all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())
    x = yolo_tracing.example(model)
    with torch.no_grad():
        got, expected = a.float().eval()(x)[0], small.eval()(x)[0]
    assert got.shape == expected.shape
    assert torch.isfinite(got).all()


@pytest.mark.parametrize("name", NAMES)
def test_fused_for_deployment_it_computes_the_same(name: str) -> None:
    small = copy.deepcopy(cut(name, 0.5)[0]).eval()
    x = yolo_tracing.example(small)
    with torch.no_grad():
        expected = small(x)[0]
        got = evaluation.fused_copy(small)(x)[0]
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-3)


def test_cut_twice() -> None:
    """A pruned model is a model: it can be traced and cut again."""
    small, _ = cut("yolo11n", 0.7)
    graph = yolo_tracing.trace_yolo(small)
    cost = Cost(graph)
    assert cost.parent("params") == pytest.approx(sum(p.numel() for p in small.parameters()))
    scores = criteria.importance(small, graph, "l1").channels
    plan = graph.plan(select(graph, scores, Budget(flops=0.7), Limits(), cost))
    assert verify(small, cut_copy(small, plan), plan, yolo_tracing.example(small, 2)) <= 1e-4
