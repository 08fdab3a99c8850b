"""`imgsz=auto`: widths and image share the FLOPs."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import ultralytics
import yaml

import yoloprune
from yoloprune.backend import evaluation, model_facts
from yoloprune.checkpoint import provenance
from yoloprune.commands import prune_report
from yoloprune.commands.demo_images import make_shapes
from yoloprune.commands.image_side import Side
from yoloprune.errors import ArgumentError, BudgetError
from yoloprune.planning import image_side as planned
from yoloprune.runtimes import bench
from yoloprune.runtimes.deployment import Deployment
from yoloprune.runtimes.timing import Times
from yoloprune.selection import decision
from yoloprune.settings import command_line
from yoloprune.settings.budget import Budget
from yoloprune.settings.value_kinds import write_amount

FREE: dict[str, Any] = {"round_to": 4, "min_width": 4}
TRAIN: dict[str, Any] = {"epochs": 1, "batch": 2, "workers": 0, "device": "cpu", "plots": False, "val": False}


@pytest.fixture
def small(tiny: Path, tmp_path: Path) -> Path:
    """A checkpoint that was trained at 192."""
    yolo = ultralytics.YOLO(tiny)
    yolo.ckpt["train_args"] = {"task": "detect", "imgsz": 192}
    yolo.save(tmp_path / "small.pt")
    return tmp_path / "small.pt"


def replayed(run: Path, place: Path) -> tuple[dict[str, Any], Any]:
    """The args.yaml of a run, and what it makes when it is done again by that; the words say the same."""
    by_file, typed = (shlex.split(words)[1:] for words in json.loads((run / "report.json").read_text())["repeat"])
    request, by_words = command_line.parse([*by_file, f"project={place}"]), command_line.parse(typed)
    asked = {"imgsz", "data", "flops", "latency"}
    assert all(request.kwargs().get(key) == by_words.kwargs().get(key) for key in asked)
    return yaml.safe_load((run / "args.yaml").read_text()), yoloprune.prune(request.model, **request.kwargs())


@pytest.mark.long
@pytest.mark.slow
def test_what_comes_out_trains_and_predicts_at_the_chosen_side(small: Path, tmp_path: Path) -> None:
    """192 * 0.5 ** 0.25 = 161.5: five strides."""
    data, chosen = make_shapes(tmp_path / "data", train=4, val=2, imgsz=64), 160
    place = {"project": str(tmp_path), "name": "out"}
    pruned = yoloprune.prune(small, flops=0.5, imgsz="auto", data=str(data), **place, **FREE)
    args, again = replayed(tmp_path / "out", tmp_path / "again")
    assert (args["imgsz"], args["flops"]) == ("auto", 0.5)
    cut = provenance.provenance(pruned)["arguments"]
    assert cut["imgsz"] == chosen and cut["flops"] == pytest.approx(0.5 * (192 / chosen) ** 2)
    assert model_facts.widths(again.model) == model_facts.widths(pruned.model)
    assert [again.overrides["imgsz"], pruned.overrides["imgsz"]] == [chosen, chosen]
    half = 0.5 * evaluation.gflops(yoloprune.load(small).model, 192)
    assert 0.85 * half < evaluation.gflops(pruned.model, chosen) <= half * (1 + 1e-6)
    trained = yoloprune.finetune(pruned, data=str(data), project=str(tmp_path), name="tuned", **TRAIN)
    assert trained.trainer.args.imgsz == chosen


@pytest.mark.slow
def test_models_are_set_side_by_side_each_at_its_own_side(small: Path, tmp_path: Path) -> None:
    """Unless one size is named for both."""
    data = make_shapes(tmp_path / "data", train=2, val=2, imgsz=64)
    smaller = yoloprune.load(small)
    smaller.ckpt["train_args"]["imgsz"] = 96
    smaller.save(tmp_path / "smaller.pt")
    told = {"data": str(data), "workers": 0, "device": "cpu", "project": str(tmp_path)}
    parent, other = yoloprune.val(tmp_path / "smaller.pt", against=small, **told)
    assert (parent["imgsz"], other["imgsz"]) == (192, 96)
    assert other["GFLOPs"] == pytest.approx(parent["GFLOPs"] / 4, rel=0.01)
    assert other["ms"] < parent["ms"]
    parent, other = yoloprune.val(tmp_path / "smaller.pt", against=small, imgsz=64, **told)
    assert "imgsz" not in parent and other["GFLOPs"] == parent["GFLOPs"]


def test_what_was_kept_is_told_against_the_parents_own_side() -> None:
    kept = {"flops": 0.78125, "params": 0.8}
    told = [prune_report.told_kept(kept, Side(256, parent)) for parent in (320, 256)]
    assert told[0] == (
        "kept 50.0% of FLOPs at imgsz 256 against the parent's at 320 (78.1% at the same side), 80.0% of parameters"
    )
    assert told[1] == "kept 78.1% of FLOPs, 80.0% of parameters (imgsz 256)"


class Slow:
    """A clock by which an image takes as many milliseconds as it has strides along a side, times the share of the
    channels of the first layer: 6 of the parent at 192, 5 at 160.
    """

    def __init__(self, first: int, deployment: Deployment, parent: Any, imgsz: int) -> None:
        self.first, self.deployment, self.parent, self.imgsz = first, deployment, parent, imgsz

    def time(self, *others: Any, sides: Any = None, seconds: float = 0.0) -> list[Times]:
        shown = zip([self.parent, *others], [self.imgsz, *(sides or [self.imgsz] * len(others))], strict=True)
        ms = [side / 32 * network.model[0].conv.out_channels / self.first for network, side in shown]
        return [Times(one, one, 0.0, 10) for one in ms]

    def facts(self, times: list[Times]) -> dict[str, Any]:
        return {"ms": [one.median for one in times]}


@pytest.fixture
def slow(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = yoloprune.load(small).model.model[0].conv.out_channels

    @contextmanager
    def opened(deployment: Deployment, parent: Any, imgsz: int) -> Iterator[Slow]:
        yield Slow(first, deployment, parent, imgsz)

    monkeypatch.setattr(bench, "opened", opened)
    monkeypatch.setattr(bench, "Bench", Slow)
    monkeypatch.setattr(decision, "Bench", Slow)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.usefixtures("slow")
@pytest.mark.parametrize(("latency", "left"), [(0.5, 0.6), ("3ms", "3ms")])
def test_a_time_is_shared_between_widths_and_image(latency: Any, left: Any, small: Path, tmp_path: Path) -> None:
    """Half of 6 ms: at 160 pixels the uncut network takes 5, so its widths may take 0.6 of that, 3 ms."""
    told: dict[str, Any] = {"imgsz": "auto", "data": False, "score": "random", "recover": "none", "normalize": "none"}
    pruned = yoloprune.prune(small, latency=latency, project=str(tmp_path), name="out", **told, **FREE)
    args, again = replayed(tmp_path / "out", tmp_path / "again")
    assert (args["imgsz"], args["latency"]) == ("auto", latency) and pruned.overrides["imgsz"] == 160
    cut = provenance.provenance(pruned)["arguments"]
    assert (cut["imgsz"], cut["latency"]) == (160, left)
    assert model_facts.widths(again.model) == model_facts.widths(pruned.model)
    rows = json.loads((tmp_path / "out" / "report.json").read_text())["table"]
    parent, child = (row["ms"] for row in rows)
    assert parent == 6 and 2 <= child <= 3
    first = pruned.model.model[0].conv.out_channels / yoloprune.load(small).model.model[0].conv.out_channels
    assert child == pytest.approx(5 * first)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.usefixtures("slow")
def test_one_command_shares_a_time_as_well(small: Path, tmp_path: Path) -> None:
    """What its cut may take counts against the uncut network at 160 pixels, what it says against that at 192."""
    data = str(make_shapes(tmp_path / "data", train=4, val=2, imgsz=64))
    told: dict[str, Any] = {**TRAIN, **FREE, "way": "prune", "imgsz": "auto", "score": "random", "normalize": "none"}
    told |= {"data": data, "project": str(tmp_path), "name": "out", "recover": "none"}
    small_one = yoloprune.slim(small, latency=0.5, **told)
    stages = {f.parent.name: json.loads(f.read_text()) for f in (tmp_path / "out").glob("*/slim.json")}
    cut = next(stage for name, stage in stages.items() if name.endswith("-prune"))
    args = yaml.safe_load(next((tmp_path / "out").glob("*-prune/args.yaml")).read_text())
    assert (args["imgsz"], args["latency"]) == (160, 0.6)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    rows = report["table"]
    whole = yaml.safe_load((tmp_path / "out" / "args.yaml").read_text())
    assert (whole["imgsz"], whole["latency"]) == ("auto", 0.5)
    next_step = small_one.figures.next_step
    assert all("imgsz=auto" in words and "latency=0.5" in words for words in (report["repeat"][1], next_step))
    assert f"latency=0.5: {rows[-1]['ms'] / rows[0]['ms']:.3f} of the parent's ms" in report["notes"]
    parent, *_, shipped = (row["ms"] for row in rows)
    assert parent == 6 and 2 <= shipped <= 3
    assert cut["kept"]["latency"] == pytest.approx(shipped / parent, rel=1e-3)
    assert small_one.overrides["imgsz"] == 160


@pytest.mark.parametrize("words", [{"latency": "12ms"}, {"latency": 0.5, "steps": 2}, {"latency": 0.5, "max_drop": 1}])
def test_one_command_shares_a_fraction_in_one_cut(words: dict[str, Any], small: Path) -> None:
    with pytest.raises(ArgumentError, match=r"^imgsz=auto: .* as a fraction \(0.6\) that one cut meets"):
        yoloprune.slim(small, imgsz="auto", data="coco8.yaml", epochs=5, **words)


@pytest.mark.usefixtures("slow")
def test_a_smaller_image_may_be_enough(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planned, "shared", lambda flops, side, stride: (96, 1.0))  # 3 ms
    with pytest.raises(BudgetError, match=r"^latency=0.6: at imgsz 96 .* 3\.00 ms .* A smaller image is enough"):
        yoloprune.prune(small, latency=0.6, imgsz="auto", data=False, project=str(tmp_path))
    with pytest.raises(BudgetError, match=r"^latency=6ms: the model already takes no longer, 6\.00 ms"):
        yoloprune.prune(small, latency="6ms", imgsz="auto", data=False, project=str(tmp_path))


@pytest.mark.parametrize("command", [yoloprune.prune, yoloprune.train_sparse])
def test_without_flops_there_is_nothing_to_share(command: Any, small: Path, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"^imgsz=auto: must come with flops="):
        command(small, params=0.5, imgsz="auto", data="coco8.yaml")


def test_times_of_another_device_are_those_of_one_side(small: Path, tmp_path: Path) -> None:
    (tmp_path / "times.csv").write_text("")
    with pytest.raises(ArgumentError, match=r"^imgsz=auto: must not come with times="):
        yoloprune.prune(small, latency=0.5, times=tmp_path / "times.csv", imgsz="auto", data=False)


def test_other_commands_do_not_choose(small: Path) -> None:
    with pytest.raises(ArgumentError, match=r"^imgsz=auto: info takes a number"):
        yoloprune.info(small, imgsz="auto")


@pytest.mark.slow
@pytest.mark.long
def test_what_is_out_of_reach_is_what_was_asked_for(small: Path, tmp_path: Path) -> None:
    """Nobody named the share of the FLOPs at the smaller side; the least that is told can be met."""
    place = {"imgsz": "auto", "project": str(tmp_path), **FREE}
    with pytest.raises(BudgetError) as caught:
        yoloprune.prune(small, flops=0.01, data=False, **place)
    said = str(caught.value)
    assert said.startswith("flops=0.01 is out of reach: imgsz=auto takes 64 pixels, where round_to=4, ")  # 192 * 0.316
    least = float(said.partition(" of the FLOPs. flops=")[2].partition(" and more can be met. Held by: ")[0])
    request = command_line.parse(["prune", "model=a", f"flops={least}", "imgsz=auto", "round_to=4", "min_width=4"])
    parent = yoloprune.load(small)
    for flops, met in ((least, True), (least - 0.001, False)):
        side, left = planned.shared(flops, 192, 32)
        asked = dataclasses.replace(request, budget=Budget(flops=left))
        with nullcontext() if met else pytest.raises(BudgetError):
            decision.prepared(parent, asked, side)
    whole = 1e9 * evaluation.gflops(parent.model, 192)
    for command, name in ((yoloprune.slim, "slim"), (yoloprune.train_sparse, "sparse")):
        with pytest.raises(BudgetError, match=r"^flops=0\.01 is out of reach: imgsz=auto takes 64 pixels, "):
            command(small, data=str(make_shapes(tmp_path / "data", train=2, val=2, imgsz=64)), flops=0.01, **place)
        assert not (tmp_path / name).exists()
    with pytest.raises(BudgetError, match=rf"^flops={write_amount(0.01 * whole)} is out of reach: imgsz=auto"):
        yoloprune.prune(small, flops=0.01 * whole, data=False, **place)


def test_more_than_there_is_is_no_budget(small: Path, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"^flops=1G: at imgsz 192 the model has no more than that"):
        yoloprune.prune(small, flops="1G", imgsz="auto", data=False, project=str(tmp_path))
