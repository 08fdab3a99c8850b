"""What `slim` takes, what it refuses before anything starts, and which words sparse training has no use for."""

from __future__ import annotations

import pytest
from command_lines import error, ok

from yoloprune.settings.budget import Budget
from yoloprune.settings.slim_request import SlimRequest

SLIM = "slim model=a.pt data=b.yaml"


def asked(words: str = "") -> SlimRequest:
    request = ok(f"{SLIM} {words}")
    assert isinstance(request, SlimRequest)
    return request


def test_half_of_the_flops_stay_where_nothing_is_said() -> None:
    assert asked().budget == Budget(flops=0.5)
    assert asked("max_drop=1").budget.empty  # as far as it goes
    assert asked("params=2.0M").budget == Budget(params=2e6)
    assert asked("sparsity=0.4").budget == Budget(ratio=0.4)
    assert asked("latency=0.5").budget.empty


def test_an_image_shares_the_flops_that_stay_where_nothing_is_said() -> None:
    assert asked("imgsz=auto").budget == Budget(flops=0.5)
    for words in ("params=0.5", "sparsity=0.4", "max_drop=1"):
        assert error(f"{SLIM} imgsz=auto {words}").startswith("imgsz=auto: must come with flops=")


def test_settings_come_back_as_they_were_typed() -> None:
    told = asked("sparsity=0.4 steps=3 schedule=cubic round_to=4 score=l1").settings
    assert (told["sparsity"], told["steps"], told["schedule"], told["round_to"]) == (0.4, 3, "cubic", 4)
    assert (told["score"], told["flops"], told["way"]) == ("l1", None, "auto")
    words = " ".join(f"{k}={v}" for k, v in told.items() if v not in (None, ()))
    assert asked(words).settings == told


def test_rounds_are_one_and_five_in_a_search() -> None:
    assert [asked(w).rounds for w in ("", "max_drop=1", "steps=3", "max_drop=1 steps=2")] == [1, 5, 3, 2]


def test_epochs_are_those_of_ultralytics_where_none_are_given() -> None:
    assert (asked().epochs, asked("epochs=7").epochs) == (100, 7)


@pytest.mark.parametrize(
    ("words", "what"),
    [
        ("", None),
        ("params=0.5", None),
        ("round_to=4 keep=neck native=False", None),
        ("latency=0.5", "latency"),
        ("max_drop=1", "max_drop"),
        ("classes=person", "classes"),
        ("steps=2", "steps"),
        ("score=l1", "score"),
        ("uniform=True", "uniform"),
        ("depth=only", "depth"),
        ("recover=bn", "recover"),
        ("flops=0.5 params=0.5", "several budgets"),
    ],
)
def test_what_sparse_training_cannot_do(words: str, what: str | None) -> None:
    assert asked(words).beyond_sparse == what
    if what is not None:
        assert f"does not take {what}" in error(f"{SLIM} way=sparse {words}")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("flops=0.5 latency=0.5", "must not be combined with flops"),
        ("confidence=0.95", "must come with max_drop="),
        ("max_drop=1 flops=0.5 sparsity=0.2", "one budget. Received: flops, sparsity"),
        ("latency=12ms steps=2", "must be a fraction of the time"),
        ("latency=12ms max_drop=1", "must be a fraction of the time"),
        ("latency=12ms max_drop=1 steps=1", "with max_drop= must be a fraction of the time"),
        ("schedule=cubic", "must come with steps="),
        ("steps=3 epochs=2", "must be at least 3"),
        ("way=train steps=2 epochs=2", "must be at least 3"),
        ("resume=True", "give the same command again without it"),
        ("pretrained=other.pt", "starts from the weights of model="),
        ("save_dir=here", "project= and name="),
        ("max_drop=0", "above 0"),
        ("max_drp=1", "Similar arguments are max_drop=1"),
    ],
)
def test_what_contradicts_is_refused(words: str, said: str) -> None:
    assert said in error(f"{SLIM} {words}")


@pytest.mark.parametrize("word", ["half=True", "dynamic=True", "nms=True", "simplify=False", "opset=5", "workspace=5"])
def test_how_an_export_is_made_comes_with_one_or_with_a_time(word: str) -> None:
    key = word.partition("=")[0]
    assert error(f"{SLIM} {word}").startswith(f"{word}: must come with latency= or format=")
    for timed in ("format=onnx", "latency=0.5"):
        assert asked(f"{word} {timed}").shipped.keys() == {key, *(["format"] if "format" in timed else [])}


@pytest.mark.parametrize("word", ["half=False", "simplify=True", "nms=False"])
def test_what_is_so_anyway_may_be_said(word: str) -> None:
    assert asked(word).epochs == asked("").epochs


@pytest.mark.parametrize("word", ["int8=True", "quantize=8"])
def test_what_trainings_read_as_well_is_theirs_without_an_export(word: str) -> None:
    assert not asked(word).shipped and not asked(f"{word} latency=0.5").shipped
    assert word.partition("=")[0] in asked(f"{word} format=onnx").shipped


def test_absolute_times_are_met_in_one_round() -> None:
    assert asked("latency=12ms").latency == "12ms"
    assert asked("latency=0.5 steps=2").latency == 0.5


def test_it_takes_what_trainings_and_exports_take() -> None:
    passed = asked("batch=-1 freeze=3 device=0,1 cos_lr=True format=onnx half=True").passed
    assert (passed["batch"], passed["freeze"], passed["device"], passed["format"]) == (-1, 3, (0, 1), "onnx")
