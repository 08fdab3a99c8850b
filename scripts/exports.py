"""Export a pruned model and its parent, run every exported file, and compare it with torch; one table last.

    python scripts/exports.py pruned.pt --parent best.pt --data bccd/data.yaml --imgsz 320 --image bccd/images/val/x.jpg

Formats whose package is missing are named and left out. With --data: mAP of the ONNX and OpenVINO files, and of an
int8 OpenVINO export calibrated on that data. ms: median over runs in which parent and pruned take turns.
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from ultralytics import YOLO
from ultralytics.data.augment import LetterBox
from ultralytics.engine.exporter import export_formats
from ultralytics.nn.autobackend import AutoBackend
from ultralytics.utils.nms import non_max_suppression

from yoloprune.backend import evaluation, model_facts
from yoloprune.reporting.text_table import table

PACKAGES = {
    "torchscript": (),
    "onnx": ("onnx", "onnxruntime"),
    "openvino": ("openvino",),
    "ncnn": ("ncnn", "pnnx"),
}
CONF = 0.05  # low enough that a model cut without any training still finds something
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "nms=True": {"nms": True, "conf": CONF},
    "dynamic=True": {"dynamic": True},
    "nms=False": {"nms": False},  # the one-to-one head of YOLO26 and YOLOv10 without NMS
}
TOLERANCE = 1e-3


def offered(model: nn.Module) -> Iterator[tuple[str, str]]:
    """Formats and settings that Ultralytics offers for a model and whose packages are here."""
    formats = export_formats()
    allowed = dict(zip(formats["Argument"], formats["Arguments"], strict=True))
    for name, packages in PACKAGES.items():
        if missing := [p for p in packages if importlib.util.find_spec(p) is None]:
            print(f"{name}: left out, {' and '.join(missing)} not installed")
            continue
        for setting, arguments in SETTINGS.items():
            if setting == "nms=False" and getattr(model_facts.network(model).model[-1], "one2one_cv2", None) is None:
                continue
            if set(arguments) - {"conf"} <= set(allowed[name]):
                yield name, setting


def export(file: Path, folder: Path, form: str, imgsz: int, **arguments: Any) -> Path:
    """Export a copy of a checkpoint into a folder of its own and return the exported file or folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    copy = shutil.copy(file, folder / "model.pt")
    return Path(YOLO(copy).export(format=form, imgsz=imgsz, **arguments))


def picture(file: Path, height: int, width: int, channels: int) -> Tensor:
    """A real image as the network gets it, shape (1, C, height, width)."""
    image = np.asarray(LetterBox((height, width), auto=False)(image=cv2.imread(str(file))))[..., ::-1]
    tensor = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float()[None] / 255
    return tensor if channels == 3 else tensor[:, torch.arange(channels) % 3]


def expected(model: nn.Module, image: Tensor, setting: str) -> list[Tensor]:
    """Outputs of the checkpoint in torch, unfused and in float32; with NMS by Ultralytics' own function."""
    whole: Any = deepcopy(model).float().eval()
    if hasattr(whole, "end2end"):
        whole.end2end = setting == "nms=False"
    with torch.no_grad():
        outputs = whole(image)
    if setting == "nms=True":
        found: list[Tensor] = non_max_suppression(outputs, CONF, 0.7, nc=len(whole.names), max_det=300)
        return found[:1]
    first = outputs[0]
    return [t for t in tree_leaves(first) if isinstance(t, Tensor)]


def error(got: list[Tensor], wanted: list[Tensor], setting: str) -> float:
    """Largest difference relative to the largest expected value; boxes and scores each by their own scale.

    Raises:
        ValueError: If the outputs have other shapes, or nothing was found that could be compared.
    """
    got = got[: len(wanted)]
    if setting.startswith("nms"):  # rows of box, score and class; beyond the findings they are padding or noise
        got, wanted = ([_findings(t.flatten(0, -2)) for t in side] for side in (got, wanted))
    shapes = [[tuple(t.shape) for t in side] for side in (got, wanted)]
    if shapes[0] != shapes[1] or not all(t.numel() for t in wanted):
        raise ValueError(f"shapes {shapes[0]}, expected {shapes[1]}")
    worst = 0.0
    for a, b in zip(got, wanted, strict=True):
        for p, q in zip(
            a.tensor_split([4], 1), b.tensor_split([4], 1), strict=True
        ):  # channels, or columns of findings
            if q.numel():
                worst = max(worst, float((p - q).abs().max() / q.abs().max()))
    return worst


def _findings(rows: Tensor) -> Tensor:
    """Rows above the confidence threshold, best first."""
    rows = rows[rows[:, 4] > CONF][:, :6]
    return rows[rows[:, 4].argsort(descending=True)]


def runner(file: Path, *, float32: bool = False) -> Callable[[Tensor], list[Tensor]]:
    """The exported file as a function, through the backend that `yolo predict` uses.

    OpenVINO computes in bfloat16 where the processor has it, whatever the file holds; `float32` forbids that.
    """
    if float32 and file.name.endswith("_openvino_model"):
        import openvino

        compiled = openvino.Core().compile_model(
            next(file.glob("*.xml")), "CPU", {"INFERENCE_PRECISION_HINT": openvino.Type.f32}
        )
        return lambda image: [torch.from_numpy(t) for t in compiled(image.numpy()).values()]
    backend = AutoBackend(str(file), device=torch.device("cpu"), verbose=False)

    def run(image: Tensor) -> list[Tensor]:
        with torch.no_grad():
            return [torch.as_tensor(t) for t in tree_leaves(backend(image)) if not isinstance(t, str)]

    return run


def megabytes(path: Path) -> float:
    """Size of a file, or of all weights in a folder."""
    files = [path] if path.is_file() else [f for f in path.rglob("*") if f.is_file()]
    return sum(f.stat().st_size for f in files) / 1e6


def times(runs: list[Callable[[Tensor], Any]], image: Tensor, seconds: float) -> list[float]:
    """Median milliseconds of each, taking turns."""
    for run in runs:
        run(image), run(image)
    taken: list[list[float]] = [[] for _ in runs]
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for run, record in zip(runs, taken, strict=True):
            start = time.perf_counter()
            run(image)
            record.append((time.perf_counter() - start) * 1e3)
    return [median(t) for t in taken]


def compare(files: dict[str, Path], arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """One row per format and setting: error, size and time of every model."""
    models = {name: YOLO(str(file)).model.float().eval() for name, file in files.items()}
    size, channels = arguments.imgsz, model_facts.channels(next(iter(models.values())))
    shapes = {"dynamic=True": [(size, size), (size * 3 // 4 // 32 * 32, size)]}
    rows = []
    for form, setting in offered(next(iter(models.values()))):
        row: dict[str, Any] = {"format": form, "settings": setting}
        runs = []
        for name, file in files.items():
            folder = arguments.out / name / f"{form}-{setting}"
            try:
                exported = export(file, folder, form, size, **SETTINGS[setting])
                exact = runner(exported, float32=True)
                errors = []
                for height, width in shapes.get(setting, [(size, size)]):
                    image = picture(arguments.image, height, width, channels)
                    errors.append(error(exact(image), expected(models[name], image, setting), setting))
                row[f"error, {name}"], row[f"MB, {name}"] = f"{max(errors):.1e}", megabytes(exported)
                runs.append(runner(exported))
            except Exception as e:  # the table tells what went wrong, and the others go on
                row[f"error, {name}"] = f"{type(e).__name__}: {' '.join(str(e).split())[:80]}"
        if arguments.seconds and len(runs) == len(files):
            image = picture(arguments.image, size, size, channels)
            for name, ms in zip(files, times(runs, image, arguments.seconds), strict=True):
                row[f"ms, {name}"] = ms
        rows.append(row)
        print(row, flush=True)
    return rows


def accuracy(files: dict[str, Path], arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """One row per kind of file: mAP of every model on square images, as static exports see them."""
    common = {"data": arguments.data, "imgsz": arguments.imgsz, "batch": 1, "rect": False, "plots": False}
    rows = []
    for kind in ("torch", "onnx", "openvino", "openvino int8"):
        form = kind.split()[0]
        if form != "torch" and any(importlib.util.find_spec(p) is None for p in PACKAGES[form]):
            continue
        if kind.endswith("int8") and importlib.util.find_spec("nncf") is None:
            print(f"{kind}: left out, nncf not installed")
            continue
        row: dict[str, Any] = {"file": kind}
        for name, file in files.items():
            if kind.endswith("int8"):
                file = export(
                    file, arguments.out / name / "int8", form, arguments.imgsz, quantize=8, data=arguments.data
                )
            elif form != "torch":
                file = next((arguments.out / name / f"{form}-plain").glob(f"model*{form}*"))
            yolo = YOLO(str(file))
            yolo.val(**common, project=str(arguments.out / "val"), name="run", verbose=False)
            row |= {f"{k}, {name}": v for k, v in evaluation.metrics(yolo).items()}
            row[f"MB, {name}"] = megabytes(file)
        rows.append(row)
        print(row, flush=True)
    return rows


def main() -> None:
    """Compare, and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pruned", type=Path)
    parser.add_argument("--parent", type=Path, help="side by side with the pruned model")
    parser.add_argument("--image", type=Path, required=True)
    parser.add_argument("--data", help="data set for mAP and for the calibration of int8")
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--seconds", type=float, default=4.0, help="how long to time each format, 0 for not at all")
    parser.add_argument("--out", type=Path, default=Path("runs/exports"))
    arguments = parser.parse_args()
    arguments.out = arguments.out.resolve()
    files = {"parent": arguments.parent} if arguments.parent else {}
    files["pruned"] = arguments.pruned
    rows = compare(files, arguments)
    scores = accuracy(files, arguments) if arguments.data else []
    print(f"\n{table(rows)}\n")
    if scores:
        print(f"{table(scores)}\n")
    good = [r for r in rows if r["error, pruned"][0].isdigit() and float(r["error, pruned"]) <= TOLERANCE]
    print(f"{len(good)} of {len(rows)} exports of the pruned model equal torch within {TOLERANCE:.0e}")


if __name__ == "__main__":
    main()
