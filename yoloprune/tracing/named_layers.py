"""Layers that `keep=` and `layers=` call by name or pattern."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from fnmatch import fnmatchcase

from torch import nn

from yoloprune.errors import ArgumentError
from yoloprune.planning.layer_names import AS_THEY_ARE, LayerNames


def match(
    model: nn.Module,
    patterns: Iterable[str],
    parts: Mapping[str, Iterable[str]] | None = None,
    key: str = "keep",
    names: LayerNames = AS_THEY_ARE,
) -> dict[str, str]:
    """Modules and parameters named by `keep` patterns, with the pattern as the reason.

    Args:
        model (nn.Module): The network.
        patterns (Iterable[str]): Each names a module and all inside it; `*` matches across dots.
        parts (Mapping): Words that stand for several modules; the head, which stays, is not among them.
        key (str): What the patterns were given as.
        names (LayerNames): What the patterns call modules by.

    Returns:
        (dict[str, str]): Name to reason.

    Raises:
        ArgumentError: If a pattern matches nothing.
    """
    modules = [n for n, _ in model.named_modules() if n] + [n for n, _ in model.named_parameters()]
    called = names.keys(modules)
    found: dict[str, str] = {}
    for pattern in patterns:
        if roots := (parts or {}).get(pattern):
            named = [[n for n in modules if any(n == r or n.startswith(f"{r}.") for r in roots)]]
        else:
            named = [hits for name, hits in called.items() if fnmatchcase(name, pattern)]
        if not named:
            whole = [part for part, layers in (parts or {}).items() if layers]
            raise ArgumentError(f"{key}={pattern}: {_hint(pattern, [*called], whole)}")
        found.update(dict.fromkeys(itertools.chain.from_iterable(named), f"{key}={pattern}"))
    return found


def shares(
    model: nn.Module,
    layers: Iterable[tuple[str, float]],
    parts: Mapping[str, Iterable[str]] | None = None,
    names: LayerNames = AS_THEY_ARE,
) -> dict[str, float]:
    """From modules to the share that `layers=` gives them, see `match`; of several that match the last counts."""
    found: dict[str, float] = {}
    for pattern, share in layers:
        found.update(dict.fromkeys(match(model, [pattern], parts, "layers", names), share))
    return found


def _hint(pattern: str, names: list[str], parts: list[str]) -> str:
    """What to write instead of a pattern that matches nothing."""
    near = get_close_matches(pattern, [*names, *parts], n=3, cutoff=0.5)
    inner = next((n for n in names if "." in n), names[0])
    like = f"Similar names are {', '.join(near)}." if near else f"Names look like '{inner}'."
    whole = f" Whole parts are {' and '.join(parts)}; the head stays unless head=True." if parts else ""
    return f"no layer of this model has that name. {like}{whole}"
