"""Model YAMLs that nobody has seen: stock blocks wired at random, every check of scripts/models.py on each.

Every run tries twelve of them, in which every kind of block comes up; `SEEDS=30 bash scripts/test.sh` tries more.
"""

from __future__ import annotations

import importlib.util
import os
import random
from pathlib import Path
from typing import Any

import pytest
import yaml

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "models.py"
spec = importlib.util.spec_from_file_location("models_script", SCRIPT)
models = importlib.util.module_from_spec(spec)
spec.loader.exec_module(models)

SEEDS = range(int(os.environ.get("SEEDS", "12")))
Layer = list[Any]


def width(rng: random.Random, low: int = 16, high: int = 96) -> int:
    return rng.randrange(low, high, 8)


def down(rng: random.Random, c: int) -> Layer:
    """A layer that halves the image."""
    return rng.choice(
        [
            [-1, 1, "Conv", [c, 3, 2]],
            [-1, 1, "Conv", [c, 3, 2]],
            [-1, 1, "ADown", [c]],
            [-1, 1, "AConv", [c]],
            [-1, 1, "SCDown", [c, 3, 2]],
            [-1, 1, "GhostConv", [c, 3, 2]],
        ]
    )


def block(rng: random.Random, c: int, deep: bool) -> Layer:
    """A block that keeps the image size. Expansions such as 0.3 give odd hidden widths."""
    n, e, shortcut = rng.choice([1, 2, 3]), rng.choice([0.25, 0.3, 0.45, 0.5, 0.75]), rng.random() < 0.6
    choices: list[Layer] = [
        [-1, n, "C2f", [c, shortcut, 1, e]],
        [-1, n, "C3", [c, shortcut, 1, e]],
        [-1, n, "C3k2", [c, False, e, shortcut]],
        [-1, n, "C3k2", [c, True, rng.choice([0.25, 0.5])]],
        [-1, n, "C2fCIB", [c, shortcut, rng.random() < 0.5]],
        [-1, n, "C3Ghost", [c, shortcut]],
        [-1, n, "C3x", [c, shortcut]],
        [-1, 1, "RepNCSPELAN4", [c, 2 * (c // 2), c // 2, rng.choice([1, 2])]],
        [-1, 1, "ELAN1", [c, 2 * (c // 2), c // 2]],
        [-1, n, "BottleneckCSP", [c, shortcut]],
        [-1, n, "C2", [c, shortcut]],
        [-1, n, "C1", [c]],
        [-1, 1, "Bottleneck", [c, shortcut]],
        [-1, n, "RepC3", [c]],
        [-1, 1, "DWConv", [c, 3]],
    ]
    if deep:
        choices += [
            [-1, 1, "SPPF", [c, 5]],
            [-1, 1, "SPP", [c, [5, 9]]],
            [-1, 1, "SPPELAN", [c, c // 2]],
            [-1, n, "A2C2f", [64, rng.random() < 0.5, 1]],
        ]
    return rng.choice(choices)


def attention(rng: random.Random) -> list[Layer]:
    """Attention blocks need as many channels out as in, and 64 per head in their half."""
    c = rng.choice([128, 256])
    return [[-1, 1, "Conv", [c, 1, 1]], [-1, rng.choice([1, 2]), rng.choice(["C2PSA", "PSA", "C2fPSA"]), [c]]]


def draw(seed: int) -> dict[str, Any]:
    """A random detection model: four halvings and more, a top-down neck with random skips, and a Detect head."""
    rng = random.Random(seed)
    backbone: list[Layer] = [[-1, 1, "Conv", [width(rng, 8, 40), 3, 2]]]
    ends: list[int] = []
    for stage in range(4):
        backbone.append(down(rng, width(rng)))
        for _ in range(rng.choice([1, 2])):
            backbone.append(block(rng, width(rng), deep=stage == 3))
        if stage == 2 and rng.random() < 0.3:
            backbone += [[-1, 1, "Conv", [48, 1, 1]], [-1, 2, "GhostBottleneck", [48, 3, 1]]]
        if stage == 3 and rng.random() < 0.6:
            backbone += attention(rng)
        ends.append(len(backbone) - 1)
    p3, p4, p5 = ends[1:]
    head: list[Layer] = []

    def last() -> int:
        return len(backbone) + len(head) - 1

    head += [[-1, 1, "nn.Upsample", [None, 2, "nearest"]], [[-1, p4], 1, "Concat", [1]]]
    head.append(block(rng, width(rng), deep=False))
    n4 = last()
    head += [[-1, 1, "nn.Upsample", [None, 2, "nearest"]], [[-1, p3], 1, "Concat", [1]]]
    head.append(block(rng, width(rng), deep=False))
    out3 = last()
    head.append([-1, 1, "Conv", [width(rng), 3, 2]])
    again = [[-1, n4], [-1, n4, p4], [-1, n4, n4]]  # some concatenations take one layer twice
    head.append([rng.choice(again), 1, "Concat", [1]])
    head.append(block(rng, width(rng), deep=False))
    out4 = last()
    head.append([-1, 1, "Conv", [width(rng), 3, 2]])
    head.append([[-1, p5], 1, "Concat", [1]])
    head.append(block(rng, width(rng), deep=False))
    head.append([[out3, out4, last()], 1, rng.choice(["Detect", "Detect", "v10Detect"]), ["nc"]])
    return {
        "nc": rng.choice([1, 3, 80]),
        "depth_multiple": 1.0,
        "width_multiple": 1.0,
        "backbone": backbone,
        "head": head,
    }


@pytest.mark.long
@pytest.mark.parametrize("seed", SEEDS)
def test_random_model(seed: int, tmp_path: Path) -> None:
    file = tmp_path / f"random{seed}.yaml"
    file.write_text(yaml.safe_dump(draw(seed), default_flow_style=None))
    result = models.examine(str(file))
    assert result["saved"] == "yes"
    assert result["error"] <= 1e-4
    # DWConv between different widths is a grouped convolution, which the trace leaves alone; nothing else is.
    assert result["prunable"] > 0.7, result["frozen outside the head"]
    reasons = [r.split(" ", 1)[1] for r in result["frozen outside the head"].split("; ")]
    assert all("grouped" in r or r == "fixed input" for r in reasons), reasons


def test_the_seeds_of_every_run_have_all_kinds_of_blocks() -> None:
    """No kind comes up in the first thirty models only."""
    few, many = (
        {layer[2] for seed in range(n) for part in ("backbone", "head") for layer in draw(seed)[part]} for n in (12, 30)
    )
    assert few == many and len(many) > 30
