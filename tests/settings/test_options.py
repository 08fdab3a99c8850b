"""The table of options beside Ultralytics' own, and the frozen settings of the Python API."""

from __future__ import annotations

import ast

import pytest
from command_lines import ROOT

from yoloprune.errors import ArgumentError, PruneError
from yoloprune.settings import keys, own_options
from yoloprune.settings.budget import Budget, Limits
from yoloprune.settings.command import Command
from yoloprune.settings.command_line import parse
from yoloprune.settings.commands import COMMANDS

OWN = {option.name for command in COMMANDS.values() for option in command.options}


# The table ------------------------------------------------------------------------------------------------------------
def test_own_keys_are_disjoint_from_ultralytics() -> None:
    from ultralytics.utils import DEFAULT_CFG_DICT

    assert OWN & set(DEFAULT_CFG_DICT) == {"classes"}  # which means the same there, and takes names as well here
    both = [c.name for c in COMMANDS.values() if c.option("classes") and c.host_keys is None]
    assert both == ["slim"]  # whose trainings learn the classes that stay, so Ultralytics' own has nothing to add
    assert not OWN & keys.UNLISTED_HOST_KEYS
    assert len(OWN) == 49


def test_host_defaults_are_those_of_ultralytics() -> None:
    from ultralytics.utils import DEFAULT_CFG_DICT

    assert keys.host_defaults() == DEFAULT_CFG_DICT
    keys.host_defaults()["epochs"] = -1
    assert keys.host_defaults()["epochs"] == DEFAULT_CFG_DICT["epochs"]  # callers get a copy


def test_host_keys_of_commands_exist() -> None:
    later = {"quantize", "channels_last"}  # not in 8.3, whose `get_cfg` refuses them
    for command in COMMANDS.values():
        known = {*keys.host_defaults(), *keys.UNLISTED_HOST_KEYS, *later}
        assert set(command.host_keys or ()) <= known, command.name


@pytest.mark.parametrize("command", [c for c in COMMANDS.values() if c.options], ids=lambda c: c.name)
def test_defaults_and_hints_pass_their_own_check(command: Command) -> None:
    for option in command.options:
        assert option.check(option.default) == option.default
        key, _, value = option.hint.partition("=")
        assert key == option.name
        assert option.check(value) not in (None, ())


@pytest.mark.parametrize("command", COMMANDS.values(), ids=lambda c: c.name)
def test_examples_of_the_help_parse(command: Command) -> None:
    for example in command.examples:
        if command.options:
            assert parse(example.split()).command == command.name


@pytest.mark.parametrize("module", ["cli", "__init__"])
def test_no_heavy_import(module: str) -> None:
    tree = ast.parse((ROOT / "yoloprune" / f"{module}.py").read_text(encoding="utf-8"))
    names = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    names |= {n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert not {n.partition(".")[0] for n in names} & {"torch", "ultralytics", "numpy", "torchvision"}


# The frozen settings --------------------------------------------------------------------------------------------------
def test_budget() -> None:
    assert Budget().empty and not Budget(ratio=0.5).empty
    assert Budget.parse(flops="4.2G", params="0.5") == Budget(4.2e9, 0.5, None)
    for key, value in (("flops", -1.5), ("params", 0), ("ratio", 2)):
        with pytest.raises(ArgumentError, match=rf"^{key}={value}: must be a fraction .* Received: {value}$"):
            Budget(**{key: value})


def test_budgets_are_said_as_they_are_typed() -> None:
    assert str(Budget.parse(flops="4.2G", params="500K")) == "flops=4.2G params=500K"
    assert str(Budget(flops=0.5)) == "flops=0.5"
    assert Budget.parse(*str(Budget(flops=1.23456e9)).removeprefix("flops=").split()) == Budget(flops=1.2346e9)


def test_limits() -> None:
    table = (*own_options.SELECTION, own_options.UNIFORM, own_options.DEPTH)
    assert Limits() == Limits(**{o.name: o.default for o in table})  # the dataclass repeats the table's defaults
    assert Limits(keep="model.0,neck") == Limits(keep=["model.0", "neck"]) == Limits(keep=("model.0", "neck"))  # type: ignore[arg-type]
    for key, value in (("round_to", 0), ("min_width", 1.5), ("max_ratio", 0), ("uniform", 1)):
        with pytest.raises(ArgumentError, match=rf"^{key}="):
            Limits(**{key: value})


def test_argument_error_is_what_callers_expect() -> None:
    assert issubclass(ArgumentError, PruneError) and issubclass(PruneError, ValueError)
    assert (PruneError.exit_code, ArgumentError.exit_code) == (1, 2)
