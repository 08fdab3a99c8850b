"""Ultralytics' progress bar: one for work that is mostly short and sometimes long, and a plain one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from yoloprune.backend import compat, console

PATIENCE = 2.0
"""Seconds without a bar."""

Item = TypeVar("Item")


class Wait:
    """Ultralytics' progress bar over several loops, from `PATIENCE` seconds on, and gone when all is done."""

    def __init__(self, total: int, desc: str) -> None:
        """Show nothing yet.

        Args:
            total (int): Number of items in all loops.
            desc (str): What is done.
        """
        self.total, self.desc, self.done = total, desc, 0
        self.start, self.bar = time.monotonic(), None

    def over(self, items: Iterable[Item]) -> Iterator[Item]:
        """Hand items on, and count them."""
        for item in items:
            yield item
            self.tick()

    def tick(self) -> None:
        """Count one item that is done."""
        self.done += 1
        if self.bar is not None:
            self.bar.update(1)
        elif self._is_long() and console.is_main_process():
            self.bar = compat.TQDM(total=self.total, initial=self.done, desc=self.desc, leave=False)

    def _is_long(self) -> bool:
        return self.done < self.total and time.monotonic() - self.start > PATIENCE

    def __enter__(self) -> Wait:
        return self

    def __exit__(self, *raised: object) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None  # a further block goes on counting


@contextmanager
def counted(total: int, desc: str) -> Iterator[Callable[[], None]]:
    """A plain bar around a block, full when that is over: some items need no work, and nobody calls for them.

    Args:
        total (int): Number of items at most.
        desc (str): What is done.

    Yields:
        (Callable): To be called after each item.
    """
    bar = compat.TQDM(total=total, desc=desc, disable=not console.is_main_process())
    done = 0

    def tick() -> None:
        nonlocal done
        done += 1
        bar.update(1)

    try:
        yield tick
        if done < total:
            bar.update(total - done)
    finally:
        bar.close()
