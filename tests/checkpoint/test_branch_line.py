"""Whatever is done to a pruned checkpoint is done to one that lost branches, said by rows or not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import ultralytics
from checkpoints import Stopped, crash, run_of, shapes_of
from torch import nn

import yoloprune
from yoloprune.backend import moved_layers
from yoloprune.checkpoint import models, saving
from yoloprune.commands.demo_images import make_shapes
from yoloprune.planning.plan import Plan

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


@pytest.fixture(scope="module")
def data(folder: Path) -> Path:
    return make_shapes(folder / "data", train=8, val=4, imgsz=64)


@pytest.fixture(scope="module", params=[True, False], ids=["native", "free"])
def pruned(request: pytest.FixtureRequest, folder: Path, parent: Path) -> Path:
    told = {"score": "random", "native": request.param, "imgsz": 64, "project": str(folder)}
    yolo = yoloprune.prune(parent, depth="only", flops=0.97, name=f"prune-{request.param}", **told)
    return Path(yolo.ckpt_path)


def removed(file: Path | str) -> set[str]:
    """Branches that the record of a checkpoint tells of."""
    model = saving.load(file).model
    rows = {name for name, places in moved_layers.table_of(model).items() if not places}
    return rows | set(Plan.from_widths(saving.pruned_widths(model) or {}).removed)


@pytest.mark.long
def test_branches_are_gone(pruned: Path, parent: Path) -> None:
    names = removed(pruned)
    before, after = (saving.load(file).model for file in (parent, pruned))
    assert names and names <= {"model.2.m.0", "model.4.m.0", "model.6.m.0"}
    for name in names:
        assert any(True for _ in before.get_submodule(name).parameters())
        if not moved_layers.table_of(after):
            assert type(after.get_submodule(name)) is nn.Identity
    assert sum(p.numel() for p in after.parameters()) < sum(p.numel() for p in before.parameters())
    image = torch.rand(1, 3, 64, 64)
    assert ultralytics.YOLO(str(pruned)).model.eval()(image)[0].isfinite().all()


def test_it_is_fine_tuned(pruned: Path, data: Path, tmp_path: Path) -> None:
    before = shapes_of(saving.load(pruned).model)
    yolo = yoloprune.finetune(pruned, data=str(data), **run_of(tmp_path))
    assert shapes_of(yolo.model) == before
    assert removed(yolo.trainer.best) == removed(pruned)


def test_stock_trains_what_rows_say_and_stops_at_the_rest(pruned: Path, data: Path, tmp_path: Path) -> None:
    yolo = ultralytics.YOLO(str(pruned))
    if moved_layers.table_of(yolo.model):
        before = shapes_of(yolo.model)
        yolo.train(data=str(data), **run_of(tmp_path))
        assert shapes_of(yolo.model) == before
    else:
        with pytest.raises(KeyError, match="pruned by yoloprune"):
            yolo.train(data=str(data), **run_of(tmp_path))


def test_an_interrupted_training_goes_on(pruned: Path, data: Path, tmp_path: Path) -> None:
    yolo = models.YOLO(str(pruned))
    before = shapes_of(yolo.model)
    yolo.add_callback("on_fit_epoch_end", crash)
    with pytest.raises(Stopped):
        yolo.train(data=str(data), **run_of(tmp_path, epochs=2))
    again = yoloprune.finetune(yolo.trainer.last, resume=True)
    assert again.trainer.start_epoch == 1 and shapes_of(again.model) == before
    assert removed(again.trainer.best) == removed(pruned)


@pytest.mark.long
def test_it_is_pruned_again_with_and_without_depth(pruned: Path, tmp_path: Path) -> None:
    native = bool(moved_layers.table_of(saving.load(pruned).model))
    told = {"score": "random", "native": native, "imgsz": 64, "project": str(tmp_path)}
    narrow = yoloprune.prune(pruned, flops=0.8, name="narrow", **told)
    assert removed(narrow.ckpt_path) == removed(pruned)
    short = yoloprune.prune(narrow.ckpt_path, params=0.999, depth="only", name="short", **told)
    assert removed(pruned) < removed(short.ckpt_path)
    widths = saving.pruned_widths(short.model) or {}
    assert not any(name.startswith(f"{gone}.") for gone in removed(short.ckpt_path) for name in widths)


def test_it_is_exported(pruned: Path) -> None:
    yolo = ultralytics.YOLO(str(pruned))
    file = yolo.export(format="torchscript", imgsz=64, verbose=False)
    assert torch.jit.load(file)(torch.rand(1, 3, 64, 64)).isfinite().all()


def test_data_rank_and_refit_it(parent: Path, data: Path, tmp_path: Path) -> None:
    told = {"data": str(data), "imgsz": 64, "project": str(tmp_path), "name": "prune", "val": False}
    yolo = yoloprune.prune(parent, flops=0.6, depth=True, **told)
    assert removed(yolo.ckpt_path)
