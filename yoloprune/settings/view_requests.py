"""Requests that look at models and leave them as they are, and those that the command line answers by itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from yoloprune.settings.request import Request


@dataclass(frozen=True)
class ValRequest(Request):
    """Validate, side by side with another model where one is given."""

    command = "val"
    against: Any
    threads: int | None


@dataclass(frozen=True)
class CompareRequest(Request):
    """Validate several models side by side."""

    command = "compare"
    models: tuple[Any, ...] | None
    threads: int | None


@dataclass(frozen=True)
class PlotRequest(Request):
    """Draw the weights of layers."""

    command = "plot"
    layer: tuple[str, ...]
    kind: Literal["2d", "3d", "gamma"]
    against: Any


@dataclass(frozen=True)
class InfoRequest(Request):
    """Show a model."""

    command = "info"
    keep: tuple[str, ...]
    threads: int | None


@dataclass(frozen=True)
class HelpRequest(Request):
    """Words that the command line answers by itself."""

    command = "help"
    passed: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class CompletionRequest(HelpRequest):
    """What completes words in a shell."""

    command = "completion"


@dataclass(frozen=True)
class VersionRequest(HelpRequest):
    """The versions."""

    command = "version"


@dataclass(frozen=True)
class SchemaRequest(HelpRequest):
    """What report.json holds."""

    command = "schema"
