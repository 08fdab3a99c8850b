"""A network for some of its classes: the last class layers keep their rows, all else stays, and that is proved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn

from yoloprune.backend import compat, model_facts, own_network, yolo_tracing
from yoloprune.cutting import comparison, equivalence
from yoloprune.errors import ArgumentError, ModelError, VerifyError
from yoloprune.probing import examples

PROMPTED = (
    "classes: {kind} models compare with prompts, so there is no row per class to leave out. Name fewer classes with "
    "set_classes, or export for them."
)
SHARED = (
    "classes: the head is a {kind}, whose outputs for one class depend on the others. Heads that score every class by "
    "itself are cut: Detect, Segment, Pose, OBB and those derived from them."
)


def chosen(model: nn.Module, asked: Sequence[int | str]) -> list[int]:
    """Numbers of the classes that stay, in the model's order.

    Args:
        model (nn.Module): An Ultralytics model.
        asked (Sequence[int | str]): Names, or numbers as in `yolo predict classes=`.

    Raises:
        ArgumentError: If one is not the model's, or none is left out.
    """
    names = names_of(model)
    found = set()
    for one in asked:
        if isinstance(one, int) and 0 <= one < len(names):
            found.add(one)
        elif isinstance(one, str) and one in names:
            found.update(i for i, name in enumerate(names) if name == one)
        else:
            lower = {name.lower().strip(): i for i, name in reversed([*enumerate(names)])}
            typed = str(one).lower()
            near = get_close_matches(typed, lower, n=1) or [name for name in lower if name.startswith(typed)]
            # by its number as well: a name of digits, or with a comma or spaces, cannot be typed
            nearest = f" (nearest: {names[lower[near[0]]]!r}, number {lower[near[0]]})" if near else ""
            raise ArgumentError(
                f"classes={one}: must be names of the model's classes or numbers from 0 to {len(names) - 1}{nearest}, "
                f"separated by commas. Received: {one}"
            )
    if len(found) == len(names):
        raise ArgumentError(
            f"classes: must leave out one class at least, and the model has {len(names)} in all. "
            f"Received: {', '.join(map(str, asked))}"
        )
    return sorted(found)


def names_of(model: nn.Module) -> list[str]:
    """Class names of a model, in the order of its outputs."""
    names = model_facts.network(model).names
    return list(names.values() if isinstance(names, dict) else names)


def only(model: nn.Module, kept: Sequence[int]) -> nn.Module:
    """A copy of a network that knows some of its classes; `nc`, `names` and whatever counts classes follow.

    Hidden layers of the class branch stay as wide as they are, as in a training on fewer classes.

    Args:
        model (nn.Module): An unfused Ultralytics model.
        kept (Sequence[int]): Numbers of the classes that stay, ascending.

    Raises:
        ModelError: If the scores of a class depend on others, or its layers are not those that its YAML builds.
    """
    _require_rows(model)
    new = deepcopy(model)
    theirs = model_facts.network(new)
    names = names_of(model)
    before, index = len(names), torch.tensor(kept)
    modules, cut = dict(new.named_modules()), 0
    for name, told in own_network.counting(model).items():
        module = modules.get(name)
        if told.rows and module is None:
            raise ModelError(f"classes: the class layer {name} of its YAML is not in the model.")
        for key in told.rows:
            tensor = getattr(module, key, None)
            if not isinstance(tensor, Tensor) or len(tensor) != before:
                raise ModelError(f"classes: {name} is not the class layer that its YAML builds.")
            _keep_rows(module, key, index)
            cut += 1
        for key in told.counts:
            if isinstance(value := getattr(module, key, None), int):
                setattr(module, key, value + len(kept) - before)
    if not cut:
        raise ModelError("classes: no layer of the model has a row per class.")
    theirs.names = {i: names[old] for i, old in enumerate(kept)}
    theirs.yaml = {**deepcopy(theirs.yaml), "nc": len(kept)}
    if "names" in theirs.yaml:
        theirs.yaml["names"] = dict(theirs.names)
    if "nc" in vars(new):  # a trainer has written it there
        theirs.nc = len(kept)
    theirs.criterion = None
    return new


def _keep_rows(module: Any, key: str, index: Tensor) -> None:
    """Leave some rows of a parameter or buffer."""
    tensor = getattr(module, key)
    rows = tensor.detach()[index.to(tensor.device)].clone()
    setattr(module, key, nn.Parameter(rows, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else rows)


def _require_rows(model: nn.Module) -> None:
    """Raise ModelError where the head does not score every class by itself."""
    head = model_facts.network(model).model[-1]
    if model_facts.is_prompted(model):
        raise ModelError(PROMPTED.format(kind=type(model).__name__.removesuffix("Model")))
    if not isinstance(head, compat.Detect):
        raise ModelError(SHARED.format(kind=type(head).__name__))
    if (why := own_network.difference(model)) is not None and "cannot build" in why:
        raise ModelError(f"classes: the class layers cannot be told: {why}.")


def prove(parent: nn.Module, model: nn.Module, kept: Sequence[int]) -> float:
    """Check that a network says of its classes what its parent says of them, and that its boxes are the same.

    Every weight has to be its parent's to the bit, and every raw output as well but for the rounding that depends on
    how many rows a product has; where a head picks among all classes what it gives, what it picks from is compared.

    Returns:
        (float): Largest error of an output, see `equivalence.apart`.

    Raises:
        VerifyError: If something else comes out.
    """
    rows, mine, theirs = list(kept), model.state_dict(), parent.state_dict()
    wrong = [k for k in theirs if k not in mine or not _same(theirs[k], mine[k], rows)]
    if wrong or mine.keys() - theirs.keys():
        raise VerifyError(f"classes: {(wrong or sorted(mine.keys() - theirs.keys()))[0]} is not what it was.")
    image = examples.Example((yolo_tracing.runnable_example(parent, 2),))
    head: Any = model_facts.network(parent).model[-1]
    picks = bool(getattr(head, "end2end", False))  # the best of all classes
    error, scores = 0.0, 0
    for training in (True, False):
        if picks and not training:
            continue
        wanted, got = (dict(examples.run(m, image, training).leaves) for m in (parent, model))
        for path, expected in wanted.items():
            given = got.get(path)
            found = min(equivalence.apart(one, given) for one in _of_classes(expected, given, rows))
            scores += isinstance(given, Tensor) and given.shape != expected.shape
            if not found <= comparison.TOLERANCE:
                raise VerifyError(f"classes: output {path} is not the parent's, relative error {found:.1e}.")
            error = max(error, found)
    if not scores:
        raise VerifyError("classes: no output of the model has a row per class.")
    return error


def _same(whole: Tensor, part: Tensor, rows: list[int]) -> bool:
    return part.equal(whole if part.shape == whole.shape else whole[rows])


def _of_classes(expected: Any, got: Any, rows: list[int]) -> Iterator[Any]:
    """What an output of the parent may be for these classes: the scores stand first, or behind boxes of some kind."""
    alike = not isinstance(expected, Tensor) or not isinstance(got, Tensor) or expected.shape == got.shape
    if alike or expected.ndim != got.ndim:
        yield expected
        return
    dim = next(i for i, (a, b) in enumerate(zip(expected.shape, got.shape, strict=True)) if a != b)
    before = expected.shape[dim] - got.shape[dim] + len(rows)
    for first in range(expected.shape[dim] - before + 1):
        after = range(first + before, expected.shape[dim])
        index = [*range(first), *(first + row for row in rows), *after]
        yield expected.index_select(dim, torch.tensor(index, device=expected.device))


def told(model: nn.Module, kept: Sequence[int]) -> Mapping[str, Any]:
    """Plain data for the record of a pruning: names, and how many classes there were."""
    names = names_of(model)
    return {"names": [names[i] for i in kept], "of": len(names)}
