"""Native plans: which widths a stock model YAML can say, what it ties and holds, and which models are refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import ultralytics
from conftest import cut_copy, cutting_alive, cutting_plan, noise, settle
from native_models import BACKBONE, FINE, HEAD, model_of, restricted
from releases import needs_carrying
from ultralytics.nn import tasks

import yoloprune
from yoloprune.backend import model_builder, yolo_tracing
from yoloprune.checkpoint.rebuild import require_stock_build
from yoloprune.cutting import comparison
from yoloprune.errors import ArgumentError, ModelError, PlanError
from yoloprune.native import candidates
from yoloprune.planning import greedy_selection
from yoloprune.planning.channel_graph import ChannelGraph
from yoloprune.settings.budget import Budget, Limits


def tied(graph: ChannelGraph) -> dict[str, tuple[tuple[str, ...], tuple[int, ...] | None]]:
    """By the name of a tie's first group: all its groups, and the widths of the first that may be chosen."""
    return {
        graph.groups[t.groups[0]].name: (
            tuple(graph.groups[g].name for g in t.groups),
            None if t.allowed is None else tuple(t.widths(u)[0] for u in t.allowed),
        )
        for t in graph.ties
    }


@pytest.mark.slow
def test_what_one_argument_sets_is_tied() -> None:
    graph, stock = restricted(model_of(BACKBONE))
    ties = tied(graph)
    # int(c2 * e) is the width of both halves and of the bottleneck; c2 itself is a width of its own, in steps of 8.
    halves = ("model.2.cv1.conv[0:16]", "model.2.cv1.conv[16:32]", "model.2.m.0.cv1.conv")
    assert ties["model.2.cv1.conv[0:16]"] == (halves, (12, 8, 4))
    assert ties["model.2.cv2.conv"] == (("model.2.cv2.conv",), (24, 16, 8))
    # SPPF's hidden width is half of what reaches it.
    assert ties["model.3.conv"] == (("model.3.conv", "model.4.cv1.conv"), (56, 48, 40, 32, 24, 16, 8))
    c2f = stock.spelled.layers[2]
    assert [(c2f.row.parameters[d.at].name, d.base) for d in c2f.dials] == [("c2", None), ("e", 0)]
    assert stock.spelled.layers[4].follows == {"cv1.conv", "cv1.bn"}


@pytest.mark.slow
def test_a_yaml_worked_out_by_hand() -> None:
    model = model_of(BACKBONE)
    graph, stock = restricted(model)
    wanted = {"model.2.cv1.conv[0:16]": 12, "model.2.cv2.conv": 24, "model.3.conv": 48, "model.0.conv": 8}
    alive = np.ones(graph.n_classes, dtype=bool)
    for tie in graph.ties:
        name = graph.groups[tie.groups[0]].name
        if name in wanted:
            unit = wanted[name] * tie.units // tie.sizes[0]
            for g, width in zip(tie.groups, tie.widths(unit), strict=True):
                alive[graph.classes(g)[width:]] = False
    said = stock.describe(alive).yaml
    assert said["backbone"] == [
        [-1, 1, "Conv", [8, 3, 2]],
        [-1, 1, "Conv", [32, 3, 2]],
        [-1, 1, "C2f", [24, True]],  # int(24 * 0.5) = 12: e may stay silent
        [-1, 1, "Conv", [48, 3, 2]],
        [-1, 1, "SPPF", [64, 5]],
    ]
    assert said["head"] == [HEAD]
    plan = graph.plan(alive)
    small = cut_copy(model, plan)
    assert comparison.verify(model, small, plan, noise(2, 3, 64, 64)) <= 1e-4
    fresh = model_builder.rebuild(small, said)
    assert {k: v.shape for k, v in fresh.state_dict().items()} == {k: v.shape for k, v in small.state_dict().items()}


def test_widths_that_ultralytics_rounds_are_spelled_as_they_come_out() -> None:
    """A YAML may say 60, stock Ultralytics builds 64; doubling 60 would give 120, not twice 64."""
    odd = [*BACKBONE[:3], [-1, 1, "Conv", [60, 3, 2]], BACKBONE[4]]
    graph, stock = restricted(model_of(odd))
    assert stock.spelled.layers[3].row.arguments == (64, 3, 2)
    assert tied(graph)["model.3.conv"][1] == (56, 48, 40, 32, 24, 16, 8)


@pytest.mark.slow
def test_heads_that_size_themselves_by_their_input_hold_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The class branch is max(first input, min(classes, 100)) wide: 32 for 3 classes, 80 for 80."""
    monkeypatch.setattr(tasks.BaseModel, "load", lambda self, weights, verbose=True: None)  # takes nothing over
    few, _ = restricted(model_of(BACKBONE, nc=3))
    assert "model.2.cv2.conv" not in tied(few)
    group = next(g for g in few.groups if g.name == "model.2.cv2.conv")
    assert group.frozen == "the only width a model YAML can say; native=False frees it"
    many, _ = restricted(model_of(BACKBONE, nc=80))
    assert tied(many)["model.2.cv2.conv"][1] == (24, 16, 8)


def test_a_share_of_the_channels_counts_those_that_no_yaml_sets() -> None:
    """A CBLinear, as in yolov9e, has no argument for the width of one of its pieces."""
    rows = [*BACKBONE[:2], [-1, 1, "CBLinear", [[32]]], [0, 1, "Conv", [32, 3, 2]], [[2, 3], 1, "CBFuse", [[0]]]]
    model = model_of(rows, [[4], 1, "Detect", ["nc"]])
    found = candidates.Channels(model, FINE, 64)
    assert found.native is not None
    assert found.native.prunable.sum() < found.graph.prunable.sum()
    scores = np.arange(float(found.graph.n_classes))
    choice = found.choose(lambda graph: greedy_selection.select(graph, scores, Budget(ratio=0.25), FINE))
    assert choice.described is not None
    gone = (~choice.alive).sum() / found.graph.prunable.sum()
    assert gone == pytest.approx(1 - choice.kept()["channels"]) and gone >= 0.25


@pytest.mark.slow
@needs_carrying
def test_a_class_branch_keeps_its_width_while_its_input_narrows() -> None:
    """Of 3 classes it is 32 wide, as its input; a YAML that says 16 for that builds 16, and loading makes it 32."""
    model = model_of(BACKBONE, nc=3)
    graph, stock = restricted(model)
    assert tied(graph)["model.2.cv2.conv"][1] == (24, 16, 8)
    assert stock.spelled.carried == {"cv3"}
    alive = np.ones(graph.n_classes, dtype=bool)
    group = next(i for i, g in enumerate(graph.groups) if g.name == "model.2.cv2.conv")
    alive[graph.classes(group)[16:]] = False
    small = cut_copy(model, graph.plan(alive))
    assert stock.describe(alive).carried and not stock.describe(np.ones_like(alive)).carried
    said = stock.describe(alive).yaml
    assert said["backbone"][2] == [-1, 1, "C2f", [16, True, 1, 1.0]]  # groups, and e: all 16 inside, half of 32
    fresh = model_builder.rebuild(small, said)
    assert fresh.model[-1].cv3[0][0].conv.weight.shape == (32, 16, 3, 3)
    assert all(torch.equal(v, small.state_dict()[k]) for k, v in fresh.state_dict().items())


@needs_carrying
def test_a_branch_that_loading_does_not_take_over_holds_its_input() -> None:
    """The angles of an OBB head are max(first input / 4, 1) wide, 8 of 32, and no other input gives 8."""
    graph, stock = restricted(model_of(BACKBONE, [[2, 4], 1, "OBB", ["nc", 1]], nc=3))
    assert "model.2.cv2.conv" not in tied(graph)
    assert not stock.spelled.carried


@pytest.mark.slow
def test_a_class_branch_that_loading_takes_over_holds_nothing() -> None:
    """Fine-tuned from 80 classes to 3, the branch stays 80 wide, which the YAML alone does not say."""
    before = model_of(BACKBONE, nc=80)
    model = model_of(BACKBONE, nc=3)
    model.load(before, verbose=False)
    settle(model, noise(2, 3, 64, 64)).eval()
    assert model.model[-1].cv3[0][0].conv.out_channels == 80
    graph, stock = restricted(model)
    assert stock.spelled.carried == {"cv3"}
    assert tied(graph)["model.2.cv2.conv"][1] == (24, 16, 8)
    alive = cutting_alive(graph, 0)
    small = cut_copy(model, graph.plan(alive))
    fresh = model_builder.rebuild(small, stock.describe(alive).yaml)
    assert all(torch.equal(v, small.state_dict()[k]) for k, v in fresh.state_dict().items())


@pytest.mark.slow
def test_whole_attention_heads_go() -> None:
    """A C2PSA makes one head of every 64 hidden channels; its 128 may become 64 if one of the two heads goes whole."""
    model = model_of(
        [*BACKBONE[:4], [-1, 1, "Conv", [256, 3, 2]], [-1, 1, "C2PSA", [256]]], [[2, 5], 1, "Detect", ["nc"]]
    )
    graph, stock = restricted(model, Limits())
    # As many outputs as inputs, so both change together.
    assert ("model.4.conv", "model.5.cv2.conv") in [names for names, _ in tied(graph).values()]
    tie = next(t for t in graph.ties if t.heads)
    halves = ["model.5.cv1.conv[0:128]", "model.5.cv1.conv[128:256]", "model.5.m.0.ffn.0.conv"]
    assert [graph.groups[g].name for g in tie.shrinking] == halves
    ((first, second),) = tie.heads
    qkv = "model.5.m.0.attn.qkv.conv"  # per head 32 queries, 32 keys, 64 values
    assert [graph.groups[g].name for g in (*first, *second)] == [
        *(f"{qkv}[0:64]", f"{qkv}[64:128]", f"{qkv}[128:192]", f"{qkv}[192:256]")
    ]
    assert (tie.units, tie.allowed) == (2, (1,))
    scores = np.ones(graph.n_classes)
    scores[graph.classes(first[0])[0]] = 9.0  # the best channel of all lies in the head that is worth less
    scores[graph.classes(first[1])] = 0.5
    alive = greedy_selection.select(graph, scores, Budget(ratio=0.5), Limits())
    assert not alive[np.concatenate([graph.classes(g) for g in first])].any()
    assert alive[np.concatenate([graph.classes(g) for g in second])].all()
    plan = graph.plan(alive)
    assert plan.keep[qkv].outputs == tuple(range(128, 256)) and plan.keep[qkv].heads == 1
    small = cut_copy(model, plan)
    attention = small.model[5].m[0].attn
    assert (attention.num_heads, attention.key_dim, attention.head_dim, attention.scale) == (1, 32, 64, 32**-0.5)
    assert torch.equal(attention.qkv.bn.weight, model.model[5].m[0].attn.qkv.bn.weight[128:])
    assert comparison.verify(model, small, plan, noise(2, 3, 64, 64)) <= 1e-4
    width, share = stock.describe(alive).yaml["backbone"][5][3]
    assert width == small.model[5].cv2.conv.out_channels and int(width * share) == 64


def test_a_single_head_shrinks_with_its_layer() -> None:
    """64 hidden channels are one head: 48 are one of 48 values and 24 keys."""
    model = model_of(
        [*BACKBONE[:4], [-1, 1, "Conv", [128, 3, 2]], [-1, 1, "C2PSA", [128]]], [[2, 5], 1, "Detect", ["nc"]]
    )
    graph, _ = restricted(model, Limits())
    assert tied(graph)["model.5.cv1.conv[0:64]"][1] == (48, 32, 16)  # of which queries and keys have a half


def test_widths_out_of_step_with_ultralytics_rounding_are_tried_one_by_one() -> None:
    """Multiples of 12 of which every other is one of 8: the widest, middle and narrowest alone would say yes."""
    limits = Limits(round_to=12, min_width=12, max_ratio=0.5)
    rows = [[-1, 1, "Conv", [96, 3, 2]], [-1, 1, "Conv", [96, 3, 2]]]
    graph, _ = restricted(model_of(rows, [[0, 1], 1, "Detect", ["nc"]]), limits)
    assert all(w % 8 == 0 for _, allowed in tied(graph).values() for w in allowed or ())


@pytest.mark.slow
def test_free_plans_cannot_be_said() -> None:
    model = model_of(BACKBONE)
    _, stock = restricted(model)
    free = yolo_tracing.trace_yolo(model)
    alive = np.ones(free.n_classes, dtype=bool)
    alive[free.classes(next(i for i, g in enumerate(free.groups) if g.name == "model.2.m.0.cv1.conv"))[8:]] = False
    with pytest.raises(PlanError, match=r"model\.2 \(C2f\) has widths that no model YAML can say"):
        stock.describe(alive)


def test_plans_under_the_restrictions_keep_them() -> None:
    graph, _ = restricted(model_of(BACKBONE))
    alive = np.ones(graph.n_classes, dtype=bool)
    alive[graph.classes(next(i for i, g in enumerate(graph.groups) if g.name == "model.1.conv"))[30:]] = False
    with pytest.raises(PlanError, match=r"model\.1\.conv may not be 30 wide"):
        graph.plan(alive)


@pytest.mark.slow
def test_the_dead_go_as_far_as_the_yaml_allows() -> None:
    graph, _ = restricted(model_of(BACKBONE))
    conv = next(i for i, g in enumerate(graph.groups) if g.name == "model.1.conv")  # 32 wide, steps of 8
    dead = np.zeros(graph.n_classes, dtype=bool)
    dead[graph.classes(conv)[:13]] = True  # 19 live: the next width is 24
    alive = greedy_selection.dead_only(graph, dead)
    assert (~alive).sum() == 8
    assert not alive[graph.classes(conv)[:13]].all()


@pytest.mark.slow
def test_models_that_are_not_their_yaml_are_refused() -> None:
    model = model_of(BACKBONE)
    graph = yolo_tracing.trace_yolo(model)
    free = cut_copy(model, cutting_plan(graph, 0))
    with pytest.raises(ModelError, match=r"the network is not what its own YAML says, model.0.conv.weight is"):
        candidates.Channels(free, Limits(native=True), 64)


@pytest.mark.slow
def test_text_prompted_models_are_refused() -> None:
    model = ultralytics.YOLO("yolov8s-worldv2.yaml").model
    with pytest.raises(ModelError, match="YOLO-World and YOLOE"):
        candidates.Channels(model, Limits(native=True), 64)


def test_networks_without_yaml_are_refused() -> None:
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 1), torch.nn.Conv2d(8, 8, 1))
    with pytest.raises(ArgumentError, match="native=True"):
        yoloprune.prune_module(net, noise(1, 3, 8, 8), Budget(ratio=0.5), Limits(native=True))


def test_a_choice_where_nothing_may_go_keeps_all_of_it() -> None:
    model = model_of([[-1, 1, "Conv", [8, 3, 2]], [-1, 1, "Conv", [8, 3, 2]]], [[0, 1], 1, "Detect", ["nc"]])
    found = candidates.Channels(model, Limits(keep=("model.*",), native=False), 32)
    assert not found.graph.prunable.any()
    kept = found.choose(lambda graph: np.ones(graph.n_classes, dtype=bool)).kept()
    assert kept == {"flops": 1.0, "params": 1.0, "channels": 1.0}


@pytest.mark.slow
def test_rows_that_are_all_in_the_backbone_stay_there() -> None:
    rows = [[-1, 1, "Conv", [16, 3, 2]], [-1, 1, "Conv", [16, 3, 2]], [[0, 1], 1, "Detect", ["nc"]]]
    torch.manual_seed(0)
    model = settle(tasks.DetectionModel({"nc": 2, "backbone": rows, "head": []}, verbose=False), noise(2, 3, 64, 64))
    found = candidates.Channels(model.eval(), FINE, 64)

    def halved(graph: ChannelGraph) -> np.ndarray:
        alive = np.ones(graph.n_classes, dtype=bool)
        alive[graph.classes(graph.ties[0].groups[0])[8:]] = False
        return alive

    choice = found.choose(halved)
    assert choice.yaml is not None and choice.yaml["head"] == []
    assert [row[3] for row in choice.yaml["backbone"][:2]] == [[8, 3, 2], [16, 3, 2]]
    require_stock_build(cut_copy(model, choice.plan), choice.yaml)
