"""The copy of a network that is brought to life: channels that the example leaves dead are alive in it."""

from __future__ import annotations

import pytest
import torch
from conftest import conv, cut_copy, cutting_alive, noise
from torch import Tensor, nn

from yoloprune.cutting import surgery
from yoloprune.cutting.comparison import TOLERANCE
from yoloprune.cutting.lively_copy import lively_copy
from yoloprune.cutting.proof import prove
from yoloprune.errors import VerifyError
from yoloprune.planning.plan import Plan
from yoloprune.probing.examples import Example
from yoloprune.tracing import trace

IMAGE = noise(2, 3, 6, 6)


def without_norms(bias: float) -> nn.Sequential:
    """A network without batch-norm; with the bias given, a ReLU may let nothing through behind its first layer."""
    torch.manual_seed(0)
    model = nn.Sequential(conv(3, 8), nn.ReLU(), conv(8, 6), nn.ReLU(), conv(6, 2)).eval()
    model[0].bias.data += bias
    for layer in (model[2], model[4]):
        layer.bias.data += 100
    return model


def test_channels_that_are_dead_on_the_example_are_alive_in_the_copy() -> None:
    model = without_norms(-100.0)
    live = lively_copy(model, Example.of(IMAGE))
    assert live is not None and live[0](IMAGE).amax((0, 2, 3)).min() > 0
    assert model[0].bias.max() < -90 and live[0].weight is model[0].weight


def test_where_all_is_alive_there_is_no_copy() -> None:
    assert lively_copy(without_norms(100.0), Example.of(IMAGE)) is None


def test_wrong_surgery_between_dead_channels_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = without_norms(-100.0)
    plan = (graph := trace(model, IMAGE)).plan(cutting_alive(graph, 0))
    right = surgery.cut

    def wrong(model: nn.Module, plan: Plan) -> nn.Module:
        layer = right(model, plan)[2]
        layer.weight = nn.Parameter(layer.weight.detach().flip(1))
        return model

    assert prove(model, cut_copy(model, plan), plan, IMAGE).error <= TOLERANCE
    monkeypatch.setattr(surgery, "cut", wrong)
    child = cut_copy(model, plan)
    with pytest.raises(VerifyError, match="differs"):
        prove(model, child, plan, IMAGE)


@pytest.mark.parametrize("fault", ["weight", "number"])
def test_a_finished_model_that_is_not_what_the_surgery_makes_is_refused(fault: str) -> None:
    """Nothing reads the channels in which it differs on this example, and nothing reads the number at all."""
    model = without_norms(-100.0)
    model.width = 1000
    plan = (graph := trace(model, IMAGE)).plan(cutting_alive(graph, 0))
    child = cut_copy(model, plan)
    if fault == "weight":
        child[2].weight.data = child[2].weight.data.flip(1)
    else:
        child.width = 999
    with pytest.raises(VerifyError, match="'2.weight'" if fault == "weight" else "'width'"):
        prove(model, child, plan, IMAGE)


class Hidden(nn.Module):
    """It multiplies by a width that no trace sees, behind a gate that is all but closed."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.d, self.b = conv(3, 8), conv(8, 8), conv(8, 2)
        self.gate = nn.Parameter(torch.tensor(1e-9))

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        out: Tensor = self.b(y + self.gate * self.d(y) * len(range(self.a.out_channels)))
        return out


EXTRA = {
    "none": None,
    "one number": torch.tensor(0.0),
    "repeated": torch.zeros(1).expand(5),
    "sparse": torch.eye(3).to_sparse(),
    "without values": torch.zeros(3, device="meta"),
}


@pytest.mark.parametrize("name", EXTRA)
def test_a_buffer_on_a_layer_takes_nothing_from_the_proof(name: str) -> None:
    """A number that a tool hangs onto a layer let no copy come to life, and a wrong cut passed as it was."""
    model = Hidden().eval()
    if (extra := EXTRA[name]) is not None:
        model.b.register_buffer("note", extra)
    assert lively_copy(model, Example.of(IMAGE)) is not None
    plan = (graph := trace(model, IMAGE)).plan(cutting_alive(graph, 0))
    with pytest.raises(VerifyError, match="differs"):
        prove(model, cut_copy(model, plan), plan, IMAGE)
