"""A checked command: own keys as typed fields, Ultralytics' as the one mapping that stays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from types import MappingProxyType
from typing import Any, ClassVar, TypeVar

from yoloprune.errors import ArgumentError
from yoloprune.settings import commands, training_options

Asked = TypeVar("Asked", bound="Request")


@dataclass(frozen=True)
class Request:
    """A checked command.

    Attributes:
        passed (Mapping[str, Any]): The Ultralytics keys that were given, `model` among them, and those for which the
            command has a default of its own. They are Ultralytics' to judge.
    """

    command: ClassVar[str]
    passed: Mapping[str, Any]

    def __post_init__(self) -> None:
        """Freeze what is passed on."""
        object.__setattr__(self, "passed", MappingProxyType(dict(self.passed)))

    @classmethod
    def build(cls: type[Asked], settings: Mapping[str, Any], passed: Mapping[str, Any]) -> Asked:
        """From checked values by key, all of the command's own; what several fields need is checked here."""
        return cls(passed, **{f.name: settings[f.name] for f in fields(cls) if f.name != "passed"})

    @property
    def model(self) -> Any:
        """What was given as model, None where there is none."""
        return self.passed.get("model")

    @property
    def timed(self) -> bool:
        """Whether it wants a time, or names a runtime, whose time is then measured."""
        return bool(self.passed.get("format")) or {self.settings.get(k) for k in ("latency", "threads")} != {None}

    @property
    def host(self) -> dict[str, Any]:
        """Ultralytics' arguments without the model."""
        return {k: v for k, v in self.passed.items() if k != "model"}

    @property
    def settings(self) -> dict[str, Any]:
        """The command's own keys as a user writes them, in the order of its help."""
        told: dict[str, Any] = {}
        for f in fields(self):
            value = getattr(self, f.name)
            told.update(vars(value) if is_dataclass(value) else {f.name: value})
        return {o.name: told[o.name] for o in commands.COMMANDS[self.command].options}

    def kwargs(self) -> dict[str, Any]:
        """Own and Ultralytics' keys as flat keyword arguments, without the model."""
        return {**self.settings, **self.host}


def require_alone(settings: Mapping[str, Any], passed: Mapping[str, Any]) -> None:
    """Raise ArgumentError where two places of images are given, or how they are labelled and none."""
    if settings["images"] is not None and passed.get("data"):
        raise ArgumentError(f"images={settings['images']}: must not be combined with data=, which has images too")
    labels = training_options.LABELS_CONF
    if settings["images"] is None and settings.get(labels.name, labels.default) != labels.default:
        raise ArgumentError(f"{labels.name}={settings[labels.name]}: must come with images=, of whose labels it is")
