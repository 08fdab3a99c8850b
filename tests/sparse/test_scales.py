"""The scales of a graph: shrunk, pulled, summed and compared as worked out by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from yoloprune.sparse.batch_norm_scales import BatchNormScales
from yoloprune.tracing import trace_network


class Residual(nn.Module):
    """Two layers whose channels are added, so that they live or die together, and a third that reads them."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 2, 1, bias=False), nn.Conv2d(2, 2, 1, bias=False)
        self.na, self.nb = nn.BatchNorm2d(2), nn.BatchNorm2d(2)
        self.c, self.nc, self.d = nn.Conv2d(2, 4, 1, bias=False), nn.BatchNorm2d(4), nn.Conv2d(4, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.na(self.a(x)).relu()
        x = x + self.nb(self.b(x)).relu()
        return self.d(self.nc(self.c(x)).relu())


def residual(na: list[float], nb: list[float], nc: list[float], frozen: str = "") -> tuple[Residual, BatchNormScales]:
    """The network with scales written by hand."""
    model = Residual().eval()
    for norm, values in ((model.na, na), (model.nb, nb), (model.nc, nc)):
        norm.weight.data = torch.tensor(values)
    if frozen:
        model.get_submodule(frozen).weight.requires_grad = False
    return model, BatchNormScales(model, trace_network.trace(model, torch.rand(1, 3, 4, 4)))


def test_group_shrinks_coupled_scales_by_their_common_norm() -> None:
    """Norms sqrt(9 + 16) = 5 and sqrt(0.36 + 0.64) = 1: factors 1 - 1/5 and 0. Of nc: 1 - 1/2, 1 - 1/4, 0, 0."""
    model, scales = residual([3.0, 0.6], [-4.0, -0.8], [2.0, -4.0, 1.0, 0.5])
    scales.shrink(1.0, coupled=True)
    torch.testing.assert_close(model.na.weight.data, torch.tensor([2.4, 0.0]))
    torch.testing.assert_close(model.nb.weight.data, torch.tensor([-3.2, 0.0]))
    torch.testing.assert_close(model.nc.weight.data, torch.tensor([1.0, -3.0, 0.0, 0.0]))
    assert [int((n.weight == 0).sum()) for n in (model.na, model.nb, model.nc)] == [1, 1, 2]


def test_prox_shrinks_every_scale_on_its_own() -> None:
    """The same scales lose 1 each, down to zero, whatever their partners."""
    model, scales = residual([3.0, 0.6], [-4.0, -0.8], [2.0, -4.0, 1.0, 0.5])
    scales.shrink(1.0, coupled=False)
    torch.testing.assert_close(model.na.weight.data, torch.tensor([2.0, 0.0]))
    torch.testing.assert_close(model.nb.weight.data, torch.tensor([-3.0, 0.0]))
    torch.testing.assert_close(model.nc.weight.data, torch.tensor([1.0, -3.0, 0.0, 0.0]))


def test_l1_adds_the_sign_to_the_gradient() -> None:
    model, scales = residual([3.0, -0.6], [-4.0, 0.0], [1.0] * 4)
    for norm in (model.na, model.nb, model.nc):
        norm.weight.grad = torch.full_like(norm.weight, 2.0)
    scales.pull(0.5)
    assert model.na.weight.grad.tolist() == [2.5, 1.5]
    assert model.nb.weight.grad.tolist() == [1.5, 2.0]


def test_sums_add_up_the_members_of_a_class() -> None:
    _, scales = residual([3.0, 0.5], [-4.0, -0.25], [1.0, 2.0, 8.0, 16.0])
    sums = scales.sums(scales.gamma.abs())[torch.from_numpy(scales.removable)]
    assert sorted(sums.tolist()) == [0.75, 1.0, 2.0, 7.0, 8.0, 16.0]


def test_relative_divides_by_the_mean_of_the_layer() -> None:
    _, scales = residual([3.0, 1.0], [-40.0, -40.0], [1.0, 2.0, 4.0, 9.0])
    assert scales.relative().tolist() == [1.5, 0.5, 1.0, 1.0, 0.25, 0.5, 1.0, 2.25]


def test_a_frozen_member_protects_its_partners() -> None:
    model, scales = residual([3.0, 0.6], [-4.0, -0.8], [2.0, -4.0, 1.0, 0.5], frozen="na")
    scales.shrink(1.0, coupled=True)
    assert model.na.weight.tolist() == pytest.approx([3.0, 0.6])
    assert model.nb.weight.tolist() == pytest.approx([-4.0, -0.8])
    assert model.nc.weight.tolist() == pytest.approx([1.0, -3.0, 0.0, 0.0])


def test_rates_are_those_of_the_groups_of_the_optimizer() -> None:
    model, scales = residual([1.0] * 2, [1.0] * 2, [1.0] * 4)
    bn, other = [model.na.weight, model.nb.weight], [model.nc.weight, *(m.weight for m in (model.a, model.b, model.c))]
    optimizer = torch.optim.SGD([{"params": bn, "lr": 0.25}, {"params": other, "lr": 0.75}])
    assert scales.rates(optimizer).tolist() == [0.25] * 4 + [0.75] * 4


def test_what_lives_does_not_read_as_zero_in_half_precision() -> None:
    """One class would vanish in the checkpoint as a whole; in the other a faint member has a partner that is seen."""
    model, scales = residual([1e-9, 1e-9], [0.0, 1.0], [1.0, 0.0, 1.0, 1.0])
    alive = scales.removable.copy()
    scales.lift(model, alive)
    assert (model.na.weight.half() != 0).tolist() == [True, False]
    assert (model.nb.weight.half() != 0).tolist() == [True, True]
    assert float(model.nc.weight.detach().half()[1]) > 0
