"""Requests that look at models and leave them as they are, and those that the command line answers by itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from yoloprune.errors import ArgumentError
from yoloprune.settings.budget import Limits
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
    models: tuple[Any, ...] | Mapping[str, Any] | None
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
class LatencyRequest(Request):
    """Have networks timed on another device: of other widths, or the model beside another one."""

    command = "latency"
    limits: Limits
    target: str | None
    python: str
    cmd: str | None
    pattern: str | None
    against: Any
    threads: int | None

    @classmethod
    def build(cls, settings: Mapping[str, Any], passed: Mapping[str, Any]) -> LatencyRequest:
        """A pattern reads what a command prints."""
        if settings["pattern"] is not None and settings["cmd"] is None:
            raise ArgumentError(f"pattern={settings['pattern']}: must come with cmd=, in whose output it looks")
        own = (settings[key] for key in ("target", "python", "cmd", "pattern", "against", "threads"))
        widths = {key: settings[key] for key in ("round_to", "min_width", "max_ratio", "layers", "keep")}
        return cls(passed, Limits(**widths, native=False), *own)


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
