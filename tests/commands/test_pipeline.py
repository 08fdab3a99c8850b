"""The whole line on a tiny network and images drawn by code: sparse training, prune, fine-tune, compare."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny_line
import torch
import yaml
from releases import needs_distillation
from tiny_line import QUICK, widths
from torch import nn
from ultralytics import YOLO

import yoloprune
from yoloprune.backend import console, model_facts, yolo_tracing
from yoloprune.checkpoint import saving
from yoloprune.errors import ArgumentError, ModelError
from yoloprune.importance import dead_channels
from yoloprune.planning import greedy_selection
from yoloprune.planning.cost import Cost

pytestmark = pytest.mark.slow

work, data = tiny_line.work, tiny_line.data  # fixtures, made once a file


@pytest.fixture(scope="module")
def sparse_run(work: Path, data: Path, tiny: Path) -> Path:
    """Folder of one sparse training of four epochs, the last one in the hold phase."""
    yoloprune.train_sparse(
        tiny,
        data=str(data),
        epochs=4,
        flops=0.6,
        round_to=4,
        min_width=4,
        native=False,
        project=str(work),
        name="sparse",
        freeze=[0],
        **QUICK,
    )
    return work / "sparse"


@pytest.fixture(scope="module")
def pruned(work: Path, sparse_run: Path) -> Path:
    yoloprune.prune(sparse_run / "weights" / "last.pt", project=str(work), name="prune", imgsz=64)
    return work / "prune" / "weights" / "pruned.pt"


# ---- sparse training -------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_dead_channels_meet_the_budget_once_cut(sparse_run: Path) -> None:
    model = YOLO(sparse_run / "weights" / "last.pt").model
    graph = yolo_tracing.trace_yolo(model, imgsz=64)
    alive = greedy_selection.dead_only(graph, dead_channels.dead(model, graph))
    cost = Cost(graph)
    kept = [alive[graph.classes(g)].sum() for g in range(len(graph.groups))]
    assert 0.59 <= cost.of("flops", torch.tensor(kept).double().numpy()) / cost.parent("flops") <= 0.6


def test_gammas_of_the_dead_and_nothing_else_are_zero(sparse_run: Path, tiny: Path) -> None:
    """Zeros are exact, biases go with them, and head and user-frozen layers keep all their scales."""
    model = YOLO(sparse_run / "weights" / "last.pt").model
    zero = {n: (m.weight == 0) for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert any(z.any() for z in zero.values())
    for name, mask in zero.items():
        bias = model.get_submodule(name).bias
        assert (bias[mask] == 0).all()
        follows = model.get_submodule(name.removesuffix("bn") + "conv").groups > 1  # depthwise: the neck's channels
        if name.startswith(("model.9.", "model.0.")) and not follows:
            assert not mask.any(), name
        assert not mask.all(), f"{name} is wiped out"


def test_frozen_layer_is_untouched(sparse_run: Path, tiny: Path) -> None:
    before, after = (YOLO(f).model.state_dict() for f in (tiny, sparse_run / "weights" / "last.pt"))
    assert torch.equal(before["model.0.bn.weight"], after["model.0.bn.weight"])
    assert not torch.equal(before["model.1.bn.weight"], after["model.1.bn.weight"])


def test_best_met_the_target(sparse_run: Path) -> None:
    state = YOLO(sparse_run / "weights" / "best.pt").model.yaml["yoloprune_sparse"]
    assert state["met"] is True
    last = YOLO(sparse_run / "weights" / "last.pt").model.yaml["yoloprune_sparse"]
    assert last["met"] is True


def test_log_of_every_epoch(sparse_run: Path) -> None:
    with (sparse_run / "sparsity.csv").open() as f:
        rows = list(csv.DictReader(f))
    assert [int(r["epoch"]) for r in rows] == [1, 2, 3, 4]
    assert 0 <= float(rows[0]["dead"]) < float(rows[-1]["dead"])
    assert float(rows[-1]["dead"]) > 0.1
    assert float(rows[-1]["gamma_q0"]) == 0
    assert json.loads((sparse_run / "report.json").read_text())["met"] is True
    assert (sparse_run / "sparsity.png").stat().st_size > 1000


def test_only_an_unfinished_run_resumes(work: Path, sparse_run: Path, tiny: Path, pruned: Path) -> None:
    """Of a finished run Ultralytics would start another in silence, on whatever data it finds."""
    for command in (yoloprune.train_sparse, yoloprune.finetune):
        for file in (tiny, pruned, sparse_run / "weights" / "last.pt"):
            with pytest.raises(ArgumentError, match="finished"):
                command(file, resume=True)
        with pytest.raises(ModelError, match="is not there"):
            command("nothing.pt", resume=True)
    checkpoint = torch.load(tiny, weights_only=False) | {"optimizer": {}}
    torch.save(checkpoint, work / "interrupted.pt")
    with pytest.raises(ArgumentError, match="not of a sparse run"):
        yoloprune.train_sparse(work / "interrupted.pt", resume=True)


# ---- prune -----------------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_a_budget_that_takes_less_or_more_than_the_dead_is_told_of(
    sparse_run: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(console, "warn", said.append)
    told = {"round_to": 4, "min_width": 4, "native": False, "project": str(work), "data": False}
    for flops, why in ((0.9, "dead channels stay"), (0.5, "what the model makes of drawn images")):
        said.clear()  # at 0.6 all dead are gone
        yoloprune.prune(sparse_run / "weights" / "best.pt", flops=flops, name="loose", **told)
        (told_of,) = (text for text in said if text.startswith("prune"))
        assert why in told_of


def test_cutting_the_dead_changes_nothing(sparse_run: Path, pruned: Path) -> None:
    """Scales and biases of the dead are zero, so they emit nothing: the cut model equals the whole one."""
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    whole, small = (YOLO(f).model.float().eval() for f in (sparse_run / "weights" / "last.pt", pruned))
    with torch.no_grad():
        a, b = whole(x)[0], small(x)[0]
    assert float((a - b).abs().max() / a.abs().max()) < 2e-3  # the pruned file is in half precision
    assert sum(p.numel() for p in small.parameters()) < 0.9 * sum(p.numel() for p in whole.parameters())


def altered(source: Path, target: Path, **state: Any) -> Path:
    """A copy of a sparse checkpoint that tells something else of its run."""
    checkpoint = torch.load(source, weights_only=False)
    checkpoint["model"].yaml["yoloprune_sparse"] |= state
    torch.save(checkpoint, target)
    return target


@pytest.mark.long
def test_a_cut_that_leaves_more_than_sparse_training_says_so(
    sparse_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(console, "warn", said.append)
    last = sparse_run / "weights" / "last.pt"
    place = {"project": str(tmp_path)}
    yoloprune.prune(last, **place)
    assert not said
    yoloprune.prune(altered(last, tmp_path / "a.pt", met=False), **place)
    assert [s for s in said if "stopped before it met flops=0.6" in s] == said
    said.clear()
    yoloprune.prune(altered(last, tmp_path / "b.pt", reached={"flops": 0.4, "params": 0.2}), **place)
    assert len(said) == 1 and re.search(r"40\.0% of flops are alive, but (59|60)\.\d% stay", said[0])  # by the release
    said.clear()
    yoloprune.prune(last, round_to=16, **place)
    assert len(said) == 1 and "those of the sparse training" in said[0]


def test_image_size_is_the_checkpoints_own(sparse_run: Path, tiny: Path) -> None:
    """64 in training; absolute FLOPs would mean something else at 640, and ranks as well."""
    yolo = yoloprune.load(sparse_run / "weights" / "last.pt")
    assert saving.image_size(yolo, None) == 64
    assert saving.image_size(yolo, 70) == 72  # a multiple of the stride, as Ultralytics makes it
    assert saving.image_size(yolo, [64, 128]) == 128
    yolo.overrides.pop("imgsz")
    assert saving.image_size(yolo, None) == 640
    for wrong in (0, -64, [64, 0]):
        with pytest.raises(ArgumentError, match="must be a positive number"):
            saving.image_size(yolo, wrong)


def test_report_says_what_was_cut(pruned: Path) -> None:
    report = json.loads((pruned.parent.parent / "report.json").read_text())
    assert 0.59 <= report["kept"]["flops"] <= 0.6
    assert report["relative_error"] < 1e-4
    assert {r["model"] for r in report["table"]} == {"parent", "pruned"}
    assert "The network, from input to head" in (pruned.parent.parent / "report.html").read_text()


@pytest.mark.long
def test_the_next_step_suits_the_repair(
    work: Path, sparse_run: Path, tiny: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(console, "log", lambda _, message: said.append(message))
    place = {"imgsz": 64, "project": str(work), "name": "next"}
    for told in ({"flops": 0.7}, {"flops": 0.7, "data": str(data), "val": False}, {}):
        yoloprune.prune(tiny if told else sparse_run / "weights" / "last.pt", **told, **place)
    steps = [s for s in said if "next: yoloprune finetune" in s]
    assert ["lr0=0.002" in s for s in steps] == [True, False, False]
    assert ["stock 'yolo train'" in s for s in steps] == [True, True, False]  # the sparse run had free widths


# ---- fine-tune and compare -------------------------------------------------------------------------------------------


def test_finetune_keeps_every_width(work: Path, data: Path, pruned: Path) -> None:
    yoloprune.finetune(pruned, data=str(data), epochs=1, project=str(work), name="tuned", **QUICK)
    assert widths(work / "tuned" / "weights" / "last.pt") == widths(pruned)


def test_finetune_names_the_side_of_the_images(
    work: Path, data: Path, pruned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(console, "log", lambda _, message: said.append(message))
    monkeypatch.setattr(console, "conclude", lambda _, message: said.append(message))
    asked = {**QUICK, "imgsz": 96, "project": str(work)}
    yoloprune.finetune(pruned, data=str(data), epochs=1, name="wider", **asked)
    assert next(s for s in said if s.startswith("starts from")).endswith(
        "(imgsz 96; it was cut at 64, imgsz=64 trains it there)"
    )
    assert "every width is what it was (imgsz 96)\n" in said[-1]


@needs_distillation
def test_finetune_with_the_parent_as_teacher(work: Path, data: Path, pruned: Path, sparse_run: Path) -> None:
    yoloprune.finetune(pruned, data=str(data), epochs=1, distill="parent", project=str(work), name="taught", **QUICK)
    told = yaml.safe_load((work / "taught" / "args.yaml").read_text())
    assert Path(told["distill_model"]) == sparse_run / "weights" / "last.pt"
    assert widths(work / "taught" / "weights" / "last.pt") == widths(pruned)


def test_a_parent_that_changed_is_not_the_teacher(pruned: Path, data: Path, tmp_path: Path) -> None:
    moved = tmp_path / "weights" / "pruned.pt"
    moved.parent.mkdir()
    moved.write_bytes(pruned.read_bytes())
    (tmp_path / "other.pt").write_bytes(b"another file")
    (tmp_path / "args.yaml").write_text(yaml.safe_dump({"model": str(tmp_path / "other.pt")}))
    with pytest.raises(ArgumentError, match="distill_model="):
        yoloprune.finetune(moved, data=str(data), epochs=1, distill="parent")


def test_finetune_with_other_classes_keeps_every_width(work: Path, data: Path, pruned: Path, tmp_path: Path) -> None:
    told = yaml.safe_load(data.read_text())
    other = tmp_path / "other.yaml"
    told |= {"path": str(data.parent), "names": {i: f"thing{i}" for i in range(5)}, "nc": 5}
    other.write_text(yaml.safe_dump(told))
    yoloprune.finetune(pruned, data=str(other), epochs=1, project=str(work), name="other", **QUICK)
    tuned = YOLO(work / "other" / "weights" / "last.pt").model
    assert model_facts.widths(tuned) == widths(pruned)
    assert tuned.nc == 5


def test_val_side_by_side(work: Path, data: Path, tiny: Path, pruned: Path) -> None:
    rows = yoloprune.val(
        pruned, against=tiny, data=str(data), imgsz=64, project=str(work), name="both", device="cpu", workers=0
    )
    assert [r["model"] for r in rows] == ["parent", "pruned"]
    assert rows[1]["GFLOPs"] < 0.62 * rows[0]["GFLOPs"]
    assert all(0 <= r["mAP50-95"] <= r["mAP50"] <= 1 and r["ms"] > 0 and r["MB"] > 0 for r in rows)


@pytest.mark.long
def test_stock_training_stops_and_says_what_to_do(pruned: Path, data: Path, tmp_path: Path) -> None:
    """In a process where yoloprune cannot be imported: no training, and the message names the ways out."""
    code = (
        "import sys\n"
        "class Gone:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name.split('.')[0] == 'yoloprune': raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Gone())\n"
        "from ultralytics import YOLO\n"
        f"model = YOLO({str(pruned)!r})\n"
        f"model.train(data={str(data)!r}, epochs=1, imgsz=64, project={str(tmp_path)!r}, plots=False, workers=0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode != 0
    assert "yoloprune finetune" in done.stderr
    assert not list(tmp_path.rglob("*.pt"))
