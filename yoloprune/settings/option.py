"""One own key of a command: default, what is allowed, what it means."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from yoloprune.errors import ArgumentError
from yoloprune.settings.host_ranges import plain_value
from yoloprune.settings.several_values import GivenTwiceError
from yoloprune.settings.value_kinds import ValueKind


@dataclass(frozen=True)
class Option:
    """One own key of a command.

    Attributes:
        name (str): The key.
        default (Any): Value when the key is not given; None means "not set".
        kind (ValueKind): What values it takes.
        meaning (str): One line for the help.
        example (Any): Shown in hints when the default says nothing.
    """

    name: str
    default: Any
    kind: ValueKind
    meaning: str
    example: Any = None

    @property
    def hint(self) -> str:
        """Return `key=value` as one would type it."""
        return f"{self.name}={self.example if self.default in (None, ()) else self.default}"

    def check(self, value: Any) -> Any:
        """Return the value in its final type.

        Args:
            value (Any): Text from the command line, or a YAML or Python value.

        Returns:
            (Any): The converted value; checking it again returns the same.

        Raises:
            ArgumentError: If the value is not allowed.
        """
        value = plain_value(value)
        if self.default is None and (value is None or (isinstance(value, str) and value.strip().lower() == "none")):
            return None
        try:
            return self.kind.convert(value)
        except GivenTwiceError as twice:
            raise ArgumentError(
                f"{self.name}={value}: must hold each once, and {twice} is there twice. Received: {value}"
            ) from None
        except (TypeError, ValueError, OverflowError):
            nearest = get_close_matches(str(value).lower(), self.kind.names, n=1)
            allowed = self.kind.allowed + (f" (nearest: {nearest[0]})" if nearest else "")
            told = f"{self.name}={value}: must be {allowed}. Received: {value}{self.kind.meant(value)}"
            raise ArgumentError(told) from None
