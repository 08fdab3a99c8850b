"""Criteria that look at data: gradients and activations worked out by hand, and the labels of every task."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import ultralytics
import yaml
from conftest import classes, conv, filled, hand_graph
from PIL import Image
from scores import score
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from yoloprune.backend import model_facts, yolo_tracing
from yoloprune.backend.calibration_images import labelled
from yoloprune.errors import ArgumentError, DataError
from yoloprune.importance import data_criteria
from yoloprune.planning.branch import Branch
from yoloprune.selection import mask_scores
from yoloprune.selection.calibration import Calibration
from yoloprune.tracing.trace_network import trace


class Graded(nn.Module):
    """A layer with two outputs, perhaps a batch-norm, and a reader with weights 3 and 5; the loss is the sum."""

    def __init__(self, layer: nn.Module, *norm: nn.Module) -> None:
        super().__init__()
        self.a, self.norm, self.c = layer, nn.Sequential(*norm), filled(conv(2, 1), [3, 5], [0])

    def forward(self, x: Tensor | dict[str, Tensor]) -> Any:
        if isinstance(x, dict):
            return self(x["img"]).sum(), {"part": 0.0}
        x = self.a(x.movedim(1, -1)).movedim(-1, 1) if isinstance(self.a, nn.Linear) else self.a(x)
        return self.c(self.norm(x))


SQUARE = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])  # sum 10, four positions
BATCHES = [{"img": SQUARE}, {"img": -SQUARE}]


def measured(
    model: nn.Module, criterion: str, batches: Iterable[Any], axis: str = "a.outputs", **how: Any
) -> list[float]:
    graph = trace(model.eval(), SQUARE)
    return score(model, graph, criterion, batches=batches, **how)[classes(graph, axis)].tolist()


@pytest.mark.parametrize(
    "layer", [conv(1, 2), nn.ConvTranspose2d(1, 2, 1), nn.Linear(1, 2)], ids=["conv", "transposed", "linear"]
)
def test_taylor_without_batch_norm(layer: nn.Module) -> None:
    """Weights 1 and -2, biases 0.5 and 0: the outputs sum to 12 and -20, their slopes are 3 and 5."""
    model = Graded(filled(layer, [1, -2], [0.5, 0]))
    assert measured(model, "taylor", BATCHES[:1]) == pytest.approx([3 * 12, 5 * 20])


def test_taylor_behind_batch_norm_averages_magnitudes_over_batches() -> None:
    """gamma 2 and 1, beta -1 and 10 make of 12 and -20 in the first batch 20 and 20, of -8 and 20 then -20 and 60."""
    norm = filled(nn.BatchNorm2d(2, eps=0.0), [2, 1], [-1, 10])
    model = Graded(filled(conv(1, 2), [1, -2], [0.5, 0]), norm)
    expected = [3 * (20 + 20) / 2, 5 * (20 + 60) / 2]
    for reduce in ("sum", "max"):  # the convolution before the batch-norm is no member of its own
        assert measured(model, "taylor", BATCHES, reduce=reduce) == pytest.approx(expected)
    assert norm.running_mean.tolist() == [0, 0] and norm.running_var.tolist() == [1, 1]


class Shared(nn.Module):
    """Two layers of one filter, 1 and -2, the first in front of a batch-norm; they are read by 3 and 5."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = filled(conv(1, 2), [1, -2], [0, 0]), filled(conv(1, 2), [1, -2], [0, 0])
        self.b.weight = self.a.weight
        self.norm, self.c = nn.BatchNorm2d(2, eps=0.0), filled(conv(4, 1), [0, 0, 3, 5], [0])

    def forward(self, x: dict[str, Tensor]) -> Tensor:
        return self.c(torch.cat([self.norm(self.a(x["img"])), self.b(x["img"])], 1)).sum()


def test_a_filter_that_a_layer_without_a_norm_shares_is_asked_for_in_every_pass() -> None:
    """The pixels sum to 10, so the second layer's outputs to 10 and -20, in the second batch to -10 and 20."""
    graph = hand_graph({"a.outputs": [0, 1], "norm.outputs": [0, 1], "b.outputs": [2, 3]}, [0, 0, 1, 1])
    found = dict(data_criteria.taylor(Shared(), graph, BATCHES))
    assert sorted(found) == [1, 2]
    assert found[2].tolist() == [3 * 10, 5 * 20]


class Changing(Graded):
    """The batch-norm follows the layer at once for the first image, and behind a factor of one for the others."""

    def forward(self, x: Any) -> Any:
        if isinstance(x, dict):
            return self(x["img"]).sum()
        made = self.a(x)
        return self.c(self.norm(made if x.sum() > 0 else made * 1.0))


def test_a_layer_that_a_norm_follows_in_some_passes_alone_is_asked_for_again_in_the_others() -> None:
    """12 and -20 in the first pass, in which all layers are asked; the second, in which it is noticed that no norm
    follows at once, tells nothing of the layer's own gate; -8 and 20 in the third.
    """
    model = Changing(filled(conv(1, 2), [1, -2], [0.5, 0]), filled(nn.BatchNorm2d(2, eps=0.0), [1, 1], [0, 0]))
    graph = hand_graph({"a.outputs": [0, 1], "norm.0.outputs": [0, 1]}, [0, 0])
    found = dict(data_criteria.taylor(model, graph, [BATCHES[0], BATCHES[1], BATCHES[1]]))
    assert found[0].tolist() == [3 * (12 + 8) / 2, 5 * 20]
    assert found[1].tolist() == pytest.approx([3 * (12 + 8 + 8) / 3, 5 * 20])


class Again(nn.Module):
    """A filter, a norm, and a layer in a checkpoint, which runs it twice where what it is given has a gradient."""

    def __init__(self, affine: bool, beside: bool) -> None:
        super().__init__()
        self.a, self.b, self.c = conv(1, 2, bias=False), conv(2, 2), conv(2, 1)
        self.norm, self.beside = nn.BatchNorm2d(2, affine=affine), beside

    def forward(self, x: Tensor) -> Tensor:
        made = self.a(x)
        normed = self.norm(made).relu()
        given = made if self.beside else normed
        return self.c(normed + checkpoint(self.b, given, use_reentrant=True)).square().sum()


@pytest.mark.parametrize(("affine", "beside"), [(True, True), (False, False), (True, False)])
def test_the_same_image_again_changes_no_mean(affine: bool, beside: bool) -> None:
    torch.manual_seed(0)
    model = Again(affine, beside).eval()
    graph = hand_graph(
        {f"{n}.outputs": [2 * i, 2 * i + 1] for i, n in enumerate(["a", "norm", "b"])}, [0, 0, 1, 1, 2, 2]
    )
    one, thrice = (dict(data_criteria.taylor(model, graph, [SQUARE] * n)) for n in (1, 3))
    assert one.keys() == thrice.keys() and 2 in one and (one[2] > 0).all()
    for i, value in one.items():
        assert thrice[i].tolist() == pytest.approx(value.tolist())


def test_gates_of_branches_are_those_of_every_pass() -> None:
    """Nothing in front of the branch, and in it, has parameters but filters: its output hangs on these alone."""
    torch.manual_seed(0)
    branch = nn.Sequential(conv(2, 2, bias=False), nn.BatchNorm2d(2, affine=False))
    model = nn.Sequential(conv(1, 2, bias=False), nn.BatchNorm2d(2, affine=False), branch, conv(2, 1)).eval()
    axes = {"0.outputs": [0, 1], "2.0.outputs": [2, 3]}
    graph = replace(hand_graph(axes, [0, 0, 1, 1]), branches=(Branch("2", (1,)),))
    found: list[dict[str, Any]] = []
    for n in (1, 3):
        gates: dict[str, Any] = {}
        found.append(gates)
        list(data_criteria.taylor(model, graph, [SQUARE] * n, lambda m, x: m(x).square().sum(), gates))
    assert (found[0]["2"] > 0).all()
    assert found[1]["2"].tolist() == pytest.approx(found[0]["2"].tolist())


def test_where_no_layer_has_a_gate_of_its_own_there_are_no_scores() -> None:
    """Behind every filter comes a norm without parameters: that is no lack of images."""
    model = nn.Sequential(conv(1, 2, bias=False), nn.BatchNorm2d(2, affine=False)).eval()
    graph = hand_graph({"0.outputs": [0, 1]}, [0, 0])
    assert list(data_criteria.taylor(model, graph, [SQUARE] * 2, lambda m, x: m(x).square().sum())) == []
    with pytest.raises(DataError, match="no images"):
        list(data_criteria.taylor(model, graph, []))


PIXELS = torch.tensor([[[[2.0]]], [[[-2.0]]]])


def test_output_is_the_norm_of_what_a_gate_changes() -> None:
    """Weights 1 and -2, bias 0.5 and 0 make 2.5 and -4 of the pixel 2, -1.5 and 4 of -2; they are read by 3 and 5."""
    model = Graded(filled(conv(1, 2), [1, -2], [0.5, 0]))
    assert measured(model, "output", [PIXELS]) == pytest.approx([3 * (8.5 / 2) ** 0.5, 5 * 4])


def test_output_of_many_numbers_is_that_of_each_on_average() -> None:
    """Signs are drawn per image: of 400 copies of one whose positions have 1 and 2 the cross terms cancel; the mean of
    the squares 1 and 4 stays.
    """
    model = Graded(filled(conv(1, 2), [1, -2], [0, 0]))
    image = torch.tensor([[[[1.0, 2.0]]]]).repeat(400, 1, 1, 1)
    assert measured(model, "output", [image]) == pytest.approx([3 * 2.5**0.5, 10 * 2.5**0.5], rel=0.1)


class Twice(Graded):
    """Gives its output, and what a layer with one channel makes of the second feature alone, a hundred times over."""

    def forward(self, x: Tensor) -> Any:
        x = self.a(x)
        return self.c(x), x[:, 1:].expand(-1, 100, -1, -1) * 1.0


def test_every_output_tensor_counts_alike() -> None:
    """The first feature is read by 3; the second by 5, and a hundred times as it is, which counts as once."""
    model = Twice(filled(conv(1, 2), [1, -2], [0, 0]))
    image = torch.full((400, 1, 1, 1), 1.0)
    assert measured(model, "output", [image]) == pytest.approx([3, 2 * 26**0.5], rel=0.1)


class WithFeatures(Graded):
    """Gives its features as well, a thousand times as large as what is made of them, as heads do while they train."""

    def forward(self, x: Tensor) -> Any:
        x = self.a(x)
        return {"features": [x], "out": self.c(x)}


def test_features_that_a_network_gives_are_no_outputs() -> None:
    model = WithFeatures(filled(conv(1, 2), [1, -2], [0.5, 0]))
    assert measured(model, "output", [PIXELS]) == pytest.approx([3 * (8.5 / 2) ** 0.5, 5 * 4])


def test_inputs_of_another_kind_stay_together() -> None:
    """Two arguments that are added: 2 and -4 make -2 of the layer's input."""

    class Added(Graded):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return self.c(self.a(x + y))

    model = Added(filled(conv(1, 2), [1, -2], [0.5, 0])).eval()
    pair = (torch.full((1, 1, 1, 1), 2.0), torch.full((1, 1, 1, 1), -4.0))
    graph = trace(model, pair)
    assert score(model, graph, "output", batches=[pair])[classes(graph, "a.outputs")].tolist() == [3 * 1.5, 5 * 4]


def test_output_needs_numbers() -> None:
    class Chosen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.c = conv(1, 2), conv(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.c(self.a(x)).argmax(1)

    with pytest.raises(DataError, match="no tensor of numbers"):
        measured(Chosen(), "output", [PIXELS])


def test_taylor_leaves_gradients_and_modes_as_they_were() -> None:
    model = Graded(conv(1, 2), nn.BatchNorm2d(2))
    model.a.requires_grad_(False)
    model.norm.train()
    graph = trace(model, SQUARE)
    modes = [m.training for m in model.modules()]
    score(model, graph, "taylor", batches=BATCHES)
    assert [m.training for m in model.modules()] == modes
    assert [p.requires_grad for p in model.parameters()] == [False, False, True, True, True, True]
    assert all(p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_activation_is_measured_where_it_is_read() -> None:
    """Channel 0 is x = 1, 2, 3, -4 and channel 1 is -x; one reader sees them past a ReLU, the other as they are."""

    class Read(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.c, self.d = filled(conv(1, 2), [1, -1], [0, 0]), conv(2, 1), conv(2, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x)
            return self.c(x.relu()) + self.d(x)

    x = torch.tensor([[[[1.0, 2.0], [3.0, -4.0]]]])
    assert measured(Read(), "activation", [x]) == pytest.approx([(6 / 4 + 10 / 4) / 2, (4 / 4 + 10 / 4) / 2])
    assert measured(Read(), "activation", [x], reduce="max") == pytest.approx([2.5, 2.5])
    # positions count alike, batches do not: 1.5 and 2.5 over the first eight, 0 over the last four
    more = [torch.cat((x, x)), torch.zeros_like(x)]
    assert measured(Read(), "activation", more)[0] == pytest.approx((6 / 4 + 10 / 4) / 2 * 8 / 12)


@pytest.mark.parametrize("none", [False, True])
def test_activation_of_an_image_without_a_batch_dimension_and_of_none(none: bool) -> None:
    class Read(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.c = filled(conv(1, 2), [1, -2], [0, 0]), conv(2, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x)
            return self.c(x) + self.c(x[:0]).sum() if none else self.c(x[0])[None]

    x = torch.tensor([[[[1.0, 2.0], [3.0, -4.0]]]])
    assert measured(Read(), "activation", [x]) == pytest.approx([10 / 4, 20 / 4])


@pytest.mark.parametrize("criterion", ["taylor", "activation"])
def test_data_is_needed(criterion: str) -> None:
    model = Graded(conv(1, 2)).eval()
    graph = trace(model, SQUARE)
    with pytest.raises(ArgumentError, match=f"score={criterion}: must come with data"):
        score(model, graph, criterion)
    with pytest.raises(DataError, match="There are no"):
        score(model, graph, criterion, batches=[])


LABELS = {
    "detect": "1 0.5 0.5 0.4 0.6",
    "segment": "1 0.2 0.2 0.8 0.3 0.7 0.9",
    "pose": "0 0.5 0.5 0.4 0.6 0.4 0.4 2 0.6 0.7 2",
    "obb": "1 0.3 0.2 0.8 0.3 0.7 0.8 0.2 0.7",
}


@pytest.mark.parametrize("task", [*LABELS, "classify"])
@pytest.mark.slow
def test_taylor_on_labels_of_every_task(task: str, tmp_path: Path) -> None:
    """Ultralytics' own data set and loss; the model keeps neither gradients nor the criterion."""
    rng = np.random.default_rng(0)
    for i in range(3):
        image = tmp_path / ("train" if task == "classify" else "images") / ("01"[i % 2] if task == "classify" else "")
        image.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (48, 64, 3), dtype=np.uint8)).save(image / f"{i}.png")
        if task != "classify":
            (tmp_path / "labels").mkdir(exist_ok=True)
            (tmp_path / "labels" / f"{i}.txt").write_text(LABELS[task])
    told: dict[str, Any] = {"path": str(tmp_path), "train": "images", "val": "images", "names": ["a", "b"]}
    (tmp_path / "data.yaml").write_text(yaml.safe_dump({**told, **({"kpt_shape": [2, 3]} if task == "pose" else {})}))
    suffix = {"detect": "", "segment": "-seg", "classify": "-cls"}.get(task, f"-{task}")
    stock = Path(ultralytics.__file__).parent / "cfg" / "models" / "v8" / f"yolov8{suffix}.yaml"
    shape = {**yaml.safe_load(stock.read_text()), "nc": 2, "scale": "n"}
    if task == "pose":
        shape["kpt_shape"] = [2, 3]
    (tmp_path / f"yolov8n{suffix}.yaml").write_text(yaml.safe_dump(shape))
    yolo = ultralytics.YOLO(tmp_path / f"yolov8n{suffix}.yaml")
    if task == "classify":
        yolo.model.names = {0: "0", 1: "1"}
    yolo.model.requires_grad_(False)
    graph = yolo_tracing.trace_yolo(yolo.model, imgsz=64)
    data = tmp_path if task == "classify" else tmp_path / "data.yaml"
    got = score(model_facts.with_loss(yolo), graph, "taylor", batches=labelled(yolo, data, 64, batch=2))
    assert np.isfinite(got[graph.prunable]).all()
    assert (got[graph.prunable] > 0).mean() > 0.9
    assert getattr(yolo.model, "criterion", None) is None
    assert not any(p.requires_grad for p in yolo.model.parameters())


def test_taylor_of_an_rtdetr_that_was_never_trained(data: Path, tmp_path: Path) -> None:
    """Its loss asks the model for the number of classes, which Ultralytics' trainer attaches."""
    layers = [[-1, 1, "Conv", [16, 3, 4]], *([-1, 1, "Conv", [width, 3, 2]] for width in (32, 32, 64))]
    decoder = [[1, 2, 3], 1, "RTDETRDecoder", ["nc", 32, 20, 2, 2, 1, 64]]
    (tmp_path / "rtdetr-small.yaml").write_text(yaml.safe_dump({"nc": 3, "backbone": layers, "head": [decoder]}))
    yolo = ultralytics.RTDETR(tmp_path / "rtdetr-small.yaml")
    graph = yolo_tracing.trace_yolo(yolo.model, imgsz=64)
    got = score(model_facts.with_loss(yolo), graph, "taylor", batches=labelled(yolo, data, 64, batch=2))
    assert np.isfinite(got[graph.prunable]).all() and got[graph.prunable].max() > 0
    assert not hasattr(yolo.model, "nc")  # the user's model stays as it was


def test_images_without_any_label_are_refused(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    Image.fromarray(np.zeros((48, 64, 3), dtype=np.uint8)).save(tmp_path / "images" / "0.png")
    told = {"path": str(tmp_path), "train": "images", "val": "images", "names": ["a"]}
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(told))
    yolo = ultralytics.YOLO("yolov8n.yaml")
    with pytest.raises(DataError, match=r"of 1 training images none has a label of 0, 1, .*score=output"):
        next(labelled(yolo, tmp_path / "data.yaml", 64))
    with pytest.raises(DataError, match=r"score=taylor needs some\. Use score=magnitude\.$"):  # a score of masks
        mask_scores.scored(yolo, ["model.0.conv"], "taylor", Calibration(64, tmp_path / "data.yaml"))


def test_labelled_images_of_a_missing_data_set(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        next(labelled(ultralytics.YOLO("yolov8n.yaml"), tmp_path / "nowhere.yaml", 64))
