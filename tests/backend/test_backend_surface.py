"""All that yoloprune relies on in Ultralytics beside its public names: there, and takes what is passed."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path

import pytest
from ultralytics.data.base import BaseDataset
from ultralytics.nn import tasks
from ultralytics.utils import checks, torch_utils

import yoloprune
from yoloprune import cli
from yoloprune.backend import compat, console
from yoloprune.errors import PruneError
from yoloprune.settings.commands import COMMANDS

PACKAGE = Path(yoloprune.__file__).parent


@pytest.mark.parametrize("foreign", compat.NAMES.values(), ids=compat.NAMES)
def test_the_installed_release_has_it(foreign: compat.ForeignName) -> None:
    assert foreign.fault() is None


@pytest.mark.parametrize("command", compat.NEEDS)
def test_a_command_finds_all_it_needs(command: str) -> None:
    compat.require(command)


def test_names_are_told_apart_and_have_a_purpose() -> None:
    listed = [foreign for group in compat.GROUPS for foreign in group]
    assert len(listed) == len(compat.NAMES)
    assert all(foreign.purpose for foreign in listed)
    assert set(compat.NEEDS) >= {c.name for c in COMMANDS.values() if c.options}


def test_all_that_is_used_is_listed() -> None:
    used = set()
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "compat":
                used.add(node.attr)
    assert {name for name in used if not hasattr(type(compat), name) and name not in vars(compat)} <= set(compat.NAMES)


def gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(tasks, "guess_model_scale")


def without_a_parameter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "parse_model", lambda d, ch: None)


def with_a_parameter_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "parse_model", lambda d, ch, scales, verbose=True: None)


def method_without_a_parameter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BaseDataset, "load_image", lambda self: None)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (gone, r"ultralytics\.nn\.tasks\.guess_model_scale, which reads the scale .*, is not there\. Installed is"),
        (without_a_parameter, r"nn\.tasks\.parse_model, .* \(got an unexpected keyword argument 'verbose'\)\."),
        (with_a_parameter_more, r"nn\.tasks\.parse_model, .* \(missing a required argument: 'scales'\)\."),
        (method_without_a_parameter, r"data\.base\.BaseDataset\.load_image, .* \(too many positional arguments\)\."),
    ],
)
def test_a_change_is_told_by_name_before_anything_begins(
    change: Callable[[pytest.MonkeyPatch], None],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    change(monkeypatch)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PruneError, match=said) as e:
        yoloprune.prune("nowhere.pt", flops=0.5)  # the first thing that would be told otherwise
    assert "\n" not in str(e.value)
    assert f"{compat.OLDEST} to {compat.NEWEST}" in str(e.value)
    assert cli.main(["prune", "model=nowhere.pt", "flops=0.5"]) == 1
    assert capsys.readouterr().err == f"yoloprune: error: {e.value}\n"
    with pytest.raises(PruneError, match="nowhere"):
        yoloprune.info("nowhere.pt")  # which does not need it


@pytest.mark.parametrize("command", [c.name for c in COMMANDS.values() if c.options])
def test_every_command_looks_first(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def require(name: str) -> None:
        asked.append(name)
        raise PruneError("looked")

    monkeypatch.setattr(compat, "require", require)
    words = [f"{key}=nowhere" for key in COMMANDS[command].required]
    assert cli.main([command, *words]) == 1
    assert asked == [command]


def test_earlier_names_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch_utils, "unwrap_model", raising=False)
    monkeypatch.setattr(torch_utils, "de_parallel", lambda model: "unwrapped", raising=False)
    assert compat.unwrap_model(None) == "unwrapped"
    monkeypatch.delattr(tasks, "YOLOEModel", raising=False)
    assert compat.NAMES["YOLOEModel"].fault() is None
    assert compat.prompted_models() == (tasks.WorldModel,)


def test_what_is_replaced_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    before = checks.AUTOINSTALL
    with pytest.raises(KeyError), compat.replaced({"AUTOINSTALL": not before}):
        assert checks.AUTOINSTALL is not before
        raise KeyError
    assert checks.AUTOINSTALL is before


def test_a_name_is_read_when_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ultralytics.utils.RANK", 3)
    assert not console.is_main_process()
    with pytest.raises(AttributeError, match="no attribute 'parse_modle'"):
        compat.parse_modle  # noqa: B018
