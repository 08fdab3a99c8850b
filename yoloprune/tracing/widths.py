"""Sizes that remember whose channels they count, through the arithmetic that a forward pass does with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from math import gcd
from typing import Any

import torch
from torch import Tensor

from yoloprune.tracing.labels import LabelBook, Tag


@dataclass(frozen=True)
class Share:
    """One summand of a width: so many times as many channels as there are of these.

    Attributes:
        labels (Tensor): Labels of the tensor whose width was asked for; where they have rows, all keep equally many.
        row (Tensor): One row of them, as long as the width, shape (width,).
        factor (Fraction): How often it counts.
    """

    labels: Tensor
    row: Tensor
    factor: Fraction = Fraction(1)

    def counts_same(self, other: Share) -> bool:
        """Whether both count the same channels."""
        return self.row is other.row or torch.equal(self.row, other.row)


class Width(int):
    """A size that remembers the channels it counts; sums, multiples and exact quotients remember them too.

    Used as a mere number, e.g. in `x / x.shape[1] ** 0.5` or `if x.shape[1] > 64`, it freezes them: its value would
    change with a cut. Compared with another width, the two keep their proportion, and the answer stays what it was.
    """

    shares: tuple[Share, ...]
    constant: int
    book: LabelBook

    def __new__(cls, value: Any = 0) -> Any:
        """A plain number: what code makes by `type(n)(3)` counts no channels."""
        return int(value)

    def __deepcopy__(self, memo: dict[int, Any]) -> Width:
        return self  # it stays what it is, labels and all

    @classmethod
    def of(cls, value: int, tag: Tag, book: LabelBook) -> Width:
        """The width of a tensor with these labels."""
        return cls.counting(value, Share(tag.labels, tag.labels.movedim(tag.axis, -1).reshape(-1, value)[0]), book)

    @classmethod
    def counting(cls, value: int, share: Share, book: LabelBook) -> Width:
        """The width of these channels."""
        return cls._made(value, (share,), 0, book)

    @classmethod
    def _made(cls, value: int, shares: tuple[Share, ...], constant: int, book: LabelBook) -> Width:
        width = int.__new__(cls, value)
        width.shares, width.constant, width.book = shares, constant, book
        return width

    # ---- what it is used for -----------------------------------------------------------------------------------------

    def number(self) -> int:
        """The value, which may not change any more."""
        for share in self.shares:
            self.book.freeze(share.labels, "width used as a number")
        return int.__int__(self)

    def count(self, labels: Tensor, axis: int) -> None:
        """Hold the positions along an axis of some labels to this width: whatever is cut, so many of them are left."""
        if self.pure:
            self.book.tie([self.shares[0].labels, labels])
        elif any(share.factor.denominator != 1 for share in self.shares):
            self.number()
            self.book.freeze(labels, "width used as a number")
        else:
            self._balance(labels.movedim(axis, -1).reshape(-1, labels.shape[axis])[0])

    def _differ(self, other: Width) -> None:
        """Hold two sums to the difference that they have."""
        left = self - other
        if not isinstance(left, Width):
            return
        if any(share.factor.denominator != 1 for share in left.shares):
            left.number()
        else:
            left._balance(self.shares[0].row[:0])

    def _balance(self, row: Tensor) -> None:
        """Hold the positions of a row to a sum: what stands on both sides goes with itself, the rest has to stay."""
        left = Counter(row[row > 0].tolist())
        for share in self.shares:
            left.update({label: n * -int(share.factor) for label, n in Counter(share.row.tolist()).items() if label})
        more, less = (
            torch.tensor([*Counter({k: n * sign for k, n in left.items()}).elements()], dtype=torch.int64)
            for sign in (1, -1)
        )
        if len(more) == len(less) and len(more):
            return self.book.tie([more, less])
        for rest in (more, less):
            self.book.freeze(rest, "a number was added to a width")
        return None

    @property
    def pure(self) -> bool:
        """Whether it is a multiple, or a part, of as many channels as there are of one kind."""
        return len(self.shares) == 1 and not self.constant and self.shares[0].factor > 0

    def _divides(self, by: int) -> None:
        """Hold the channels to widths that can be divided as this one can."""
        share = self.shares[0]
        least = share.factor.denominator * by
        self.book.divide(share.row, least // gcd(share.factor.numerator, least))

    # ---- arithmetic --------------------------------------------------------------------------------------------------

    def _sum(self, other: int, sign: int) -> int:
        theirs = other.shares if isinstance(other, Width) else ()
        constant = self.constant + sign * (other.constant if isinstance(other, Width) else other)
        shares = list(self.shares)
        for share in theirs:
            at = next((i for i, s in enumerate(shares) if s.counts_same(share)), None)
            if at is None:
                shares.append(replace(share, factor=sign * share.factor))
            else:
                shares[at] = replace(share, factor=shares[at].factor + sign * share.factor)
        left = tuple(share for share in shares if share.factor)
        value = int.__add__(self, sign * int.__int__(other))
        return self._made(value, left, constant, self.book) if left else value

    def __add__(self, other: Any) -> Any:
        return self._sum(other, 1) if isinstance(other, int) else self.number() + other

    __radd__ = __add__

    def __sub__(self, other: Any) -> Any:
        return self._sum(other, -1) if isinstance(other, int) else self.number() - other

    def __rsub__(self, other: Any) -> Any:
        return -self + other if isinstance(other, int) else other - self.number()

    def __mul__(self, other: Any) -> Any:
        if isinstance(other, Width):
            return self.number() * other.number()
        if not isinstance(other, int) or not other:
            return self.number() * other
        shares = tuple(replace(share, factor=share.factor * other) for share in self.shares)
        return self._made(int.__mul__(self, other), shares, self.constant * other, self.book)

    __rmul__ = __mul__

    def __neg__(self) -> Any:
        return self * -1

    def __pos__(self) -> Any:
        return self

    def __floordiv__(self, other: Any) -> Any:
        if isinstance(other, Width):
            return self.number() // other.number()
        alone = len(self.shares) == 1 and not self.constant
        if not alone or not isinstance(other, int) or other < 1 or int.__mod__(self, other):
            return self.number() // other
        self._divides(other)
        share = replace(self.shares[0], factor=self.shares[0].factor / other)
        return self._made(int.__floordiv__(self, other), (share,), 0, self.book)

    def __mod__(self, other: Any) -> Any:
        divides = self.pure and isinstance(other, int) and not isinstance(other, Width) and other > 0
        if divides and not (rest := int.__mod__(self, other)):
            self._divides(other)
            return rest
        return self.number() % (other.number() if isinstance(other, Width) else other)

    def __divmod__(self, other: Any) -> Any:
        return self // other, self % other

    def __rshift__(self, other: Any) -> Any:
        return self // (1 << other) if isinstance(other, int) and other >= 0 else self.number() >> other

    def __lshift__(self, other: Any) -> Any:
        return self * (1 << other) if isinstance(other, int) and other >= 0 else self.number() << other

    def __hash__(self) -> int:
        return self.book.hash_of(int.__int__(self), [share.labels for share in self.shares])

    def __reduce__(self) -> Any:
        return int, (int.__int__(self),)


def _as_number(name: str) -> Callable[..., Any]:
    plain = getattr(int, name)

    def operator(self: Width, *others: Any) -> Any:
        return plain(self.number(), *others)

    return operator


def _comparison(name: str) -> Callable[[Width, Any], Any]:
    plain, least = getattr(int, name), ("__lt__", "__ge__")  # a width is 1 at least, whatever is cut

    def operator(self: Width, other: Any) -> Any:
        if isinstance(other, Width) and self.pure and other.pure:
            self.book.tie([self.shares[0].labels, other.shares[0].labels])
        elif isinstance(other, Width):
            self._differ(other)
        elif not (self.pure and isinstance(other, int | float) and (other < 1 or (other == 1 and name in least))):
            self.number()
        return plain(self, other)

    return operator


for _name in ("truediv", "pow", "rtruediv", "rpow", "rfloordiv", "rmod", "rdivmod", "rlshift", "rrshift"):
    setattr(Width, f"__{_name}__", _as_number(f"__{_name}__"))
for _name in ("and", "or", "xor", "rand", "ror", "rxor", "invert", "abs", "int", "float", "round", "trunc", "floor"):
    setattr(Width, f"__{_name}__", _as_number(f"__{_name}__"))
for _name in ("__ceil__", "__str__", "__repr__", "__format__", "bit_length", "bit_count", "to_bytes"):
    setattr(Width, _name, _as_number(_name))
for _name in ("lt", "le", "eq", "ne", "gt", "ge"):
    setattr(Width, f"__{_name}__", _comparison(f"__{_name}__"))
