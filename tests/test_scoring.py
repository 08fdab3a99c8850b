"""Importance of channels on weights written by hand, and which channels count as dead."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import ultralytics
import yaml
from conftest import classes, conv, filled, noise
from PIL import Image
from torch import Tensor, nn

from yoloprune import host
from yoloprune.calibration import labelled
from yoloprune.errors import ArgumentError, DataError
from yoloprune.groups import ChannelGraph
from yoloprune.scoring import dead, score, silenced_by_gamma
from yoloprune.tracing import trace


class Net(nn.Module):
    """a -> bn -> (+ b -> bn2) -> c: the two batch-norms share their three channels."""

    def __init__(self) -> None:
        super().__init__()
        self.a = filled(conv(2, 3), [[3, 4], [0, -1], [1, 1]], [9, 9, 9])
        self.bn = filled(nn.BatchNorm2d(3), [1, -2, 0], [9, 9, 9])
        self.b = filled(conv(3, 3), [[1, 2, 2], [0, 0, 5], [1, 1, 1]], [9, 9, 9])
        self.bn2 = filled(nn.BatchNorm2d(3), [-3, 4, 0], [9, 9, 9])
        self.c = filled(conv(3, 1), [7, 7, 7], [9])

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn(self.a(x))
        return self.c(y + self.bn2(self.b(y)))


IMAGE = noise(1, 2, 4, 4)


@pytest.fixture(scope="module")
def model() -> Net:
    return Net().eval()


@pytest.fixture(scope="module")
def graph(model: Net) -> ChannelGraph:
    return trace(model, IMAGE)


def hidden(graph: ChannelGraph, values: np.ndarray) -> list[float]:
    """Values of the three shared channels."""
    return values[classes(graph, "a.outputs")].tolist()


# Criteria -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "criterion, reduce, expected",
    [
        ("bn", "mean", [(1 + 3) / 2, (2 + 4) / 2, 0]),
        ("bn", "max", [3, 4, 0]),
        ("bn", "sum", [4, 6, 0]),
        ("bn", "l2", [math.sqrt(1 + 9), math.sqrt(4 + 16), 0]),
        ("l1", "mean", [(7 + 5) / 2, (1 + 5) / 2, (2 + 3) / 2]),
        ("l1", "sum", [12, 6, 5]),
        ("l2", "max", [5, 5, math.sqrt(3)]),
        ("l2", "sum", [5 + 3, 1 + 5, math.sqrt(2) + math.sqrt(3)]),
        # squares 25, 1, 2: 25/25, 1/(25+2+1), 2/(25+2); squares 9, 25, 3: 9/(25+9), 25/25, 3/(25+9+3)
        ("lamp", "mean", [(1 + 9 / 34) / 2, (1 / 28 + 1) / 2, (2 / 27 + 3 / 37) / 2]),
        # distances of (3,4), (0,-1), (1,1): sqrt(34), sqrt(13), sqrt(5)
        # and of (1,2,2), (0,0,5), (1,1,1): sqrt(14), sqrt(2), sqrt(18)
        (
            "fpgm",
            "sum",
            [
                math.sqrt(34) + math.sqrt(13) + math.sqrt(14) + math.sqrt(2),
                math.sqrt(34) + math.sqrt(5) + math.sqrt(14) + math.sqrt(18),
                math.sqrt(13) + math.sqrt(5) + math.sqrt(2) + math.sqrt(18),
            ],
        ),
    ],
)
def test_by_hand(model: Net, graph: ChannelGraph, criterion: str, reduce: str, expected: list[float]) -> None:
    got = hidden(graph, score(model, graph, criterion, reduce=reduce))  # type: ignore[arg-type]
    assert got == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("normalize, divisor", [("mean", (4 + 6 + 0) / 3), ("max", 6)])
def test_normalisation_within_the_group(model: Net, graph: ChannelGraph, normalize: str, divisor: float) -> None:
    got = score(model, graph, "bn", reduce="sum", normalize=normalize)  # type: ignore[arg-type]
    assert hidden(graph, got) == pytest.approx([4 / divisor, 6 / divisor, 0])


def test_classes_without_a_member_that_counts_are_infinite(model: Net, graph: ChannelGraph) -> None:
    got = score(model, graph, "bn")
    assert np.isinf(got[classes(graph, "c.outputs")]).all()  # no batch-norm there
    assert np.isinf(got[classes(graph, "a.inputs")]).all()
    assert np.isfinite(score(model, graph, "l1")[classes(graph, "c.outputs")]).all()


@pytest.mark.parametrize("normalize", ["mean", "max"])
def test_normalisation_leaves_the_infinite_infinite(model: Net, graph: ChannelGraph, normalize: str) -> None:
    got = score(model, graph, "bn", normalize=normalize)  # type: ignore[arg-type]
    assert np.isinf(got[classes(graph, "c.outputs")]).all()
    assert not np.isnan(got).any()


def test_normalisation_of_a_dead_group() -> None:
    model = Net()
    model.bn.weight.data.zero_()
    model.bn2.weight.data.zero_()
    graph = trace(model, IMAGE)
    assert hidden(graph, score(model, graph, "bn", normalize="mean")) == [0, 0, 0]


def test_transposed_and_linear_layers_have_filters_too() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.t = filled(nn.ConvTranspose2d(2, 3, 1), [[1, 2, 3], [-4, 5, -6]], [9, 9, 9])
            self.l, self.m = filled(nn.Linear(3, 2), [[1, -2, 3], [0, 0, -7]], [9, 9]), nn.Linear(2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.m(self.l(self.t(x).mean((2, 3))))

    model = Mixed()
    graph = trace(model, IMAGE)
    got = score(model, graph, "l1")
    assert got[classes(graph, "t.outputs")].tolist() == [5, 7, 9]
    assert got[classes(graph, "l.outputs")].tolist() == [6, 7]


def test_a_member_that_occurs_twice_counts_twice() -> None:
    """A depthwise layer with multiplier 2: both its filters belong to the one channel."""

    class Multiplied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = filled(conv(2, 2), [[1, 0], [0, 2]], [0, 0])
            self.d = filled(conv(2, 4, groups=2), [10, -20, 30, 40], [0] * 4)
            self.b = conv(4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.d(self.a(x)))

    model = Multiplied()
    graph = trace(model, IMAGE)
    at = classes(graph, "a.outputs")
    assert score(model, graph, "l1", reduce="sum")[at].tolist() == [1 + 10 + 20, 2 + 30 + 40]
    assert score(model, graph, "l1", reduce="max")[at].tolist() == [20, 40]
    assert score(model, graph, "l1", reduce="mean")[at].tolist() == pytest.approx([31 / 3, 72 / 3])


def test_random_is_seeded(model: Net, graph: ChannelGraph) -> None:
    one, same, other = (score(model, graph, "random", seed=s) for s in (1, 1, 2))
    assert one.shape == (graph.n_classes,)
    assert one.tolist() == same.tolist()
    assert one.tolist() != other.tolist()
    assert ((one >= 0) & (one < 1)).all()


def test_an_unknown_criterion(model: Net, graph: ChannelGraph) -> None:
    with pytest.raises(ArgumentError, match=r"score=l3.*'l1'.*'random'"):
        score(model, graph, "l3")


def test_scoring_leaves_the_model_alone(model: Net, graph: ChannelGraph) -> None:
    before = {k: v.clone() for k, v in model.state_dict().items()}
    for criterion in ("bn", "l1", "l2", "lamp", "fpgm"):
        score(model, graph, criterion)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_half_precision_weights_are_scored() -> None:
    model = Net()
    graph = trace(model, IMAGE)
    assert hidden(graph, score(model.half(), graph, "bn", reduce="sum")) == [4, 6, 0]


# Criteria that look at data -------------------------------------------------------------------------------------------
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
    graph = host.trace_yolo(yolo.model, imgsz=64)
    data = tmp_path if task == "classify" else tmp_path / "data.yaml"
    got = score(host.with_loss(yolo), graph, "taylor", batches=labelled(yolo, data, 64, batch=2))
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
    graph = host.trace_yolo(yolo.model, imgsz=64)
    got = score(host.with_loss(yolo), graph, "taylor", batches=labelled(yolo, data, 64, batch=2))
    assert np.isfinite(got[graph.prunable]).all() and got[graph.prunable].max() > 0
    assert not hasattr(yolo.model, "nc")  # the user's model stays as it was


def test_images_without_any_label_are_refused(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    Image.fromarray(np.zeros((48, 64, 3), dtype=np.uint8)).save(tmp_path / "images" / "0.png")
    told = {"path": str(tmp_path), "train": "images", "val": "images", "names": ["a"]}
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(told))
    with pytest.raises(DataError, match=r"no training image has a label.*score=activation"):
        next(labelled(ultralytics.YOLO("yolov8n.yaml"), tmp_path / "data.yaml", 64))


def test_labelled_images_of_a_missing_data_set(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        next(labelled(ultralytics.YOLO("yolov8n.yaml"), tmp_path / "nowhere.yaml", 64))


# Dead channels --------------------------------------------------------------------------------------------------------
def with_gammas(bn: Sequence[float], bn2: Sequence[float]) -> tuple[Net, ChannelGraph]:
    model = Net()
    filled(model.bn, bn)
    filled(model.bn2, bn2)
    return model, trace(model, IMAGE)


def test_dead_are_those_whose_members_are_all_zero() -> None:
    model, graph = with_gammas([0, 0, 1], [0, 1, 0])
    assert hidden(graph, dead(model, graph)) == [True, False, False]
    assert dead(model, graph).sum() == 1


def test_almost_zero_is_not_dead() -> None:
    model, graph = with_gammas([0, -1e-30, 0], [0, 0, 1e-30])
    assert hidden(graph, dead(model, graph)) == [True, False, False]


def test_channels_that_may_not_be_cut_are_not_dead() -> None:
    model, _ = with_gammas([0, 0, 0], [0, 0, 0])
    assert not dead(model, trace(model, IMAGE, keep={"a": "keep=a"})).any()


class Partly(nn.Module):
    """bn(a) + b: a zero gamma silences only one of the two that make these channels."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.a, self.bn, self.b, self.c = conv(2, 3), nn.BatchNorm2d(3), conv(2, 3), conv(3, 1)
        self.how, self.l = how, nn.Linear(2, 3)
        self.bn.weight.data.zero_()
        self.free = nn.BatchNorm2d(3, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "no norm":
            return self.c(self.b(x))
        if self.how == "no scale":
            return self.c(self.bn(self.a(x)) + self.free(self.b(x)))
        if self.how == "linear":
            return self.c(self.bn(self.a(x)) + self.l(x.mean((2, 3)))[..., None, None])
        return self.c(self.bn(self.a(x)) + self.b(x))


@pytest.mark.parametrize("how", ["no norm", "no scale", "linear", "residual"])
def test_channels_that_batch_norm_cannot_silence_are_never_dead(how: str) -> None:
    """Even with every gamma at zero, what another layer makes without batch-norm is alive."""
    model = Partly(how).eval()
    graph = trace(model, IMAGE)
    made = classes(graph, "b.outputs" if how != "linear" else "a.outputs")
    assert not silenced_by_gamma(model, graph)[made].any()
    assert not dead(model, graph)[made].any()


def test_a_norm_over_more_than_the_channels_it_follows() -> None:
    """Normalised after a concat, as DenseNet does it: one of the two readers sees the channels without the norm."""

    class Dense(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.bn, self.c, self.d = (
                conv(2, 3),
                conv(2, 3),
                nn.BatchNorm2d(6),
                conv(6, 1),
                conv(3, 1),
            )
            self.bn.weight.data.zero_()

        def forward(self, x: Tensor) -> Tensor:
            a = self.a(x)
            return self.c(self.bn(torch.cat([a, self.b(x)], 1))) + self.d(a)

    model = Dense().eval()
    graph = trace(model, IMAGE)
    assert not dead(model, graph)[classes(graph, "a.outputs")].any()


def test_a_norm_after_a_second_reader_does_not_silence() -> None:
    """bn follows a, but d reads a before the norm: cutting the channel would change d."""

    class Before(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.bn, self.c, self.d = conv(2, 3), nn.BatchNorm2d(3), conv(3, 1), conv(3, 1)
            self.bn.weight.data.zero_()

        def forward(self, x: Tensor) -> Tensor:
            a = self.a(x)
            return self.c(self.bn(a)) + self.d(a)

    model = Before().eval()
    graph = trace(model, IMAGE)
    assert not dead(model, graph).any()
