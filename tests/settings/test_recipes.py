"""Recipes: the shipped ones, what goes before them, what they may hold, and errors that name the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from command_lines import LEAST, ROOT, SPARSE, error, recipe

from yoloprune.errors import ArgumentError
from yoloprune.settings import keys
from yoloprune.settings.budget import Budget
from yoloprune.settings.command_line import parse
from yoloprune.settings.commands import COMMANDS
from yoloprune.settings.recipes import load_recipe


@pytest.mark.parametrize("name", [n for n, c in COMMANDS.items() if c.options])
def test_default_recipe_changes_nothing_and_names_everything(name: str) -> None:
    path = ROOT / "configs" / "default.yaml"
    assert parse([name, *LEAST[name], f"cfg={path}"]) == parse([name, *LEAST[name]])
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    stated = set(content) | set(content.get(name, {}))
    assert {o.name for o in COMMANDS[name].options} <= stated


@pytest.mark.parametrize("family", ["yolov8", "yolo11", "yolo26"])
def test_family_recipes(family: str) -> None:
    cfg = f"cfg={ROOT / 'configs' / family}.yaml"
    sparse = parse([*SPARSE.split(), cfg])
    assert sparse.settings["flops"] == 0.5 and sparse.passed["epochs"] == 50 and sparse.passed["nbs"] == 16
    # a budget in a prune section would cut more than the dead channels, recover=fold would leave data= without effect
    for data in ([], ["data=b.yaml"]):
        assert parse(["prune", "model=a", cfg, *data]).settings == parse(["prune", "model=a", *data]).settings
    assert Budget(**{k: parse(["prune", "model=a", cfg]).settings[k] for k in ("flops", "params", "ratio")}).empty
    assert parse(["finetune", "model=a", "data=b", cfg]).passed["lr0"] < sparse.passed["lr0"]


def test_recipe_precedence(tmp_path: Path) -> None:
    cfg = recipe(tmp_path, {"round_to": 4, "imgsz": 320, "seed": 1, "train-sparse": {"imgsz": 256, "round_to": 2}})
    sparse = parse([*SPARSE.split(), cfg])
    assert (sparse.settings["round_to"], sparse.passed["imgsz"], sparse.passed["seed"]) == (2, 256, 1)
    sparse = parse([*SPARSE.split(), "imgsz=128", cfg, "round_to=16"])
    assert (sparse.settings["round_to"], sparse.passed["imgsz"]) == (16, 128)
    prune = parse(["prune", "model=a.pt", cfg])
    assert (prune.settings["round_to"], prune.passed) == (4, {"imgsz": 320, "seed": 1, "model": "a.pt"})
    assert parse(["info", "model=a.pt", cfg]).passed == {"imgsz": 320, "model": "a.pt"}  # knows neither of the others


def test_recipe_carries_required_keys_and_other_spelling(tmp_path: Path) -> None:
    cfg = recipe(tmp_path, {"model": "a.pt", "data": "b.yaml", "lr0": "1e-3", "train_sparse": {"sparsity": 0.3}})
    result = parse(["train-sparse", cfg])
    assert result.passed == {"model": "a.pt", "data": "b.yaml", "lr0": 1e-3}  # YAML reads 1e-3 as text
    assert result.settings["sparsity"] == 0.3 and result.settings["flops"] is None


def test_a_nearer_budget_replaces_the_one_of_the_recipe(tmp_path: Path) -> None:
    cfg = recipe(tmp_path, {"train-sparse": {"flops": 0.4}})
    assert parse([*SPARSE.split(), cfg]).settings["flops"] == 0.4
    settings = parse([*SPARSE.split(), cfg, "sparsity=0.3"]).settings
    assert (settings["flops"], settings["sparsity"]) == (None, 0.3)


def test_a_plain_ultralytics_configuration_is_a_recipe(tmp_path: Path) -> None:
    cfg = recipe(tmp_path, {**keys.host_defaults(), "epochs": 7, "val": False})
    result = parse([*SPARSE.split(), cfg])
    assert result.passed["epochs"] == 7 and result.passed["val"] is False
    assert result.passed["model"] == "a.pt" and "freeze" not in result.passed  # empty entries say nothing
    assert "cfg" not in result.passed
    assert "data" not in parse(["finetune", "model=a", cfg]).passed


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"sparsty": 0.5}, "'sparsty' is not a valid argument. Similar arguments are sparsity=0.5"),
        ({"prune": {"epochs": 5}}, "'epochs' is not a valid argument of prune"),
        ({"finetune": {"distil": "parent"}}, "'distil' is not a valid argument of finetune"),
        ({"prunes": {"flops": 0.5}}, "Did you mean 'prune'?"),
        ({"train-sparse": {"flops": 1.5}}, "flops=1.5: must be a fraction"),
        ({"epochs": "many"}, "epochs=many: must be an integer"),
        ({"cfg": "other.yaml"}, "another recipe"),
    ],
)
def test_errors_in_a_recipe_name_the_file(tmp_path: Path, content: dict, words: str) -> None:
    message = error(f"{SPARSE} {recipe(tmp_path, content)}")
    assert message.startswith(f"{tmp_path / 'recipe.yaml'}: ") and words in message


def test_unreadable_recipes(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("a: [1,\nb: }", encoding="utf-8")
    assert "not a readable YAML file" in error(f"{SPARSE} cfg={tmp_path / 'recipe.yaml'}")
    assert error(f"{SPARSE} cfg={tmp_path / 'recip.yaml'}").endswith(f"Did you mean '{tmp_path / 'recipe.yaml'}'?")
    (tmp_path / "list.yaml").write_text("- 1", encoding="utf-8")
    assert "must hold key: value pairs" in error(f"{SPARSE} cfg={tmp_path / 'list.yaml'}")
    (tmp_path / "empty.yaml").write_text("", encoding="utf-8")
    assert load_recipe(tmp_path / "empty.yaml", "prune") == ({}, {})


def test_shares_of_layers_are_a_mapping_and_no_section(tmp_path: Path) -> None:
    cfg = recipe(tmp_path, {"layers": {"model.2.*": 0.3}, "prune": {"layers": {"backbone": 0.5}}})
    assert parse(["sweep", "model=a.pt", cfg]).settings["layers"] == (("model.2.*", 0.3),)
    assert parse(["prune", "model=a.pt", cfg]).settings["layers"] == (("backbone", 0.5),)
    line = parse(["prune", "model=a.pt", cfg, "layers=model.4.*=0.9,model.6=0"])
    assert line.settings["layers"] == (("model.4.*", 0.9), ("model.6", 0.0))


def test_a_budget_that_is_a_command_as_well(tmp_path: Path) -> None:
    """A mapping is what the command is told, anything else the budget; several budgets have sections of their own."""
    section = recipe(tmp_path, {"latency": {"python": "python3.8"}, "prune": {"latency": 0.6}})
    assert parse(["latency", "model=a.pt", "format=onnx", section]).settings["python"] == "python3.8"
    assert parse(["prune", "model=a.pt", section]).settings["latency"] == 0.6
    alone = recipe(tmp_path, {"latency": "12ms"})
    assert parse(["prune", "model=a.pt", alone]).settings["latency"] == "12ms"
    assert parse(["latency", "model=a.pt", "format=onnx", alone]).settings["python"] == "python3"


@pytest.mark.parametrize(("default", "found"), [(0.0, (0.0, 0.5)), (False, (False, True))])
def test_a_switch_of_an_older_release_is_the_number_that_it_is_now(
    default: Any, found: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sides were drawn from half of imgsz= to one and a half of it; every args.yaml of such a release says whether."""
    defaults = {**keys.host_defaults(), "multi_scale": default}
    monkeypatch.setattr(keys, "_read_host_defaults", lambda: defaults)
    for told, value in zip((False, True), found, strict=True):
        line = parse(["finetune", "model=a.pt", recipe(tmp_path, {"multi_scale": told})])
        assert (line.passed["multi_scale"], type(line.passed["multi_scale"])) == (value, type(value))
    with pytest.raises(ArgumentError, match="multi_scale=2"):
        parse(["finetune", "model=a.pt", "multi_scale=2"])
