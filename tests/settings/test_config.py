"""Keys of a command: wrong ones and what is said of them, the required ones, and which go together."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_lines import LEAST, SPARSE, error, ok, recipe

from yoloprune.errors import ArgumentError
from yoloprune.settings.checking import request
from yoloprune.settings.command_line import merge_tokens, parse
from yoloprune.settings.commands import COMMANDS


# Keys -----------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("key", ["batch=4", "half=True", "compile=False"])
def test_how_a_network_runs_is_told_only_where_it_is_timed(key: str) -> None:
    assert f"{key}: must come with latency= or format=" in error(f"prune model=a.pt flops=0.5 {key}")
    assert f"{key}: must come with format= or threads=" in error(f"info model=a.pt {key}")
    for timed in ("prune model=a.pt latency=0.6", "prune model=a.pt format=onnx", "info model=a.pt threads=1"):
        assert ok(f"{timed} {key}")
    sweep = "sweep model=a.pt data=a.yaml"
    assert ok(f"{sweep} {key}") if key == "batch=4" else "must come with" in error(f"{sweep} {key}")
    assert ok(f"{sweep} format=ncnn {key}") and ok(f"val model=a.pt data=a.yaml {key}")


def test_wrong_key_names_the_nearest() -> None:
    message = error(f"{SPARSE} sparsty=0.5")
    assert message.startswith("'sparsty' is not a valid argument of train-sparse. Similar arguments are sparsity=0.5")
    assert "Similar arguments are epochs=100." in error(f"{SPARSE} epoch=3")
    assert "It belongs to slim, train-sparse, finetune, val, compare, demo." in error("prune model=a.pt epochs=3")
    assert "is not a valid argument of prune. It belongs to" in error("prune model=a.pt verbose=True")
    assert "It belongs to" in error("info model=a.pt verbose=True")
    assert error("prune best.pt").endswith("Did you mean 'model=best.pt'?")
    assert error("prune model=a.pt qqqq=1").endswith("See 'yoloprune help prune'.")


def test_wrong_value_says_what_is_allowed() -> None:
    allowed = "must be a fraction between 0 and 1, or an absolute value with a unit (4.2G)"
    assert error("prune model=a.pt flops=1.5") == f"flops=1.5: {allowed}. Received: 1.5. Did you mean 1.5G?"
    assert error("prune model=a.pt flops=abc") == f"flops=abc: {allowed}. Received: abc"
    assert "one of taylor, gamma, gamma-mean (nearest: taylor)" in error(f"{SPARSE} score=tailor")


def test_a_key_given_twice_is_refused(tmp_path: Path) -> None:
    assert error("info model=a.pt imgsz=64 imgsz=128") == "imgsz=128: 'imgsz' is given twice. Received: imgsz=64 before"
    for line in ("uniform uniform=False", "flops=0.5 --flops=0.5", "model=b.pt"):
        assert "is given twice" in error(f"prune model=a.pt {line}")
    twice = tmp_path / "twice.yaml"
    for text in ("flops: 0.5\nflops: 0.6\n", "prune: {flops: 0.5, flops: 0.6}\n"):
        twice.write_text(text)
        assert "'flops' is given twice" in error(f"prune model=a.pt cfg={twice}")
    twice.write_text("train-sparse: {flops: 0.5}\ntrain_sparse: {flops: 0.6}\n")
    assert "a command is given twice" in error(f"{SPARSE} cfg={twice}")
    twice.write_text("prune: &base {score: l1}\nsweep: {<<: *base, score: l2}\n")
    assert ok(f"sweep model=a.pt data=b cfg={twice}").settings["score"] == "l2"  # an anchor is there to be overridden


def test_wrong_command_names_the_nearest() -> None:
    assert error("prun model=a.pt") == "'prun' is not a command. Did you mean 'prune'?"
    assert error("flops=0.5 fine-tune").endswith("Did you mean 'finetune'?")
    assert error("train model=a.pt").endswith("Did you mean 'train-sparse'?")
    assert error("foo model=a.pt").startswith("'foo' is not a command. Known: slim, ")
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
    expected = parse(["prune", "model=a.pt", "flops=0.5", "imgsz=[4,4]", "uniform"])
    lines = (
        "uniform flops=0.5 prune imgsz=[4, 4] model=a.pt",
        "prune model= a.pt flops =0.5 imgsz = [4, 4] uniform=True",
        "prune --model=a.pt, --flops=0.5 --uniform imgsz=[4,4]",
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


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("slim model=a.pt data=b.yaml ratio=0.5", "Here it is sparsity=, e.g. sparsity=0.5: share of the prunable"),
        (f"{SPARSE} ratio=0.5", "Here it is sparsity=, e.g. sparsity=0.5: share of the prunable channel"),
        ("prune model=a.pt sparsity=0.5", "Here it is ratio=, e.g. ratio=0.5: share of the prunable channels"),
        ("sensitivity model=a.pt layers=model.2.*", "Here it is layer=, e.g. layer=model.2.cv1: layers whose groups"),
        ("plot model=a.pt layers=model.2", "Here it is layer=, e.g. layer=model.2.cv1: layers to draw"),
        ("prune model=a.pt layer=model.2", "Here it is layers=, e.g. layers=model.2.*=0.3,model.4=0.5: at most"),
        ("sweep model=a.pt max_drop=1", "Here it is within=, e.g. within=3.0: points of mAP50-95 that may be lost"),
        ("slim model=a.pt within=1", "Here it is max_drop=, e.g. max_drop=1: points of mAP50-95"),
        ("mask model=a.pt ratio=0.5", "Here it is sparsity=, e.g. sparsity=0.5: share that becomes zero"),
    ],
)
def test_a_share_by_the_name_of_another_command_is_told_the_name_here(line: str, told: str) -> None:
    assert told in error(line) and "belongs to" not in error(line)


def test_malformed_tokens() -> None:
    assert merge_tokens(["a=", "b=1"]) == ["a=", "b=1"]
    assert error("prune model= flops=0.5") == "'model=' is missing a value"
    assert "unmatched" in error("prune model=a imgsz=[3,4")
    assert merge_tokens(["model=a[b.pt", "flops=0.5"]) == ["model=a[b.pt", "flops=0.5"]  # the name of a file
    assert merge_tokens(["keep=[a,", "b]"]) == ["keep=[a,b]"]
    assert error("prune model=a flops").endswith("is missing an '=' sign, e.g. flops=0.5")
    assert error(f"{SPARSE} epochs").endswith(", e.g. epochs=100")


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


def test_values_that_would_fail_after_hours() -> None:
    assert (
        error("prune model=a seed=-1") == "seed=-1: must be an integer from 0 to 4294901760 (e.g. seed=0). Received: -1"
    )
    with pytest.raises(ArgumentError, match=r"train-sparse takes one data set\. Received: 2"):
        request("train-sparse", {"model": "a.pt", "data": ["a.yaml", "b.yaml"]})
    assert request("finetune", {"model": "a.pt", "data": ["a.yaml", "b.yaml"]}).passed["data"] == ["a.yaml", "b.yaml"]


def test_combinations_that_make_no_sense() -> None:
    assert error(f"{SPARSE} ramp_start=0.6").startswith("ramp_start=0.6: must be below ramp_end=0.6")
    assert "distill_model" in error("finetune model=a data=b distill=parent distill_model=c.pt")
    assert ok("finetune model=a resume").passed == {"model": "a", "resume": True}
    assert ok("train-sparse resume=runs/last.pt").passed == {"model": "runs/last.pt", "resume": "runs/last.pt"}


def test_data_to_train_sparse_on_is_asked_for() -> None:
    for line in ("train-sparse model=a.pt", "train-sparse model=a.pt data=False"):
        assert error(line) == "train-sparse needs 'data', e.g. data=coco8.yaml"


@pytest.mark.parametrize("name", [n for n, c in COMMANDS.items() if c.options])
def test_a_request_requested_again_is_the_same(name: str) -> None:
    first = parse([name, *LEAST[name]])
    assert request(name, {**first.settings, **first.passed}) == first
