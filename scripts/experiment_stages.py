"""The stages of scripts/experiment.py: what each does, and the figures of what comes out."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from arm_stages import Stage


def run_stage(stage: Stage, source: Path, folder: Path, common: dict[str, Any], calibrate: dict[str, Any]) -> Path:
    """Run one stage; returns its checkpoint."""
    from ultralytics import YOLO

    import yoloprune
    from yoloprune.settings.commands import COMMANDS

    common = dict(common)
    place = {"project": str(folder.parent), "name": folder.name, "exist_ok": True}
    own, target = dict(stage.arguments), folder / "weights" / "pruned.pt"
    if own.pop("images", False):  # the training images without their labels
        own["images"] = training_images(common.pop("data"))
    if stage.verb == "prune":
        own["data"] = common["data"] if own.pop("data", False) else None if "images" in own else False
        yoloprune.prune(source, **{**calibrate, **own, **place})
        return target
    if stage.verb == "mask":
        yoloprune.mask(source, data=common["data"], **{**calibrate, **own, **place})
        return folder / "weights" / "masked.pt"
    if stage.verb == "peer":
        import peers

        peers.prune(source, target, imgsz=common["imgsz"], **own)
        return target
    if stage.verb in {"finetune", "peertune", "slim"}:  # at the defaults of `yoloprune finetune`
        common = {k: v for k, v in common.items() if k not in {"optimizer", "lr0"}}
    settings = {**common, **own, **place}
    source = settings.pop("model", source)
    if stage.verb == "slim":
        yoloprune.slim(source, **settings)
    elif stage.verb == "sparse":
        yoloprune.train_sparse(source, **settings)
    elif stage.verb == "finetune":
        yoloprune.finetune(source, **settings)
    elif stage.verb == "peertune":
        import peers

        YOLO(source).train(trainer=peers.Trainer, **{**COMMANDS["finetune"].own_defaults, **settings})
    elif stage.verb == "fresh":
        YOLO(forgotten(source, folder / "weights" / "fresh.pt")).train(**settings)
    else:
        YOLO(source).train(**settings)
    return folder / "weights" / "best.pt"


def training_images(data: str) -> str:
    """The folder, or the list, of a data set's training images."""
    from ultralytics.data.utils import check_det_dataset

    return str(check_det_dataset(data)["train"])


def forgotten(source: Path, target: Path) -> Path:
    """Save the network of a checkpoint with new random weights."""
    from ultralytics import YOLO

    yolo = YOLO(source)
    for name, module in yolo.model.named_modules():
        if hasattr(module, "reset_parameters") and ".dfl" not in name:  # a fixed sum
            module.reset_parameters()
        if hasattr(module, "running_mean"):
            module.reset_running_stats()
    yolo.model.model[-1].bias_init()
    target.parent.mkdir(parents=True, exist_ok=True)
    yolo.save(target)
    return target


def measure(file: Path, arguments: argparse.Namespace, imgsz: int) -> dict[str, float]:
    """MAP on the validation and test split, size and work of a checkpoint, all at the image size of its stage."""
    from ultralytics import YOLO

    from yoloprune.backend import evaluation

    row: dict[str, float] = {}
    for split in arguments.splits:
        yolo = YOLO(file)
        evaluation.validate(
            yolo,
            {
                "data": arguments.data,
                "imgsz": imgsz,
                "split": split,
                "device": arguments.device,
                "workers": 0,
                "project": str(file.parent.parent),
                "name": split,
                "exist_ok": True,
            },
        )
        metrics = evaluation.metrics(yolo)
        row |= {f"{k} {split}": v for k, v in metrics.items() if k.startswith("mAP50")}
    return {**row, **evaluation.measure(YOLO(file).model, imgsz)}
