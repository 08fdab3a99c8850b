"""How far two values are apart that should be equal, each on its own terms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from yoloprune.probing.outputs import ATOMS, Leaf

FLOOR = 1e-9
"""In float64, what is smaller than this share of the largest value of its output is judged at that size: what cancels
out to nothing leaves rounding errors of 1e-16. In float32 there is no floor, because there is none below which a wrong
score could not hide beside a box; what rounding makes of a small value there float64 decides, see `compare`."""

FEW = 1000
"""One value of so many may be as far off as it likes relative to itself: near zero, rounding is all there is of it."""

EACH = 100.0
"""In float32 single values may be so many times as far off, relative to themselves, as a whole output."""

TINY = {torch.float64: 1e-290, torch.float32: 1e-30, torch.bfloat16: 1e-30, torch.float16: 1e-6}
"""Below these a number has lost the precision of its type."""


def apart(expected: Any, got: Any) -> float:
    """Error of one value: of numbers relative to the values around them, of all else 0 if equal and infinite if not.

    Every slice of a tensor along each of its dimensions, so every channel, has an error of its own: the largest
    difference in it relative to the largest absolute value in it. Boxes of hundreds of pixels do not hide scores below
    1 beside them. Nor do they where both share every slice, as those of one of several levels: single values have an
    error of their own as well, and all but one of `FEW` count. The largest of these errors is that of the tensor; in
    float32 that of single values counts by `EACH`.

    Args:
        expected (Any): A leaf of the parent's output.
        got (Any): The same leaf of the cut model's.

    Returns:
        (float): The error; infinite for another type or shape, and for a not-a-number in one only.
    """
    if isinstance(expected, Tensor) and isinstance(got, Tensor):
        if expected.shape != got.shape or expected.dtype != got.dtype:
            return float("inf")
        if expected.is_complex():
            return apart(torch.view_as_real(expected), torch.view_as_real(got))
        if not expected.is_floating_point():
            return 0.0 if torch.equal(expected, got) else float("inf")
        return _relative(expected, got)
    if type(expected) is not type(got) or not isinstance(expected, ATOMS):
        return float("inf")
    if isinstance(expected, float | complex):
        return apart(torch.tensor([expected]), torch.tensor([got]))
    return 0.0 if expected == got else float("inf")


def _relative(a: Tensor, b: Tensor) -> float:
    if not a.numel():
        return 0.0
    equal = (a == b) | (a.isnan() & b.isnan())  # infinities of one sign are equal as well
    difference = torch.where(equal, 0.0, a - b).abs()
    if not (worst := difference.max()):
        return 0.0
    if not worst.isfinite():
        return float("inf")
    size = a.abs().nan_to_num(0.0, 0.0, 0.0)
    floor = TINY.get(a.dtype, 0.0)
    if a.dtype == torch.float64:
        floor = max(floor, FLOOR * float(size.max()))
    difference, size = (x.reshape(1) if x.ndim == 0 else x for x in (difference, size))
    slices = max(float((_largest(difference, d) / _largest(size, d).clamp_min(floor)).max()) for d in range(size.ndim))
    single = _most(difference / size.clamp_min(floor))
    return max(slices, single if a.dtype == torch.float64 else single / EACH)


def _most(errors: Tensor) -> float:
    """The largest value but for one of `FEW`, and three at least."""
    spared = max(3, errors.numel() // FEW)
    return float(errors.flatten().topk(spared + 1).values[-1]) if errors.numel() > spared else 0.0


def _largest(x: Tensor, dim: int) -> Tensor:
    """Largest value of each slice, shape (x.shape[dim],)."""
    return x.movedim(dim, 0).flatten(1).amax(1) if x.ndim > 1 else x


def says_something(value: Any) -> bool:
    """Whether a value could show a difference: finite numbers that are not all zero, counted ones that are not all
    alike.
    """
    if not isinstance(value, Tensor):
        return isinstance(value, ATOMS)
    if value.is_complex():
        value = torch.view_as_real(value)
    if value.is_floating_point():
        return bool((value.isfinite() & (value.abs() > TINY.get(value.dtype, 0.0))).any())
    return value.numel() == 1 or bool((value != value.flatten()[:1]).any())


def depends_on_luck(value: Any) -> bool:
    """Whether a value that says nothing is no fault of the network: nothing found on this example, or one class."""
    return isinstance(value, Tensor) and not (value.numel() and (value.is_floating_point() or value.is_complex()))


def errors(expected: Sequence[Leaf], got: Sequence[Leaf]) -> dict[str, float]:
    """Error of every leaf by its path; infinite for one that only one side has."""
    theirs, mine = dict(got), dict(expected)
    return {
        path: apart(mine[path], theirs[path]) if path in mine and path in theirs else float("inf")
        for path in dict.fromkeys([*mine, *theirs])
    }


class KeptRows(NamedTuple):
    """What is left of an output.

    Attributes:
        dim (int): Along which it lost channels.
        rows (list[int]): Their positions.
        certain (bool): Whether marks told, which do so for any weights; else values did, which may be alike.
    """

    dim: int
    rows: list[int]
    certain: bool

    def left_of(self, value: Tensor) -> Tensor:
        """What is left of a tensor of the parent's; all of one that is too small, as another branch may give it."""
        if value.ndim <= self.dim or value.shape[self.dim] <= max(self.rows, default=-1):
            return value
        return value.index_select(self.dim, torch.tensor(self.rows, dtype=torch.int64, device=value.device))


def kept_rows(expected: Tensor, marked: Tensor, got: Tensor) -> KeptRows | None:
    """Which channels are left of an output that itself lost some, e.g. the neck's features.

    Lost are those that change when masked channels are written with another value than zero. Where more change, because
    masked channels met others in a product, the kept ones are found by their values, in their order.

    Args:
        expected (Tensor): Of the masked parent.
        marked (Tensor): The same with masked channels written as 1.
        got (Tensor): Of the cut model.

    Returns:
        (KeptRows | None): None if not exactly one dimension got narrower.
    """
    changed = [d for d in range(expected.ndim) if expected.ndim == got.ndim and expected.shape[d] != got.shape[d]]
    if len(changed) != 1 or expected.shape[changed[0]] < got.shape[changed[0]]:
        return None
    (dim,) = changed
    kept = (expected == marked).movedim(dim, 0).flatten(1).all(1).nonzero().flatten().tolist()
    certain = len(kept) == got.shape[dim]
    if not certain:
        rows, wanted = (x.movedim(dim, 0).flatten(1).cpu().double() for x in (expected, got))
        errors, kept, at = torch.cdist(wanted, rows, p=float("inf")), [], 0
        for i, row in enumerate(errors):  # each lies behind the one before, and leaves enough for those to come
            at += int(row[at : len(rows) - (len(wanted) - i) + 1].argmin()) + 1
            kept.append(at - 1)
    return KeptRows(dim, kept, certain)
