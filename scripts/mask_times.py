"""Time masked models in OpenVINO beside the dense one, with and without its sparse weights decompression.

    python scripts/mask_times.py --model best.pt --imgsz 320 --rounds 40

One thread; networks take turns, so that what else the machine does hits all of them alike; the median of the rounds and
the middle half of them are printed. A round of a network is the shortest of five images.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from openvino import properties
from ultralytics import YOLO

import yoloprune
from yoloprune.reporting.text_table import table

MASKS: dict[str, dict[str, Any]] = {
    "dense": {},
    "sparsity 0.7": {"sparsity": 0.7},
    "sparsity 0.9": {"sparsity": 0.9},
    "2:4": {"pattern": "2:4"},
    "filter 0.5": {"pattern": "filter", "sparsity": 0.5},
}
SPARSE = 0.5
"""Share of zeros from which OpenVINO is to decompress, where it is asked to."""


def exported(name: str, model: str, imgsz: int, folder: Path) -> Path:
    """The XML of a masked model."""
    file = folder / f"{name.replace(' ', '-').replace(':', '-')}.pt"
    if MASKS[name]:
        told = {"score": "magnitude", "recover": "none", "data": False, "imgsz": imgsz, **MASKS[name]}
        masked = yoloprune.mask(model, project=str(folder), name=file.stem, **told)
        file.write_bytes(Path(str(masked.ckpt_path)).read_bytes())
    else:
        file.write_bytes(Path(model).read_bytes())
    return next(Path(YOLO(str(file)).export(format="openvino", imgsz=imgsz, verbose=False)).glob("*.xml"))


def main() -> None:
    """Export all, compile them with and without the property, and time them by turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--rounds", type=int, default=40)
    arguments = parser.parse_args()
    core, compiled = openvino.Core(), dict[str, Any]()
    with tempfile.TemporaryDirectory() as folder:
        for name in MASKS:
            network = core.read_model(exported(name, arguments.model, arguments.imgsz, Path(folder)))
            for rate in (1.0, SPARSE):
                told = {
                    properties.inference_num_threads: 1,
                    properties.intel_cpu.sparse_weights_decompression_rate: rate,
                }
                compiled[f"{name}{'' if rate == 1 else ', decompressed'}"] = core.compile_model(network, "CPU", told)
        image = np.random.default_rng(0).random((1, 3, arguments.imgsz, arguments.imgsz), dtype=np.float32)
        requests = {name: found.create_infer_request() for name, found in compiled.items()}
        times: dict[str, list[float]] = {name: [] for name in requests}
        for _ in range(arguments.rounds):
            for name, request in requests.items():
                request.infer([image])
                found = []
                for _ in range(5):
                    start = time.perf_counter()
                    request.infer([image])
                    found.append(1000 * (time.perf_counter() - start))
                times[name].append(min(found))
    rows = []
    for name, found in times.items():
        low, middle, high = np.percentile(found, (25, 50, 75))
        rows.append({"network": name, "ms": f"{middle:.2f}", "middle half": f"{low:.2f} to {high:.2f}"})
    print(f"OpenVINO {openvino.__version__}, one thread, {arguments.imgsz} pixels, {arguments.rounds} rounds")
    print(table(rows))


if __name__ == "__main__":
    main()
