"""`slim` on a data set drawn by code, with the training of a model before it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ultralytics import YOLO

from yoloprune.backend import compat, console, evaluation, host_arguments, run_folders
from yoloprune.checkpoint import rebuild, saving
from yoloprune.commands import interruptions, slim, slim_reach
from yoloprune.commands.demo_images import NAMES, make_shapes
from yoloprune.runtimes.deployment import Deployment
from yoloprune.settings import checking, command_line
from yoloprune.settings.requests import DemoRequest
from yoloprune.settings.slim_request import SlimRequest
from yoloprune.settings.value_kinds import write_amount

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
EPOCHS = {"parent": 9, "slim": 15}
MEASURED = "31 minutes on one thread of 2 busy CPU cores"
"""What all epochs took, as README and the guide say as well; see docs/research/results.md."""


def run(request: DemoRequest) -> list[dict[str, Any]]:
    """Run the demo: a YOLOv8n from scratch on coloured shapes, then `slim` to a share of its FLOPs.

    Args:
        request (DemoRequest): FLOPs that are kept; where the run goes, the seed of the images and of all trainings,
            and Ultralytics' `device`, None picks by itself.

    Returns:
        (list[dict[str, Any]]): Parent, pruned and fine-tuned: mAP50, mAP50-95, params, GFLOPs, ms, MB.
    """
    compat.require("demo")
    host_arguments.require(request.host)
    host_arguments.require_openable(request.host)
    start = time.time()
    epochs = {name: int(request.passed.get("epochs") or most) for name, most in EPOCHS.items()}
    parent = YOLO("yolov8n.yaml")
    _require(parent, request, epochs["slim"])
    folder = run_folders.new_run("detect", "demo", request.host).folder.resolve()
    seed, device = request.passed.get("seed") or 0, request.passed.get("device")
    console.log("demo: ", told_before(epochs, request.flops, folder))
    data = make_shapes(folder / "data", **DATA, seed=seed)
    common = {**TRAIN, "data": str(data), "seed": seed, "device": device, "project": str(folder)}

    with interruptions.telling(lambda: f"{folder} is not finished and may go; the same command begins anew"):
        parent.train(**common, epochs=epochs["parent"], name="parent")
    model = Path(parent.trainer.last)
    words = f"model={model} data={data} flops={write_amount(request.flops)} epochs={epochs['slim']}"
    console.log("demo: ", f"from a trained model on: yoloprune slim {words}, and how these drawn images are trained on")
    told = {**common, "model": model, "epochs": epochs["slim"], "flops": request.flops, "name": "slim"}
    del told["verbose"]  # what comes now is to be seen
    request_of_slim = checking.build(SlimRequest, {**told, "format": request.passed.get("format")})
    with interruptions.telling(lambda: f"go on with: {command_line.written(request_of_slim)}"):
        found = slim.run(request_of_slim)
    minutes = (time.time() - start) / 60
    console.log("demo: ", f"{minutes:.1f} minutes; everything is in {folder}")
    return found.rows


def _require(parent: YOLO, request: DemoRequest, epochs: int) -> None:
    """Raise before any training what `slim` would raise after that of the model.

    Raises:
        ArgumentError: If what `format=` needs is not there, or epochs are too few.
        BudgetError: If the budget is out of reach.
    """
    told = {"model": "yolov8n.yaml", "data": "shapes.yaml", "epochs": epochs, "flops": request.flops}
    asked = checking.build(SlimRequest, {**told, "format": request.passed.get("format")})
    Deployment.asked(asked.shipped | {"data": "shapes.yaml"}, evaluation.device(request.passed.get("device")), None)
    network = saving.with_model(parent, rebuild.network(parent, len(NAMES)))
    slim_reach.require(network, asked, None, DATA["imgsz"], rebuilt=False)


def told_before(epochs: Mapping[str, int], flops: float, folder: Path) -> str:
    """What will be done, in which steps, and how long that took.

    Args:
        epochs (Mapping[str, int]): Of the two trainings.
        flops (float): Share that is kept, or how many are.
        folder (Path): Of the run.
    """
    images = DATA["train"] + DATA["val"]
    kept = f"{flops:.0%} of its FLOPs" if flops < 1 else f"{write_amount(flops)} FLOPs"
    trained, tuned = (f"{n} epoch{'' if n == 1 else 's'}" for n in (epochs["parent"], epochs["slim"]))
    return (
        f"3 steps: draw {images} images; train a YOLOv8n on them, {trained}; slim it to {kept}: "
        f"validate, prune, fine-tune {tuned}, compare\n"
        f"no download, no GPU needed; {sum(EPOCHS.values())} epochs in all took {MEASURED}; {folder}"
    )
