"""What a free plan must live through: other tasks, a second pruning, teachers, interruptions, and trainers not ours."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import ultralytics
import yaml
from checkpoints import STILL, Stopped, body, crash, cut, network, plan_of, run_of, shapes_of, stub
from conftest import cutting_plan
from ultralytics.models.yolo.world import WorldTrainer
from ultralytics.models.yolo.yoloe import YOLOEPETrainer, YOLOETrainer

import yoloprune
from yoloprune.backend import console, model_facts, yaml_markers, yolo_tracing
from yoloprune.checkpoint import models, saving, trainers
from yoloprune.commands.demo_images import NAMES, make_shapes
from yoloprune.errors import ArgumentError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pruned(folder: Path, parent: Path) -> Path:
    """Pruned through the front door, so that its args.yaml names the parent."""
    yoloprune.prune(
        parent, ratio=0.4, native=False, round_to=1, min_width=1, imgsz=64, project=str(folder), name="prune"
    )
    return folder / "prune" / "weights" / "pruned.pt"


# ---- tasks whose labels are images -----------------------------------------------------------------------------------


def _pixel_labels(root: Path, task: str) -> Path:
    """The shapes data set with one label image per picture: class ids, or depth in millimetres."""
    file = make_shapes(root, train=4, val=4, imgsz=64)
    kind, place = (np.uint8, "masks") if task == "semantic" else (np.uint16, "depth")
    for image in (root / "images").rglob("*.*"):
        label = np.tile(np.arange(64) % 3 if task == "semantic" else 1000 + 50 * np.arange(64), (64, 1)).astype(kind)
        target = root / place / image.relative_to(root / "images").with_suffix(".png")
        target.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(target), label)
    told = yaml.safe_load(file.read_text()) | {"masks_dir": "masks"}
    if task == "depth":
        told |= {"nc": 1, "names": {0: "depth"}}
    file.write_text(yaml.safe_dump(told))
    return file


@pytest.mark.parametrize("task", [t for t in ("semantic", "depth") if t in trainers.TRAINERS])
def test_pixel_tasks_train_at_the_pruned_widths(task: str, folder: Path, tmp_path: Path) -> None:
    yolo = saving.load(network(folder, task))
    plan = plan_of(yolo.model)
    out = saving.save(cut(yolo, plan), tmp_path / "p.pt", plan=plan, provenance={})
    model = models.YOLO(str(out))
    shapes = shapes_of(model.model)
    model.train(data=str(_pixel_labels(tmp_path / "data", task)), **run_of(tmp_path))
    assert type(model.trainer) is trainers.TRAINERS[task]
    assert shapes_of(model.model) == shapes
    with pytest.raises(KeyError, match="yoloprune finetune"):
        ultralytics.YOLO(str(model.trainer.last)).train(data=str(tmp_path / "data" / "data.yaml"), **run_of(tmp_path))


# ---- a second pruning after fine-tuning ------------------------------------------------------------------------------


@pytest.mark.long
def test_pruned_and_tuned_and_pruned_again_and_tuned(pruned: Path, data: Path, tmp_path: Path) -> None:
    tuned = models.YOLO(str(pruned))
    tuned.train(data=str(data), **run_of(tmp_path, name="first"))  # 3 classes instead of 80
    best = Path(tuned.trainer.best)
    again = yoloprune.prune(
        best, ratio=0.3, native=False, round_to=1, min_width=1, imgsz=64, project=str(tmp_path), name="again"
    )
    first, second = shapes_of(tuned.model), shapes_of(again.model)
    assert sum(np.prod(s) for s in second.values()) < 0.9 * sum(np.prod(s) for s in first.values())
    told = saving.provenance(again)
    assert [told["parent"]["name"], *(p["parent"]["name"] for p in told["earlier"])] == ["best.pt", "parent.pt"]
    before = body(again.model)
    again.train(data=str(data), **run_of(tmp_path, name="second", **STILL))
    assert shapes_of(again.model) == second
    assert all(torch.equal(before[n], p) for n, p in body(again.model).items() if n.endswith("weight"))
    assert saving.provenance(again) == told


# ---- the parent as teacher -------------------------------------------------------------------------------------------


def test_taught_run_resumes_in_the_middle(pruned: Path, parent: Path, data: Path, tmp_path: Path) -> None:
    """Ultralytics saves student and projector of such a run, without the teacher."""
    yolo = models.YOLO(str(pruned))
    shapes = shapes_of(yolo.model)
    yolo.add_callback("on_fit_epoch_end", crash)
    with pytest.raises(Stopped):
        yolo.train(data=str(data), distill_model=str(parent), **run_of(tmp_path, epochs=2))
    last = str(yolo.trainer.last)
    with pytest.raises(KeyError, match="yoloprune finetune"):
        ultralytics.YOLO(last).train(resume=True)
    again = models.YOLO(last)
    again.train(resume=True)
    assert again.trainer.start_epoch == 1
    assert shapes_of(again.model) == shapes
    assert saving.provenance(again)["parent"]["name"] == "parent.pt"


@pytest.mark.long
def test_parent_is_found_from_any_folder(
    folder: Path, parent: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(parent.parent)
    yoloprune.prune(
        parent.name, ratio=0.4, native=False, round_to=1, min_width=1, imgsz=64, project=str(tmp_path), name="here"
    )
    monkeypatch.chdir(tmp_path)
    started = []
    monkeypatch.setattr(models.YOLO, "train", lambda self, **k: started.append(k) or _stop())
    with pytest.raises(Stopped):
        yoloprune.finetune(tmp_path / "here" / "weights" / "pruned.pt", data=str(data), distill="parent")
    assert Path(started[0]["distill_model"]) == parent


def test_parent_is_found_through_later_trainings(
    pruned: Path, parent: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fine-tuned model's run began with the pruned one, whose run began with the parent."""
    tuned = tmp_path / "tuned" / "weights" / "best.pt"
    tuned.parent.mkdir(parents=True)
    tuned.write_bytes(pruned.read_bytes())
    (tmp_path / "tuned" / "args.yaml").write_text(f"model: {tuned}\n")  # as of a resumed run: nothing to be found
    with pytest.raises(ArgumentError, match=r"distill_model="):
        yoloprune.finetune(tuned, data=str(data), distill="parent")
    for foreign in ("- a list of somebody else's\n", "model: [\n", "model: \xff\n"):
        (tmp_path / "tuned" / "args.yaml").write_text(foreign, encoding="latin-1")
        with pytest.raises(ArgumentError, match=r"distill_model="):
            yoloprune.finetune(tuned, data=str(data), distill="parent")
    (tmp_path / "tuned" / "args.yaml").write_text(f"model: {pruned}\n")
    started = []
    monkeypatch.setattr(models.YOLO, "train", lambda self, **k: started.append(k) or _stop())
    with pytest.raises(Stopped):
        yoloprune.finetune(tuned, data=str(data), distill="parent")
    assert Path(started[0]["distill_model"]) == parent


def _stop() -> None:
    raise Stopped


def test_parent_of_a_live_model_is_found(
    pruned: Path, parent: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in Python, where `prune` hands it to `finetune`."""
    started = []
    monkeypatch.setattr(models.YOLO, "train", lambda self, **k: started.append(k) or _stop())
    with pytest.raises(Stopped):
        yoloprune.finetune(saving.load(pruned), data=str(data), distill="parent")
    assert Path(started[0]["distill_model"]) == parent


@pytest.mark.long
def test_a_name_without_suffix_stands_for_the_file(
    parent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(parent.parent)
    told = {"ratio": 0.4, "round_to": 1, "min_width": 1, "imgsz": 64, "project": str(tmp_path), "data": False}
    named = [saving.provenance(yoloprune.prune(name, **told))["parent"] for name in (parent.stem, parent.name)]
    assert named[0] == named[1] and len(named[0]["sha256"]) == 64


def test_a_parent_that_moved_is_named(pruned: Path, data: Path, tmp_path: Path) -> None:
    moved = tmp_path / "pruned.pt"  # no args.yaml beside it
    moved.write_bytes(pruned.read_bytes())
    digest = saving.provenance(saving.load(pruned))["parent"]["sha256"][:12]
    with pytest.raises(ArgumentError) as caught:
        yoloprune.finetune(moved, data=str(data), distill="parent")
    said = str(caught.value)
    assert "parent.pt" in said and digest in said and "distill_model=" in said and "{" not in said


@pytest.mark.long
def test_sparse_training_of_a_free_plan_is_sealed_and_opened(
    pruned: Path, parent: Path, data: Path, tmp_path: Path
) -> None:
    """Both leave a sentence where the first module's name was; one after the other goes."""
    told = run_of(tmp_path, data=str(data), nbs=4, epochs=3)
    before = yaml_markers.true_yaml(saving.load(pruned).model.yaml)
    limits = {"native": False, "round_to": 1, "min_width": 1}
    sparse = yoloprune.train_sparse(pruned, flops=0.8, name="sparse", **limits, **told)
    best = tmp_path / "runs" / "sparse" / "weights" / "best.pt"
    with pytest.raises(KeyError, match="of a sparse training"):
        ultralytics.YOLO(best).train(**told)
    for model in (sparse, best):
        twice = yoloprune.prune(model, imgsz=64, native=False, project=str(tmp_path), name="twice")
        assert yaml_markers.true_yaml(twice.model.yaml) == {**before, "nc": 3}  # the classes of the data
        assert len(saving.provenance(twice)["earlier"]) == 1
    with pytest.raises(KeyError, match="yoloprune finetune"):
        ultralytics.YOLO(twice.ckpt_path).train(**told)
    shapes = shapes_of(twice.model)
    assert shapes_of(yoloprune.finetune(twice, **told).model) == shapes


# ---- trainers that would build something else ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [WorldTrainer, YOLOETrainer, YOLOEPETrainer])
def test_trainers_that_build_by_file_name_find_no_file(kind: type, folder: Path) -> None:
    """They take a checkpoint of any family, and do not look at the network's YAML, only at the name of its file."""
    yolo = saving.load("yolov8n.yaml")
    plan = yolo_plan(yolo)
    child = cut(yolo, plan)
    saving.mark_pruned(child.model, plan, {})
    trainer: Any = object.__new__(kind)
    trainer.data = {"nc": 3, "channels": 3, "names": dict(enumerate(NAMES))}
    trainer.args = types.SimpleNamespace(task="detect", cls_remap=True)
    with pytest.raises(FileNotFoundError, match=r"pruned by yoloprune \(train with yoloprune finetune\)"):
        trainer.get_model(cfg=child.model.yaml, weights=child.model, verbose=False)
    assert yaml_markers.true_yaml(child.model.yaml) == yolo.model.yaml
    assert stub("detect", 3).get_model(cfg=child.model.yaml, weights=child.model, verbose=False) is not None


def yolo_plan(yolo: ultralytics.YOLO) -> Any:
    graph = yolo_tracing.trace_yolo(yolo.model)
    return cutting_plan(graph, 0)


def test_network_from_prune_module_does_not_grow_back(parent: Path, data: Path, tmp_path: Path) -> None:
    """Put into a stock object, it would be built anew from a YAML that knows nothing of the cut."""
    stock = ultralytics.YOLO(str(parent))
    example, limits = torch.rand(1, 3, 64, 64), yoloprune.Limits(keep=(f"{model_facts.head_name(stock.model)}.*",))
    stock.model, _ = yoloprune.prune_module(stock.model.float(), example, yoloprune.Budget(ratio=0.4), limits)
    with pytest.raises(KeyError, match="yoloprune finetune"):
        stock.train(data=str(data), **run_of(tmp_path))
    ours = saving.load(stock)
    shapes = shapes_of(ours.model)
    ours.train(data=str(data), **run_of(tmp_path))
    assert shapes_of(ours.model) == shapes


@pytest.mark.long
def test_list_of_data_sets_trains_nothing_with_stock_ultralytics(pruned: Path, data: Path, tmp_path: Path) -> None:
    """Ultralytics only logs what goes wrong with one data set of a list."""
    ultralytics.YOLO(str(pruned)).train(trainer=None, data=[str(data)], **run_of(tmp_path))
    assert not list((tmp_path / "runs").rglob("*.pt"))


def test_a_list_of_data_sets_is_trained_one_by_one(pruned: Path, data: Path, tmp_path: Path) -> None:
    told = run_of(tmp_path)
    before = shapes_of(saving.load(pruned).model)
    after = yoloprune.finetune(pruned, data=[str(data), str(data)], **told)
    trained = sorted((tmp_path / "runs").rglob("last.pt"))
    assert len(trained) == 2 and [shapes_of(saving.load(f).model) for f in trained] == [before] * 2
    assert shapes_of(after.model) == before  # the model is left as it was, as Ultralytics does


def test_stock_tuning_trains_nothing(pruned: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    try:
        ultralytics.YOLO(str(pruned)).tune(data=str(data), iterations=1, **run_of(tmp_path, device="cpu"))
    except Exception as e:  # after its only trial failed, Ultralytics may have nothing to report
        print(e)
    assert not list((tmp_path / "runs").rglob("*.pt"))


# ---- provenance ------------------------------------------------------------------------------------------------------


def test_info_tells_where_a_model_comes_from(pruned: Path, parent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(console, "log", lambda prefix, message: said.append(message))
    yoloprune.info(pruned, imgsz=64)
    told = saving.provenance(saving.load(pruned))
    last = said[-1].splitlines()[-4:]
    assert last[0] == f"pruned by yoloprune from parent.pt, {told['date']}"
    assert last[1].split() == ["parent's", "sha256", told["parent"]["sha256"]]
    assert "ratio=0.4" in last[2].split() and f"ultralytics {ultralytics.__version__}" in last[3]
    said.clear()
    yoloprune.info(parent, imgsz=64)
    assert "pruned by" not in said[-1]


def test_saved_by_stock_ultralytics_it_is_the_same(pruned: Path, tmp_path: Path) -> None:
    yolo = ultralytics.YOLO(str(pruned))
    yolo.save(str(tmp_path / "saved.pt"))
    saved = ultralytics.YOLO(str(tmp_path / "saved.pt"))
    assert all(torch.equal(v, saved.model.state_dict()[k]) for k, v in yolo.model.state_dict().items())
    assert saving.provenance(saved) == saving.provenance(yolo)
