"""Masks hold: zeros stay zero to the bit through trainings, interruptions, teachers, files and exports, or it stops."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import ultralytics
from checkpoints import Stopped, crash, network, run_of, run_python, stub
from torch import Tensor, distributed, multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

import yoloprune
from yoloprune.backend import console, run_folders, yaml_markers
from yoloprune.checkpoint import held_masks, models, saving, trainers
from yoloprune.cutting import masks
from yoloprune.errors import ArgumentError, ModelError, PlanError, PruneError

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

LIVELY: dict[str, Any] = {"optimizer": "AdamW", "lr0": 0.01, "warmup_epochs": 0, "nbs": 8, "amp": True}
"""Every weight moves in each step, of which there is one for two batches."""


@pytest.fixture(scope="module")
def masked(folder: Path, parent: Path) -> Path:
    """2:4 through the front door, head included."""
    told: dict[str, Any] = {"pattern": "2:4", "head": True, "recover": "none", "imgsz": 64, "name": "mask"}
    yoloprune.mask(parent, data=False, project=str(folder), **told)
    return folder / "mask" / "weights" / "masked.pt"


@pytest.fixture(scope="module")
def both(folder: Path, parent: Path) -> Path:
    """Free widths, then single weights."""
    where: dict[str, Any] = {"project": str(folder), "imgsz": 64}
    yoloprune.prune(parent, ratio=0.4, native=False, round_to=1, min_width=1, name="first", data=False, **where)
    file = folder / "first" / "weights" / "pruned.pt"
    yoloprune.mask(file, sparsity=0.6, recover="none", data=False, name="second", **where)
    return folder / "second" / "weights" / "masked.pt"


def gone(file: Path) -> dict[str, Tensor]:
    """Where the weights of masked layers are zero."""
    model = saving.load(file).model
    told = yaml_markers.masks_of(model)
    assert told is not None
    return {name: ~kept for name, kept in masks.found_in(model, told["layers"]).items()}


def assert_held(before: dict[str, Tensor], model: nn.Module, *, anew: tuple[str, ...] = ()) -> None:
    """What was zero is; nearly all else is not, and the record tells of it."""
    told = yaml_markers.masks_of(model)
    assert told is not None and set(told["layers"]) == set(before) - set(anew)
    for name in told["layers"]:
        weight = model.get_submodule(name).weight.float().cpu()
        assert torch.equal(weight[before[name]], torch.zeros(int(before[name].sum()))), name
        assert (weight[~before[name]] != 0).float().mean() > 0.99, name


NEW = ("model.7.cv3.0.2", "model.7.cv3.1.2")
"""Class layers, made anew for a data set of three classes."""


def test_finetune_holds_them_without_being_told(
    masked: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(console, "log", lambda prefix, message: said.append(message))
    before = gone(masked)
    tuned = yoloprune.finetune(masked, data=str(data), **run_of(tmp_path, epochs=2, **LIVELY))
    assert f"every width is what it was; {held_masks.said(tuned.model)}" in said[-1]
    assert_held(before, tuned.model, anew=NEW)
    for file in (tuned.trainer.last, tuned.trainer.best):  # stripped
        stripped = ultralytics.YOLO(str(file)).model
        assert_held(before, stripped, anew=NEW)
        weight = stripped.get_submodule("model.3.conv").weight
        assert masks.is_n_of_m(weight, 2, 4)
        old = saving.load(masked).model.get_submodule("model.3.conv").weight
        assert (weight.float()[~before["model.3.conv"]] != old[~before["model.3.conv"]]).all(), "nothing was learnt"
    again = yoloprune.finetune(tuned.trainer.last, data=str(data), **run_of(tmp_path, name="again", **LIVELY))
    assert_held({k: v for k, v in before.items() if k not in NEW}, again.model)


def test_an_interrupted_run_resumes_with_them(masked: Path, data: Path, tmp_path: Path) -> None:
    before = gone(masked)
    yolo = models.YOLO(str(masked))
    yolo.add_callback("on_fit_epoch_end", crash)
    with pytest.raises(Stopped):
        yolo.train(data=str(data), **run_of(tmp_path, epochs=3, **LIVELY))
    last = Path(yolo.trainer.last)
    assert_held(before, ultralytics.YOLO(str(last)).model, anew=NEW)  # the EMA, which is what is saved
    with pytest.raises(KeyError, match="masked by yoloprune"):
        ultralytics.YOLO(str(last)).train(resume=True)
    args = last.parent.parent / "args.yaml"
    own = {"finetune": {"sparsity": 0.5}}  # as of a run whose zeros are all there, so that nothing else tells of it
    run_folders.write_yaml(args, {**run_folders.read_yaml(args), **own})
    again = yoloprune.finetune(last, resume=True)
    assert run_folders.read_yaml(args)["finetune"] == own["finetune"]  # Ultralytics has written the file anew
    assert again.trainer.start_epoch == 1 and again.trainer.epoch == 2
    for model in (again.trainer.ema.ema, again.trainer.model, again.model):
        assert_held(before, model, anew=NEW)


@pytest.mark.long
def test_free_widths_and_masks_hold_together(both: Path, data: Path, tmp_path: Path) -> None:
    before = gone(both)
    assert (
        yaml_markers.entry_of(saving.load(both))["widths"] and len(saving.provenance(saving.load(both))["earlier"]) == 1
    )
    tuned = yoloprune.finetune(both, data=str(data), **run_of(tmp_path, **LIVELY))
    assert_held(before, tuned.model)
    with pytest.raises(KeyError, match="yoloprune finetune"):
        ultralytics.YOLO(str(both)).train(data=str(data), **run_of(tmp_path))


def test_with_a_teacher_and_frozen_layers(masked: Path, parent: Path, data: Path, tmp_path: Path) -> None:
    before, told = gone(masked), {"distill_model": str(parent), "freeze": 2, **LIVELY}
    assert_held(before, yoloprune.finetune(masked, data=str(data), **run_of(tmp_path, **told)).model, anew=NEW)


def test_stock_ultralytics_runs_it_and_stops_before_it_trains(masked: Path, data: Path, tmp_path: Path) -> None:
    stock = ultralytics.YOLO(str(masked))
    assert stock.predict(torch.rand(1, 3, 64, 64), imgsz=64, verbose=False, save=False)
    stock.val(data=str(data), imgsz=64, workers=0, plots=False, verbose=False, project=str(tmp_path), name="val")
    for more in ({}, {"pretrained": str(masked)}):
        with pytest.raises(KeyError, match=r"masked by yoloprune.*yoloprune finetune"):
            ultralytics.YOLO(str(masked)).train(data=str(data), **run_of(tmp_path), **more)
    assert not list((tmp_path / "runs").rglob("*.pt"))
    stock.save(str(tmp_path / "saved.pt"))
    assert_held(gone(masked), saving.load(tmp_path / "saved.pt").model)


def test_without_yoloprune_it_loads(masked: Path) -> None:
    code = (
        "import sys; sys.modules['yoloprune'] = None\nimport ultralytics, torch\n"
        "model = ultralytics.YOLO(sys.argv[1]).model\n"
        "print(int(sum((p == 0).sum() for p in model.parameters())))"
    )
    zeros = sum(int((p == 0).sum()) for p in saving.load(masked).model.parameters())
    assert int(run_python(code, masked, ULTRALYTICS_SAFE_LOAD="1").split()[-1]) == zeros > 10_000


# What would fill them -------------------------------------------------------------------------------------------------
def test_other_weights_and_fresh_ones_are_refused(masked: Path, parent: Path, data: Path, tmp_path: Path) -> None:
    for told in ({"pretrained": str(parent)}, {"pretrained": False}):
        with pytest.raises(PlanError, match=r"The mask of model\.\d.* is filled, .* without pretrained="):
            yoloprune.finetune(masked, data=str(data), **run_of(tmp_path, **told))
    yolo = models.YOLO(str(masked))
    yolo.load(str(parent))
    with pytest.raises(PlanError, match="is filled"):
        yolo.train(data=str(data), **run_of(tmp_path))
    assert not list((tmp_path / "runs").rglob("*.pt"))


def test_a_training_that_fills_them_otherwise_stops_and_saves_nothing(masked: Path, data: Path, tmp_path: Path) -> None:
    yolo = models.YOLO(str(masked))
    yolo.add_callback("on_train_epoch_end", lambda t: t.ema.ema.get_submodule("model.3.conv").weight.data.add_(1))
    with pytest.raises(PlanError, match=r"mask of model\.3\.conv is filled.*past its optimizer"):
        yolo.train(data=str(data), **run_of(tmp_path, **LIVELY))
    assert not list((tmp_path / "runs").rglob("*.pt"))


def test_what_cuts_channels_takes_no_masked_model(masked: Path, data: Path, tmp_path: Path) -> None:
    where: dict[str, Any] = {"data": str(data), "imgsz": 64, "project": str(tmp_path / "runs")}
    for command in (yoloprune.prune, yoloprune.sweep, yoloprune.slim, yoloprune.train_sparse):
        with pytest.raises(ModelError, match="Prune the model that it was masked from"):
            command(masked, flops=0.5, **where)
    yolo, sparse = (
        models.YOLO(str(masked)),
        yoloprune.SparseTraining(yoloprune.SparseConfig(yoloprune.Budget(flops=0.5))),
    )
    with pytest.raises(ModelError, match="Prune the model that it was masked from"):
        yoloprune.prune_module(yolo.model, torch.zeros(1, 3, 64, 64), yoloprune.Budget(flops=0.9))
    with sparse.attached(yolo), pytest.raises(ModelError, match="is masked"):
        yolo.train(**run_of(tmp_path, data=str(data)))
    with pytest.raises(ModelError, match="tune starts stock Ultralytics"):
        yolo.tune(data=str(data), iterations=1)
    with pytest.raises(ArgumentError, match="must derive from yoloprune's trainer"):
        yolo.train(trainer=ultralytics.models.yolo.detect.DetectionTrainer, **run_of(tmp_path, data=str(data)))


def test_a_damaged_record_and_one_of_a_later_release_are_refused(masked: Path, tmp_path: Path) -> None:
    for change, said in (({"layers": {"model.3.conv": "many"}}, "damaged, zeros of model.3.conv"), (None, "later")):
        yolo = ultralytics.YOLO(str(masked))
        record = yolo.model.yaml[yaml_markers.KEY]
        if change is None:
            record["version"] = yaml_markers.MASKED + 1
        else:
            record[yaml_markers.MASKS].update(change)
        yolo.save(str(tmp_path / "odd.pt"))
        with pytest.raises(PruneError, match=said):
            yoloprune.finetune(tmp_path / "odd.pt", data="coco8.yaml")


# Several processes ----------------------------------------------------------------------------------------------------
def _work(rank: int, folder: Path, file: Path) -> None:
    """One of two processes that train on images of their own, by the optimizer that our trainer makes."""
    os.environ.update(MASTER_ADDR="127.0.0.1")
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    trainer, weights = stub("detect"), saving.load(file).model
    model = DistributedDataParallel(trainer.get_model(cfg=weights.yaml, weights=weights, verbose=False))
    optimizer = trainer.build_optimizer(model, name="AdamW", lr=0.01, momentum=0.9, decay=1e-3, iterations=10)
    image = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(rank))
    for _ in range(3):
        optimizer.zero_grad()
        out = model(image)
        tensors = out.values() if isinstance(out, dict) else out
        sum(t.square().mean() for t in tensors if isinstance(t, Tensor)).backward()  # type: ignore[union-attr]
        optimizer.step()
    torch.save(model.module.state_dict(), folder / f"{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.long
def test_two_processes_hold_the_same(masked: Path, tmp_path: Path) -> None:
    multiprocessing.spawn(_work, (tmp_path, masked), nprocs=2)
    one, two = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    start, before = saving.load(masked).model.state_dict(), gone(masked)
    for name, zero in before.items():
        weight = one[f"{name}.weight"]
        assert torch.equal(weight, two[f"{name}.weight"]), name
        assert not weight[zero].any(), name
    moved = [n for n, zero in before.items() if (one[f"{n}.weight"] != start[f"{n}.weight"])[~zero].any()]
    assert len(moved) > 20


# Exports --------------------------------------------------------------------------------------------------------------
def _of_onnx(file: str) -> list[Tensor]:
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(file).graph
    given = {i.name: torch.from_numpy(numpy_helper.to_array(i).copy()) for i in graph.initializer}
    return [given[node.input[1]] for node in graph.node if node.op_type == "Conv"]


def _of_openvino(folder: str) -> list[Tensor]:
    import openvino

    network = openvino.Core().read_model(next(Path(folder).glob("*.xml")))
    found = [op.get_data() for op in network.get_ops() if op.get_type_name() == "Constant"]
    return [torch.from_numpy(data.astype("float32")) for data in found if data.ndim == 4]


@pytest.mark.parametrize(
    ("form", "needed", "weights_of"),
    [("onnx", ("onnx", "onnxruntime", "onnxslim"), _of_onnx), ("openvino", ("openvino",), _of_openvino)],
    ids=["onnx", "openvino"],
)
def test_an_exported_file_has_every_zero(
    form: str, needed: tuple[str, ...], weights_of: Callable[[str], list[Tensor]], masked: Path, tmp_path: Path
) -> None:
    """Batch-norms are folded into the weights, whose zeros stay: 2:4 holds along the input channels of the file."""
    if missing := [p for p in needed if importlib.util.find_spec(p) is None]:
        pytest.skip(f"{missing[0]} is not installed")
    copy = tmp_path / "masked.pt"
    copy.write_bytes(masked.read_bytes())
    weights = weights_of(ultralytics.YOLO(str(copy)).export(format=form, imgsz=64))
    before = gone(masked)
    for shape in {tuple(zero.shape) for zero in before.values() if zero.ndim == 4}:
        mine = sorted(int(zero.sum()) for zero in before.values() if tuple(zero.shape) == shape)
        theirs = [w for w in weights if tuple(w.shape) == shape]
        assert sorted(int((w == 0).sum()) for w in theirs) == mine and all(masks.is_n_of_m(w, 2, 4) for w in theirs)


# Parts ----------------------------------------------------------------------------------------------------------------
def test_what_is_said_of_masks(masked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = saving.load(masked).model
    assert held_masks.filled_in(model) is None
    layers = yaml_markers.masks_of(model)["layers"]
    assert f"in {len(layers)} layers are zero" in held_masks.said(model) and "pattern 2:4" in held_masks.said(model)
    said: list[str] = []
    monkeypatch.setattr(console, "log", lambda prefix, message: said.append(message))
    yoloprune.info(masked, imgsz=64)
    assert f"\nmasked, {held_masks.said(model)}\n" in said[-1]
    layers["model.3.conv"] += 1
    assert "The mask of model.3.conv is filled" in str(held_masks.filled_in(model))
    assert "stay so" not in held_masks.said(model) and "so it is not trained" in held_masks.said(model)
    layers["model.99.conv"] = 1
    assert "The masked layer model.99.conv is not in" in str(held_masks.filled_in(model))
    assert (
        held_masks.filled_in(network(tmp_path).model) is None and yaml_markers.masks_of(network(tmp_path).model) is None
    )


def test_a_model_without_masks_has_no_hook() -> None:
    trainer = trainers.DetectionTrainer.__new__(trainers.DetectionTrainer)
    optimizer = trainer.build_optimizer(nn.Linear(2, 2), name="SGD", lr=0.1, momentum=0.9, decay=0.0)
    assert not optimizer._optimizer_step_post_hooks
