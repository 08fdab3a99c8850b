"""Old dotted places answer with the new module and a warning, for one release."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

import yoloprune
from yoloprune.former_places import MOVED

OLD = [(old, f"yoloprune.{package}.{new}") for package, names in MOVED.items() for old, new in names.items()]


@pytest.mark.parametrize(("old", "place"), OLD)
def test_an_old_place_answers_with_the_new_one(old: str, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.warns(DeprecationWarning, match=rf"^yoloprune\.{old} is {place} now$") as told:
        module = getattr(yoloprune, old)
    assert module is importlib.import_module(place)
    assert told[0].filename == __file__


def test_it_can_be_imported_as_before() -> None:
    with pytest.warns(DeprecationWarning, match="channel_graph") as told:
        from yoloprune import groups
    assert groups is sys.modules["yoloprune.planning.channel_graph"]
    assert told[0].filename == __file__


def test_what_is_there_is_not_in_the_table() -> None:
    there = {path.stem for path in Path(yoloprune.__file__).parent.iterdir()}
    assert not there & {old for old, _ in OLD}
    assert not set(yoloprune.__all__) & {old for old, _ in OLD}


def test_other_names_are_missing_as_ever() -> None:
    with pytest.raises(AttributeError, match="module 'yoloprune' has no attribute 'pruned'"):
        yoloprune.pruned  # noqa: B018
    assert not hasattr(yoloprune, "__wrapped__")


def test_a_module_is_imported_by_its_former_dotted_name() -> None:
    with pytest.warns(DeprecationWarning, match="yoloprune.shapes is yoloprune.commands.demo_images now"):
        old = importlib.import_module("yoloprune.shapes")
    new = importlib.import_module("yoloprune.commands.demo_images")
    assert old is new and new.__name__ == new.__spec__.name == "yoloprune.commands.demo_images"
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("yoloprune.never_there")
