"""What the golden files hold, told anew: the graphs and plans of eight models, and checkpoints of every kind.

`scripts/golden.py` writes the files, `test_golden` compares. Integers, names and structure only: nothing that another
processor may compute otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
import ultralytics
from checkpoints import BACKBONE, HEADS, build, untrained
from torch import nn
from ultralytics.utils.torch_utils import unwrap_model

import yoloprune
from yoloprune.importance import criteria
from yoloprune.native import candidates
from yoloprune.planning import greedy_selection
from yoloprune.planning.channel_graph import Term
from yoloprune.planning.cost import Cost
from yoloprune.planning.tie import Tie
from yoloprune.settings.budget import Budget, Limits

FOLDER = Path(__file__).parent / "golden"
ATTENTION = "attention"
NAMES = (
    "yolov8n",
    "yolo11n",
    "yolo12n",
    "yolo26n",
    "yolov10n",
    "yolov9t",
    "yolov8n-seg",
    ATTENTION,
)
FINE = Limits(round_to=4, min_width=4)
"""Of the small network with attention: widths that Ultralytics would round are tried one by one."""
TINY = {
    "nc": 3,
    "reg_max": 1,  # a head of few weights
    "backbone": [
        [-1, 1, "Conv", [8, 3, 2]],
        [-1, 1, "Conv", [16, 3, 2]],
        [-1, 1, "C2f", [16, True]],
        [-1, 1, "Conv", [24, 3, 2]],
        [-1, 1, "Conv", [32, 3, 1]],
        [-1, 1, "C2f", [24, True]],
    ],
    "head": [[[5], 1, "Detect", ["nc"]]],
}
HELD = ["model.5.cv2.conv"]
"""What native widths held when the files were made, because the class branch is as wide in a YAML."""
CUT: dict[str, Any] = {
    "data": False,
    "score": "random",
    "recover": "none",
    "round_to": 4,
    "min_width": 4,
    "imgsz": 32,
    "exist_ok": True,
}
TRAINING: dict[str, Any] = {
    "imgsz": 32,
    "batch": 4,
    "nbs": 4,
    "optimizer": "SGD",
    "lr0": 1e-3,
    "plots": False,
    "amp": False,
    "workers": 0,
    "warmup_epochs": 0,
    "device": "cpu",
    "exist_ok": True,
}
SPARSE = {**TRAINING, "epochs": 4, "flops": 0.8, "round_to": 1, "min_width": 1, "native": False}
KINDS = ("free", "native", "twice", "interrupted")
STOP_AT = 1  # epochs after which the sparse run is interrupted: in the middle of the ramp


# ---- graphs and plans ------------------------------------------------------------------------------------------------


def model_of(name: str, folder: Path) -> nn.Module:
    """One of the eight networks; weights play no part."""
    if name == ATTENTION:
        told = {"nc": 3, "backbone": BACKBONE, "head": [HEADS["detect"]]}
        return build(folder / "attention.yaml", told).model
    return ultralytics.YOLO(f"{name}.yaml").model


def graph_facts(name: str, folder: Path) -> dict[str, Any]:
    """All that a trace finds out about a network, what of it a stock YAML can say, and a plan of either kind."""
    limits = FINE if name == ATTENTION else Limits()
    model = model_of(name, folder)
    shapes = {k: list(v.shape) for k, v in model.state_dict().items()}
    found = candidates.Channels(model, replace(limits, native="tied"), 640)
    assert found.native is not None
    graph, native = found.graph, found.native
    cost = Cost(graph)
    scores = criteria.importance(nn.Module(), graph, "random").channels
    chosen = {
        kind: candidates.Choice(
            g, alive := greedy_selection.select(g, scores, Budget(flops=0.5), limits), found.probe, said(alive)
        )
        for kind, g, said in (("free", graph, lambda alive: None), ("native", native, found.stock.describe))
    }
    return {
        "ultralytics": ultralytics.__version__,
        "network": digest([shapes, [type(m).__name__ for m in model.modules()]]),
        "channels": graph.n_classes,
        "costs": {kind: round(cost.parent(kind)) for kind in ("params", "flops", "channels")},
        "terms": {"params": _terms(graph.params), "flops": _terms(graph.flops)},
        "before a norm": runs(np.flatnonzero(graph.bare)),
        "unknown": graph.unknown,
        "heads": {str(native.axes[i]): n for i, n in native.heads.items()},
        "axes": [[str(axis), runs(classes)] for axis, classes in zip(graph.axes, graph.class_of, strict=True)],
        "groups": [[g.name, g.size, runs(graph.classes(i)), g.frozen] for i, g in enumerate(graph.groups)],
        "group axes": digest([g.axes for g in graph.groups]),
        "ties": [_tie(tie) for tie in graph.ties],
        "native ties": [_tie(tie) for tie in native.ties],
        "native reasons": [
            [mine.name, mine.frozen]
            for mine, theirs in zip(native.groups, graph.groups, strict=True)
            if mine.frozen != theirs.frozen
        ],
        **{f"{kind} plan": _plan(choice) for kind, choice in chosen.items()},
    }


def runs(numbers: Iterable[int]) -> str:
    """Numbers as their rising runs, e.g. "0:16 32:48"; a digest where that gets long."""
    listed = [int(n) for n in numbers]
    starts = [i for i, n in enumerate(listed) if not i or n != listed[i - 1] + 1]
    ends = [*starts[1:], len(listed)] if listed else []
    pieces = [f"{listed[a]}:{listed[b - 1] + 1}" for a, b in zip(starts, ends, strict=True)]
    text = " ".join(pieces)
    return text if len(text) <= 40 else f"{len(listed)} numbers, {digest(listed)}"


def digest(value: Any) -> str:
    """The first digits of a checksum of plain data."""
    return sha256(json.dumps(value).encode()).hexdigest()[:16]


def _terms(terms: list[Term]) -> str:
    return f"{len(terms)} terms, {digest([[round(t.factor, 3), *t.axes] for t in terms])}"


def _tie(tie: Tie) -> list[Any]:
    """Groups, their full widths, the widths of the first that may be chosen where not all may, and heads."""
    allowed = None if tie.allowed is None else [tie.widths(unit)[0] for unit in tie.allowed]
    if tie.heads:  # which go as a whole: the first group goes or stays, so units say more
        allowed = list(tie.allowed or ())
    return [list(tie.groups), list(tie.sizes), allowed, [[list(head) for head in heads] for heads in tie.heads]]


def _plan(choice: candidates.Choice) -> dict[str, Any]:
    narrower = {g.name: int(w) for g, w in zip(choice.graph.groups, choice.widths, strict=True) if w < g.size}
    config = choice.yaml or {}
    return {
        "kept": {kind: round(share, 4) for kind, share in choice.kept().items()},
        "alive": runs(np.flatnonzero(choice.alive)),
        "positions": digest(choice.plan.to_dict()),
        "widths": narrower,
        **{part: config[part] for part in ("backbone", "head") if part in config},
    }


# ---- checkpoints -----------------------------------------------------------------------------------------------------


def make_pruned(folder: Path) -> dict[str, Path]:
    """A free, a native and a twice pruned checkpoint of a tiny network."""
    parent = untrained(folder, TINY, 32)
    free = _cut(parent, folder, "free", native=False, flops=0.7)
    return {
        "free": free,
        "native": _cut(parent, folder, "native", native=True, flops=0.7, keep=HELD),
        "twice": _cut(free, folder, "twice", native=False, flops=0.7),
    }


def _cut(model: Path, folder: Path, name: str, **told: Any) -> Path:
    yoloprune.prune(model, project=str(folder / "runs"), name=name, **CUT, **told)
    return folder / "runs" / name / "weights" / "pruned.pt"


def make_interrupted(folder: Path, data: Path) -> Path:
    """The last.pt of a sparse training that stopped in its ramp."""

    def stop(trainer: Any) -> None:
        if trainer.epoch == STOP_AT:
            raise KeyboardInterrupt

    yolo = yoloprune.YOLO(untrained(folder, TINY, 32))
    yolo.add_callback("on_train_epoch_start", stop)
    limits = Limits(**{k: SPARSE[k] for k in ("round_to", "min_width", "native")})
    sparse = yoloprune.SparseTraining(yoloprune.SparseConfig(Budget(flops=SPARSE["flops"]), limits))
    passed = {k: v for k, v in SPARSE.items() if k in {*TRAINING, "epochs"}}
    try:
        with sparse.attached(yolo):
            yolo.train(data=str(data), project=str(folder / "runs"), name="interrupted", **passed)
    except KeyboardInterrupt:
        return folder / "runs" / "interrupted" / "weights" / "last.pt"
    raise AssertionError("the training was to be interrupted")


def rewrite(source: Path, target: Path, places: Mapping[str, str]) -> Path:
    """Copy a checkpoint, with other places in its arguments and nothing told of the machine it was made on.

    Ultralytics writes whole paths into a checkpoint and resumes in the folder that is named there.

    Args:
        source (Path): The checkpoint.
        target (Path): The copy.
        places (Mapping): Values of `train_args` that name places.
    """
    checkpoint = torch.load(source, map_location="cpu", weights_only=False)
    checkpoint.pop("git", None)
    checkpoint["train_args"].update(places)
    for model in (checkpoint["model"], checkpoint["ema"]):
        if model is not None:
            model.args = dict(checkpoint["train_args"])
            vars(model).pop("pt_path", None)  # loading sets it
            model.yaml["yaml_file"] = Path(model.yaml["yaml_file"]).name
    target.parent.mkdir(parents=True, exist_ok=True)
    torch.save(checkpoint, target)
    return target


def saved_yaml(file: Path) -> dict[str, Any]:
    """`model.yaml` as it lies in a checkpoint, without what Ultralytics adds or what differs from day to day."""
    checkpoint = torch.load(file, map_location="cpu", weights_only=False)
    told = json.loads(json.dumps(unwrap_model(checkpoint["ema"] or checkpoint["model"]).yaml))
    told["yaml_file"] = Path(told["yaml_file"]).name
    for key in ("scale", "channels", "ch"):
        told.pop(key, None)
    first = told.get("yoloprune", {}).get("provenance", {})
    for entry in (first, *first.get("earlier", ())):
        entry.update({k: "..." for k in ("date", "versions") if k in entry})
        if entry.get("parent"):
            entry["parent"]["sha256"] = "..."
    return told


# ---- files -----------------------------------------------------------------------------------------------------------


def text(told: Mapping[str, Any]) -> str:
    """JSON with a line for each item of the lists and mappings at the top."""
    lines = []
    for key, value in told.items():
        if isinstance(value, list) and value:
            inner = ",\n".join(f"  {json.dumps(item)}" for item in value)
            lines.append(f'"{key}": [\n{inner}\n]')
        elif isinstance(value, dict) and value:
            inner = ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in value.items())
            lines.append(f'"{key}": {{\n{inner}\n}}')
        else:
            lines.append(f'"{key}": {json.dumps(value)}')
    return "{\n" + ",\n".join(lines) + "\n}\n"


def read(name: str) -> dict[str, Any]:
    """A golden file."""
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
