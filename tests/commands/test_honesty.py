"""What a command says of a model before anybody draws conclusions from it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from checkpoints import BACKBONE, HEADS, build, untrained
from sparse_loop import TINY
from ultralytics import YOLO
from ultralytics.nn.modules import head
from ultralytics.nn.tasks import guess_model_task
from ultralytics.utils.torch_utils import strip_optimizer

import yoloprune
from yoloprune.backend import console, evaluation, head_task
from yoloprune.commands.demo_images import make_shapes
from yoloprune.errors import ArgumentError, ModelError

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

FREE: dict[str, Any] = {"imgsz": 32, "round_to": 1, "min_width": 1, "native": False}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shapes(tmp_path_factory.mktemp("shapes") / "data", train=4, val=4, imgsz=32)


def test_megabytes_are_those_of_stripped_files(tmp_path: Path, data: Path) -> None:
    """The parent is a file as training leaves it: two copies in float32, and an optimizer."""
    file = untrained(tmp_path, TINY, 32)
    model = YOLO(file).model
    optimizer = torch.optim.AdamW(model.parameters())
    sum(p.sum() for p in model.requires_grad_().parameters()).backward()
    optimizer.step()
    checkpoint = torch.load(file, weights_only=False)
    checkpoint |= {"model": model, "ema": YOLO(file).model.float(), "optimizer": optimizer.state_dict(), "epoch": 1}
    torch.save(checkpoint, trained := tmp_path / "trained.pt")
    small = yoloprune.prune(trained, flops=0.8, data=False, project=str(tmp_path), name="small", **FREE).ckpt_path
    strip_optimizer(trained, stripped := tmp_path / "stripped.pt")
    parent, pruned = yoloprune.val(
        small, against=trained, data=str(data), imgsz=32, project=str(tmp_path), device="cpu", workers=0
    )
    assert trained.stat().st_size > 4 * stripped.stat().st_size
    for row, written in ((parent, stripped), (pruned, Path(small))):
        assert abs(1e6 * row["MB"] - written.stat().st_size) < 0.02e6


def test_megabytes_are_those_of_the_network_wherever_it_was(tmp_path: Path) -> None:
    """What a training or a loader notes on a model would be seen in the third digit."""
    model = YOLO(untrained(tmp_path, TINY, 32)).model
    size = evaluation.stripped_size(model)
    model.args, model.pt_path = {f"argument {i}": "x" * 99 for i in range(99)}, "/home/a/folder/" * 9
    assert evaluation.stripped_size(model) == size and len(model.args) == 99


@pytest.mark.long
@pytest.mark.parametrize("given", [True, False], ids=["with data", "without data"])
def test_untrained_weights_are_called_so(
    given: bool, tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A YAML, or a checkpoint that was saved before any training; a model whose scales have moved is not meant."""
    said: list[str] = []
    monkeypatch.setattr(console, "warn", said.append)
    file = untrained(tmp_path, TINY, 32)
    told = {"flops": 0.8, "data": str(data) if given else False, "project": str(tmp_path), **FREE}
    for model in (tmp_path / "tiny.yaml", file):
        yoloprune.prune(model, **told)
        assert sum("the weights are untrained" in line for line in said) == 1
        said.clear()
    yolo = YOLO(file)
    next(m for m in yolo.model.modules() if isinstance(m, torch.nn.BatchNorm2d)).weight.data[0] = 0.9
    yoloprune.prune(yolo, **told)
    assert not [line for line in said if "untrained" in line]


def wrong(folder: Path) -> Path:
    """A head for masks in a file whose record says boxes, as `YOLO(yaml, task="detect")` leaves it."""
    yolo = build(folder / "s.yaml", {"nc": 3, "backbone": BACKBONE, "head": [HEADS["segment"]]}, "detect")
    yolo.ckpt = {"train_args": {"task": "detect", "imgsz": 32}}
    yolo.save(folder / "wrong.pt")
    return folder / "wrong.pt"


TRAIN: dict[str, Any] = {"imgsz": 32, "epochs": 1, "batch": 2, "workers": 0, "device": "cpu", "plots": False}
COMMANDS: dict[str, dict[str, Any]] = {
    "train_sparse": {**TRAIN, "flops": 0.8},
    "finetune": TRAIN,
    "val": {"imgsz": 32, "workers": 0, "device": "cpu"},
    "prune": {"imgsz": 32, "flops": 0.8},
    "sweep": {"imgsz": 32, "flops": [0.8]},
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_head_that_contradicts_the_task_is_told_first(command: str, tmp_path: Path, data: Path) -> None:
    told = {**COMMANDS[command], "data": str(data), "project": str(tmp_path / "runs")}
    run = getattr(yoloprune, command)
    with pytest.raises(ModelError, match="ends in Segment, which is made for segment, but its record says task=detect"):
        run(wrong(tmp_path), **told)
    if "workers" in told:
        with pytest.raises(ArgumentError, match="task=detect: the model ends in Segment, which is made for segment"):
            run(tmp_path / "wrong.pt", **told, task="detect")
    assert not (tmp_path / "runs").exists()


@pytest.mark.long
def test_the_task_of_the_head_is_taken_and_saved(tmp_path: Path, data: Path) -> None:
    yolo = YOLO(wrong(tmp_path))
    yolo.task = "segment"
    told = {"imgsz": 32, "data": False, "project": str(tmp_path)}
    saved = YOLO(yoloprune.prune(yolo, flops=0.8, **told).ckpt_path)
    assert saved.task == saved.model.task == saved.model.args["task"] == "segment"
    for labels in data.parent.rglob("labels/**/*.txt"):  # boxes as polygons
        boxes = [[float(n) for n in line.split()] for line in labels.read_text().splitlines()]
        corners = [(c, x - w / 2, y - h / 2, x + w / 2, y - h / 2, x + w / 2, y + h / 2) for c, x, y, w, h in boxes]
        labels.write_text("\n".join(" ".join(map(str, (int(c), *xy))) for c, *xy in corners))
    trainer = yoloprune.finetune(
        tmp_path / "wrong.pt", task="segment", data=str(data), project=str(tmp_path), name="tuned", **TRAIN
    ).trainer
    assert "seg_loss" in trainer.loss_names and YOLO(trainer.last).task == "segment"


def test_every_stock_head_has_a_task() -> None:
    """A new one is found here, and no other task is written into its models."""
    heads = {n for n, k in vars(head).items() if isinstance(k, type) and k.__module__ == head.__name__}
    parts = {"Proto", "LRPCHead", "SwiGLUFFN", "Residual"}
    named = {n for n in heads - parts if issubclass(getattr(head, n), torch.nn.Module)}
    assert named <= set(head_task.HEADS)
    for name in named:
        yolo = SimpleNamespace(task="else", model=SimpleNamespace(model=[object.__new__(getattr(head, name))]))
        meant = guess_model_task({"head": [[0, 0, name, 0]]}) or "detect"  # it does not know that of RT-DETR
        with pytest.raises(ModelError, match=f"{name}, which is made for {meant}, but its record says task=else"):
            head_task.settle(yolo, {})
