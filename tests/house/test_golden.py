"""What no change of the code may alter: graphs and plans of eight models, and the checkpoints that users have.

The files in tests/golden were made by `scripts/golden.py`. A difference is a mistake, or has a reason that can be told;
then the script writes them anew.
"""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import goldens
import numpy as np
import pytest
import torch
import ultralytics
from conftest import shipped
from releases import CARRIES
from ultralytics.nn.tasks import torch_safe_load

import yoloprune
from yoloprune.backend import evaluation, model_facts, yolo_tracing
from yoloprune.checkpoint import saving
from yoloprune.commands.demo_images import make_shapes
from yoloprune.cutting import surgery
from yoloprune.importance import dead_channels
from yoloprune.planning.plan import Plan

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]
PRUNED = ("free", "native", "twice")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shapes(tmp_path_factory.mktemp("golden") / "data", train=8, val=4, imgsz=32)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Pruned checkpoints as they are written today."""
    return goldens.make_pruned(tmp_path_factory.mktemp("fresh"))


def golden(name: str, folder: Path) -> Path:
    """A copy of a checkpoint in tests/golden, beside which nothing will be written."""
    return Path(shutil.copy(goldens.FOLDER / f"{name}.pt", folder / f"{name}.pt"))


# ---- graphs and plans ------------------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize("name", [*shipped(*goldens.NAMES), goldens.ATTENTION])
def test_graph_and_plans(name: str, tmp_path: Path) -> None:
    if name == goldens.ATTENTION and not CARRIES:
        pytest.skip("its three classes hold a width in this Ultralytics")
    told, now = goldens.read(name), goldens.graph_facts(name, tmp_path)
    made_with = told.pop("ultralytics"), now.pop("ultralytics")
    if made_with[0] != made_with[1] and told["network"] != now["network"]:
        pytest.skip(f"Ultralytics {made_with[1]} builds another {name} than {made_with[0]}: scripts/golden.py is due")
    assert told.keys() == now.keys()
    for key in told:
        assert told[key] == now[key], key


@pytest.mark.parametrize("name", goldens.NAMES)
def test_golden_plans_cut_something_of_either_kind(name: str) -> None:
    """What is compared above says something."""
    told = goldens.read(name)
    for kind in ("free", "native"):
        assert 0.49 < told[f"{kind} plan"]["kept"]["flops"] <= 0.5
        assert len(told[f"{kind} plan"]["widths"]) > 5
    assert told["native ties"] != told["ties"] and told["native plan"]["backbone"]


def test_runs_of_numbers() -> None:
    assert goldens.runs([0, 1, 2, 5, 5, 6]) == "0:3 5:6 5:7"
    assert goldens.runs([]) == ""
    assert goldens.runs(range(0, 60, 2)) != goldens.runs(range(2, 62, 2))  # a digest


# ---- what checkpoints say --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", goldens.KINDS)
def test_old_files_are_those_of_the_record(name: str) -> None:
    assert goldens.saved_yaml(goldens.FOLDER / f"{name}.pt") == goldens.read(name)


@pytest.mark.parametrize("name", PRUNED)
def test_pruned_files_say_today_what_they_said(name: str, fresh: dict[str, Path]) -> None:
    told = goldens.read(name)
    record = told["yoloprune"]
    assert (record["version"], record.pop("numbers")) == (1, {})
    record["version"] = 2  # which keeps no numbers: the network that is trained is the one in the file
    now = goldens.saved_yaml(fresh[name])
    for cut in (now["yoloprune"]["provenance"], *now["yoloprune"]["provenance"]["earlier"]):
        assert cut["arguments"].pop("layers") == []  # options that came later
        assert cut["arguments"].pop("depth") is False
    if name == "native":
        record["provenance"]["arguments"]["keep"] = goldens.HELD
    assert now == told


def test_interrupted_files_say_today_what_they_said(data: Path, tmp_path: Path) -> None:
    """Which channels die follows from gradients, whose last bits are the machine's: forms are compared, not figures."""
    now, told = goldens.saved_yaml(goldens.make_interrupted(tmp_path, data)), goldens.read("interrupted")
    state, before = now.pop("yoloprune_sparse"), told.pop("yoloprune_sparse")
    assert state["config"]["limits"].pop("layers") == []  # options that came later
    assert state["config"]["limits"].pop("depth") is False
    assert len(state.pop("graph")) == 16  # tells among which channels its numbers are, and came later as well
    assert now == told
    assert list(state) == list(before)
    for key in ("config", "met", "progress", "steps", "held", "module"):
        assert state[key] == before[key], key
    assert state["reached"].keys() == before["reached"].keys()
    assert len(state["scores"]) == len(before["scores"]) > 0
    assert all(isinstance(v, int) for v in state["victims"]) and state["victims"]


# ---- what users do with files of before ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", goldens.KINDS)
def test_old_files_load_with_stock_classes_alone(name: str) -> None:
    checkpoint, _ = torch_safe_load(goldens.FOLDER / f"{name}.pt", safe_only=True)
    assert type(checkpoint["ema"] or checkpoint["model"]).__module__ == "ultralytics.nn.tasks"
    yolo = saving.load(goldens.FOLDER / f"{name}.pt")
    assert torch.isfinite(yolo.model(torch.rand(1, 3, 32, 32))[0]).all()


@pytest.mark.parametrize("name", goldens.KINDS)
def test_old_files_can_be_pruned(name: str, tmp_path: Path) -> None:
    """The interrupted one without a budget: as far as it got."""
    file = golden(name, tmp_path)
    before = saving.load(file)
    told: dict[str, Any] = {} if name == "interrupted" else {**goldens.CUT, "flops": 0.8, "native": False}
    child = yoloprune.prune(file, project=str(tmp_path), name="again", **told)
    kept = evaluation.gflops(child.model, 32) / evaluation.gflops(before.model, 32)
    state = before.model.yaml.get("yoloprune_sparse")
    assert kept == pytest.approx(state["reached"]["flops"] if state else 0.79, abs=0.015)
    assert "yoloprune_sparse" not in child.model.yaml
    before_it = [e["arguments"]["name"] for e in saving.provenance(child)["earlier"]]
    assert before_it == {"twice": ["free", "twice"], "interrupted": []}.get(name, [name])


@pytest.mark.parametrize("name", PRUNED)
def test_old_files_train_at_their_widths(name: str, data: Path, tmp_path: Path) -> None:
    file = golden(name, tmp_path)
    before = model_facts.widths(saving.load(file).model)
    told = {**goldens.TRAINING, "data": str(data), "project": str(tmp_path), "name": "tune", "epochs": 1}
    yoloprune.finetune(file, **told)
    after = saving.load(tmp_path / "tune" / "weights" / "last.pt")
    assert model_facts.widths(after.model) == before
    assert saving.provenance(after) == saving.provenance(saving.load(file))


def test_widths_of_an_old_entry_cut_its_network_as_they_did() -> None:
    """Channels by channels, the entry is enough to get from the YAML to the shapes of the file."""
    for name in ("free", "twice"):
        pruned = saving.load(goldens.FOLDER / f"{name}.pt")
        entry = pruned.model.yaml["yoloprune"]
        config = copy.deepcopy(goldens.TINY)
        parent = ultralytics.nn.tasks.DetectionModel(config, verbose=False)
        assert model_facts.widths(parent) != model_facts.widths(pruned.model)
        surgery.cut(parent, Plan.from_widths(entry["widths"]))
        assert model_facts.widths(parent) == model_facts.widths(pruned.model)


def test_the_victims_of_an_old_run_are_the_dead_of_its_average() -> None:
    """Positions in the order of the trace: another order would go on with other channels in silence."""
    model = saving.load(goldens.FOLDER / "interrupted.pt").model
    victims = model.yaml["yoloprune_sparse"]["victims"]
    graph = yolo_tracing.trace_yolo(model, imgsz=32)
    assert np.flatnonzero(dead_channels.dead(model, graph)).tolist() == victims != []


def test_an_old_interrupted_run_goes_on(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "runs" / "interrupted"
    places = {"data": str(data), "model": "tiny.pt", "project": str(tmp_path / "runs"), "save_dir": str(home)}
    last = goldens.rewrite(goldens.FOLDER / "interrupted.pt", home / "weights" / "last.pt", places)
    begun: list[list[int]] = []
    whole = yoloprune.SparseTraining.on_train_start

    def seen(self: yoloprune.SparseTraining, trainer: Any) -> None:
        whole(self, trainer)
        begun.append(np.flatnonzero(self._live.victims).tolist())

    monkeypatch.setattr(yoloprune.SparseTraining, "on_train_start", seen)
    done = yoloprune.train_sparse(last, resume=True)
    assert begun == [goldens.read("interrupted")["yoloprune_sparse"]["victims"]]
    assert done.trainer.epoch + 1 == goldens.SPARSE["epochs"]
    state = saving.load(last).model.yaml["yoloprune_sparse"]
    assert state["met"] and state["reached"]["flops"] == pytest.approx(goldens.SPARSE["flops"], abs=0.02)
