"""Training keeps a pruned shape, in every task, in workers and when resumed; without yoloprune it stops."""

from __future__ import annotations

import importlib.util
import json
import pickle
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import releases
import torch
import ultralytics
import yaml
from checkpoints import STILL, Stopped, body, crash, cut, network, plan_of, run_of, run_python, shapes_of
from releases import needs_distillation

from yoloprune.backend import yaml_markers
from yoloprune.checkpoint import models, saving, trainers
from yoloprune.commands.demo_images import NAMES, make_shapes

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


# ---- training --------------------------------------------------------------------------------------------------------


def test_training_keeps_widths_weights_and_provenance(pruned: Path, data: Path, tmp_path: Path) -> None:
    yolo = models.YOLO(str(pruned))
    before = yolo.model
    yolo.train(data=str(data), **run_of(tmp_path, **STILL))
    for path in (yolo.trainer.last, yolo.trainer.best):
        model = ultralytics.YOLO(str(path)).model  # stripped by Ultralytics
        assert shapes_of(model) == shapes_of(before)
        assert saving.provenance(model) == saving.provenance(before)
        assert saving.pruned_widths(model) == saving.pruned_widths(before)
        weights = body(model)
        for name, p in before.named_parameters():
            if name in weights:
                assert torch.equal(weights[name], p), name  # loaded in full, and nothing was learnt at lr0=0
        assert model.nc == len(NAMES) and model.names == dict(enumerate(NAMES))
    with pytest.raises(KeyError, match="yoloprune finetune"):
        ultralytics.YOLO(str(path)).train(data=str(data), **run_of(tmp_path))


def test_stock_object_trains_with_our_trainer(pruned: Path, data: Path, tmp_path: Path) -> None:
    yolo = ultralytics.YOLO(str(pruned))
    shapes = shapes_of(yolo.model)
    large = {"optimizer": "SGD", "lr0": 0.1, "nbs": 4, "warmup_epochs": 0}  # steps that half precision sees
    yolo.train(trainer=trainers.DetectionTrainer, data=str(data), freeze=2, **run_of(tmp_path, **large))
    assert shapes_of(yolo.model) == shapes
    before, after = body(saving.load(pruned).model), body(yolo.model)
    assert torch.equal(before["model.1.conv.weight"], after["model.1.conv.weight"])
    assert not torch.equal(before["model.3.conv.weight"], after["model.3.conv.weight"])


def test_interrupted_run_resumes_at_the_pruned_widths(pruned: Path, data: Path, tmp_path: Path) -> None:
    yolo = models.YOLO(str(pruned))
    shapes = shapes_of(yolo.model)
    yolo.add_callback("on_fit_epoch_end", crash)
    with pytest.raises(Stopped):
        yolo.train(data=str(data), **run_of(tmp_path, epochs=2))
    last = Path(yolo.trainer.last)
    with pytest.raises(KeyError, match="yoloprune finetune"):
        ultralytics.YOLO(str(last)).train(resume=True)
    again = models.YOLO(str(last))
    again.train(resume=True)
    assert again.trainer.start_epoch == 1 and again.trainer.epoch == 1
    assert shapes_of(again.model) == shapes
    assert saving.provenance(again)["parent"]["name"] == "parent.pt"


def test_model_marked_in_memory_trains_at_its_widths(folder: Path, data: Path, tmp_path: Path) -> None:
    yolo = saving.load(network(folder))  # from a YAML: there is no checkpoint that Ultralytics could go back to
    plan = plan_of(yolo.model)
    child = cut(yolo, plan)
    saving.mark_pruned(child.model, plan, {})
    before = child.model
    source = [str(data)] if releases.TRAINS_ON_SEVERAL else str(data)  # a list of data sets, each in a run of its own
    child.train(data=source, **run_of(tmp_path, **STILL))
    model = ultralytics.YOLO(str(next((tmp_path / "runs").rglob("best.pt")))).model
    assert shapes_of(model) == shapes_of(before)
    assert torch.allclose(body(model)["model.3.conv.weight"], body(before)["model.3.conv.weight"], atol=1e-3)


@needs_distillation
def test_parent_as_teacher(pruned: Path, parent: Path, data: Path, tmp_path: Path) -> None:
    yolo = models.YOLO(str(pruned))
    shapes = shapes_of(yolo.model)
    yolo.train(data=str(data), distill_model=str(parent), **run_of(tmp_path))
    assert shapes_of(yolo.model) == shapes


def _labels(root: Path, task: str) -> Path:
    """The shapes data set with labels of another task, made from its boxes."""
    for file in (root / "labels").rglob("*.txt"):
        lines = []
        for line in file.read_text().splitlines():
            c, x, y, w, h = line.split()[0], *map(float, line.split()[1:])
            x1, y1, x2, y2 = x - w / 2, y - h / 2, x + w / 2, y + h / 2
            polygon = [x1, y1, x2, y1, x2, y2, x1, y2]
            values = [x, y, w, h, x1, y1, 2, x2, y2, 2] if task == "pose" else polygon
            lines.append(" ".join([c, *(f"{min(max(v, 0), 1 if v != 2 else 2):.6f}" for v in values)]))
        file.write_text("\n".join(lines) + "\n")
    text = yaml.safe_load((root / "data.yaml").read_text())
    (root / "data.yaml").write_text(yaml.safe_dump({**text, "kpt_shape": [2, 3]}))
    return root / "data.yaml"


def _pictures(root: Path) -> Path:
    """A classification data set: one folder per class."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in NAMES[:2]:
            (root / split / name).mkdir(parents=True)
            for i in range(2):
                cv2.imwrite(str(root / split / name / f"{i}.jpg"), rng.integers(0, 255, (64, 64, 3), dtype=np.uint8))
    return root


@pytest.mark.parametrize("task", ["segment", "pose", "obb", "classify"])
def test_other_tasks_train_at_the_pruned_widths(task: str, folder: Path, tmp_path: Path) -> None:
    if task == "classify":
        source = _pictures(tmp_path / "pictures")
    else:
        source = _labels(make_shapes(tmp_path / "data", train=4, val=2, imgsz=64).parent, task)
    yolo = saving.load(network(folder, task))
    plan = plan_of(yolo.model)
    out = saving.save(cut(yolo, plan), tmp_path / "p.pt", plan=plan, provenance={})
    pruned = models.YOLO(str(out))
    shapes = shapes_of(pruned.model)
    pruned.train(data=str(source), **run_of(tmp_path))
    assert type(pruned.trainer) is trainers.TRAINERS[task]
    assert shapes_of(pruned.model) == shapes
    assert len(pruned.names) == (2 if task == "classify" else len(NAMES))


# ---- other processes -------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_multi_gpu_worker_rebuilds_the_trainer(
    pruned: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ultralytics.utils import dist

    monkeypatch.setattr("ultralytics.utils.checks.check_requirements", lambda *a, **k: True)
    monkeypatch.setattr(dist, "USER_CONFIG_DIR", tmp_path)
    yolo = models.YOLO(str(pruned))
    trainer = trainers.DetectionTrainer(overrides={"model": str(pruned), "data": str(data), **run_of(tmp_path)})
    if importlib.util.find_spec("cloudpickle") is None:  # Ultralytics installs it when it first needs it
        monkeypatch.setitem(sys.modules, "cloudpickle", pickle)  # stricter: everything must be importable by name
        trainer.callbacks = {}  # those of Ultralytics hold a lambda
    trainer.model = trainer.get_model(cfg=yolo.model.yaml, weights=yolo.model)  # as YOLO.train does
    worker = Path(dist.generate_ddp_file(trainer))
    trainer.model = str(pruned)  # as in a resumed run, where the worker itself builds the model
    path_worker = Path(dist.generate_ddp_file(trainer))
    report = "    print('TRAINED', type(trainer).__module__, trainer.model.model[0].conv.out_channels, trainer.last)\n"
    said = run_python("\n".join(file.read_text() + report for file in (worker, path_worker)))
    for line in said.split("TRAINED ")[1:]:
        module, width, last = line.split()[:3]
        assert module == "yoloprune.checkpoint.trainers"
        assert int(width) == yolo.model.model[0].conv.out_channels
        assert shapes_of(ultralytics.YOLO(last).model) == shapes_of(yolo.model)
    assert said.count("TRAINED ") == 2


WITHOUT = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "yoloprune":
            raise ImportError("yoloprune is blocked")

sys.meta_path.insert(0, Block())
import json, numpy as np
from ultralytics import YOLO
from ultralytics.cfg import entrypoint
from ultralytics.nn import tasks

path, data, parent, project = sys.argv[1:]
fast = dict(data=data, imgsz=64, batch=4, plots=False, verbose=False, workers=0, project=project)
said = {"safe": getattr(tasks, "SAFE_LOAD", None), "image": np.zeros((64, 64, 3), "uint8")}

def attempt(name, action):
    try:
        said[name] = action()
    except Exception as e:
        said[name] = f"{type(e).__name__}: {e}"

def fused():
    yolo = YOLO(path)
    yolo.fuse()  # what it returns differs between releases
    return yolo.model.is_fused()

attempt("import", lambda: __import__("yoloprune"))
attempt("parameters", lambda: sum(p.numel() for p in YOLO(path).model.parameters()))
attempt("info", lambda: YOLO(path).info()[1])
attempt("predict", lambda: len(YOLO(path).predict(said["image"], imgsz=64, verbose=False)))
attempt("val", lambda: "metrics/mAP50(B)" in YOLO(path).val(**fast).results_dict)
attempt("fuse", fused)
attempt("export", lambda: YOLO(path).export(format="torchscript", imgsz=64))
attempt("train", lambda: YOLO(path).train(epochs=1, **fast))
attempt("scratch", lambda: YOLO(path).reset_weights().train(epochs=1, **fast))
attempt("saved again", lambda: YOLO(path).save(path + "2.pt") or YOLO(path + "2.pt").train(epochs=1, **fast))
flags = " ".join(f"{k}={v}" for k, v in fast.items())
attempt("command line", lambda: entrypoint(f"train model={path} epochs=1 {flags}"))
attempt("teacher", lambda: bool(YOLO(parent).train(epochs=1, distill_model=path, **fast)))
del said["image"]
print("SAID" + json.dumps(said))
"""


@pytest.mark.long
def test_without_yoloprune(pruned: Path, parent: Path, data: Path, tmp_path: Path) -> None:
    path = tmp_path / "pruned.pt"
    path.write_bytes(pruned.read_bytes())
    out = run_python(WITHOUT, path, data, parent, tmp_path / "runs", ULTRALYTICS_SAFE_LOAD="1")
    said = json.loads(out.rpartition("SAID")[2])
    assert said.pop("safe") is (True if releases.LOADS_RESTRICTED else None)
    assert said.pop("import") == "ImportError: yoloprune is blocked"
    parameters = sum(p.numel() for p in saving.load(pruned).model.parameters())
    assert said.pop("parameters") == said.pop("info") == parameters
    assert said.pop("export").endswith("pruned.torchscript")
    for name in ("train", "scratch", "saved again", "command line"):
        assert said.pop(name) == f"KeyError: {yaml_markers.STOP_PRUNED!r}", name
    teacher = said.pop("teacher")
    assert teacher is True if releases.DISTILS else "distill_model" in teacher
    assert said == {"predict": 1, "val": True, "fuse": True}
