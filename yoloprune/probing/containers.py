"""What the dicts and lists of a network hold, by identity, and how they get it back."""

from __future__ import annotations

import copy
from collections import OrderedDict, deque
from typing import Any

CONTAINERS = (dict, list, set, deque)  # a module's attributes are a dict as well
PLAIN = frozenset({dict, OrderedDict, list, set})
"""Kinds that are copied by calling them; `copy.copy` asks each object how, which takes ten times as long."""


class Content:
    """What a container holds.

    Attributes:
        container (dict | list | set | deque): That container.
    """

    def __init__(self, container: Any) -> None:
        kind = type(container)
        self.container, self._copy = container, kind(container) if kind in PLAIN else copy.copy(container)
        self._told = _told(container)

    def put_back(self) -> None:
        """Give the container back what it held, in its order, if that is not what it holds."""
        if _told(self.container) == self._told:
            return
        self.container.clear()
        if isinstance(self.container, list | deque):
            self.container.extend(self._copy)
        else:
            self.container.update(self._copy)


def _told(container: Any) -> tuple[int, ...]:
    """What tells contents apart: a proof asks for that of thousands of containers dozens of times."""
    if isinstance(container, dict):
        return (*map(id, container), *map(id, container.values()))
    return tuple(map(id, container))
