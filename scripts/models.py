"""Prune every model YAML that Ultralytics ships and write what happened to docs/research/models.md.

    python scripts/models.py                                    # all, smallest scale, plus some large ones
    python scripts/models.py yolov8n.yaml yolo12l.yaml --out -

For each model: trace, prune to 50 % of the FLOPs by random scores (or as far as the head allows), prove that the cut
model equals the masked parent, run a training step, save, load and compare.
"""

from __future__ import annotations

import argparse
import copy
import platform
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import ultralytics
from torch import nn
from torch.utils._pytree import tree_leaves
from ultralytics.utils.torch_utils import get_flops

from yoloprune.backend import model_facts, yolo_tracing
from yoloprune.checkpoint import saving
from yoloprune.cutting import lively_copy, proof, surgery
from yoloprune.errors import BudgetError, PlanError
from yoloprune.importance import criteria
from yoloprune.planning import greedy_selection
from yoloprune.planning.cost import Cost
from yoloprune.settings.budget import Budget, Limits

LARGE = (
    *("yolov3", "yolov5l", "yolov6l", "yolov8x", "yolov9e", "yolov10x", "yolo11x", "yolo12x", "yolo26x"),
    *("yolov8x-seg", "yolo11x-pose", "yolo26x-obb"),
)
"""Scales that differ in structure from the smallest: C3k inside C3k2, A2C2f with residual gamma, large-kernel CIB."""


def shipped() -> list[str]:
    """All model YAMLs of the installed Ultralytics at their smallest scale, RT-DETR and text models included."""
    folder = Path(ultralytics.__file__).parent / "cfg" / "models"
    names = []
    for file in sorted(folder.rglob("*.yaml")):
        scales = ultralytics.utils.YAML.load(file).get("scales")
        named = file.stem.partition("-")[0][-1].isalpha() and not file.stem.startswith(
            "yoloe"
        )  # yolov10n has its scale
        smallest = next((s for s in "ns" if scales and s in scales and not named), "")
        names.append(f"{_scaled(file.stem, smallest)}.yaml")
    return names


def _scaled(stem: str, scale: str) -> str:
    head, _, tail = stem.partition("-")
    if head == "yoloe":  # yoloe-11-seg: the scale follows the version
        version, _, rest = tail.partition("-")
        return f"yoloe-{version}{scale}" + (f"-{rest}" if rest else "")
    return f"{head}{scale}" + (f"-{tail}" if tail else "")


def build(name: str, classes: int | None = None) -> Any:
    """A `YOLO`, `YOLOE` or `RTDETR` object with seeded weights and batch-norm statistics that fit them.

    Args:
        name (str): Model YAML.
        classes (int | None): How many in place of those that it names.
    """
    torch.manual_seed(0)
    kind = ultralytics.RTDETR if "rtdetr" in name else ultralytics.YOLOE if "yoloe" in name else ultralytics.YOLO
    yolo = kind(name)
    if classes is not None:
        yolo.model = type(yolo.model)(name, nc=classes, verbose=False)
    lively_copy.settle(
        yolo.model, yolo_tracing.example(yolo.model, 8)
    )  # else no check could see a wrong cut deep inside
    return yolo


def examine(name: str, flops: float = 0.5, yolo: Any = None) -> dict[str, Any]:
    """Prune one model and check everything; raises where something does not hold.

    Args:
        name (str): Model YAML.
        flops (float): Share of the FLOPs to keep; raised in steps of 0.05 until it is within reach.
        yolo (YOLO | None): The model where it is built already.

    Returns:
        (dict): Figures for the table.
    """
    yolo = build(name) if yolo is None else yolo
    parent = yolo.model
    start = time.process_time()
    graph = yolo_tracing.trace_yolo(parent)
    traced = time.process_time() - start
    cost, scores = Cost(graph), criteria.importance(parent, graph, "random").channels
    alive, reached, why = None, flops, ""
    while alive is None:
        try:
            alive = greedy_selection.select(graph, scores, Budget(flops=reached), Limits(), cost)
        except BudgetError as e:
            reached, why = round(reached + 0.05, 2), str(e)
    plan = graph.plan(alive)
    child = surgery.cut(copy.deepcopy(parent), plan)
    error = proof.prove(parent, child, plan, yolo_tracing.example(parent, 2)).error
    kept = get_flops(child) / get_flops(parent)
    predicted = cost.of("flops", graph.widths(alive)) / cost.parent("flops")
    assert abs(kept - predicted) < 0.005 and kept <= reached + 0.005, f"{name}: FLOPs {kept:.4f}, asked for {reached}"
    if kept < reached - 0.01:  # select takes back every step that fits, so the ones left are larger than the gap
        why = f"{why} Its next step back would cost more than {reached - kept:.1%}.".strip()
    assert {type(m) for m in child.modules()} == {type(m) for m in parent.modules()}, f"{name}: new classes"
    _check_head(parent, child)
    _check_gradients(child)
    saved = _check_saving(yolo, child, plan)
    body, free = _shares(parent, graph)
    return {
        "model": name.removesuffix(".yaml"),
        "prunable": free / body,
        "FLOPs kept": kept,
        "params kept": sum(p.numel() for p in child.parameters()) / sum(p.numel() for p in parent.parameters()),
        "error": error,
        "trace s": traced,
        "saved": saved,
        "frozen outside the head": _reasons(parent, graph),
        "out of reach": why,
    }


def _check_head(parent: nn.Module, child: nn.Module) -> None:
    """Only the input side of the head may have changed, and depthwise layers at its entrance."""
    head = model_facts.head_name(parent)
    before, after = (dict(m.get_submodule(head).named_modules()) for m in (parent, child))
    for name, module in before.items():
        if isinstance(module, nn.Conv2d) and module.groups == 1:
            assert after[name].out_channels == module.out_channels, f"{head}.{name} lost outputs"


def _check_gradients(child: nn.Module) -> None:
    model = copy.deepcopy(child).train().requires_grad_(True)
    outputs = [
        t for t in tree_leaves(model(yolo_tracing.example(model, 2))) if isinstance(t, torch.Tensor) and t.requires_grad
    ]
    torch.stack([t.float().square().mean() for t in outputs]).sum().backward()
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    assert grads and all(torch.isfinite(g).all() for g in grads), "gradients are not finite"


def _check_saving(yolo: Any, child: nn.Module, plan: Any) -> str:
    with tempfile.TemporaryDirectory() as folder:
        try:
            pruned = saving.with_model(yolo, child)
            file = saving.save(
                pruned, Path(folder) / "pruned.pt", plan=plan, provenance=saving.make_provenance(None, {})
            )
        except PlanError as e:
            return str(e)
        loaded = saving.load(file).model
        x = yolo_tracing.example(child)
        before, after = (copy.deepcopy(child).half().float().eval(), loaded.eval())
        with torch.no_grad():
            pairs = zip(tree_leaves(before(x)), tree_leaves(after(x)), strict=True)
            assert all(torch.equal(a, b) for a, b in pairs if isinstance(a, torch.Tensor)), "loaded model differs"
    return "yes"


def _shares(parent: nn.Module, graph: Any) -> tuple[int, int]:
    """Channel classes outside the head, and how many of them may be cut."""
    head = f"{model_facts.head_name(parent)}."
    inside = [bool(g.frozen) and all(a.startswith(head) for a in g.axes) for g in graph.groups]
    body = sum(g.size for g, i in zip(graph.groups, inside, strict=True) if not i)
    return body, int(graph.prunable.sum())


def _reasons(parent: nn.Module, graph: Any) -> str:
    head = f"{model_facts.head_name(parent)}."
    count: Counter[str] = Counter()
    for g in graph.groups:
        if g.frozen and not all(a.startswith(head) for a in g.axes):
            count[g.frozen.split(" in model.")[0]] += g.size
    return "; ".join(f"{n} {why}" for why, n in count.most_common(4))


def write(rows: Iterable[dict[str, Any]], failures: dict[str, str], out: Path) -> None:
    """Write the table as Markdown."""
    from detectors import section  # of the same file; the tests import this one alone

    lines = [
        "# Models",
        "",
        "Every model YAML that Ultralytics ships, pruned to half its FLOPs by random scores (the hardest case for the",
        "trace: no layer is spared), or as far as its head allows. Written by the command below, not by hand.",
        "",
        f"    {' '.join(['python', 'scripts/models.py'])}",
        "",
        f"Ultralytics {ultralytics.__version__}, torch {torch.__version__.split('+')[0]}, CPU ({platform.machine()}), "
        "one thread.",
        "",
        "* *prunable*: share of the channel classes outside the head that may be cut.",
        "* *error*: largest difference between the cut model and its masked parent, relative to the largest output,",
        "  in the model itself or in the copy with lively batch-norms that `prune` looks at as well",
        "  (accepted: 1e-4).",
        "* *trace*: processor time, which a busy machine lengthens less than the clock.",
        "* All plans are free ones here. What a stock model YAML can say, and why it can say nothing of YOLO-World,",
        "  YOLOE and RT-DETR, is in [native.md](native.md).",
        "* Each row also passed: FLOPs as predicted from the trace, stock classes only, head widths untouched, a",
        "  training step with finite gradients, and, where *saved* says yes, saving and loading.",
        "",
        "| model | prunable | FLOPs kept | params kept | error | trace, s | saved | frozen outside the head |",
        "| --- | ---: | ---: | ---: | ---: | ---: | --- | --- |",
    ]
    notes = []
    for r in rows:
        lines.append(
            f"| {r['model']} | {r['prunable']:.2%} | {r['FLOPs kept']:.3f} | {r['params kept']:.3f} "
            f"| {r['error']:.0e} | {r['trace s']:.2f} | {r['saved']} | {r['frozen outside the head']} |"
        )
        if r["out of reach"]:
            notes.append(f"* **{r['model']}**: {r['out of reach']}")
    if notes:
        lines += ["", "## Where half the FLOPs are out of reach, and why", "", *notes]
    if failures:
        lines += ["", "## Not built or not pruned", "", *(f"* **{n}**: {e}" for n, e in failures.items())]
    text = "\n".join(lines) + "\n" + section(out)
    if str(out) == "-":
        sys.stdout.write(text)
    else:
        out.write_text(text, encoding="utf-8")


def main() -> None:
    """Examine the named models, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="model YAMLs; all shipped ones and some large scales by default")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "docs" / "research" / "models.md")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    yolo_tracing.trace_yolo(
        build("yolov8n.yaml").model
    )  # the first trace of a process is slower: do not charge it to a model
    rows, failures = [], {}
    for name in arguments.names or [*shipped(), *(f"{n}.yaml" for n in LARGE)]:
        try:
            rows.append(examine(name))
            print({k: v if isinstance(v, str) else np.round(v, 7) for k, v in rows[-1].items()}, flush=True)
        except Exception as e:  # the table tells what went wrong, and the others go on
            failures[name] = f"{type(e).__name__}: {' '.join(str(e).split())[:300]}"
            print(name, "FAILED", failures[name], flush=True)
    write(rows, failures, arguments.out)


if __name__ == "__main__":
    main()
