"""A report that has every section, with names that try to be markup."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from PIL import Image

from yoloprune.reporting.facts import ClassFigures, ExampleImage, Importance, Outline, Report
from yoloprune.reporting.text_table import Row

NASTY = """<script>alert("x")</script> & 'friends' 日本"""


def box(name: str, score: float | None, matched: bool = True) -> Outline:
    return {
        "name": name,
        "colour": "#042aff" if name == NASTY else "#0bdbeb",
        "score": score,
        "points": [(0.1, 0.1), (0.5, 0.1), (0.5, 0.6), (0.1, 0.6)],
        "matched": matched,
    }


def image() -> ExampleImage:
    Image.new("RGB", (64, 48), "grey").save(kept := BytesIO(), "jpeg")
    found = [box(NASTY, 0.9), box("cat", 0.3, matched=False)]
    return ExampleImage(f"{NASTY}.jpg", (64, 48), kept.getvalue(), 0.5, [box(NASTY, None)], found, found[:1])


def layers(n: int) -> list[Row]:
    return [
        {
            "layer": f"model.{i // 3}.cv{i % 3}",
            "width": 64,
            "kept": 64 - i % 32,
            "state": "frozen: Detect head" if i > n - 5 else "prunable",
            "coupled with": [f"model.{i // 3}.cv0"] if i % 3 else [],
            "parts": None,
            "MFLOPs": 10.0 * i,
            "MFLOPs kept": 5.0 * i,
            "ms": 0.1 * i,
            "ms kept": 0.12 * i,
        }
        for i in range(n)
    ]


def full(n_layers: int = 64, n_classes: int = 5) -> Report:
    """Every section filled."""
    rows = [
        {"model": "parent", "mAP50": 0.9, "mAP50-95": 0.6, "params": 3_000_000, "GFLOPs": 8.1, "MB": 6.2, "ms": 20.0},
        {"model": "pruned", "mAP50": 0.88, "mAP50-95": 0.58, "params": 900_000, "GFLOPs": 4.0, "MB": 1.9, "ms": 14.0},
    ]
    names = [NASTY, *(f"class {i}" for i in range(1, n_classes))]
    classes = [ClassFigures(n, 10 * i, {"parent": 0.6, "pruned": 0.6 - 0.01 * i}) for i, n in enumerate(names)]
    scores = np.logspace(-6, 0, 200)
    gamma = [
        {"epoch": e, "dead": e / 9, "flops": 1 - e / 18, "params": 1 - e / 12}
        | {f"gamma_q{q}": q / 100 for q in (0, 10, 25, 40, 50, 60, 75, 90, 95, 100)}
        for e in range(1, 9)
    ]
    return Report(
        "prune",
        rows,
        {"kept": {"flops": 0.5}, "rounds": [{"round": 1, "folder": NASTY}, {"round": 2, "held": True}]},
        f"Half of the FLOPs of {NASTY}.",
        classes,
        [image()] * 2,
        layers(n_layers),
        Importance.of(scores, scores > 1e-3, "Importance by score=taylor"),
        gamma,
        [{"model": NASTY, "quality": 0.6, "GFLOPs": 8.1, "ms": 20.0}, {"model": "b", "quality": 0.5, "GFLOPs": 4.0}],
        "mAP50-95",
        ["Detect head: model.22.* (19 layers)", NASTY],
        [f"yoloprune prune model={NASTY}"],
        {"yoloprune": "0.1.0"},
        [{"layer": NASTY, "weights": 432, "zeros": 216, "share": 0.5}],
        [f"mAP50-95 -2.00 points on {NASTY}"],
        {NASTY: f"{NASTY}/report.html"},
    )
