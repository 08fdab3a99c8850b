"""What `slim` was asked for, and what is wrong with it before any model is opened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from yoloprune.errors import ArgumentError
from yoloprune.settings import keys, slim_options
from yoloprune.settings.budget import Budget
from yoloprune.settings.commands import COMMANDS, EXPORT
from yoloprune.settings.request import require_alone
from yoloprune.settings.requests import CutRequest

SEARCHED = 5
"""Rounds of a search by `max_drop=` where `steps=` does not say."""

READ_BY_TRAININGS = frozenset({"int8", "quantize"})
"""Arguments of an export that a training reads as well."""

OF_THE_RUN = frozenset({"model", "data", "epochs", "time", "project", "name", "exist_ok", "cfg", "mode"})
"""Ultralytics' arguments that slim gives its stages itself."""


@dataclass(frozen=True)
class SlimRequest(CutRequest):
    """From a trained model to the one that is shipped."""

    command = "slim"
    budget: Budget
    latency: float | str | None
    max_drop: float | None
    confidence: float | None
    steps: int | None
    schedule: Literal["even", "cubic"]
    way: Literal["auto", "prune", "sparse", "train"]
    distill: str | None
    images: str | None
    labels_conf: float
    threads: int | None

    @classmethod
    def build(cls, settings: Mapping[str, Any], passed: Mapping[str, Any]) -> SlimRequest:
        """`sparsity` is the ratio of the budget; without any budget and without a drop half of the FLOPs stay."""
        require_alone(settings, passed)
        given = {k: settings[k] for k in ("flops", "params", "sparsity", "latency") if settings[k] is not None}
        if not given and settings["max_drop"] is None:
            given = {"flops": 0.5}
        budget = Budget(given.get("flops"), given.get("params"), given.get("sparsity"))
        own = [f.name for f in fields(cls) if f.name in settings and f.name not in {"recover", "classes"}]
        asked = cls(passed, *cls.parts(settings), budget, **{key: settings[key] for key in own})
        _check_ultralytics(passed)
        asked._check()
        return asked

    @property
    def settings(self) -> dict[str, Any]:
        """The command's own keys as a user writes them, in the order of its help."""
        told = {**vars(self), **vars(self.criterion), **vars(self.limits), **vars(self.budget)}
        told["sparsity"] = self.budget.ratio
        return {o.name: told[o.name] for o in COMMANDS[self.command].options}

    @property
    def epochs(self) -> int:
        """Of all trainings together."""
        told = self.passed.get("epochs")
        return int(keys.host_defaults()["epochs"] if told is None else told)

    @property
    def rounds(self) -> int:
        """How often is cut and fine-tuned at most."""
        return self.steps or (SEARCHED if self.max_drop is not None else 1)

    @property
    def shipped(self) -> dict[str, Any]:
        """Ultralytics' arguments that say how the model runs where it is shipped."""
        others = frozenset() if self.passed.get("format") else READ_BY_TRAININGS
        return {k: v for k, v in self.passed.items() if k in EXPORT and k not in others and v is not None}

    def trainings(self, way: str) -> list[int]:
        """Epochs of each training of a way, in their turn: half of them before the cuts where it trains there, the
        others as even as can be, the last ones longer. A search has as many rounds as it has epochs for.

        Args:
            way (str): "prune", "sparse" or "train".

        Raises:
            ArgumentError: If there is not one for each.
        """
        before, rounds = int(way != "prune"), self.rounds if self.max_drop is None else 1
        if self.epochs < (least := before + rounds):
            trained = f" of way={way}" if before else ""
            raise ArgumentError(f"epochs={self.epochs}: must be at least {least}, one for each training{trained}")
        first = before * min(self.epochs // 2, self.epochs - rounds)
        left = self.epochs - first
        rounds = min(self.rounds, left)
        return [first] * before + [left // rounds + (i >= rounds - left % rounds) for i in range(rounds)]

    @property
    def budgets(self) -> dict[str, Any]:
        """The budgets that are set, by the keys of `prune`."""
        given = {**vars(self.budget), "latency": self.latency}
        return {k: v for k, v in given.items() if v is not None}

    @property
    def beyond_sparse(self) -> str | None:
        """The first thing that was asked for and that sparse training cannot do, None if it can do all."""
        changed = {k for k in slim_options.RANKED if self.settings[k] != COMMANDS[self.command].option(k).default}  # type: ignore[union-attr]
        found = {
            "latency": self.latency is not None,
            "max_drop": self.max_drop is not None,
            "classes": self.classes is not None,
            "steps": self.rounds > 1,
            **{k: k in changed for k in slim_options.RANKED},
        }
        several = "several budgets" if len(self.budgets) > 1 else None
        return next((k for k, there in found.items() if there), several)

    def _check(self) -> None:
        """Raise ArgumentError where keys contradict each other."""
        if self.latency is not None and self.budget.flops is not None:
            raise ArgumentError(f"latency={self.latency}: must not be combined with flops, by which it is met")
        if self.confidence is not None and self.max_drop is None:
            raise ArgumentError(f"confidence={self.confidence}: must come with max_drop=, whose interval it asks for")
        if self.max_drop is not None and len(self.budgets) > 1:
            told = ", ".join("sparsity" if k == "ratio" else k for k in self.budgets)
            raise ArgumentError(f"max_drop={self.max_drop}: goes no further than one budget. Received: {told}")
        if isinstance(self.latency, str) and (self.rounds > 1 or self.max_drop is not None):
            way = "in several rounds" if self.max_drop is None else "with max_drop="
            raise ArgumentError(
                f"latency={self.latency}: {way} must be a fraction of the time that an image takes now, e.g. 0.6"
            )
        anyway = {k: (v, v or False) for k, v in keys.host_defaults().items()}  # None is as good as False
        asked = {k: v for k, v in self.shipped.items() if v not in anyway.get(k, (None, False))}
        if asked and not self.timed:
            key, value = next(iter(asked.items()))
            raise ArgumentError(
                f"{key}={value}: must come with latency= or format=, it is for what is timed or shipped"
            )
        if self.schedule == "cubic" and (self.rounds == 1 or self.max_drop is not None):
            raise ArgumentError("schedule=cubic: must come with steps= of at least 2, and without max_drop=")
        if self.way == "sparse" and (beyond := self.beyond_sparse) is not None:
            raise ArgumentError(f"way=sparse: sparse training does not take {beyond}. Leave way= out")
        self.trainings("prune" if self.way == "auto" else self.way)  # which has the fewest


def _check_ultralytics(passed: Mapping[str, Any]) -> None:
    """Raise ArgumentError for what cannot be given to several trainings in turn."""
    if passed.get("resume"):
        raise ArgumentError("resume: slim goes on by itself, give the same command again without it")
    if isinstance(passed.get("pretrained"), (str, Path)):
        raise ArgumentError(f"pretrained={passed['pretrained']}: slim starts from the weights of model=")
    if passed.get("save_dir"):
        raise ArgumentError(f"save_dir={passed['save_dir']}: give slim project= and name= instead")
    if isinstance(passed.get("data"), (list, tuple)):
        raise ArgumentError(f"data={passed['data']}: slim takes one data set. Received: {len(passed['data'])}")
