"""Which blocks of a model can be written as several rows, and without which branches rows can say it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from yoloprune.native import input_sums, yaml_rows
from yoloprune.native.spelled_layers import SpelledLayers
from yoloprune.native.unrolled_rows import Part, Told, Unroller
from yoloprune.native.width_arguments import Layer
from yoloprune.planning.branch import Branch


def blocks(spelled: SpelledLayers, unroller: Unroller) -> dict[int, Told]:
    """Layers that tie widths, hold some with those that stay, or have a branch that may go, and can be written as
    several rows; with what their modules were made with.

    What Ultralytics makes of the head depends on whether there is a block of a newer family at all, so that one of
    these stays: the one with the fewest modules that have channels.
    """
    tied = {g: i for i, tie in enumerate(spelled.graph.ties) for g in tie.groups}
    found: dict[int, Told] = {}
    for layer in spelled.layers[:-1]:
        own = {g for groups in layer.own.values() for g in groups}
        free = own & tied.keys()
        coupled = len({tied[g] for g in free}) + bool(own - free) > 1 and bool(free)
        if len(layer.row.sources) == 1 and (coupled or _branches_in(spelled, layer)):
            told = _told(spelled, unroller, layer)
            if told is not None and _parts(spelled, unroller, layer, told) is not None:
                found[layer.row.at] = told
    new = [layer for layer in spelled.layers if layer.row.name in yaml_rows.LEGACY_ENDS]
    if new and all(layer.row.at in found for layer in new):
        del found[min(new, key=lambda layer: len(layer.own)).row.at]
    return found


def branches(
    spelled: SpelledLayers, unroller: Unroller, opened: dict[int, Told]
) -> tuple[tuple[Branch, ...], dict[int, Told]]:
    """Branches without which rows can say the network, and what more layers may be written as several rows for that.

    A layer that is a branch itself loses its row. Some blocks can be said in several rows once a branch is gone, but
    not before, such as one around attention.

    Args:
        spelled (SpelledLayers): The rows of the model.
        unroller (Unroller): Finds rows for its blocks.
        opened (dict[int, Told]): From `blocks`.
    """
    found, more = [], {}
    for layer in spelled.layers[:-1]:
        for branch in _branches_in(spelled, layer):
            if branch.name == layer.prefix:
                found += [branch] if len(layer.row.sources) == 1 else []
                continue
            newer = layer.row.name in yaml_rows.LEGACY_ENDS
            told = opened.get(layer.row.at) or (None if newer else _told(spelled, unroller, layer))
            parts = None if told is None else _parts(spelled, unroller, layer, told, branch)
            if told is not None and parts is not None:
                found.append(replace(branch, twice=_twice(spelled, layer, parts)))
                more[layer.row.at] = told
    return tuple(found), more


def _twice(spelled: SpelledLayers, layer: Layer, parts: list[Part]) -> tuple[tuple[int, tuple[int, ...]], ...]:
    """Positions, by axis, that are added to others, see `input_sums`."""
    bone = spelled.bone(layer)
    at = {axis.module: i for i, axis in enumerate(spelled.graph.axes) if axis.side == "inputs"}
    found = {}
    for part in parts:
        if part.sums is not None:
            conv = input_sums.where(bone.get_submodule(part.child), part.sums)
            first = {target: i for i, target in reversed([*enumerate(part.sums)])}
            again = tuple(i for i, target in enumerate(part.sums) if first[target] != i)
            found[at[f"{layer.prefix}.{part.child}.{conv}".rstrip(".")]] = again
    return tuple(found.items())


def _branches_in(spelled: SpelledLayers, layer: Layer) -> list[Branch]:
    whole = Branch(layer.prefix, ())
    return [branch for branch in spelled.graph.branches if whole.holds(branch.name)]


def _told(spelled: SpelledLayers, unroller: Unroller, layer: Layer) -> Told | None:
    if len(layer.row.sources) != 1:
        return None
    return unroller.told(layer.row, spelled.inputs(layer.row, spelled.full))


def _parts(
    spelled: SpelledLayers, unroller: Unroller, layer: Layer, told: Told, without: Branch | None = None
) -> list[Part] | None:
    """Rows that say a block at its full widths, as it is or without a branch; None if there are none."""
    (width,) = spelled.inputs(layer.row, spelled.full)
    bone = left = spelled.bone(layer)
    if without is not None:
        left = spelled.left_of(layer, ~np.isin(spelled.graph.group_of, without.groups))
    made = unroller.parts(told, bone, left, (width, width))
    return None if made is None else made[0]
