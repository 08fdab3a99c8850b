"""Native plans of every family: what a stock model YAML can say, and that stock Ultralytics rebuilds it exactly.

    python scripts/native.py                          # writes docs/research/native.md
    python scripts/native.py yolov8n.yaml --out -

For each model: seeded weights, a native plan at 50 % of the FLOPs by random scores (or as far as it goes), saved, the
YAML built anew by Ultralytics and loaded with the checkpoint's weights; all tensors and outputs must be equal.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import models  # the script beside this one
import torch
import ultralytics
from torch.utils._pytree import tree_leaves

from yoloprune.backend import yolo_tracing
from yoloprune.checkpoint import saving
from yoloprune.cutting import comparison, surgery
from yoloprune.errors import BudgetError, PruneError
from yoloprune.importance import criteria
from yoloprune.native import candidates
from yoloprune.native.described import as_described
from yoloprune.planning import greedy_selection
from yoloprune.reporting.text_table import table
from yoloprune.settings.budget import Budget, Limits

FAMILIES = [
    *("yolov5n", "yolov6n", "yolov8n", "yolov8n-p2", "yolov8n-ghost", "yolov9t", "yolov9s", "yolov9m", "yolov9c"),
    *("yolov10n", "yolo11n", "yolo11m", "yolo12n", "yolo26n"),
    *(f"{name} nc=3" for name in ("yolov8n", "yolov8s", "yolov8m", "yolo11n", "yolo26n")),
    *(f"{f}n-{t}" for f in ("yolov8", "yolo11", "yolo26") for t in ("seg", "pose", "obb", "cls")),
    *("yolo26n-sem", "yolo26n-depth", "yolov8n-world", "yoloe-11n-seg", "rtdetr-l"),
]
HEAD = """# Native plans

Where it is possible, `yoloprune prune` and `train-sparse` choose only widths that a stock model YAML can say, so that
stock Ultralytics trains, resumes, tunes and distils the pruned model, nothing else installed. `native=True` insists,
`native=False` allows all widths and writes no YAML.

A row of a YAML names a block and a few arguments; its constructor makes all inner widths from those. A C2f row ties the
inside of every bottleneck to the residual stream that runs past it, though the stream is worth keeping. So widths are
chosen freely, and a block that no row of its own can say is written as the rows that compute the same: a C2f as two
`Conv` (its chunk), a `Bottleneck` each, `Concat` and `Conv`. Nothing of this is listed by block: a block is watched
while it runs, its rows are built by Ultralytics and compared, and the model that is saved is made of the cut one's own
modules. What cannot be written so (an addition outside a bottleneck, attention) stays one row, whose widths are tied.
`native=tied` keeps every block in one row. `prune` tells which blocks became rows.

Names stay those of the model that was pruned first, however often it is pruned again: `keep=model.4`, `layers=`,
`layer=` and `freeze=10` mean the parent's layers, and `info`, tables, pages and errors say them, so all that is printed
can be given to a key. Where a convolution became two rows, `model.4.cv1:1` and `model.4.cv1:2` are its pieces, and
`model.4.cv1` is both. The last line of `info` tells which rows of the present YAML are which layer. Ultralytics itself
knows the rows alone.

Rows that an earlier cut made of a block stay rows. They could be the block's own row again where later cuts happened
to leave equal halves and the constructor's width in every bottleneck: 1 of the 59 blocks in several rows after one, two
and three cuts to 80 % each (COCO's YOLOv8n and YOLO11n, by the size of filters and by random scores), so nothing looks
for it.

    python scripts/rolled_up.py yolov8n-coco.pt yolo11n-coco.pt

The table below is written by

    python scripts/native.py

Ultralytics {version}, smallest scale unless named otherwise, seeded weights; each was pruned to half the FLOPs (or as
far as it goes) by random scores; *kept* is the share of all scores that stays: with free widths, with every block in
one row, and as written here. Ultralytics then built `pruned.yaml` and loaded `pruned.pt`: *transferred* tensors of
all, outputs equal to the bit. *error* is that of the cut against its masked parent, *rows* are those of the parent's
YAML and of the pruned one's. Stock YAMLs give an attention one head for every 64 channels (YOLOv10, YOLO11, YOLO26)
or 32 (YOLO12), so native plans remove whole heads, where free ones make all heads narrower.

Where blocks stay in one row the last column says which: attention has products of its own, and of the YOLO11, 12 and 26
families one newer block stays whole, because the head depends on there being one. RepNCSPELAN4 of YOLOv9 adds up inside
of blocks that no row can name (RepBottleneck is not among the classes that Ultralytics looks rows up in), and no row
adds. What rows cost in time is in [latency.md](latency.md).

The class layers of a head are as wide as the first feature map that it takes, or as the number of classes where that
is more: `c3 = max(ch[0], min(nc, 100))`. With few classes a YAML with a narrower map therefore says narrower class
layers; but from Ultralytics 8.4.175 on loading takes over those of the weights, so nothing is held (rows `nc=3`).
Where `prune` runs with an earlier release, and before a branch that no release takes over, such as the angles of an
OBB head, that map is held: `prune` says so where it matters, and `native=False` frees it. A model that was cut with a
newer release has to be trained with one as well: an earlier one makes the class layers narrow and new, as it does
with a model that a newer one trained from COCO weights, and the one sign is that not all items are transferred.
`prune` says from which release on.

| model | FLOPs kept | kept, free | one row | native | rows | error | transferred | what stays tied |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |
"""


def examine(name: str) -> dict[str, Any]:
    """One row; raises where a native plan is not rebuilt exactly."""
    network, _, classes = name.partition(" nc=")
    yolo = models.build(f"{network}.yaml", int(classes) if classes else None)
    parent = yolo.model.float().eval()
    try:
        found = candidates.Channels(parent, Limits(native=True), 640)
    except PruneError as e:
        return {"model": name, "reason": str(e)}
    tied = candidates.Channels(parent, Limits(native="tied"), 640)
    scores = criteria.importance(parent, found.graph, "random").channels
    flops = 0.5
    while True:
        order = partial(
            greedy_selection.select, scores=scores, budget=Budget(flops=flops), limits=Limits(), per_cost=True
        )
        try:
            choice, one_row = found.choose(order), tied.choose(order)
            break
        except BudgetError:
            flops = round(flops + 0.05, 2)
    free = order(found.graph)
    described = choice.described
    assert described is not None
    cut = surgery.cut(copy.deepcopy(parent), choice.plan)
    error = comparison.verify(parent, cut, choice.plan, yolo_tracing.example(parent, 2))
    child = saving.with_model(yolo, as_described(cut, described))
    with tempfile.TemporaryDirectory() as folder:
        facts = saving.make_provenance(None, {})
        file = saving.save(child, Path(folder) / "pruned.pt", plan=choice.plan, provenance=facts, native=described.yaml)
        saved = type(yolo)(file).model.float().eval()
        told = {} if isinstance(yolo, ultralytics.RTDETR) else {"task": yolo.task}
        fresh = type(yolo)(str(file.with_suffix(".yaml")), **told).load(file).model.eval()
    mine, theirs = saved.state_dict(), fresh.state_dict()
    same = sum(k in theirs and v.equal(theirs[k]) for k, v in mine.items())
    x = yolo_tracing.example(saved)
    with torch.no_grad():
        pairs = zip(tree_leaves(saved(x)), tree_leaves(fresh(x)), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs if isinstance(a, torch.Tensor)), f"{name}: outputs differ"
    assert same == len(mine) == len(theirs), f"{name}: {same} of {len(mine)} tensors transferred"
    assert found.stock is not None
    layers = found.stock.spelled.layers[:-1]
    whole = {layer.row.name for layer in layers if layer.row.at not in found.stock.blocks and len(layer.own) > 2}
    return {
        "model": name,
        "flops": flops,
        "free": scores[free].sum() / scores.sum(),
        "tied": None if one_row.described is None else scores[one_row.alive].sum() / scores.sum(),  # not in reach
        "native": scores[choice.alive].sum() / scores.sum(),
        "rows": f"{len(parent.model)} → {len(described.origins)}",
        "error": error,
        "transferred": f"{same}/{len(mine)}",
        "reason": ", ".join(sorted(whole)),
    }


def main() -> None:
    """Examine all models and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=FAMILIES)
    parser.add_argument("--out", default="docs/research/native.md")
    arguments = parser.parse_args()
    lines = []
    for name in arguments.names:
        row = examine(name.removesuffix(".yaml"))
        print(table([row]), flush=True)
        if "native" in row:
            kept = ["—" if row[k] is None else f"{row[k]:.1%}" for k in ("free", "tied", "native")]
            cells = [f"{row['flops']:.2f}", *kept, row["rows"]]
            cells += [f"{row['error']:.0e}", row["transferred"], row["reason"] or "—"]
        else:
            cells = [*[""] * 7, row["reason"]]
        lines.append(f"| {' | '.join([row['model'], *cells])} |")
    if arguments.out != "-":
        Path(arguments.out).write_text(HEAD.format(version=ultralytics.__version__) + "\n".join([*lines, ""]))


if __name__ == "__main__":
    main()
