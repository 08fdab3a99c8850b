"""Ridge regression of one layer: every value with a weight of its own, and perhaps some of the weights held."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from yoloprune.torch_internals import float64_home

STEPS = 10
"""Iterations where one factor does not solve it at once."""


def solve(
    weight: Tensor,
    constant: Tensor,
    x: Tensor,
    y: Tensor,
    ridge: float,
    importance: Tensor | None = None,
    free: Tensor | None = None,
    *,
    movable: bool = True,
) -> tuple[Tensor, Tensor, tuple[float, float]]:
    """Fit what is missed, each group of a grouped layer for itself.

    Every output has its own weights over the positions, and its own inputs that may change, but one matrix is factored
    for all: it solves the problem without these, and conjugate gradients that are preconditioned by it come close to
    the solution with them in a few steps (Hestenes and Stiefel 1952, Journal of Research of the NBS 49). The matrix has
    the size of the inputs or of the positions, whichever are fewer. It is factored in float64; products over
    all positions, where the time goes, are as exact as `x`, at least float32, where there are more of these.

    Args:
        weight (Tensor): Present weights, shape (O, …).
        constant (Tensor): What is added to the products, shape (O,).
        x (Tensor): Inputs, shape (groups, P, I).
        y (Tensor): Wanted outputs, shape (P, O).
        ridge (float): Relative to the squares of an input, summed over positions and averaged over inputs.
        importance (Tensor | None): Weight of each value of `y`, shape (P, O), in (0, 1]; None for 1.
        free (Tensor | None): Which weights may change, bool, shape of `weight`; None for all. Others do not, to the
            bit.
        movable (bool): Whether the constant can change; if not, the weights have to make the mean as well.

    Returns:
        (Tensor): Change of the weights, shape of `weight`.
        (Tensor): Change of the constant, shape (O,).
        (tuple[float, float]): Shares of the weighted variance of `y` missed before and after.
    """
    groups, count, width = x.shape
    weight, constant, x, y = (t.to(float64_home(x.device)) for t in (weight, constant, x, y))
    # Where there are more inputs than positions, what float32 leaves outside of these is blown up by 1 / λ.
    exact = torch.promote_types(x.dtype, torch.float32 if count >= width else torch.float64)
    x, y = x.to(exact), y.to(exact).reshape(count, groups, -1).transpose(0, 1)
    matters = torch.ones_like(y) if importance is None else importance.to(y).reshape(count, groups, -1).transpose(0, 1)
    mean = (matters * y).sum(1, keepdim=True) / matters.sum(1, keepdim=True)
    variance = (matters * (y - mean).square()).sum().clamp_min(1e-30)
    missing = y - x @ weight.to(exact).reshape(groups, -1, width).mT - constant.to(exact).reshape(groups, 1, -1)
    before = float((matters * missing.square()).sum() / variance)
    if before < 1e-10:  # nothing has changed up to here
        return torch.zeros_like(weight), torch.zeros_like(constant), (before, before)
    middle = x.mean(1, keepdim=True) * movable
    x = x - middle  # so that the constant has no part in what the weights make
    held = ridge * (x.square().sum((1, 2), keepdim=True) / width).clamp_min(1e-30).double()
    may = torch.ones((), device=x.device) if free is None else free.to(x).reshape(groups, -1, width).mT
    unknown = torch.cat([may.expand(groups, width, y.shape[2]), torch.full_like(y[:, :1], float(movable))], 1)
    solved = _unweighted(x, held)

    def forth(by: Tensor) -> Tensor:
        return x @ by[:, :-1].to(exact) + by[:, -1:].to(exact)

    def back(rows: Tensor) -> Tensor:
        rows = matters * rows
        return torch.cat([x.mT @ rows, rows.sum(1, keepdim=True)], 1).double() * unknown

    def matrix(by: Tensor) -> Tensor:
        return back(forth(by)) + torch.cat([held * by[:, :-1], torch.zeros_like(by[:, -1:])], 1)

    def nearly(by: Tensor) -> Tensor:
        return torch.cat([solved(by[:, :-1]), by[:, -1:] / count], 1) * unknown

    found = _conjugate_gradients(matrix, nearly, back(missing), 1 if importance is None and free is None else STEPS)
    after = float((matters * (missing - forth(found)).square()).sum() / variance)
    change, added = found[:, :-1].to(exact).mT, found[:, -1:].to(exact)
    shift = added.mT - change @ middle.mT
    return change.reshape(weight.shape), shift.flatten(), (before, after)


def _unweighted(x: Tensor, held: Tensor) -> Callable[[Tensor], Tensor]:
    """What solves (XᵀX + λ) D = B by one factor, for D and B of shape (groups, I, O).

    Where there are fewer positions than inputs, by the smaller matrix: (B - Xᵀ (XXᵀ + λ)⁻¹ X B) / λ.
    """
    dual = x.shape[1] < x.shape[2]
    square = (x @ x.mT if dual else x.mT @ x).double()
    square.diagonal(dim1=1, dim2=2).add_(held[..., 0])
    factor = torch.linalg.cholesky(square)
    if not dual:
        return lambda by: torch.cholesky_solve(by, factor)
    rows = x.double()
    return lambda by: (by - rows.mT @ torch.cholesky_solve(rows @ by, factor)) / held


def _conjugate_gradients(
    matrix: Callable[[Tensor], Tensor], nearly: Callable[[Tensor], Tensor], wanted: Tensor, steps: int
) -> Tensor:
    """Solve for every column by itself, all at once.

    Args:
        matrix (Callable): Multiplies columns by a symmetric positive matrix.
        nearly (Callable): Multiplies them by what is near its inverse, symmetric and positive as well.
        wanted (Tensor): Right sides, shape (groups, n, columns), float64.
        steps (int): Number of iterations; a column that is solved before rests.
    """
    found, rest = torch.zeros_like(wanted), wanted
    along = near = nearly(rest)
    length = begun = (rest * near).sum(1, keepdim=True)
    for step in range(steps):
        if step:
            near = nearly(rest)
            length, before = (rest * near).sum(1, keepdim=True), length
            along = near + along * _ratio(length, before)
        across = matrix(along)
        stride = _ratio(length, (along * across).sum(1, keepdim=True)) * (length > EXACT * begun)
        found, rest = found + stride * along, rest - stride * across
    return found


EXACT = 1e-14
"""A column is solved where its error has fallen to this share, squared: what products in float32 can tell."""


def _ratio(above: Tensor, below: Tensor) -> Tensor:
    """The quotient, 0 where there is nothing to divide by, as in a column that has no unknown."""
    return torch.where(below > 0, above / below.clamp_min(1e-300), 0.0)
