"""What `mask` was asked for, and the part of it that others are asked for as well."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeVar

from yoloprune.errors import ArgumentError
from yoloprune.settings import own_options
from yoloprune.settings.mask_options import CHOICE, GROWN, RECOVER, SCORES_OF_MASKS, SHARES, TRIED, n_of_m
from yoloprune.settings.option import Option
from yoloprune.settings.request import Request, require_alone
from yoloprune.settings.value_kinds import as_typed

HALF = 0.5
"""Share of weights that becomes zero where none is given."""

Kind = TypeVar("Kind", bound="Zeros")


@dataclass(frozen=True)
class Zeros:
    """Which weights become zero; see `yoloprune mask help` for every field.

    Attributes:
        pattern (str): "unstructured", "kernel", "filter" or n:m.
        sparsity (float): Share that becomes zero.
        scope (str): What is compared.
        head (bool): Whether the head is masked as well.
        keep (tuple[str, ...]): Modules left as they are.
    """

    pattern: str
    sparsity: float
    scope: Literal["auto", "global", "layer", "output"]
    head: bool
    keep: tuple[str, ...]

    @classmethod
    def of(cls: type[Kind], settings: Mapping[str, Any]) -> Kind:
        """From values by key; raises ArgumentError where they contradict each other."""
        told = {f.name: settings[f.name] for f in fields(cls)}
        pattern, sparsity, scope = (told[key] for key in ("pattern", "sparsity", "scope"))
        if (numbers := n_of_m(pattern)) is not None:
            said = 1 - numbers[0] / numbers[1]
            if sparsity is not None and abs(sparsity - said) > 1e-3:
                raise ArgumentError(f"sparsity={sparsity}: pattern={pattern} says {said:.4g}. Leave sparsity= away")
            if scope != "auto":
                raise ArgumentError(f"scope={scope}: must not be combined with pattern={pattern}, which has its own")
            told["sparsity"] = said
            return cls(**told)
        told["sparsity"] = HALF if sparsity is None else sparsity
        if scope == "output" and pattern == "filter":
            raise ArgumentError("scope=output: must be global or layer with pattern=filter, which takes whole outputs")
        return cls(**told)

    def __str__(self) -> str:
        """As one types it."""
        return f"sparsity={self.sparsity:g}" if n_of_m(self.pattern) is None else f"pattern={self.pattern}"


@dataclass(frozen=True)
class Growth(Zeros):
    """Zeros that become more during a training.

    Attributes:
        score (str): Importance of a weight; "auto" is "taylor".
        steps (int | None): How often they become more; None stands for about a hundred times.
        ramp_start (float): Share of the run after which the first become zero.
        ramp_end (float): Share of the run after which `sparsity` is met.
    """

    score: str
    steps: int | None
    ramp_start: float
    ramp_end: float

    @classmethod
    def asked(cls, settings: Mapping[str, Any], *, resume: bool) -> Growth | None:
        """What a training was asked for: None where neither `sparsity` nor `pattern` is set.

        Raises:
            ArgumentError: If other keys of it are, or a resumed run is told anew.
        """
        named = [o for o in GROWN if settings[o.name] != o.default]
        if not named:
            return None
        first = f"{named[0].name}={as_typed(settings[named[0].name])}"
        if resume:
            raise ArgumentError(f"{first}: must not be combined with resume, which goes on to what the run was told")
        if all(settings[o.name] is None for o in CHOICE):
            raise ArgumentError(f"{first}: must come with sparsity= or pattern=, without which no zeros become more")
        own_options.check_ramp(settings["ramp_start"], settings["ramp_end"])
        return cls.of({**settings, "pattern": settings["pattern"] or "unstructured"})

    def changed(self) -> dict[str, Any]:
        """What is told here and not a default, by key, with the share."""
        defaults = {o.name: o.default for o in GROWN}
        told = {key: value for key, value in vars(self).items() if value != defaults[key]}
        return {key: list(value) if isinstance(value, tuple) else value for key, value in told.items()}


@dataclass(frozen=True)
class Masks:
    """Masks that are tried one by one.

    Attributes:
        each (tuple[Zeros, ...]): All that are tried, few zeros first.
        score (str): Importance of a weight.
    """

    each: tuple[Zeros, ...]
    score: str

    @classmethod
    def asked(cls, settings: Mapping[str, Any], of_cuts: Sequence[Option]) -> Masks | None:
        """Masks in place of cuts: None where neither `sparsity` nor `pattern` is set.

        Args:
            settings (Mapping): Values by key.
            of_cuts (Sequence[Option]): Options that mean nothing for masks.

        Raises:
            ArgumentError: If keys of masks are set without these two, or keys of cuts with them.
        """
        wanted = settings["sparsity"] is not None or settings["pattern"] is not None
        named = [o for o in (of_cuts if wanted else TRIED) if settings.get(o.name, o.default) != o.default]
        score = settings["score"]
        if wanted and (score not in SCORES_OF_MASKS or settings["recover"] == "fold"):
            key, words = "recover", RECOVER.kind.names
            if score not in SCORES_OF_MASKS:
                key, words = "score", SCORES_OF_MASKS
            raise ArgumentError(f"{key}={settings[key]}: must be one of {', '.join(words)} for masks")
        if named:
            first = f"{named[0].name}={as_typed(settings[named[0].name])}"
            why = "be combined with pattern= or sparsity=, which are of masks" if wanted else ""
            raise ArgumentError(f"{first}: must {'not ' + why if wanted else 'come with pattern= or sparsity='}")
        if not wanted:
            return None
        pattern = settings["pattern"] or "unstructured"
        shares = settings["sparsity"] or (SHARES if n_of_m(pattern) is None else (None,))
        told = {
            "head": settings["head"],
            "scope": settings["scope"],
            "keep": settings.get("keep", ()),
            "pattern": pattern,
        }
        found = {zeros.sparsity: zeros for zeros in (Zeros.of({**told, "sparsity": share}) for share in shares)}
        return cls(tuple(found[share] for share in sorted(found)), score)

    def settings(self) -> dict[str, Any]:
        """What is told here, by key."""
        first, shares = self.each[0], tuple(zeros.sparsity for zeros in self.each)
        return {**vars(first), "sparsity": None if n_of_m(first.pattern) else shares, "score": self.score}


@dataclass(frozen=True)
class MaskRequest(Request):
    """Set weights to zero, one shot."""

    command = "mask"
    zeros: Zeros
    score: str
    images: str | None
    recover: str

    @classmethod
    def build(cls, settings: Mapping[str, Any], passed: Mapping[str, Any]) -> MaskRequest:
        """Fill in the sparsity."""
        require_alone(settings, passed)
        return cls(passed, Zeros.of(settings), *(settings[key] for key in ("score", "images", "recover")))
