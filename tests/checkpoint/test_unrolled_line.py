"""Whatever is done to a pruned checkpoint is done to one whose blocks became several rows, by ours and by stock."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import ultralytics
from checkpoints import STILL, Stopped, body, crash, run_of, shapes_of

import yoloprune
from yoloprune import cli
from yoloprune.backend import console, moved_layers
from yoloprune.checkpoint import models, saving
from yoloprune.commands.demo_images import NAMES, make_shapes
from yoloprune.errors import BudgetError

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


@pytest.fixture(scope="module")
def data(folder: Path) -> Path:
    return make_shapes(folder / "data", train=8, val=4, imgsz=64)


@pytest.fixture(scope="module")
def unrolled(folder: Path, parent: Path) -> Path:
    """The insides of both C2f are narrowed, the streams past them are not."""
    told = {"ratio": 0.4, "keep": "model.[01356],model.2.cv?,model.4.cv?"}
    yolo = yoloprune.prune(parent, score="random", native=True, imgsz=64, project=str(folder), name="prune", **told)
    assert len(moved_layers.layers(moved_layers.table_of(yolo.model))) >= 2
    return folder / "prune" / "weights" / "pruned.pt"


def table(file: Path | str) -> dict[str, list[str]]:
    return moved_layers.table_of(saving.load(file).model)


@pytest.mark.long
def test_stock_trains_it_for_other_classes(unrolled: Path, data: Path, tmp_path: Path) -> None:
    yolo = ultralytics.YOLO(str(unrolled))
    before = shapes_of(yolo.model)
    yolo.train(data=str(data), **run_of(tmp_path))
    assert shapes_of(yolo.model) == before and yolo.model.nc == len(NAMES)


def test_weights_are_loaded_in_full(unrolled: Path, data: Path, tmp_path: Path) -> None:
    yolo = models.YOLO(str(unrolled))
    before = {k: v.clone() for k, v in body(yolo.model).items()}
    yolo.train(data=str(data), **run_of(tmp_path, **STILL))
    for name, value in body(ultralytics.YOLO(yolo.trainer.best).model).items():
        if "running" not in name and "num_batches" not in name:
            assert torch.equal(value, before[name]), name
    assert table(yolo.trainer.best) == table(unrolled)


def test_finetune_freezes_the_layers_of_the_parent(unrolled: Path, data: Path, tmp_path: Path) -> None:
    """`freeze=3` are the layers 0 to 2, of which the last is a block of five rows by now."""
    yolo = yoloprune.finetune(unrolled, data=str(data), freeze=3, **run_of(tmp_path))
    before, after = body(saving.load(unrolled).model), body(yolo.model)
    places = {name for old in ("model.0", "model.1", "model.2") for name in table(unrolled).get(old, [old])}
    frozen = {k for k in before if k.endswith("conv.weight") and any(k.startswith(f"{p}.") for p in places)}
    assert len(frozen) > 3
    for name in before:
        if name.endswith("conv.weight"):
            assert torch.equal(before[name], after[name]) == (name in frozen), name


def test_an_interrupted_training_goes_on(unrolled: Path, data: Path, tmp_path: Path) -> None:
    yolo = models.YOLO(str(unrolled))
    before = shapes_of(yolo.model)
    yolo.add_callback("on_fit_epoch_end", crash)
    with pytest.raises(Stopped):
        yolo.train(data=str(data), **run_of(tmp_path, epochs=2))
    again = yoloprune.finetune(yolo.trainer.last, resume=True)
    assert again.trainer.start_epoch == 1 and shapes_of(again.model) == before
    assert table(again.trainer.best) == table(unrolled)


def test_the_parent_teaches_it(unrolled: Path, parent: Path, data: Path, tmp_path: Path) -> None:
    yolo = yoloprune.finetune(unrolled, data=str(data), distill="parent", **run_of(tmp_path))
    assert shapes_of(yolo.model) == shapes_of(saving.load(unrolled).model)


@pytest.mark.long
def test_it_is_pruned_again_by_the_names_of_the_first_parent(unrolled: Path, tmp_path: Path) -> None:
    told = {"score": "random", "native": True, "imgsz": 64, "project": str(tmp_path), "name": "again"}
    yolo = yoloprune.prune(unrolled, flops=0.8, keep="model.2", **told)
    first, second = saving.load(unrolled).model, yolo.model
    for old, new in zip(table(unrolled)["model.2"], table(yolo.ckpt_path)["model.2"], strict=True):
        mine, theirs = first.get_submodule(old), second.get_submodule(new)
        outputs = [[m.out_channels for m in x.modules() if hasattr(m, "out_channels")] for x in (mine, theirs)]
        assert outputs[0] == outputs[1] and old.startswith("model.")
    assert sum(p.numel() for p in second.parameters()) < sum(p.numel() for p in first.parameters())


@pytest.mark.long
def test_free_widths_after_it_go_by_the_same_names(unrolled: Path, tmp_path: Path) -> None:
    told = {"score": "random", "imgsz": 64, "project": str(tmp_path), "name": "free"}
    yolo = yoloprune.prune(unrolled, flops=0.8, native=False, **told)
    assert table(yolo.ckpt_path) == table(unrolled)
    rows = yoloprune.info(yolo.ckpt_path, imgsz=64, keep="model.4.cv1:2")
    assert {r["layer"]: r["state"] for r in rows}["model.4.cv1:2"] == "frozen: keep=model.4.cv1:2"


@pytest.mark.long
def test_all_that_is_printed_of_a_model_pruned_twice_can_be_pasted(
    unrolled: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(console, "log", lambda prefix, message: said.append(message))
    told = {"score": "random", "imgsz": 64, "project": str(tmp_path), "data": False}
    twice = yoloprune.prune(unrolled, flops=0.85, native=True, name="twice", **told).ckpt_path
    names = [row["layer"] for row in yoloprune.info(twice, imgsz=64) if row["state"] == "prunable"]
    parents = {row["layer"] for row in yoloprune.info(unrolled.parents[2] / "parent.pt", imgsz=64)}
    assert {name.partition(":")[0] for name in names} < parents and any(":" in name for name in names)
    for name in [*names[::4], next(name for name in names if ":" in name)]:
        found = {row["layer"]: row["state"] for row in yoloprune.info(twice, imgsz=64, keep=name)}
        assert found[name] == f"frozen: keep={name}"
    pasted = ",".join(names[-2:])
    with pytest.raises(BudgetError, match=f"Held by: .*channels: keep={names[-1]}"):
        yoloprune.prune(twice, flops=0.05, name="never", **{**told, "keep": pasted})
    rows = yoloprune.sensitivity(
        twice, data=str(data), imgsz=64, widths=0.5, layer=pasted, project=str(tmp_path), name="tender"
    )
    assert {*names[-2:]} <= {name for row in rows[1:] for name in row["layers"].split()}  # with what is coupled to them
    assert {row["group"] for row in rows[1:]} < {*names}
    assert said[-1].startswith("points of mAP50-95 lost where one group alone is narrowed\ngroup ")
    words = said[-1].rpartition("next: yoloprune ")[2].split()
    assert words[0] == "prune" and cli.main([*words, f"project={tmp_path}", "name=typed"]) == 0
    report = json.loads((tmp_path / "twice" / "report.json").read_text())
    assert {row["layer"].partition(":")[0] for row in report["layers"]} <= parents


@pytest.mark.long
def test_sparse_training_goes_on_from_it(unrolled: Path, data: Path, tmp_path: Path) -> None:
    yolo = yoloprune.train_sparse(unrolled, data=str(data), flops=0.9, **run_of(tmp_path, epochs=3))
    assert shapes_of(yolo.model) == shapes_of(saving.load(unrolled).model)
    cut = yoloprune.prune(yolo.trainer.best, imgsz=64, project=str(tmp_path), name="cut")
    assert table(cut.ckpt_path).keys() == table(unrolled).keys()


def test_restricted_loading_takes_it(unrolled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ULTRALYTICS_SAFE_LOAD", "1")
    assert shapes_of(ultralytics.YOLO(str(unrolled)).model) == shapes_of(saving.load(unrolled).model)
