"""From which score on what a model finds is right: beside true labels, by the least score.

    python scripts/label_scores.py --model best.pt --data bccd/data.yaml --split val --imgsz 320

Each box of the model is matched with one true box of its class at most, the pairs that overlap most first. Printed are
precision and recall at an IoU of 0.5, and their harmonic mean at 0.5 and 0.75.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
import ultralytics
from ultralytics.data.utils import check_det_dataset, img2label_paths
from ultralytics.utils.metrics import box_iou

SCORES = (0.1, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6, 0.7)
OVERLAPS = (0.5, 0.75)


def true_boxes(image: str, shape: tuple[int, int]) -> tuple[np.ndarray, torch.Tensor]:
    """Classes, shape (n,), and corners in pixels, shape (n, 4), from the label file of an image."""
    file = Path(img2label_paths([image])[0])
    lines = [line.split()[:5] for line in file.read_text(encoding="utf-8").splitlines()] if file.is_file() else []
    told = np.array(lines, float).reshape(-1, 5)
    height, width = shape
    centre, size = (torch.tensor(told[:, i : i + 2]) * torch.tensor([width, height]) for i in (1, 3))
    return told[:, 0], torch.cat([centre - size / 2, centre + size / 2], 1)


def pairs(overlap: np.ndarray, least: float) -> int:
    """How many found boxes have a true one of their own, shape (found, true)."""
    overlap, count = overlap.copy(), 0
    while overlap.size and overlap.max() >= least:
        found, true = np.unravel_index(overlap.argmax(), overlap.shape)
        overlap[found], overlap[:, true] = 0, 0
        count += 1
    return count


def main() -> None:
    """Print one row per least score, at two overlaps from which on boxes of one class are one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--split", default="val")
    parser.add_argument("--imgsz", type=int, default=640)
    told = parser.parse_args()
    files = sorted(str(f) for f in Path(check_det_dataset(told.data)[told.split]).iterdir())
    print("nms   score  precision  recall  F1 at 0.5  F1 at 0.75")
    for nms in (0.7, 0.5):
        right, found, true = np.zeros((len(OVERLAPS), len(SCORES))), np.zeros(len(SCORES)), 0
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as listed:
            listed.write("\n".join(files))
            listed.flush()
            look = {"imgsz": told.imgsz, "conf": min(SCORES), "iou": nms, "verbose": False, "stream": True}
            for result in ultralytics.YOLO(told.model).predict(listed.name, **look):
                classes, boxes = true_boxes(result.path, result.orig_shape)
                true += len(classes)
                same = result.boxes.cls.cpu().numpy()[:, None] == classes
                overlap = box_iou(result.boxes.xyxy.cpu().double(), boxes).numpy() * same
                for i, score in enumerate(SCORES):
                    sure = result.boxes.conf.cpu().numpy() >= score
                    found[i] += sure.sum()
                    right[:, i] += [pairs(overlap[sure], least) for least in OVERLAPS]
        for i, score in enumerate(SCORES):
            f1 = 2 * right[:, i] / (found[i] + true)
            shares = (right[0, i] / max(found[i], 1), right[0, i] / max(true, 1))
            print(f"{nms:3}  {score:6.2f}  {shares[0]:9.3f}  {shares[1]:6.3f}  {f1[0]:9.3f}  {f1[1]:10.3f}")


if __name__ == "__main__":
    main()
