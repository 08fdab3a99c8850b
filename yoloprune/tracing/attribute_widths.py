"""Widths that modules keep as numbers: `torch.split(x, [self.dim, self.rest], 1)`, `x.view(B, self.dim, -1)`.

While a network is traced such numbers are objects that know whose they are. Where one says how many channels there are,
it counts these, and a cut corrects it, see `cutting.surgery`. One that is used for anything else as well may not
change, and holds the channels that it counts.
"""

from __future__ import annotations

import operator
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from torch import Tensor, nn

from yoloprune.probing.kept_numbers import kept_numbers
from yoloprune.probing.own_code import is_known
from yoloprune.tracing.labels import LabelBook
from yoloprune.tracing.widths import Share, Width

NUMBER = "number"
"""Side of the axis of a number that a module keeps."""


@dataclass(eq=False)
class Uses:
    """What one number was used for.

    Attributes:
        counted (list[Tensor]): Rows of labels whose positions it counted, shape (value,) each.
        as_number (bool): Whether it was used for anything else.
    """

    counted: list[Tensor] = field(default_factory=list)
    as_number: bool = False


@dataclass(frozen=True)
class Sum:
    """What several numbers, or a multiple of one, counted together: `x.view(B, 2 * self.dim + self.rest, -1)`.

    Attributes:
        terms (dict[Uses, Fraction]): How often each number counts.
        constant (int): What was added to it.
        row (Tensor): A row of labels whose positions it counted.
    """

    terms: dict[Uses, Fraction]
    constant: int
    row: Tensor

    @property
    def is_known(self) -> bool:
        """Whether each of the numbers counts something by itself."""
        return all(uses.counted and not uses.as_number for uses in self.terms)

    def hold(self, book: LabelBook) -> None:
        """Hold the positions to the sum of what its numbers count, or where that is not known hold them fast."""
        total: Any = self.constant
        for uses, factor in self.terms.items() if self.is_known else ():
            row = uses.counted[0]
            total = Width.counting(len(row), Share(row, row), book) * factor.numerator // factor.denominator + total
        if isinstance(total, Width):
            total.count(self.row, 0)
        else:
            book.freeze(self.row, "counted by a sum of numbers")


class AttributeWidth(Width):
    """A number that a module keeps, or a sum of such; what it counts, if anything, is seen where it is used."""

    terms: dict[Uses, Fraction]
    sums: list[Sum]

    @classmethod
    def of_terms(cls, value: int, terms: dict[Uses, Fraction], constant: int, sums: list[Sum]) -> AttributeWidth:
        """A number whose uses are noted; where it is no single number as it is, in a list of sums."""
        found: AttributeWidth = int.__new__(cls, value)
        found.shares, found.constant, found.terms, found.sums = (), constant, terms, sums
        return found

    def number(self) -> int:
        """The value, which may not change any more."""
        for uses in self.terms:
            uses.as_number = True
        return int.__int__(self)

    def count(self, labels: Tensor, axis: int) -> None:
        """Note that it says how many positions there are along an axis of some labels, all rows of which are tied."""
        if not labels.shape[axis]:
            self.number()
            return
        row = labels.movedim(axis, -1).reshape(-1, labels.shape[axis])[0]
        if len(row) != int.__int__(self):  # what is left at the end of a `split`
            self.number()
        ((uses, factor), *others) = self.terms.items()
        if others or factor.numerator != 1 or self.constant:
            self.sums.append(Sum(self.terms, self.constant, row))
        else:  # a number whose half counts them is twice as many
            uses.counted.append(row.repeat(factor.denominator))

    def _sum(self, other: int, sign: int) -> int:
        if type(other) is Width:
            return int(self.number() + sign * other)
        theirs = other if isinstance(other, AttributeWidth) else None
        terms = dict(self.terms)
        for uses, factor in theirs.terms.items() if theirs else ():
            terms[uses] = terms.get(uses, Fraction(0)) + sign * factor
        constant = self.constant + sign * (theirs.constant if theirs else other)
        value = int.__int__(self) + sign * int.__int__(other)
        terms = {uses: factor for uses, factor in terms.items() if factor}
        return self.of_terms(value, terms, constant, self.sums) if terms else value

    def __mul__(self, other: Any) -> Any:
        if type(other) is int and other == 0:
            return 0
        if isinstance(other, AttributeWidth):
            return self._product(other)
        if type(other) is not int:
            return self.number() * (other.number() if isinstance(other, Width) else other)
        terms = {uses: factor * other for uses, factor in self.terms.items()}
        return self.of_terms(int.__int__(self) * other, terms, self.constant * other, self.sums)

    __rmul__ = __mul__

    def _product(self, other: AttributeWidth) -> Any:
        """Of two numbers the one that stays is a mere number; as long as neither is known to, the smaller: heads."""
        stays, follows = sorted((self, other), key=lambda one: (not one.stays, int.__int__(one)))
        return follows.number() * stays.number() if follows.stays else follows * stays.number()

    @property
    def stays(self) -> bool:
        """Whether all of its numbers were used as such."""
        return all(uses.as_number for uses in self.terms)

    def __floordiv__(self, other: Any) -> Any:
        by = other.number() if isinstance(other, Width) else other
        if type(by) is not int or by < 1 or int.__int__(self) % by or self.constant % by:
            return self.number() // by
        terms = {uses: factor / by for uses, factor in self.terms.items()}
        return self.of_terms(int.__int__(self) // by, terms, self.constant // by, self.sums)

    def __eq__(self, other: object) -> bool:
        """Where a width is compared with it (`assert x.shape[1] == self.dim`), it counts what that does."""
        if type(other) is Width and other.pure and int.__int__(other) == int.__int__(self):
            (share,) = other.shares
            if share.factor.denominator == 1:
                self.count(share.row.repeat(share.factor.numerator), 0)
                return True
        return self.number() == other

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = int.__hash__


def _plainly(of_two: Callable[[Any, Any], Any]) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """An operation on the mere number, and the same where it stands on the right."""
    return lambda self, other: of_two(self.number(), other), lambda self, other: of_two(other, self.number())


for _name in ("mod", "divmod", "rshift", "lshift", "truediv", "pow"):
    _left, _right = _plainly(divmod if _name == "divmod" else getattr(operator, _name))
    setattr(AttributeWidth, f"__{_name}__", _left)
    setattr(AttributeWidth, f"__r{_name}__", _right)
AttributeWidth.__rfloordiv__ = _plainly(operator.floordiv)[1]  # type: ignore[method-assign]
for _name in ("lt", "le", "gt", "ge"):
    setattr(AttributeWidth, f"__{_name}__", _plainly(getattr(operator, _name))[0])


class Attributes:
    """The numbers that the modules of a network keep, with what passes used them for."""

    def __init__(self, modules: dict[str, nn.Module], corrected: Callable[[nn.Module], Collection[str]]) -> None:
        """Note nothing yet.

        Args:
            modules (dict[str, nn.Module]): By name.
            corrected (Callable): Names of the numbers of a module that something else corrects.
        """
        self._kept = [one for one in kept_numbers(modules) if one.key not in corrected(one.module)]
        self._uses = {one.name: Uses() for one in self._kept}
        self._sums: list[Sum] = []

    def put(self) -> None:
        """Put objects in the place of the numbers, until the network gets back what it holds."""
        for one in self._kept:
            one.set(AttributeWidth.of_terms(one.value, {self._uses[one.name]: Fraction(1)}, 0, self._sums))

    def counting(self) -> dict[str, list[str]]:
        """By name of the attribute, the numbers in code of no known package that count something and nothing else."""
        found: dict[str, list[str]] = defaultdict(list)
        for one in self._kept:
            if (uses := self._uses[one.name]).counted and not uses.as_number and not is_known(one.module):
                found[one.key].append(one.name)
        return found

    def hold(self, names: Iterable[str]) -> None:
        """Let some numbers be what they are."""
        for name in names:
            self._uses[name].as_number = True

    def settle(self, book: LabelBook) -> Iterator[tuple[str, Tensor]]:
        """Hold the channels to what was noted; by name, the labels that the numbers count which may change."""
        for uses in self._uses.values():
            uses.as_number |= any((row == 0).any() for row in uses.counted)
        while unknown := [u for one in self._sums if not one.is_known for u in one.terms if not u.as_number]:
            for uses in unknown:
                uses.as_number = True
        for one in self._sums:
            one.hold(book)
        for name, uses in self._uses.items():
            if uses.as_number:
                for row in uses.counted:
                    book.freeze(row, f"counted by {name}, which is used as a number")
            if uses.as_number or not uses.counted:
                continue
            book.tie(uses.counted)
            yield name, uses.counted[0]
