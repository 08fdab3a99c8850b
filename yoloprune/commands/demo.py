"""The whole line on a data set drawn by code: train, train sparse, prune, fine-tune, compare."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from ultralytics import YOLO

from yoloprune.backend import compat, console, run_folders
from yoloprune.commands import finetune, prune, train_sparse, validate
from yoloprune.commands.demo_images import make_shapes

DATA = {"train": 320, "val": 80, "imgsz": 128}
TRAIN: dict[str, Any] = {
    "imgsz": 128,
    "batch": 8,
    "nbs": 8,  # one optimizer step per batch: steps count, not epochs
    "optimizer": "AdamW",
    "lr0": 3e-3,
    "warmup_epochs": 1,
    "warmup_bias_lr": 0.0,
    "mosaic": 0.0,  # the images are drawn varied enough; a short run learns faster without
    "scale": 0.0,
    "translate": 0.0,
    "hsv_h": 0.0,
    "hsv_s": 0.0,
    "hsv_v": 0.0,
    "amp": False,
    "val": False,  # the table at the end tells; the last epoch is validated anyway
    "cache": "ram",
    "workers": 0,
    "plots": False,
    "verbose": False,
}
PARENT_EPOCHS, SPARSE_EPOCHS, FINETUNE_EPOCHS = 9, 10, 6


def run(
    *,
    flops: float = 0.5,
    project: str | None = None,
    name: str | None = None,
    exist_ok: bool = False,
    seed: int = 0,
    device: str | None = None,
) -> list[dict[str, Any]]:
    """Run the demo: a YOLOv8n from scratch on coloured shapes, pruned to a share of its FLOPs.

    Args:
        flops (float): FLOPs that are kept, as a fraction or an absolute number.
        project (str | None): Folder that the run's folder goes into.
        name (str | None): Name of the run's folder.
        exist_ok (bool): Write into an existing folder.
        seed (int): Seed of the images and of all trainings.
        device (str | None): Ultralytics' `device`, None picks by itself.

    Returns:
        (list[dict[str, Any]]): Parent, pruned and fine-tuned: mAP50, mAP50-95, params, GFLOPs, ms, MB.
    """
    compat.require("demo")
    start = time.time()
    folder = run_folders.run_folder(
        "detect", "demo", {"project": project, "name": name, "exist_ok": exist_ok}
    ).resolve()
    data = make_shapes(folder / "data", **DATA, seed=seed)
    common = {**TRAIN, "data": str(data), "seed": seed, "device": device, "exist_ok": True}
    common["project"] = str(folder)

    parent = YOLO("yolov8n.yaml")
    parent.train(**common, epochs=PARENT_EPOCHS, name="parent")
    parent_file = Path(parent.trainer.last)
    sparse = train_sparse.run(parent_file, **common, epochs=SPARSE_EPOCHS, flops=flops, name="sparse")
    prune.run(sparse.trainer.last, imgsz=DATA["imgsz"], project=str(folder), name="pruned", exist_ok=True)
    pruned_file = folder / "pruned" / "weights" / "pruned.pt"
    tuned = finetune.run(pruned_file, **common, epochs=FINETUNE_EPOCHS, name="finetuned")

    rows = validate.compare(
        {"parent": parent_file, "pruned": pruned_file, "fine-tuned": Path(tuned.trainer.last)},
        command="demo",
        data=str(data),
        imgsz=DATA["imgsz"],
        device=device,
        project=str(folder),
        name="table",
        exist_ok=True,
    )
    minutes = (time.time() - start) / 60
    console.log("demo: ", f"{minutes:.1f} minutes; everything is in {folder}")
    return rows
