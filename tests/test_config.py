"""Keys, values, recipes and the frozen settings of the Python API."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import yaml

from yoloprune import config, options
from yoloprune.config import load_recipe, merge_tokens, parse, parse_amount, request, smart_value
from yoloprune.errors import ArgumentError, PruneError
from yoloprune.limits import Budget, Limits
from yoloprune.options import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
SPARSE = "train-sparse model=a.pt data=b.yaml"
OWN = {option.name for command in COMMANDS.values() for option in command.options}
LEAST = {name: "".join(f"{key}=x " for key in command.required).split() for name, command in COMMANDS.items()}


def ok(line: str) -> config.Request:
    """Return the request that the line parses to."""
    return parse(line.split())


def error(line: str) -> str:
    """Return the message that parsing the line ends with."""
    with pytest.raises(ArgumentError) as caught:
        parse(line.split())
    assert "\n" not in str(caught.value)
    return str(caught.value)


# The table ------------------------------------------------------------------------------------------------------------
def test_own_keys_are_disjoint_from_ultralytics() -> None:
    from ultralytics.utils import DEFAULT_CFG_DICT

    assert not OWN & set(DEFAULT_CFG_DICT)
    assert not OWN & config.UNLISTED_HOST_KEYS
    assert len(OWN) == 23


def test_host_defaults_are_those_of_ultralytics() -> None:
    from ultralytics.utils import DEFAULT_CFG_DICT

    assert config.host_defaults() == DEFAULT_CFG_DICT
    config.host_defaults()["epochs"] = -1
    assert config.host_defaults()["epochs"] == DEFAULT_CFG_DICT["epochs"]  # callers get a copy


def test_host_keys_of_commands_exist() -> None:
    for command in COMMANDS.values():
        assert set(command.host or ()) <= set(config.host_defaults()), command.name


@pytest.mark.parametrize("command", [c for c in COMMANDS.values() if c.options], ids=lambda c: c.name)
def test_defaults_and_hints_pass_their_own_check(command: options.Command) -> None:
    for option in command.options:
        assert option.check(option.default) == option.default
        key, _, value = option.hint.partition("=")
        assert key == option.name
        assert option.check(value) not in (None, ())


@pytest.mark.parametrize("command", COMMANDS.values(), ids=lambda c: c.name)
def test_examples_of_the_help_parse(command: options.Command) -> None:
    for example in command.examples:
        if command.options:
            assert parse(example.split()).command == command.name


@pytest.mark.parametrize("module", ["errors", "options", "config", "cli"])
def test_no_heavy_import(module: str) -> None:
    tree = ast.parse((ROOT / "yoloprune" / f"{module}.py").read_text(encoding="utf-8"))
    names = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    names |= {n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert not {n.partition(".")[0] for n in names} & {"torch", "ultralytics", "numpy", "torchvision"}


# Values ---------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("True", True),
        ("false", False),
        ("None", None),
        ("3", 3),
        ("-1", -1),
        ("1e-3", 1e-3),
        ("[0, 1]", [0, 1]),
        ("0,1", (0, 1)),
        ("yolov8n.pt", "yolov8n.pt"),
        ("cuda:0", "cuda:0"),
    ],
)
def test_smart_value(text: str, value: object) -> None:
    result = smart_value(text)
    assert result == value and type(result) is type(value)


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        (0.5, 0.5),
        ("0.5", 0.5),
        (".25", 0.25),
        ("4.2G", 4.2e9),
        ("2.0M", 2e6),
        ("500K", 5e5),
        ("1.5g", 1.5e9),
        (3e6, 3e6),
    ],
)
def test_parse_amount(text: str | float, amount: float) -> None:
    assert parse_amount(text) == pytest.approx(amount, rel=1e-12)
    assert parse_amount(parse_amount(text)) == parse_amount(text)


@pytest.mark.parametrize(
    "text",
    [0, 1, 1.0, 1.5, 50, -0.5, "1.5", "abc", "", "G", "0.5G0", "-2M", "nan", "inf", "infG", "0.1K", True, None, [0.5]],
)
def test_parse_amount_refuses(text: object) -> None:
    with pytest.raises(ArgumentError, match="must be a fraction between 0 and 1, or an absolute value with a unit"):
        parse_amount(text)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("key", "good", "bad"),
    [
        ("ratio", ["0.3", 0.3], ["0", "1", "1.0", "x", True]),
        ("max_ratio", ["1", "1.0", "0.01"], ["0", "1.01", "-1", "[1]"]),
        ("round_to", ["1", "16", "8.0"], ["0", "-8", "8.5", "a", "True", "None"]),
        ("min_width", ["1", 32], ["0", 0.5]),
        ("score", ["bn", "L1", "random"], ["gamma", "none", "5"]),
        ("reduce", ["max", "SUM", "l2"], ["min"]),
        ("normalize", ["none", None, "max"], ["l2"]),
        ("recover", ["none", "auto", "fold"], ["lsk", "True"]),
        ("uniform", ["True", "false", True], ["1", "yes", 0]),
        ("keep", ["backbone", "model.2.*,neck", [], None], ["a b", "model.1,,model.2", 3]),
    ],
)
def test_values_of_prune(key: str, good: list, bad: list) -> None:
    for value in good:
        first = request("prune", {"model": "a.pt", key: value}).settings
        assert request("prune", {"model": "a.pt", **first}).settings == first
    for value in bad:
        with pytest.raises(ArgumentError, match=rf"^{key}=.*: must be .* Received: "):
            request("prune", {"model": "a.pt", key: value})


@pytest.mark.parametrize(
    ("key", "bad"),
    [("sparsity", 1), ("penalty_weight", 0), ("ramp_start", 1), ("ramp_end", 0), ("fade", 1), ("score", "bn")],
)
def test_values_of_train_sparse(key: str, bad: object) -> None:
    with pytest.raises(ArgumentError, match=rf"^{key}="):
        request("train-sparse", {"model": "a", "data": "b", key: bad})


@pytest.mark.parametrize(
    ("value", "points"),
    [
        ("0.9,0.5", (0.9, 0.5)),
        ("[0.9, 0.5]", (0.9, 0.5)),
        ("0.7", (0.7,)),
        (0.7, (0.7,)),
        ([0.9, "4.2G"], (0.9, 4.2e9)),
        ("4.2G,2g", (4.2e9, 2e9)),
    ],
)
def test_points_of_a_sweep(value: object, points: tuple[float, ...]) -> None:
    given = {"model": "a.pt", "data": "b.yaml"}
    settings = request("sweep", {**given, "flops": value}).settings
    assert settings["flops"] == points
    assert request("sweep", {**given, **settings}).settings == settings


@pytest.mark.parametrize("value", ["0.9,", "0.9,1.5", "0.5,0.5", "abc", [], "[]", True])
def test_points_that_a_sweep_refuses(value: object) -> None:
    with pytest.raises(ArgumentError, match=r"^flops=.*several separated by commas. Received: "):
        request("sweep", {"model": "a.pt", "data": "b.yaml", "flops": value})


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("model.2.10", ("model.2.10",)),  # no float
        ("22", ("22",)),
        ("model.0,model.4.*", ("model.0", "model.4.*")),
        ("[model.0,'neck']", ("model.0", "neck")),
        ("model.[0-3]", ("model.[0-3]",)),
        ("None", ()),
    ],
)
def test_keep_stays_text(text: str, names: tuple[str, ...]) -> None:
    assert parse(["prune", "model=a.pt", f"keep={text}"]).settings["keep"] == names


def test_types_of_ultralytics_values() -> None:
    good = "epochs=1e2 batch=0.7 imgsz=[320,320] lr0=1 amp=bf16 cache=ram scale=(0.5,2) freeze=[0,1] half exist_ok"
    passed = ok(f"{SPARSE} {good} name=7").passed
    assert passed["imgsz"] == [320, 320] and passed["half"] is True and passed["exist_ok"] is True
    assert passed["name"] == "7"  # no number
    assert parse([*SPARSE.split(), "name=None"]).passed["name"] is None
    for bad in (
        "epochs=a",
        "epochs=1.5",
        "epochs=None",
        "epochs=True",
        "lr0=high",
        "cos_lr=2",
        "imgsz=big",
        "nbs=True",
    ):
        assert error(f"{SPARSE} {bad}").startswith(f"{bad}: must be ")


# Keys -----------------------------------------------------------------------------------------------------------------
def test_wrong_key_names_the_nearest() -> None:
    message = error(f"{SPARSE} sparsty=0.5")
    assert message.startswith(
        "'sparsty' is not a valid argument of train-sparse. Similar arguments are i.e. ['sparsity=0.5'"
    )
    assert "['epochs=100']" in error(f"{SPARSE} epoch=3")
    assert "It belongs to train-sparse, finetune, val." in error("prune model=a.pt epochs=3")
    for key in ("batch=4", "verbose=True"):  # taken by mistake once, and never read
        assert "is not a valid argument of prune. It belongs to" in error(f"prune model=a.pt {key}")
    assert "It belongs to" in error("info model=a.pt verbose=True")
    assert error("prune best.pt").endswith("Did you mean 'model=best.pt'?")
    assert error("prune model=a.pt qqqq=1").endswith("See 'yoloprune help prune'.")


def test_wrong_value_says_what_is_allowed() -> None:
    allowed = "must be a fraction between 0 and 1, or an absolute value with a unit (4.2G)"
    assert error("prune model=a.pt flops=1.5") == f"flops=1.5: {allowed}. Received: 1.5"
    assert error("prune model=a.pt flops=abc") == f"flops=abc: {allowed}. Received: abc"
    assert "one of taylor, gamma, gamma-mean (nearest: taylor)" in error(f"{SPARSE} score=tailor")


def test_wrong_command_names_the_nearest() -> None:
    assert error("prun model=a.pt") == "'prun' is not a command. Did you mean 'prune'?"
    assert error("flops=0.5 fine-tune").endswith("Did you mean 'finetune'?")
    assert "use 'yolo export'" in error("export model=a.pt")
    assert error("model=a.pt").startswith("no command given")


@pytest.mark.parametrize("name", [n for n, c in COMMANDS.items() if c.required])
def test_required_keys(name: str) -> None:
    for missing in COMMANDS[name].required:
        line = [name, *(t for t in LEAST[name] if not t.startswith(missing))]
        assert error(" ".join(line)).startswith(f"{name} needs '{missing}'")
    command = COMMANDS[name]
    assert set(parse([name, *LEAST[name]]).passed) == {*command.required, *command.own_defaults}


def test_order_spaces_dashes_and_brackets() -> None:
    expected = parse(["prune", "model=a.pt", "flops=0.5", "imgsz=[3,4]", "uniform"])
    lines = (
        "uniform flops=0.5 prune imgsz=[3, 4] model=a.pt",
        "prune model= a.pt flops =0.5 imgsz = [3, 4] uniform=True",
        "prune --model=a.pt, --flops=0.5 --uniform imgsz=[3,4]",
    )
    for line in lines:
        assert parse(line.split()) == expected
    assert ok("train_sparse model=a data=b").command == "train-sparse"
    assert ok("finetune model=a data=b val").passed["val"] is True  # the switch, not the command


def test_finetune_has_a_gentle_optimizer_of_its_own() -> None:
    plain = {"optimizer": "AdamW", "lr0": 0.0005, "warmup_epochs": 1.0, "warmup_bias_lr": 0.0, "nbs": 16}
    given = {"model": "a", "data": "b"}
    assert ok("finetune model=a data=b").passed == {**given, **plain}
    assert ok("finetune model=a data=b lr0=0.01").passed == {**given, **plain, "lr0": 0.01}
    assert ok("finetune model=a data=b optimizer=SGD").passed == {**given, "optimizer": "SGD"}  # its rates as well
    assert "optimizer" not in ok("train-sparse model=a data=b").passed
    again = ok("finetune model=a data=b lr0=0.01")
    assert request("finetune", again.kwargs() | {"model": "a"}) == again


def test_budgets_are_said_as_they_are_typed() -> None:
    assert str(Budget.parse(flops="4.2G", params="500K")) == "flops=4.2G params=500K"
    assert str(Budget(flops=0.5)) == "flops=0.5"
    assert Budget.parse(*str(Budget(flops=1.23456e9)).removeprefix("flops=").split()) == Budget(flops=1.2346e9)


def test_malformed_tokens() -> None:
    assert merge_tokens(["a=", "b=1"]) == ["a=", "b=1"]
    assert error("prune model= flops=0.5") == "'model=' is missing a value"
    assert "unmatched" in error("prune model=a imgsz=[3,4")
    assert error("prune model=a flops").endswith("try 'flops=0.5'")
    assert error(f"{SPARSE} epochs").endswith("try 'epochs=100'")


# What belongs together ------------------------------------------------------------------------------------------------
def test_settings_are_complete_and_passed_holds_only_what_was_given() -> None:
    for name, command in COMMANDS.items():
        if command.options:
            result = parse([name, *LEAST[name]])
            assert list(result.settings) == [o.name for o in command.options]
            assert set(result.passed) == {*command.required, *command.own_defaults}
            assert "model" not in result.kwargs() and set(result.settings) <= set(result.kwargs())


def test_budget_of_sparse_training() -> None:
    def budgets(line: str) -> tuple:
        return tuple(ok(f"{SPARSE} {line}").settings[k] for k in ("flops", "params", "sparsity"))

    assert budgets("") == (0.5, None, None)
    assert budgets("params=2M") == (None, 2e6, None)
    assert budgets("sparsity=0.3 flops=None") == (None, None, 0.3)
    assert budgets("resume") == (None, None, None)  # a resumed run brings its own
    assert "exactly one of flops, params, sparsity" in error(f"{SPARSE} flops=0.5 sparsity=0.5")
    both = ok("prune model=a.pt flops=0.5 ratio=0.3 params=2M").settings
    assert (both["flops"], both["params"], both["ratio"]) == (0.5, 2e6, 0.3)


def test_budget_of_a_sweep(tmp_path: Path) -> None:
    assert ok("sweep model=a data=b").settings["flops"] == (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
    assert ok("sweep model=a data=b ratio=0.2,0.4").settings["flops"] is None
    assert "exactly one of flops, params, ratio" in error("sweep model=a data=b flops=0.5 params=0.5")
    cfg = recipe(tmp_path, {"sweep": {"flops": [0.8, 0.6]}})
    settings = parse(["sweep", "model=a", "data=b", cfg, "ratio=0.2"]).settings
    assert (settings["flops"], settings["ratio"]) == (None, (0.2,))


def test_combinations_that_make_no_sense() -> None:
    assert error(f"{SPARSE} ramp_start=0.6").startswith("ramp_start=0.6: must be below ramp_end=0.6")
    assert "distill_model" in error("finetune model=a data=b distill=parent distill_model=c.pt")
    assert ok("finetune model=a resume").passed == {"model": "a", "resume": True}


@pytest.mark.parametrize("name", ["train-sparse", "sweep", "finetune", "val"])
def test_data_is_asked_for_before_ultralytics_downloads_what_the_checkpoint_names(name: str) -> None:
    for line in (f"{name} model=a.pt", f"{name} model=a.pt data=False"):
        assert error(line) == f"{name} needs 'data', i.e. data=coco8.yaml"


@pytest.mark.parametrize("name", [n for n, c in COMMANDS.items() if c.options])
def test_a_request_requested_again_is_the_same(name: str) -> None:
    first = parse([name, *LEAST[name]])
    assert request(name, {**first.settings, **first.passed}) == first


# Recipes --------------------------------------------------------------------------------------------------------------
def recipe(folder: Path, content: dict) -> str:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return f"cfg={path}"


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
    cfg = recipe(tmp_path, {**config.host_defaults(), "epochs": 7, "val": False})
    result = parse([*SPARSE.split(), cfg])
    assert result.passed["epochs"] == 7 and result.passed["val"] is False
    assert result.passed["model"] == "a.pt" and "freeze" not in result.passed  # empty entries say nothing
    assert "cfg" not in result.passed
    assert error(f"finetune model=a {cfg}").startswith("finetune needs 'data'")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"sparsty": 0.5}, "'sparsty' is not a valid argument. Similar arguments are i.e. ['sparsity=0.5'"),
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


# The frozen settings --------------------------------------------------------------------------------------------------
def test_budget() -> None:
    assert Budget().empty and not Budget(ratio=0.5).empty
    assert Budget.parse(flops="4.2G", params="0.5") == Budget(4.2e9, 0.5, None)
    for key, value in (("flops", 1.5), ("params", 0), ("ratio", 1)):
        with pytest.raises(ArgumentError, match=rf"^{key}={value}: must be a fraction .* Received: {value}$"):
            Budget(**{key: value})


def test_limits() -> None:
    table = (*options.SELECTION, options.UNIFORM)
    assert Limits() == Limits(**{o.name: o.default for o in table})  # the dataclass repeats the table's defaults
    assert Limits(keep="model.0,neck") == Limits(keep=["model.0", "neck"]) == Limits(keep=("model.0", "neck"))  # type: ignore[arg-type]
    for key, value in (("round_to", 0), ("min_width", 1.5), ("max_ratio", 0), ("uniform", 1)):
        with pytest.raises(ArgumentError, match=rf"^{key}="):
            Limits(**{key: value})


def test_argument_error_is_what_callers_expect() -> None:
    assert issubclass(ArgumentError, PruneError) and issubclass(PruneError, ValueError)
    assert (PruneError.exit_code, ArgumentError.exit_code) == (1, 2)
