"""What `sweep` and `sensitivity` were asked for: cuts or masks that are tried, and nothing trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from yoloprune.errors import ArgumentError
from yoloprune.settings import commands, own_options
from yoloprune.settings.budget import Budget
from yoloprune.settings.mask_options import TRIED
from yoloprune.settings.mask_request import Masks
from yoloprune.settings.request import Request
from yoloprune.settings.requests import Criterion, CutRequest, part
from yoloprune.settings.sensitivity_options import OF_WIDTHS
from yoloprune.settings.sweep_options import OF_CUTS


def _told(request: Request, masks: Masks | None, settings: dict[str, Any]) -> dict[str, Any]:
    """A request's own keys, with those of masks at their defaults where cuts are tried."""
    told = {**settings, **({o.name: o.default for o in TRIED} if masks is None else masks.settings())}
    return {o.name: told[o.name] for o in commands.COMMANDS[request.command].options}


@dataclass(frozen=True)
class SweepRequest(CutRequest):
    """Cut to each of several budgets of one kind, or mask to each of several shares."""

    command = "sweep"
    flops: tuple[float, ...] | None
    params: tuple[float, ...] | None
    ratio: tuple[float, ...] | None
    within: float
    ray: bool
    threads: int | None
    masks: Masks | None

    @classmethod
    def build(cls, settings: Mapping[str, Any], passed: Mapping[str, Any]) -> SweepRequest:
        """Exactly one kind of budget is set, or none, and masks are; times are taken one after the other, on a machine
        that is left alone.
        """
        if settings["ray"] and (passed.get("format") or settings["threads"] is not None):
            raise ArgumentError(
                "ray=True: must not be combined with format= or threads=: points that share a machine are not timed. "
                "Time the one that you take: yoloprune val"
            )
        masks = Masks.asked(settings, OF_CUTS)
        cut = settings if masks is None else {**settings, "score": "auto"}
        own = {key: settings[key] for key in ("flops", "params", "ratio", "within", "ray", "threads")}
        return cls(passed, *cls.parts(cut), **own, masks=masks)

    @property
    def settings(self) -> dict[str, Any]:
        """The command's own keys as a user writes them."""
        parts = {**vars(self.criterion), **vars(self.limits)}
        return _told(self, self.masks, {**vars(self), **parts})

    @property
    def kind(self) -> str:
        """What the points are of: "flops", "params", "ratio", or "sparsity" and "pattern" of masks."""
        if self.masks is not None:
            return str(self.masks.each[0]).partition("=")[0]
        return next(o.name for o in own_options.SWEPT if getattr(self, o.name) is not None)

    @property
    def budgets(self) -> tuple[Budget, ...]:
        """One per point where cuts are tried."""
        return () if self.masks is not None else tuple(Budget(**{self.kind: v}) for v in getattr(self, self.kind))


@dataclass(frozen=True)
class SensitivityRequest(Request):
    """Narrow each group alone to several widths, or mask each layer alone, and look at images that were left out."""

    command = "sensitivity"
    criterion: Criterion
    widths: tuple[float, ...]
    held: int
    layer: tuple[str, ...]
    classes: tuple[str | int, ...] | None
    recover: Literal["none", "fold", "bn", "lsq"]
    masks: Masks | None

    @classmethod
    def build(cls, settings: Mapping[str, Any], passed: Mapping[str, Any]) -> SensitivityRequest:
        """Which channels of a group go, or which weights of a layer, is `score=` and `reduce=`."""
        masks = Masks.asked(settings, OF_WIDTHS)
        told = dict(settings) if masks is None else {**settings, "score": "auto"}
        if told["recover"] == "auto":
            told["recover"] = "fold" if masks is None else "none"
        own = {k: v for k, v in told.items() if k in cls.__dataclass_fields__}
        return cls(passed, part(Criterion, told), **own, masks=masks)

    @property
    def settings(self) -> dict[str, Any]:
        """The command's own keys as a user writes them."""
        return _told(self, self.masks, {**vars(self), **vars(self.criterion)})
