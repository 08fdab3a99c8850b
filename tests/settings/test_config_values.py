"""Values of settings: numbers, amounts, names and lists as they are typed, and which ones are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from command_lines import LEAST, SPARSE, error, ok

from yoloprune.errors import ArgumentError
from yoloprune.settings import checking
from yoloprune.settings.checking import request
from yoloprune.settings.command_line import parse
from yoloprune.settings.commands import COMMANDS
from yoloprune.settings.keys import knows, smart_value
from yoloprune.settings.value_kinds import parse_amount


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


@pytest.mark.parametrize("value", ["0.9,", "0.9,1.5", "abc", [], "[]", True])
def test_points_that_a_sweep_refuses(value: object) -> None:
    with pytest.raises(ArgumentError, match=r"^flops=.*several separated by commas. Received: "):
        request("sweep", {"model": "a.pt", "data": "b.yaml", "flops": value})


@pytest.mark.parametrize(
    ("line", "twice"),
    [
        ("sweep model=a data=b flops=0.7,0.9,0.7", "flops=0.7,0.9,0.7: must hold each once, and 0.7"),
        ("sweep model=a data=b flops=4.2G,0.5,4200M", "flops=4.2G,0.5,4200M: must hold each once, and 4200M"),
        ("sweep model=a data=b sparsity=[.5,0.5]", "sparsity=[.5,0.5]: must hold each once, and 0.5"),
        ("sensitivity model=a data=b widths=0.5,0.5", "widths=0.5,0.5: must hold each once, and 0.5"),
        ("prune model=a classes=dog,0,dog", "classes=dog,0,dog: must hold each once, and dog"),
        ("compare models=a.pt,a.pt", "models=a.pt,a.pt: must hold each once, and a.pt"),
    ],
)
def test_what_is_there_twice_is_named(line: str, twice: str) -> None:
    said = error(line)
    assert said == f"{twice} is there twice. Received: {line.rpartition(' ')[2].partition('=')[2]}"


def test_of_several_the_wrong_one_is_understood() -> None:
    assert error("sensitivity model=a data=b widths=0.75,50").endswith("Received: 0.75,50. Did you mean 0.5?")


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


@pytest.mark.parametrize(
    "wrong",
    [
        *(
            "workers=-1",
            "workers=1.5",
            "time=-1",
            "time=0",
            "time=nan",
            "time=1e999",
            "seed=1e30",
            "seed=0.5",
            "box=1e999",
        ),
        *("imgsz=1e9", "imgsz=1000000000", "imgsz=0", "imgsz=-32", "imgsz=[]", "imgsz=[64,0]", "imgsz=[64,64,64]"),
        *("imgsz=[64,big]", "imgsz=64.5", "batch=0", "batch=-2", "batch=2.5", "close_mosaic=-1", "multi_scale=1"),
        *("warmup_epochs=-1", "fraction=2", "fraction=15", "fraction=1.5"),
    ],
)
def test_numbers_that_cannot_be_meant(wrong: str) -> None:
    for command in (SPARSE, "finetune model=a.pt data=b.yaml"):
        assert error(f"{command} {wrong}").startswith(f"{wrong.partition('=')[0]}=")


def test_numbers_at_the_edge_of_their_range() -> None:
    good = "workers=0 time=0.1 seed=4294901760 imgsz=32768 batch=-1 close_mosaic=0 multi_scale=0 fraction=1"
    assert ok(f"{SPARSE} {good}").passed["batch"] == -1
    assert ok(f"{SPARSE} fraction=16").passed["fraction"] == 16  # a number of images
    assert ok(f"{SPARSE} fraction=8 batch=8").passed["fraction"] == 8
    assert ok(f"{SPARSE} imgsz=[64,96] batch=0.5").passed["imgsz"] == [64, 96]


@pytest.mark.parametrize("line", [f"{name} imgsz=" for name in COMMANDS if knows(COMMANDS[name], "imgsz")])
def test_one_side_where_one_is_taken(line: str) -> None:
    name, key = line.split()
    least = " ".join((name, *LEAST[name]))
    if name in {"train-sparse", "finetune"}:  # Ultralytics takes the larger, and warns
        assert ok(f"{least} {key}64,96").passed["imgsz"] == (64, 96)
        return
    assert ok(f"{least} {key}[64,64]").passed["imgsz"] == 64
    for several in ("64,96", "[64,96,128]", "320,288,256"):
        said = f"imgsz={several}: {name} takes one imgsz. For several: one run each"
        assert error(f"{least} {key}{several}") == said + (
            ", then 'yoloprune compare' of the models" if name in {"slim", "prune", "sweep", "mask"} else ""
        )


def test_auto_names_the_commands_that_take_it() -> None:
    for name in ("sweep", "sensitivity", "mask", "info", "val"):
        said = error(f"{name} model=a imgsz=auto")
        takes = "takes a number (e.g. imgsz=640); auto is for slim, train-sparse, prune"
        assert said == f"imgsz=auto: {name} {takes}"
    assert ok("prune model=a flops=0.5 imgsz=Auto").passed["imgsz"] == "auto"
    whole = "must be an integer from 1 to 32768 (e.g. imgsz=640)"
    assert error("prune model=a flops=0.5 imgsz=0") == f"imgsz=0: {whole}, or auto. Received: 0"
    assert error("sweep model=a imgsz=big") == f"imgsz=big: {whole}. Received: big"


def test_numbers_of_numpy_are_numbers_like_others() -> None:
    told = {"imgsz": np.int64(64), "seed": np.int32(1), "exist_ok": np.bool_(True), "round_to": np.int64(4)}
    made = request("prune", {"model": "a.pt", **told, "flops": np.float32(0.5), "uniform": np.bool_(True)})
    values = [made.passed["imgsz"], made.passed["seed"], made.passed["exist_ok"], made.settings["round_to"]]
    assert values == [64, 1, True, 4] and [type(v) for v in values] == [int, int, bool, int]
    assert made.settings["flops"] == 0.5 and made.settings["uniform"] is True
    swept = request("sweep", {"model": "a.pt", "flops": np.array([0.75, 0.5]), "imgsz": np.array([64, 64])})
    assert swept.settings["flops"] == (0.75, 0.5) and swept.passed["imgsz"] == 64


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("50%", "0.5"),
        ("50", "0.5 or 50G"),
        ("5%", "0.05"),
        ("1.5", "1.5G"),
        ("1.5%", "0.015"),
        ("100", "100G"),
        ("4.2GFLOPs", "4.2G"),
        ("half", ""),
        ("0", ""),
    ],
)
def test_a_fraction_is_proposed_for_percent_and_a_unit_for_more_than_the_whole(written: str, meant: str) -> None:
    said = error(f"prune model=a flops={written}")
    assert said.endswith(f"Received: {written}. Did you mean {meant}?" if meant else f"Received: {written}")


@pytest.mark.parametrize(
    "line, hint",
    [
        ("prune model=a flops=1.0", ". That is the whole: give less, e.g. 0.5"),
        ("prune model=a params=100%", ". That is the whole: give less, e.g. 0.5"),
        ("prune model=a params=2.0", ". Did you mean 2M?"),
        ("prune model=a params=2million", ". Did you mean 2M?"),
        ("slim model=a params=4", ". Did you mean 4M?"),
        ("sweep model=a params=0.5,2.5", ". Did you mean 2.5M?"),
        ("sweep model=a flops=0.5,4.2", ". Did you mean 4.2G?"),
        ("train-sparse model=a data=b flops=4.2", ". Did you mean 4.2G?"),
        ("prune model=a latency=12", ". Did you mean 0.12 or 12ms?"),
        ("slim model=a latency=1.5", ". Did you mean 1.5ms?"),
        ("prune model=a latency=12msec", ". Did you mean 12ms?"),
        ("prune model=a latency=soon", ""),
        ("prune model=a ratio=1.5", ""),
        ("prune model=a ratio=1", ". That is the whole: give less, e.g. 0.5"),
        ("prune model=a ratio=50%", ". Did you mean 0.5?"),
        ("slim model=a max_drop=1 confidence=95", ". Did you mean 0.95?"),
        ("slim model=a max_drop=2%", ". It counts in points: did you mean 2?"),
        ("slim model=a max_drop=%", ""),
        ("sweep model=a within=3%", ". It counts in points: did you mean 3?"),
        ("sweep model=a flops=0.9,1.0", ". That is the whole: give less, e.g. 0.5"),
        ("sweep model=a flops=0.9,50%", ". Did you mean 0.5?"),
    ],
)
def test_a_number_in_another_unit_is_told_what_was_meant(line: str, hint: str) -> None:
    assert error(line).endswith(f"Received: {line.rpartition(' ')[2].partition('=')[2]}{hint}")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a.pt, b.pt", ("a.pt", "b.pt")),
        ("['a.pt', \"b.pt\"]", ("a.pt", "b.pt")),
        ("(old)/a.pt,b.pt", ("(old)/a.pt", "b.pt")),
        ("a.pt,openvino (2)", ("a.pt", "openvino (2)")),
    ],
)
def test_models_in_a_list_lose_what_makes_it_one_and_nothing_of_their_names(text: str, found: tuple[str, ...]) -> None:
    assert parse(["compare", f"models={text}"]).settings["models"] == found


@pytest.mark.parametrize("name", ["2024", "1e3", "007", "1_0"])
def test_a_folder_whose_name_is_a_number_is_found(name: str, tmp_path: Path) -> None:
    found = ok(f"finetune model={name} data={name}").passed
    assert (found["model"], found["data"]) == (name, name)
    recipe = tmp_path / "r.yaml"
    recipe.write_text("data: 2024")
    assert ok(f"prune model=a.pt cfg={recipe}").passed["data"] == "2024"
    assert ok("prune model=a.pt data=False").passed["data"] is False
    assert ok("val model=a.pt data=['a.yaml','b.yaml']").passed["data"] == ["a.yaml", "b.yaml"]


def test_a_command_whose_quote_is_open_is_told() -> None:
    assert "must be a command to which a command line is added" in error("latency model=a.pt format=ncnn target='ssh")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("[mn]odel.2=0.3", (("[mn]odel.2", 0.3),)),
        ("[model.2=0.3, model.[4-6]=0.5]", (("model.2", 0.3), ("model.[4-6]", 0.5))),
        ("{model.2=0.3}", (("model.2", 0.3),)),
    ],
)
def test_layers_in_a_list_lose_no_bracket_of_a_pattern(text: str, found: tuple[tuple[str, float], ...]) -> None:
    assert parse(["prune", "model=a.pt", f"layers={text}"]).settings["layers"] == found


def test_a_project_that_may_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told by what the system says of the folder, as root may write everywhere."""
    line = f"prune model=a.pt project={tmp_path / 'new' / 'deep'}"
    assert ok(line).passed["project"]
    monkeypatch.setattr(checking.os, "access", lambda *_: False)
    assert f"{tmp_path} may not be written to" in error(line)
    assert not (tmp_path / "new").exists()
