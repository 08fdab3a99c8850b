"""Which channels are left of outputs that lost some themselves, by one run of the parent and of the cut model each."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import Tensor

from yoloprune.cutting.equivalence import KeptRows, apart, kept_rows
from yoloprune.probing.examples import Run, is_of_layer
from yoloprune.probing.outputs import Leaf

NEAR = 1e-3
"""Error up to which channels that were left of an output before are taken for those that are left of it now; of other
channels it is near 1, and where rounding makes it larger they are found out once more."""


class KeptOutputs:
    """What is left of the outputs of the last run.

    What marks told holds for other weights as well, and is tried before anything is marked anew. On another example
    the network may take another branch, where an output is not there, lost nothing, or lost other channels.
    """

    def __init__(self) -> None:
        self._rows: dict[str, KeptRows] = {}

    def find(self, wanted: Run, got: Run, mark: Callable[[], Run]) -> None:
        """Find out which channels the outputs lost that are narrower than the parent's.

        Args:
            wanted (Run): Of the masked parent.
            got (Run): Of the cut model.
            mark (Callable): Runs the parent with masked channels written as 1.
        """
        theirs = dict(got.leaves)
        shorter = {
            path: (a, b)
            for path, a in wanted.leaves
            if not is_of_layer(path)
            if isinstance(a, Tensor) and isinstance(b := theirs.get(path), Tensor) and a.shape != b.shape
        }
        found = {path: self._rows[path] for path, (a, b) in shorter.items() if self._is_known(path, a, b)}
        marked = dict(mark().leaves) if len(found) < len(shorter) else {}
        for path, (a, b) in shorter.items():
            told = marked.get(path)  # may take a branch of its own, and values tell then
            told = told if isinstance(told, Tensor) and told.shape == a.shape else a
            if path not in found and (rows := kept_rows(a, told, b)) is not None:
                found[path] = rows
        self._rows = found

    def _is_known(self, path: str, wanted: Tensor, got: Tensor) -> bool:
        known = self._rows.get(path)
        return known is not None and known.certain and apart(known.left_of(wanted), got) <= NEAR

    def left(self, leaves: Iterable[Leaf]) -> list[Leaf]:
        """Leaves of the parent without the channels that outputs lost."""
        return [Leaf(path, self._left(path, value)) for path, value in leaves]

    def _left(self, path: str, value: object) -> object:
        rows = self._rows.get(path)
        return value if rows is None or not isinstance(value, Tensor) else rows.left_of(value)
