"""Prune other people's detectors and backbones with `prune_module` and write the table into docs/research/models.md.

    pip install timm yolov5 yolox yolov6detect effdet     # what is not there is left out
    python scripts/detectors.py
    python scripts/detectors.py retinanet_resnet50_fpn --out -

Each network is built by its own package, with seeded random weights and batch-norms as after training, and pruned by
random scores (the hardest case for the trace: no layer is spared) to half its FLOPs, or as far as its channels allow.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn

from yoloprune import Budget, prune_module
from yoloprune.cutting import lively_copy, trial_cut, width_attributes
from yoloprune.errors import BudgetError
from yoloprune.importance import criteria
from yoloprune.planning import greedy_selection
from yoloprune.planning.channel_graph import ChannelGraph
from yoloprune.probing.examples import Example
from yoloprune.probing.survey import survey_around
from yoloprune.settings.budget import Limits
from yoloprune.tracing import trace_network

TITLE = "## Other detectors and backbones"
TIMM = "## Families of timm"
"""What `timm_models.py` writes behind it."""
ENDS = {"fixed input", "network output"}
"""Reasons why channels stay that hold of every network: an image has three, and outputs mean something."""

Network = tuple[nn.Module, Any, str]
"""A network, an example, and how that is written in the call."""


def image(side: int) -> torch.Tensor:
    """Two seeded images, shape (2, 3, side, side)."""
    return torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))


def of_torchvision(name: str, side: int, **options: Any) -> Network:
    """A detector, from a list of images to boxes; batch-norms are frozen where those of its pretrained weights are."""
    build = getattr(torchvision.models.detection, name)
    model = build(weights=None, weights_backbone=None, num_classes=5, **options).eval()
    lively_copy.settle(model, Example.of((list(image(side)),)))
    if "fpn" in name:
        _freeze_norms(model)
    return model, ([image(side)[0]],), f"([torch.rand(3, {side}, {side})],)"


def _freeze_norms(model: nn.Module) -> None:
    for name, m in list(model.named_modules()):
        if isinstance(m, nn.BatchNorm2d):
            frozen = torchvision.ops.FrozenBatchNorm2d(m.num_features, m.eps)
            for key, value in frozen.state_dict().items():
                value.copy_(m.state_dict()[key])
            place, _, last = name.rpartition(".")
            setattr(model.get_submodule(place), last, frozen)


def of_timm(name: str, side: int = 224) -> Network:
    """A classifier, whose body is what detectors build on."""
    model = importlib.import_module("timm").create_model(name, pretrained=False, num_classes=10)
    return model, image(side), f"torch.rand(2, 3, {side}, {side})"


def of_yolov5(name: str, side: int = 256) -> Network:
    """The original YOLOv5, as its package builds it from a YAML of its own."""
    package = importlib.import_module("yolov5.models.yolo")
    found = sorted(Path(package.__file__ or "").parent.rglob(f"{name}.yaml"))
    kind = package.SegmentationModel if name.endswith("-seg") else package.DetectionModel
    return kind(str(found[0])), image(side), f"torch.rand(2, 3, {side}, {side})"


def of_yolox(name: str, depth: float, width: float, *, depthwise: bool = False, side: int = 256) -> Network:
    """YOLOX with its decoupled head."""
    package = importlib.import_module("yolox.models")
    told = {"depthwise": depthwise, "act": "silu"}
    neck, head = package.YOLOPAFPN(depth, width, **told), package.YOLOXHead(80, width, **told)
    return package.YOLOX(neck, head), image(side), f"torch.rand(2, 3, {side}, {side})"


def of_yolov6(name: str, side: int = 256) -> Network:
    """Meituan's YOLOv6, before its branches are merged."""
    config = importlib.import_module(f"yolov6.configs.{name}")
    told = importlib.import_module("yolov6.utils.config").Config.fromfile(config.__file__)
    told.training_mode = "repvgg"  # which its trainer sets
    model = importlib.import_module("yolov6.models.yolo").build_model(told, 80, "cpu")
    return model, image(side), f"torch.rand(2, 3, {side}, {side})"


def of_effdet(name: str, side: int = 256) -> Network:
    """EfficientDet, whose weighted sums mix maps of several sizes."""
    package = importlib.import_module("effdet")
    config = package.get_efficientdet_config(name)
    config.image_size = (side, side)
    return package.EfficientDet(config, pretrained_backbone=False), image(side), f"torch.rand(2, 3, {side}, {side})"


SMALL = {"min_size": 320, "max_size": 320}  # without which torchvision makes 800 pixels of every image
FAMILIES: dict[str, Callable[[], Network]] = {
    "ssdlite320_mobilenet_v3_large": lambda: of_torchvision("ssdlite320_mobilenet_v3_large", 320),
    "ssd300_vgg16": lambda: of_torchvision("ssd300_vgg16", 300),
    **{
        name: partial(of_torchvision, name, 320, **SMALL)
        for name in (
            "retinanet_resnet50_fpn",
            "fcos_resnet50_fpn",
            "fasterrcnn_mobilenet_v3_large_320_fpn",
            "fasterrcnn_resnet50_fpn",
        )
    },
    **{f"yolov5: {name}": partial(of_yolov5, name) for name in ("yolov5n", "yolov5s-ghost", "yolov5s-transformer")},
    "yolov5: yolov5n-seg": partial(of_yolov5, "yolov5n-seg"),
    "yolox: nano": lambda: of_yolox("nano", 0.33, 0.25, depthwise=True),
    "yolox: s": lambda: of_yolox("s", 0.33, 0.5),
    "yolov6: yolov6n": lambda: of_yolov6("yolov6n"),
    "effdet: d0": lambda: of_effdet("tf_efficientdet_d0"),
    **{
        f"timm: {name}": partial(of_timm, name)
        for name in (
            *("resnet50", "convnext_tiny", "efficientnet_b0", "mobilenetv3_large_100", "regnety_004", "densenet121"),
            *("cspdarknet53", "repvgg_b0", "hrnet_w18_small", "darknet53"),
        )
    },
}
"""Builders by the name of the row."""


def examine(name: str, build: Callable[[], Network], wanted: float = 0.5) -> str:
    """Prune one network; the row of the table. Raises where it cannot be built or pruned.

    Args:
        name (str): Of the row.
        build (Callable): Makes the network, its example, and how that is written.
        wanted (float): Share of the FLOPs to keep; more where that is out of reach.
    """
    torch.manual_seed(0)
    model, example, written = build()
    model.eval()
    if not isinstance(example, tuple):
        lively_copy.settle(model, example)
    probe = survey_around(model, (Example.of(example),))
    traced = trace_network.trace(model, probe, sized=width_attributes.corrected_numbers)
    graph = trial_cut.sound(model, traced, probe, outputs=False)
    flops = _reached(model, graph, wanted)
    start = time.process_time()
    made = prune_module(model, example, Budget(flops=flops), score="random")
    seconds = time.process_time() - start
    kept = made.after["flops"] / made.before["flops"]
    real = [g for g in graph.groups if g.axes]  # others count boxes or the like, and belong to no layer
    why = Counter(_short(g.frozen) for g in real for _ in range(g.size) if g.frozen and g.frozen not in ENDS)
    held = "; ".join(f"{n} {reason}" for reason, n in why.most_common(4)) or "nothing"
    free = sum(g.size for g in real if not g.frozen)
    share = free / (free + sum(why.values()))
    return f"| {name} | `{written}` | {share:.2%} | {made.error:.0e} | {seconds:.1f} | {kept:.3f} | {held} |"


def _reached(model: nn.Module, graph: ChannelGraph, flops: float) -> float:
    """The share of the FLOPs that is wanted, or the first step of five hundredths above it that is within reach."""
    scores = criteria.importance(model, graph, "random").channels
    while flops < 1:
        try:
            greedy_selection.select(graph, scores, Budget(flops=flops), Limits())
            return flops
        except BudgetError:
            flops = round(flops + 0.05, 2)
    raise BudgetError(f"nothing can be cut: {greedy_selection.held(graph)}")


def _short(reason: str | None) -> str:
    """A reason with the class of the block that it was met in, where that is named, and without its place."""
    told, _, place = str(reason).partition(" in ")
    words = place.split()
    return f"{told} in {words[0]}" if len(words) > 1 and words[0][:1].isupper() else told


def section(out: Path) -> str:
    """What this script wrote into a file, from its title on; `models.py` writes the rest of it."""
    text = out.read_text(encoding="utf-8") if out.is_file() else ""
    return f"\n{TITLE}{text.split(TITLE, 1)[1]}" if TITLE in text else ""


def write(rows: list[str], missing: dict[str, str], failed: dict[str, str], out: Path) -> None:
    """Put the table into the file, in the place of the last one."""
    lines = [
        TITLE,
        "",
        "Networks of other packages, built by these with random weights, batch-norms as after training, and pruned by",
        "random scores to half their FLOPs, or as far as their channels allow. Written by the command below.",
        "",
        "    python scripts/detectors.py",
        "",
        "One call prunes each: `prune_module(model, example, Budget(flops=...))`; no name of a layer is given.",
        "torchvision's detectors are pruned whole, from a list of images to boxes, with frozen batch-norms where those",
        "of pretrained weights are.",
        "",
        f"torch {torch.__version__.split('+')[0]}, torchvision {torchvision.__version__.split('+')[0]}, one thread.",
        "",
        "* *prunable*: share of the channels that may be cut, of all but those of the image and of the outputs.",
        "* *error*: as above. *seconds*: processor time of the whole call: trace, choice, cut, proof.",
        "* *held*: what else may not be cut, and why, by the number of channels.",
        "",
        "| network | example | prunable | error | seconds | FLOPs kept | held |",
        "| --- | --- | ---: | ---: | ---: | ---: | --- |",
        *rows,
        *(["", "Not pruned:", "", *(f"* **{n}**: {e}" for n, e in failed.items())] if failed else []),
        *(["", f"Left out, because their packages were not installed: {', '.join(missing)}."] if missing else []),
    ]
    text = "\n".join(lines) + "\n"
    if str(out) == "-":
        sys.stdout.write(text)
    else:
        old = out.read_text(encoding="utf-8") if out.is_file() else "# Models"
        after = f"\n{TIMM}{old.split(TIMM, 1)[1]}" if TIMM in old else ""
        out.write_text(f"{old.split(TITLE, 1)[0].rstrip()}\n\n{text}{after}", encoding="utf-8")


def main() -> None:
    """Examine the named networks, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"rows of the table; all by default: {', '.join(FAMILIES)}")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "docs" / "research" / "models.md")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # of the packages
    rows: list[str] = []
    missing: dict[str, str] = {}
    failed: dict[str, str] = {}
    for name in arguments.names or FAMILIES:
        try:
            rows.append(examine(name, FAMILIES[name]))
            print(rows[-1], flush=True)
        except ModuleNotFoundError as e:
            missing[name] = str(e)
            print(f"{name}: left out, {e}", flush=True)
        except Exception as e:  # the table tells what went wrong, and the others go on
            failed[name] = f"{type(e).__name__}: {' '.join(str(e).split())[:300]}"
            print(f"{name}: {failed[name]}", flush=True)
    write(rows, missing, failed, arguments.out)


if __name__ == "__main__":
    main()
