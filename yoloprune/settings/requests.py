"""What a command was asked for: one frozen object each, checked when it is made; no torch and no Ultralytics here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeVar

from yoloprune.errors import ArgumentError
from yoloprune.settings import commands, mask_options, own_options
from yoloprune.settings.budget import Budget, Limits, check_fields
from yoloprune.settings.mask_request import Growth
from yoloprune.settings.request import Request, require_alone
from yoloprune.settings.sparse_config import SparseConfig

Part = TypeVar("Part", Budget, Limits, "Criterion")


@dataclass(frozen=True)
class Criterion:
    """How channels are ranked; see `yoloprune prune help` for the words.

    Attributes:
        score (str): Importance of a channel, "auto" is the best that the data at hand allow.
        reduce (str): How the scores of coupled channels become one.
        normalize (str): What scores are divided by.
    """

    score: str = "auto"
    reduce: Literal["mean", "max", "sum", "l2"] = "mean"
    normalize: Literal["auto", "none", "mean", "max", "cost"] = "auto"

    def __post_init__(self) -> None:
        """Check every value; raises ArgumentError."""
        check_fields(self, own_options.CRITERION)


def part(kind: type[Part], settings: Mapping[str, Any]) -> Part:
    """One of the objects that several keys fill; a key that the command does not have keeps its default."""
    return kind(**{name: settings[name] for name in (f.name for f in fields(kind)) if name in settings})


@dataclass(frozen=True)
class TrainSparseRequest(Request):
    """Train sparse: under `config`, whose budget is empty where a resumed run brings its own."""

    command = "train-sparse"
    config: SparseConfig

    @classmethod
    def build(cls, settings: Mapping[str, Any], passed: Mapping[str, Any]) -> TrainSparseRequest:
        """`sparsity` is the ratio of the budget."""
        budget = Budget(settings["flops"], settings["params"], settings["sparsity"])
        known = {k: v for k, v in settings.items() if k in SparseConfig.__dataclass_fields__}
        return cls(passed, SparseConfig(budget, part(Limits, settings), **known))

    @property
    def settings(self) -> dict[str, Any]:
        """The command's own keys, unset ones as None."""
        told = self.config.settings()
        return {o.name: told.get(o.name) for o in commands.COMMANDS[self.command].options}


@dataclass(frozen=True)
class CutRequest(Request):
    """What `prune` and `sweep` share: the ranking, what a cut must respect, the repair, and which classes stay."""

    criterion: Criterion
    limits: Limits
    recover: str
    classes: tuple[str | int, ...] | None

    @staticmethod
    def parts(settings: Mapping[str, Any]) -> tuple[Criterion, Limits, str, tuple[str | int, ...] | None]:
        """These four, from values by key."""
        return part(Criterion, settings), part(Limits, settings), settings["recover"], settings["classes"]


@dataclass(frozen=True)
class PruneRequest(CutRequest):
    """Cut under a budget, or a time; without either exactly the dead."""

    command = "prune"
    budget: Budget
    latency: float | str | None
    times: str | None
    threads: int | None
    images: str | None

    @classmethod
    def build(cls, settings: Mapping[str, Any], passed: Mapping[str, Any]) -> PruneRequest:
        """A time is met by FLOPs, so both cannot be given; neither can two places of images."""
        require_alone(settings, passed)
        if settings["latency"] is not None and settings["flops"] is not None:
            raise ArgumentError(f"latency={settings['latency']}: must not be combined with flops, by which it is met")
        if settings["times"] is not None:
            _check_times(settings, passed)
        own = (settings[key] for key in ("latency", "times", "threads", "images"))
        return cls(passed, *cls.parts(settings), part(Budget, settings), *own)

    @property
    def timed(self) -> bool:
        """Whether times are measured here: those of another device are in a table."""
        return self.times is None and super().timed

    @property
    def budgeted(self) -> bool:
        """Whether more than the dead may go."""
        return not self.budget.empty or self.latency is not None


def _check_times(settings: Mapping[str, Any], passed: Mapping[str, Any]) -> None:
    """Raise ArgumentError where a table of another device's times has no use, or says itself what else was given."""
    if settings["latency"] is None:
        raise ArgumentError(f"times={settings['times']}: must come with latency=, which is met by it")
    for key in (*commands.TIMED, "batch", "threads"):
        if (value := {**passed, **settings}.get(key)) is not None:
            raise ArgumentError(f"{key}={value}: must not be combined with times=, which holds times of one way to run")
    if settings["classes"] is not None:
        raise ArgumentError("classes=: must not be combined with times=, which are of the network with all classes")


@dataclass(frozen=True)
class FinetuneRequest(Request):
    """Train on at the pruned widths; `distill` names the teacher, `labels_from` who labels images that have none, and
    `growth` which weights become zero on the way.
    """

    command = "finetune"
    distill: str | None
    images: str | None
    labels_from: Any
    labels_conf: float
    growth: Growth | None

    @classmethod
    def build(cls, settings: Mapping[str, Any], passed: Mapping[str, Any]) -> FinetuneRequest:
        """Labels are those of a data set, or found in images, and a resumed run has its own."""
        require_alone(settings, passed)
        if settings["images"] is not None and passed.get("resume"):
            raise ArgumentError(
                f"images={settings['images']}: must not be combined with resume, which goes on with the labels that "
                "the run has"
            )
        if settings["labels_from"] is not None and settings["images"] is None:
            raise ArgumentError(f"labels_from={settings['labels_from']}: must come with images=, which it labels")
        growth = Growth.asked(settings, resume=bool(passed.get("resume")))
        own = {key: settings[key] for key in ("distill", "images", "labels_from", "labels_conf")}
        return cls(passed, **own, growth=growth)

    @property
    def settings(self) -> dict[str, Any]:
        """The command's own keys, those of zeros at their defaults where none become more."""
        grown = {o.name: o.default for o in mask_options.GROWN} if self.growth is None else vars(self.growth)
        told = {**vars(self), **grown}
        return {o.name: told[o.name] for o in commands.COMMANDS[self.command].options}


@dataclass(frozen=True)
class DemoRequest(Request):
    """Run the whole line on drawn images."""

    command = "demo"
    flops: float
