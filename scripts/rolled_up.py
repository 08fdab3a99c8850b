"""Could rows that an earlier cut made of a block be one row again after the next cut? Count the blocks.

    python scripts/rolled_up.py yolov8n-coco.pt yolo11n-coco.pt

Each model is cut three times to 80 % of the FLOPs that it has, by the size of filters and by random scores. Rows of a
block could be its own row again where both halves of its chunk are equally wide, and every bottleneck is as wide
inside as the block's constructor makes it.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ultralytics

import yoloprune
from yoloprune.reporting.text_table import table

INSIDE = {"C2f": 1.0, "C3k2": 0.5}
"""Width inside of a bottleneck as a share of the stream that runs past it, by the block that it was in."""


def blocks(config: dict[str, Any]) -> Iterator[tuple[list[int], list[tuple[int, float]]]]:
    """Widths of the halves of each block that stands in several rows; of its bottlenecks width and share inside."""
    rows = [*config["backbone"], *config["head"]]
    names = [row[2] for row in rows]
    for first, name in enumerate(names):
        if name == "Bottleneck" and names[first - 1] != "Bottleneck":
            count = next(i for i, other in enumerate([*names[first:], ""]) if other != "Bottleneck")
            halves = [row[3][0] for row in rows[first - 2 : first]]
            yield halves, [(row[3][0], round(row[3][-1], 3)) for row in rows[first : first + count]]


def main() -> None:
    """Cut and count; prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--share", type=float, default=0.8, help="of the FLOPs, each time")
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--imgsz", type=int, default=320)
    arguments = parser.parse_args()
    found = []
    for model in arguments.models:
        own = {str(row[2]) for row in ultralytics.YOLO(model).model.yaml["backbone"]}
        inside = next(share for name, share in INSIDE.items() if name in own)
        for score in ("l2", "random"):
            with tempfile.TemporaryDirectory() as folder:
                source: Any = model
                for time in range(1, arguments.times + 1):
                    told: dict[str, Any] = {"score": score, "imgsz": arguments.imgsz, "project": folder}
                    yolo = yoloprune.prune(source, flops=arguments.share, recover="none", data=False, **told)
                    source = yolo.ckpt_path
                    several = list(blocks(yolo.model.yaml))
                    again = [
                        all(of == (halves[0], inside) for of in inner) and halves[0] == halves[1]
                        for halves, inner in several
                    ]
                    cut = {"model": Path(model).stem, "score": score, "cut": time}
                    found.append({**cut, "in several rows": len(several), "could be one": sum(again)})
    print(table(found))


if __name__ == "__main__":
    main()
