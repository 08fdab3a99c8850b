"""What the host hands to the trace: head, keep patterns, probe size, and which models it refuses."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
import ultralytics
from conftest import classes, cut_copy, cutting_plan, reasons, settle, shipped
from torch import nn
from ultralytics.nn.tasks import ClassificationModel, DetectionModel

from yoloprune.backend import evaluation, model_facts, yolo_tracing
from yoloprune.cutting.masked_parent import masked
from yoloprune.errors import ArgumentError, ModelError
from yoloprune.planning.channel_graph import ChannelGraph
from yoloprune.tracing import named_layers


@pytest.fixture(scope="module")
def model() -> Iterator[DetectionModel]:
    yield DetectionModel("yolov8n.yaml", verbose=False)


@pytest.fixture(scope="module")
def graph(model: DetectionModel) -> ChannelGraph:
    return yolo_tracing.trace_yolo(model)


def frozen(model: nn.Module, *keep: str) -> set[int]:
    """Layers with an output axis that a keep pattern itself has frozen."""
    traced = yolo_tracing.trace_yolo(model, keep=keep)
    found = set()
    for axis in traced.axes:
        if axis.side == "outputs" and any((r or "").startswith("keep=") for r in reasons(traced, str(axis))):
            found.add(int(axis.module.split(".")[1]))
    return found


@pytest.mark.slow
def test_a_c2f_block_of_the_real_model(graph: ChannelGraph) -> None:
    """model.2: cv1 makes two halves of 16, the second is also what the bottleneck makes; cv2 reads both, then m.0."""
    cv1 = classes(graph, "model.2.cv1.conv.outputs")
    assert len(set(cv1)) == 32
    assert classes(graph, "model.2.m.0.cv2.conv.outputs") == cv1[16:]
    assert classes(graph, "model.2.cv2.conv.inputs") == cv1 + cv1[16:]
    tie = next(t for t in graph.ties if graph.group_of[cv1[0]] in t.groups)
    assert tie.sizes == (16, 16)


def test_sppf_of_the_real_model(graph: ChannelGraph) -> None:
    assert classes(graph, "model.9.cv2.conv.inputs") == classes(graph, "model.9.cv1.conv.outputs") * 4


def test_only_image_and_head_are_frozen(graph: ChannelGraph) -> None:
    kinds = {g.frozen for g in graph.groups if g.frozen}
    assert kinds == {"fixed input", "Detect head"}
    assert graph.unknown == {}
    for axis in graph.axes:
        if axis.side == "outputs" and not axis.module.startswith("model.22."):
            assert reasons(graph, str(axis)) == {None}, axis


@pytest.mark.parametrize("name", shipped("yolo11n", "yolo12n"))
@pytest.mark.slow
def test_attention_blocks_are_prunable(name: str) -> None:
    """Widths that these blocks keep as numbers are corrected by the cut, so that they need not be frozen."""
    graph = yolo_tracing.trace_yolo(DetectionModel(f"{name}.yaml", verbose=False))
    qkv = [str(a) for a in graph.axes if ".qkv.conv" in a.module and a.side == "outputs"]
    assert qkv
    for axis in qkv:
        assert reasons(graph, axis) == {None}
    body = [g for g in graph.groups if g.frozen is None or "head" not in g.frozen]
    assert sum(g.size for g in body if g.frozen is None) >= 0.99 * sum(g.size for g in body)


@pytest.mark.parametrize(
    "pattern, layers",
    [
        ("model.4", {4}),
        ("model.4.*", {4}),
        ("model.4.cv2.conv", {4}),
        ("*.cv2.conv", {2, 4, 6, 8, 9, 12, 15, 18, 21}),
        ("model.[01]", {0, 1}),
        ("backbone", set(range(10))),
        ("neck", {12, 15, 16, 18, 19, 21}),
    ],
)
@pytest.mark.slow
def test_keep_patterns(model: DetectionModel, pattern: str, layers: set[int]) -> None:
    assert frozen(model, pattern) - {22} == layers


@pytest.mark.slow
def test_keep_tells_which_pattern_it_was(model: DetectionModel) -> None:
    graph = yolo_tracing.trace_yolo(model, keep=("model.4.cv2", "model.0"))
    assert reasons(graph, "model.4.cv2.conv.outputs") == {"keep=model.4.cv2"}
    assert reasons(graph, "model.0.conv.outputs") == {"keep=model.0"}
    assert reasons(graph, "model.4.cv1.conv.outputs") == {None}


@pytest.mark.slow
def test_keep_that_names_nothing(model: DetectionModel) -> None:
    with pytest.raises(ArgumentError, match=r"keep=model\.4\.cv9.*model\.4\.cv"):
        yolo_tracing.trace_yolo(model, keep=("model.4.cv9",))
    with pytest.raises(ArgumentError, match=r"keep=model\.4x"):
        yolo_tracing.trace_yolo(model, keep=("model.4x",))


@pytest.mark.parametrize("pattern", ["head", "Head", "model.4x"])
@pytest.mark.slow
def test_keep_that_names_nothing_hears_of_the_parts(model: DetectionModel, pattern: str) -> None:
    with pytest.raises(ArgumentError, match=r"backbone and neck; the head stays unless head=True\.$") as caught:
        yolo_tracing.trace_yolo(model, keep=(pattern,))
    assert "like 'model'" not in str(caught.value)  # which says nothing


def test_keep_that_names_nothing_hears_of_no_part_that_is_not_there() -> None:
    with pytest.raises(ArgumentError, match=r"Whole parts are backbone; the head"):
        yolo_tracing.trace_yolo(ClassificationModel("yolov8n-cls.yaml", verbose=False), keep=("neck",))
    with pytest.raises(ArgumentError, match=r"like '0\.weight'\.$"):  # any network: no parts, no head
        named_layers.match(nn.Sequential(nn.Conv2d(3, 4, 1)), ("head",))
    with pytest.raises(ArgumentError, match=r"like 'weight'\.$"):
        named_layers.match(nn.Conv2d(3, 4, 1), ("head",))


def test_a_fused_model_is_refused(model: DetectionModel) -> None:
    with pytest.raises(ModelError, match="fused"):
        yolo_tracing.trace_yolo(evaluation.fused_copy(model))
    model_facts.check_prunable(model)  # the copy was fused, not the model


def test_what_is_no_yolo_is_refused() -> None:
    with pytest.raises(ModelError, match="Received: Sequential"):
        yolo_tracing.trace_yolo(nn.Sequential(nn.Conv2d(3, 4, 1)))


def test_the_probe_is_small_seeded_and_fits_the_stride(model: DetectionModel) -> None:
    probe = yolo_tracing.example(model)
    assert probe.shape == (1, 3, 64, 64)
    assert torch.equal(probe, yolo_tracing.example(model))
    assert yolo_tracing.example(model, 2).shape == (2, 3, 64, 64)


@pytest.mark.slow
def test_a_trace_leaves_the_detection_head_as_it_was() -> None:
    model = DetectionModel("yolo11n.yaml", verbose=False).eval()
    head = model.model[-1]
    model(torch.zeros(1, 3, 96, 96))
    anchors, strides, shape = head.anchors, head.strides, head.shape
    before = {k: v.clone() for k, v in model.state_dict().items()}
    yolo_tracing.trace_yolo(model)
    assert head.anchors is anchors
    assert head.strides is strides
    assert head.shape == shape
    assert not any(m.training for m in model.modules())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.slow
def test_a_model_that_has_seen_an_image_is_traced_as_a_new_one() -> None:
    """The head compares an image's shape with that of the last one, which must not count as reading a width."""
    model = DetectionModel("yolov8n.yaml", verbose=False).eval()
    new = yolo_tracing.trace_yolo(model)
    model(yolo_tracing.example(model))
    assert [g.frozen for g in yolo_tracing.trace_yolo(model).groups] == [g.frozen for g in new.groups]


@pytest.mark.long
@pytest.mark.parametrize("name", shipped("yoloe-v8n", "yoloe-26n-seg"))
@pytest.mark.slow
def test_visual_prompts_of_a_pruned_yoloe(name: str) -> None:
    """Their encoder reads the neck, but no plain forward pass reaches it."""
    parent = ultralytics.YOLOE(f"{name}.yaml").model
    image = yolo_tracing.example(parent, 8)
    settle(parent, image)
    graph = yolo_tracing.trace_yolo(parent)
    plan = cutting_plan(graph, 0)
    child = cut_copy(parent, plan)
    with torch.no_grad():
        whole, got = (yolo_tracing.visual_prompts(m.eval(), image) for m in (parent, child))
        with masked(parent, plan):
            expected = yolo_tracing.visual_prompts(parent, image)
    assert (got - expected).abs().max() <= 1e-6
    assert (whole - expected).abs().max() >= 1e-3  # so the channels that were cut do matter


def test_norms_tell_what_is_fused(model: DetectionModel) -> None:
    """A network that has other norms than BatchNorm2d, or none at all by design, is not a fused one."""

    def swapped(make: Callable[[nn.BatchNorm2d], nn.Module]) -> nn.Module:
        other = copy.deepcopy(model)
        for module in other.modules():
            for name, child in list(module.named_children()):
                if isinstance(child, nn.BatchNorm2d):
                    setattr(module, name, make(child))
        return other

    for make in (
        nn.SyncBatchNorm.convert_sync_batchnorm,
        lambda norm: nn.GroupNorm(4, norm.num_features),
        lambda norm: nn.Identity(),
    ):
        model_facts.check_prunable(swapped(make))


def test_flops_are_counted_on_zeros(model: DetectionModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ultralytics counts on memory that nobody filled; an operation that reads at computed places reads anywhere."""
    seen: list[bool] = []
    other = copy.deepcopy(model)
    other.model[0].register_forward_pre_hook(lambda m, x: seen.append(bool((x[0] == 0).all())))
    before = evaluation.gflops(model, 64)
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *a, **k: empty(*a, **k).fill_(float("nan")))
    assert evaluation.gflops(other, 64) == before
    assert seen and all(seen) and not other._forward_pre_hooks


def test_a_network_that_needs_larger_images() -> None:
    other = DetectionModel("yolov8n.yaml", verbose=False)
    other.model[9] = nn.Sequential(other.model[9], nn.ReflectionPad2d(3), nn.MaxPool2d(7, 1))
    other.model[9].i, other.model[9].f, other.model[9].type = 9, -1, "Sequential"  # type: ignore[assignment]
    assert yolo_tracing.example(other).shape[-1] == 64
    assert yolo_tracing.runnable_example(other, 2).shape == (2, 3, 128, 128)
