"""Native plans of every family: what a stock model YAML can say, and that stock Ultralytics rebuilds it exactly.

    python scripts/native.py                          # writes docs/native.md
    python scripts/native.py yolov8n.yaml --out -

For each model: seeded weights, native plan at 50 % of the FLOPs by random scores (or as far as it goes), saved, the
YAML built anew by Ultralytics and loaded with the checkpoint's weights; all tensors and outputs must be equal.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import models  # the script beside this one
import numpy as np
import torch
import ultralytics
from torch.utils._pytree import tree_leaves

from yoloprune.backend import model_facts, yolo_tracing
from yoloprune.checkpoint import saving
from yoloprune.cutting import comparison, surgery, width_attributes
from yoloprune.errors import BudgetError, PruneError
from yoloprune.importance import criteria
from yoloprune.native import stock_yaml
from yoloprune.planning import greedy_selection
from yoloprune.reporting.text_table import table
from yoloprune.settings.budget import Budget, Limits

FAMILIES = [
    *("yolov5n", "yolov6n", "yolov8n", "yolov8n-p2", "yolov8n-ghost", "yolov9t", "yolov9s", "yolov9m", "yolov9c"),
    *("yolov10n", "yolo11n", "yolo11m", "yolo12n", "yolo26n"),
    *(f"{f}n-{t}" for f in ("yolov8", "yolo11", "yolo26") for t in ("seg", "pose", "obb", "cls")),
    *("yolo26n-sem", "yolo26n-depth", "yolov8n-world", "yoloe-11n-seg", "rtdetr-l"),
]
HEAD = """# Native plans

Where it is possible, `yoloprune prune` and `train-sparse` choose only widths that a stock model YAML can say, so that
stock Ultralytics trains, resumes, tunes and distils the pruned model, nothing else installed. `native=True` insists,
`native=False` allows all widths. Written by the command below.

    python scripts/native.py

Ultralytics {version}, smallest scale unless named otherwise. Each model was pruned to *FLOPs kept* by random scores;
Ultralytics then built `pruned.yaml` and loaded `pruned.pt`: *transferred* tensors of all, outputs equal to the bit.
*free* and *native* are the shares of channel classes outside the head that may be cut at all. Stock YAMLs give an
attention one head for every 64 channels (YOLOv10, YOLO11, YOLO26) or 32 (YOLO12), so native plans remove whole heads,
where free ones make all heads narrower; *heads* is how many of how many the native plan kept.

| model | free | native | FLOPs kept | heads | error | transferred | s | what a YAML cannot say |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |
"""


def examine(name: str) -> dict[str, Any]:
    """One row; raises where a native plan is not rebuilt exactly."""
    yolo = models.build(f"{name}.yaml")
    parent = yolo.model.float().eval()
    graph, limits = yolo_tracing.trace_yolo(parent), Limits(native=True)
    body = _shares(parent, graph)
    start = time.perf_counter()
    try:
        stock = stock_yaml.Stock(parent, graph)
        restricted = stock.restrict(limits)
    except PruneError as e:
        return {"model": name, "free": body[1] / body[0], "reason": str(e)}
    seconds = time.perf_counter() - start
    alive, flops = None, 0.5
    while alive is None:
        try:
            alive = greedy_selection.select(
                restricted, criteria.score(parent, restricted, "random"), Budget(flops=flops), limits
            )
        except BudgetError:
            flops = round(flops + 0.05, 2)
    plan = restricted.plan(alive)
    child = saving.with_model(yolo, surgery.cut(copy.deepcopy(parent), plan))
    error = comparison.verify(parent, child.model, plan, yolo_tracing.example(parent, 2))
    with tempfile.TemporaryDirectory() as folder:
        facts = saving.make_provenance(None, {})
        said = stock.describe(alive).yaml
        file = saving.save(child, Path(folder) / "pruned.pt", plan=plan, provenance=facts, native=said)
        saved = type(yolo)(file).model.float().eval()
        fresh = type(yolo)(str(file.with_suffix(".yaml")), task=yolo.task).load(file).model.eval()
    mine, theirs = saved.state_dict(), fresh.state_dict()
    same = sum(k in theirs and v.equal(theirs[k]) for k, v in mine.items())
    x = yolo_tracing.example(saved)
    with torch.no_grad():
        pairs = zip(tree_leaves(saved(x)), tree_leaves(fresh(x)), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs if isinstance(a, torch.Tensor)), f"{name}: outputs differ"
    assert same == len(mine) == len(theirs), f"{name}: {same} of {len(mine)} tensors transferred"
    held: Counter[str] = Counter()
    for g, free in zip(restricted.groups, graph.groups, strict=True):
        if g.frozen and not free.frozen:
            held[g.frozen] += g.size
    said = "; ".join(f"{n} channels: {why}" for why, n in held.most_common())
    return {
        "model": name,
        "free": body[1] / body[0],
        "native": int(restricted.prunable.sum()) / body[0],
        "flops": flops,
        "heads": "/".join(str(sum(map(width_attributes.removable_heads, m.modules()))) for m in (child.model, parent)),
        "error": error,
        "transferred": f"{same}/{len(mine)}",
        "seconds": seconds,
        "reason": said,
    }


def _shares(parent: torch.nn.Module, graph: Any) -> tuple[int, int]:
    """Channel classes outside the head, and how many of them may be cut."""
    head = f"{model_facts.head_name(parent)}."
    inside = np.array([bool(g.frozen) and all(a.startswith(head) for a in g.axes) for g in graph.groups])
    sizes = np.array([g.size for g in graph.groups])
    return int(sizes[~inside].sum()), int(graph.prunable.sum())


def main() -> None:
    """Examine all models and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=FAMILIES)
    parser.add_argument("--out", default="docs/native.md")
    arguments = parser.parse_args()
    lines = []
    for name in arguments.names:
        row = examine(name.removesuffix(".yaml"))
        print(table([row]), flush=True)
        if "native" in row:
            cells = [f"{row['free']:.1%}", f"{row['native']:.1%}", f"{row['flops']:.2f}"]
            cells += ["—" if row["heads"] == "0/0" else row["heads"], f"{row['error']:.0e}"]
            cells += [row["transferred"], f"{row['seconds']:.1f}", row["reason"] or "—"]
        else:
            cells = [f"{row['free']:.1%}", "none", *[""] * 6, row["reason"]]
        lines.append(f"| {' | '.join([row['model'], *cells])} |")
    if arguments.out != "-":
        Path(arguments.out).write_text(HEAD.format(version=ultralytics.__version__) + "\n".join([*lines, ""]))


if __name__ == "__main__":
    main()
