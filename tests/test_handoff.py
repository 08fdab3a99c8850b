"""Checkpoints in and out, and the trainers that keep a pruned shape, on small networks and drawn images."""

from __future__ import annotations

import copy
import hashlib
import importlib.util
import json
import os
import pickle
import pickletools
import socket
import subprocess
import sys
import types
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import ultralytics
import yaml
from conftest import random_alive, settle
from torch import nn
from ultralytics.nn import tasks as nets
from ultralytics.utils import DEFAULT_CFG_DICT

from yoloprune import handoff, host, surgery, trainers
from yoloprune.errors import ModelError, PlanError, PruneError
from yoloprune.groups import Plan
from yoloprune.shapes import NAMES, make_shapes

BACKBONE = [
    [-1, 1, "Conv", [16, 3, 2]],
    [-1, 1, "Conv", [32, 3, 2]],
    [-1, 1, "C2f", [32, True]],
    [-1, 1, "Conv", [64, 3, 2]],
    [-1, 1, "C2f", [64, True]],
    [-1, 1, "Conv", [256, 3, 2]],
    [-1, 1, "C2PSA", [256]],  # attention with two heads
]
HEADS = {
    "detect": [[4, 6], 1, "Detect", ["nc"]],
    "segment": [[4, 6], 1, "Segment", ["nc", 32, 64]],
    "pose": [[4, 6], 1, "Pose", ["nc", "kpt_shape"]],
    "obb": [[4, 6], 1, "OBB", ["nc", 1]],
    "classify": [-1, 1, "Classify", ["nc"]],
    "semantic": [[4, 6], 1, "SemanticSegment", ["nc"]],
    "depth": [[4, 6], 1, "Depth", [32]],
}
TASKS = [t for t in HEADS if t in trainers.TRAINERS]
NC = 80  # more classes than the data has: the class branch of the head is wider than a fresh build's for 3 classes
FAST = {"imgsz": 64, "batch": 4, "epochs": 1, "plots": False, "verbose": False, "workers": 0, "seed": 0}
STILL = {"lr0": 0.0, "optimizer": "SGD", "warmup_epochs": 0, "amp": False}  # weights stay what was loaded


def network(folder: Path, task: str = "detect") -> ultralytics.YOLO:
    """A small model built from a YAML of its own, with class names and settled batch-norms."""
    file = folder / f"small-{task}.yaml"
    file.write_text(yaml.safe_dump({"nc": NC, "kpt_shape": [2, 3], "backbone": BACKBONE, "head": [HEADS[task]]}))
    torch.manual_seed(0)
    yolo = ultralytics.YOLO(str(file), task=task)
    yolo.ckpt = yolo.ckpt or {}  # without one, older releases cannot save
    settle(yolo.model)
    yolo.model.names = {i: NAMES[i] if i < len(NAMES) else f"other {i}" for i in range(NC)}
    return yolo


def plan_of(model: nn.Module, seed: int = 0) -> Plan:
    graph = host.trace_yolo(model)
    return graph.plan(random_alive(graph, seed))


def cut(yolo: ultralytics.YOLO, plan: Plan) -> handoff.YOLO:
    return handoff.with_model(yolo, surgery.cut(copy.deepcopy(yolo.model), plan))


def shapes_of(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Shapes of all tensors outside the head."""
    return {k: tuple(v.shape) for k, v in body(model).items()}


def body(model: nn.Module) -> dict[str, torch.Tensor]:
    head = f"model.{len(model.model) - 1}."
    return {k: v.float() for k, v in model.state_dict().items() if not k.startswith(head)}


def run_of(tmp_path: Path, **more: Any) -> dict[str, Any]:
    return {**FAST, "project": str(tmp_path / "runs"), **more}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Small networks on busy cores: waiting for a second thread costs ten times what it saves."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("handoff")


@pytest.fixture(scope="module")
def data(folder: Path) -> Path:
    return make_shapes(folder / "shapes", train=4, val=4, imgsz=64)


@pytest.fixture(scope="module")
def parent(folder: Path) -> Path:
    """A checkpoint as Ultralytics saves it."""
    path = folder / "parent.pt"
    network(folder).save(str(path))
    return path


@pytest.fixture(scope="module")
def pruned(folder: Path, parent: Path) -> Path:
    yolo = handoff.load(parent)
    plan = plan_of(yolo.model)
    facts = handoff.make_provenance(parent, {"flops": 0.5, "data": "/home/someone/my.yaml"})
    return handoff.save(cut(yolo, plan), folder / "out" / "pruned.pt", plan=plan, provenance=facts)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fail on any attempt to reach the network or to install something."""
    tried = []

    def refuse(*args: Any, **kwargs: Any) -> Any:
        tried.append(args)
        raise OSError("no network in this test")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr("ultralytics.utils.downloads.safe_download", refuse)
    monkeypatch.setattr("ultralytics.utils.checks.ONLINE", True)
    monkeypatch.setattr(subprocess, "check_output", refuse)  # pip
    yield
    assert not tried


# ---- load ------------------------------------------------------------------------------------------------------------


def test_load_path(parent: Path, offline: None) -> None:
    yolo = handoff.load(parent)
    assert isinstance(yolo, ultralytics.YOLO)
    assert {p.dtype for p in yolo.model.parameters()} == {torch.float32}
    assert not yolo.model.training
    stock = ultralytics.YOLO(str(parent)).model.state_dict()
    assert all(torch.equal(v, stock[k]) for k, v in yolo.model.state_dict().items())


def test_load_bare_name_in_working_directory(parent: Path, monkeypatch: pytest.MonkeyPatch, offline: None) -> None:
    monkeypatch.chdir(parent.parent)
    for name in ("parent.pt", "parent"):
        assert handoff.load(name).task == "detect"


def test_load_model_yaml(offline: None) -> None:
    assert handoff.load("yolov8n.yaml").model.yaml["scale"] == "n"


def test_load_live_object_copies(folder: Path) -> None:
    live = network(folder)
    live.model.half().train()
    live.add_callback("on_train_start", print)
    yolo = handoff.load(live)
    assert {p.dtype for p in yolo.model.parameters()} == {torch.float32}
    assert not yolo.model.training
    yolo.model.model[0].conv.weight.data.zero_()
    yolo.model.yaml["nc"] = -1
    yolo.overrides["imgsz"] = -1
    assert live.model.model[0].conv.weight.abs().sum() > 0
    assert live.model.yaml["nc"] == NC and "imgsz" not in live.overrides
    assert live.model.training and next(live.model.parameters()).dtype == torch.float16
    assert print not in yolo.callbacks["on_train_start"]


def test_with_model_does_not_share(folder: Path) -> None:
    yolo = network(folder)
    before = yolo.model
    other = handoff.with_model(yolo, copy.deepcopy(before))
    assert yolo.model is before and other.model is not before


def _truncated(path: Path, parent: Path) -> None:
    path.write_bytes(parent.read_bytes()[:20000])


BAD = {
    "random bytes": lambda f, p: f.write_bytes(np.random.default_rng(0).bytes(4096)),
    "empty": lambda f, p: f.write_bytes(b""),
    "truncated": _truncated,
    "state_dict": lambda f, p: torch.save(nn.Conv2d(3, 8, 3).state_dict(), f),
    "nested state_dict": lambda f, p: torch.save({"model": nn.Conv2d(3, 8, 3).state_dict()}, f),
    "tensor": lambda f, p: torch.save(torch.zeros(3), f),
    "another network": lambda f, p: torch.save({"model": nn.Sequential(nn.Conv2d(3, 8, 3))}, f),
    "no torch file": lambda f, p: f.write_bytes(pickle.dumps({"a": 1})),
    "folder": lambda f, p: f.mkdir(),
}


@pytest.mark.parametrize("kind", BAD)
def test_load_refuses(kind: str, tmp_path: Path, parent: Path, offline: None) -> None:
    file = tmp_path / "bad.pt"
    BAD[kind](file, parent)
    with pytest.raises(ModelError) as caught:
        handoff.load(file)
    assert "\n" not in str(caught.value) and len(str(caught.value)) > 30


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("best.pt", "is not there"),
        ("nowhere/best.pt", "is not there"),
        ("nowhere/yolov8n.pt", "is not there"),  # an official name, but in a place of the user's own
        ("https://example.com/best.pt", "does not download"),
        ("no-such-model.yaml", "no-such-model.yaml"),
    ],
)
def test_load_missing_file(
    name: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline: None
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=said) as caught:
        handoff.load(name)
    assert name in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["yolov8n.pt", "yolov8n"])
def test_load_fetches_an_official_name_that_was_asked_for(
    name: str, parent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline: None
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = []

    def download(file: str) -> None:
        asked.append(file)
        Path(file).write_bytes(parent.read_bytes())

    monkeypatch.setattr(host, "attempt_download_asset", download)
    assert handoff.load(name).task == "detect"
    assert handoff.load(name).task == "detect"  # it is there now
    assert asked == ["yolov8n.pt"]


def test_load_official_name_without_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(file: str) -> None:
        raise ConnectionError("no route\nand more lines")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(host, "attempt_download_asset", unreachable)
    with pytest.raises(ModelError, match=r"yolov8n\.pt is not here and could not be downloaded: no route$"):
        handoff.load("yolov8n.pt")


def test_load_damaged_file_with_official_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline: None) -> None:
    monkeypatch.chdir(tmp_path)
    Path("yolov8n.pt").write_bytes(b"not a model")
    with pytest.raises(ModelError):
        handoff.load("yolov8n.pt")
    assert Path("yolov8n.pt").read_bytes() == b"not a model"


def test_load_name_that_ultralytics_rewrites(tmp_path: Path, parent: Path, offline: None) -> None:
    if "u" in str(tmp_path):  # Ultralytics looks at the whole path
        tmp_path = Path(os.path.realpath("/tmp")) / f"y{os.getpid()}"
        tmp_path.mkdir()
    file = tmp_path / "yolov5n.pt"
    file.write_bytes(parent.read_bytes())
    with pytest.raises(ModelError, match=r"yolov5nu\.pt"):
        handoff.load(file)


@pytest.mark.parametrize("name", ["model.onnx", "model.torchscript", "model_openvino_model"])
def test_load_exported_model(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(ModelError, match="Exported models cannot be pruned"):
        handoff.load(tmp_path / name)


def test_load_fused_model(folder: Path, tmp_path: Path) -> None:
    yolo = network(folder)
    yolo.fuse()
    yolo.save(str(tmp_path / "fused.pt"))
    for model in (yolo, tmp_path / "fused.pt"):
        with pytest.raises(ModelError, match="fused"):
            handoff.load(model)


def test_load_foreign_classes_installs_nothing(tmp_path: Path, offline: None) -> None:
    module = types.ModuleType("a_private_package")
    module.Layer = type("Layer", (nn.Identity,), {"__module__": "a_private_package"})
    sys.modules["a_private_package"] = module
    try:
        torch.save({"model": nn.Sequential(module.Layer())}, tmp_path / "foreign.pt")
    finally:
        del sys.modules["a_private_package"]
    with pytest.raises(ModelError, match="a_private_package"):
        handoff.load(tmp_path / "foreign.pt")


# ---- save ------------------------------------------------------------------------------------------------------------


def test_checkpoint_is_as_ultralytics_writes_it(pruned: Path) -> None:
    checkpoint = torch.load(pruned, map_location="cpu", weights_only=False)
    assert checkpoint["ema"] is None and checkpoint["optimizer"] is None and checkpoint["epoch"] == -1
    assert {p.dtype for p in checkpoint["model"].parameters()} == {torch.float16}
    assert set(checkpoint["train_args"]) <= set(DEFAULT_CFG_DICT)
    assert checkpoint["version"] == ultralytics.__version__ and "AGPL" in checkpoint["license"] and checkpoint["date"]
    assert type(checkpoint["model"]) is nets.DetectionModel


def test_checkpoint_holds_no_private_class(pruned: Path) -> None:
    with zipfile.ZipFile(pruned) as archive:
        pickled = archive.read(next(n for n in archive.namelist() if n.endswith("data.pkl")))
    named = {arg.split(" ")[0].split(".")[0] for op, arg, _ in pickletools.genops(pickled) if op.name == "GLOBAL"}
    assert named <= {"torch", "ultralytics", "collections", "__builtin__"}


def test_save_keeps_training_arguments_but_only_stock_keys(folder: Path, parent: Path, tmp_path: Path) -> None:
    yolo = handoff.load(parent)
    yolo.ckpt["train_args"] = {"imgsz": 96, "sparsity": 0.5}
    out = handoff.save(yolo, tmp_path / "p.pt", plan=Plan({}), provenance=handoff.make_provenance(None, {}))
    assert torch.load(out, weights_only=False)["train_args"] == {"task": "detect", "imgsz": 96}


def test_save_leaves_the_object_alone(parent: Path, tmp_path: Path) -> None:
    yolo = handoff.load(parent)
    plan = plan_of(yolo.model)
    child = cut(yolo, plan)
    handoff.save(child, tmp_path / "p.pt", plan=plan, provenance={})
    assert handoff.pruned_widths(child) is None
    assert child.model.yaml["backbone"][0][2] == "Conv"
    assert {p.dtype for p in child.model.parameters()} == {torch.float32}


def test_save_survives_half_precision(parent: Path, tmp_path: Path) -> None:
    yolo = handoff.load(parent)
    yolo.model.model[0].bn.running_var[0] = 1e6
    out = handoff.save(yolo, tmp_path / "p.pt", plan=Plan({}), provenance={})
    assert handoff.load(out).model.model[0].bn.running_var[0] == 65504


def test_save_refuses_the_source(parent: Path, tmp_path: Path) -> None:
    source = tmp_path / "mine.pt"
    source.write_bytes(parent.read_bytes())
    link = tmp_path / "link.pt"
    link.symlink_to(source)
    yolo = handoff.load(source)
    for path in (source, link, tmp_path / "." / "mine.pt"):
        with pytest.raises(PruneError, match="not overwritten"):
            handoff.save(yolo, path, plan=Plan({}), provenance={})
    assert source.read_bytes() == parent.read_bytes() and link.is_symlink()


def test_save_into_a_place_that_cannot_be_written(parent: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    places = [tmp_path / "file" / "p.pt"]
    if os.geteuid():  # root may write everywhere
        (tmp_path / "locked").mkdir(mode=0o500)
        places.append(tmp_path / "locked" / "p.pt")
    for place in places:
        with pytest.raises(PruneError, match="Cannot write") as caught:
            handoff.save(handoff.load(parent), place, plan=Plan({}), provenance={})
        assert "\n" not in str(caught.value)


def test_interrupted_save_keeps_the_old_file(parent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = tmp_path / "p.pt"
    old.write_bytes(b"old")

    def full(obj: Any, file: Any) -> None:
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(PruneError, match="No space left on device"):
        handoff.save(handoff.load(parent), old, plan=Plan({}), provenance={})
    assert [(f.name, f.read_bytes()) for f in tmp_path.iterdir()] == [("p.pt", b"old")]


def test_save_replaces_in_one_step(parent: Path, tmp_path: Path) -> None:
    old, seen = tmp_path / "p.pt", tmp_path / "open elsewhere"
    old.write_bytes(b"old")
    os.link(old, seen)
    handoff.save(handoff.load(parent), old, plan=Plan({}), provenance={})
    assert handoff.load(old).task == "detect"
    assert seen.read_bytes() == b"old"  # the old file was not written into
    assert sorted(f.name for f in tmp_path.iterdir()) == ["open elsewhere", "p.pt"]


def test_save_refuses_a_plan_that_does_not_describe_the_model(parent: Path, tmp_path: Path) -> None:
    yolo = handoff.load(parent)
    child = cut(yolo, plan_of(yolo.model, 0))
    for plan in (Plan({}), plan_of(yolo.model, 1)):
        with pytest.raises(PlanError):
            handoff.save(child, tmp_path / "p.pt", plan=plan, provenance={})
    assert not list(tmp_path.iterdir())


def test_uncut_model_stays_trainable_by_stock_ultralytics(parent: Path, tmp_path: Path) -> None:
    out = handoff.save(handoff.load(parent), tmp_path / "p.pt", plan=Plan({}), provenance={"a": 1})
    model = ultralytics.YOLO(str(out)).model
    assert nets.DetectionModel(model.yaml, verbose=False).yaml["backbone"][0][2] == "Conv"
    assert handoff.provenance(model) == {"a": 1, "earlier": []}


# ---- the entry -------------------------------------------------------------------------------------------------------


def test_yaml_of_the_pruned_model(pruned: Path, parent: Path) -> None:
    before, after = (ultralytics.YOLO(str(p)).model.yaml for p in (parent, pruned))
    assert "yoloprune" in after["backbone"][0][2] and after["backbone"][1:] == before["backbone"][1:]
    assert trainers.true_yaml(after) == before
    assert yaml.safe_load(yaml.safe_dump(after)) == after  # plain data
    assert "/" not in json.dumps(after["yoloprune"])  # no path of this machine


def test_stop_sentence_names_both_ways_out() -> None:
    for needed in ("yoloprune finetune", "from yoloprune import YOLO", "Install yoloprune"):
        assert needed in trainers.STOP
    assert '"' not in trainers.STOP and "nn." not in trainers.STOP and "\n" not in trainers.STOP


def test_provenance(pruned: Path, parent: Path) -> None:
    told = handoff.provenance(handoff.load(pruned))
    assert told["parent"] == {"name": "parent.pt", "sha256": hashlib.sha256(parent.read_bytes()).hexdigest()}
    assert told["arguments"] == {"flops": 0.5, "data": "my.yaml"}
    assert told["versions"]["ultralytics"] == ultralytics.__version__ and told["versions"]["torch"] in torch.__version__
    assert told["earlier"] == [] and told["date"][:2] == "20"


def test_provenance_of_live_objects_and_odd_values() -> None:
    told = handoff.make_provenance(
        None, {"a": Path("x/y.pt"), "b": np.float32(0.5), "c": ("k", None), "d": {"e": True}}
    )
    assert told["parent"] is None
    assert told["arguments"] == {"a": "y.pt", "b": 0.5, "c": ["k", None], "d": {"e": True}}


def test_unpruned_models_tell_nothing(parent: Path) -> None:
    yolo = handoff.load(parent)
    assert handoff.provenance(yolo) is None and handoff.pruned_widths(yolo) is None


def test_second_pruning_is_relative_to_the_true_yaml(pruned: Path, parent: Path, tmp_path: Path) -> None:
    first = handoff.load(pruned)
    plan = plan_of(first.model, 3)
    out = handoff.save(cut(first, plan), tmp_path / "twice.pt", plan=plan, provenance={"second": True})
    twice, widths = handoff.load(out), handoff.pruned_widths(handoff.load(out))
    full = dict(ultralytics.YOLO(str(parent)).model.named_modules())
    for name, module in twice.model.named_modules():
        if not isinstance(module, (nn.Conv2d, nn.BatchNorm2d)):
            continue
        sides = {"outputs": "num_features"} if isinstance(module, nn.BatchNorm2d) else {"outputs": "out_channels"}
        if isinstance(module, nn.Conv2d) and module.groups == 1:
            sides["inputs"] = "in_channels"
        for i, (side, key) in enumerate(sides.items()):
            was, now = getattr(full[name], key), getattr(module, key)
            if was == now:
                assert side not in widths.get(name, {}), (name, side)
            else:
                assert (widths[name][side], widths[name]["of"][i]) == (now, was), (name, side)
    assert shapes_of(twice.model) != shapes_of(first.model)
    told = handoff.provenance(twice)
    assert told["second"] and [p["parent"]["name"] for p in told["earlier"]] == ["parent.pt"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda e: e.update(version=99), "Upgrade yoloprune"),
        (lambda e: e.pop("widths"), "damaged"),
        (lambda e: e["widths"].update({"model.0.conv": {"outputs": 5, "of": [17, None]}}), "does not fit"),
        (lambda e: e["widths"].pop(next(iter(e["widths"]))), "."),
    ],
)
def test_damaged_entry_never_trains(change: Any, said: str, pruned: Path) -> None:
    model = handoff.load(pruned).model
    change(model.yaml["yoloprune"])
    with pytest.raises((PlanError, RuntimeError), match=said):
        stub("detect").get_model(cfg=model.yaml, weights=model, verbose=False)


# ---- rebuilding ------------------------------------------------------------------------------------------------------


def stub(task: str, nc: int = NC, names: dict[int, str] | None = None, **args: Any) -> Any:
    """A trainer without data set, enough to build a model."""
    trainer = object.__new__(trainers.TRAINERS[task])
    names = names or {i: NAMES[i] if i < len(NAMES) else f"other {i}" for i in range(nc)}
    trainer.data = {"nc": nc, "channels": 3, "names": names, "kpt_shape": [2, 3]}
    trainer.args = types.SimpleNamespace(**{"pretrained": True, "dropout": 0.0, "cls_remap": True, **args})
    trainer.resume = False
    return trainer


@pytest.mark.parametrize("task", TASKS)
def test_rebuilt_model_computes_the_same(task: str, folder: Path, tmp_path: Path) -> None:
    yolo = handoff.load(network(folder, task))
    plan = plan_of(yolo.model, 1)
    out = handoff.save(cut(yolo, plan), tmp_path / "p.pt", plan=plan, provenance={})
    model = handoff.load(out).model
    rebuilt = stub(task).get_model(cfg=model.yaml, weights=model, verbose=False)
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for network_ in (rebuilt, model):
        network_.eval()
    with torch.no_grad():
        got, expected = (torch.utils._pytree.tree_leaves(m(x)) for m in (rebuilt, model))
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(got, expected, strict=True) if torch.is_tensor(a))
    assert rebuilt.yaml == model.yaml
    assert type(rebuilt) is type(model)
    assert {n for n, p in rebuilt.named_parameters() if not p.requires_grad} <= {
        f"{host.head_name(model)}.dfl.conv.weight"
    }
    scratch = stub(task, nc=2, pretrained=False).get_model(cfg=model.yaml, weights=None, verbose=False)
    assert shapes_of(scratch) == shapes_of(model)


def test_attention_widths_need_more_than_their_sum(pruned: Path) -> None:
    entry = handoff.load(pruned).model.yaml["yoloprune"]
    assert set(entry["numbers"]) == {"model.6.m.0.attn"}  # else this file tests nothing of it


def test_class_branch_keeps_its_source_width_for_other_classes(pruned: Path) -> None:
    model = handoff.load(pruned).model
    names = {0: "star", 1: NAMES[2], 2: NAMES[0], 3: "cross", 4: "ring"}
    rebuilt = stub("detect", 5, names).get_model(cfg=model.yaml, weights=model, verbose=False)
    for old, new in zip(model.model[-1].cv3, rebuilt.model[-1].cv3, strict=True):
        assert new[-1].in_channels == old[-1].in_channels == NC
        assert new[-1].out_channels == 5
        assert torch.equal(new[-1].weight[1], old[-1].weight[2]) and torch.equal(new[-1].weight[2], old[-1].weight[0])
        assert torch.equal(new[0].conv.weight, old[0].conv.weight)


def test_models_that_were_not_pruned_are_built_as_ever(parent: Path) -> None:
    model = handoff.load(parent).model
    rebuilt = stub("detect").get_model(cfg=model.yaml, weights=model, verbose=False)
    assert rebuilt.yaml == model.yaml and shapes_of(rebuilt) == shapes_of(model)
    assert stub("detect").get_model(cfg="yolov8n.yaml", weights=model, verbose=False).model[0].conv.out_channels == 16


def test_weights_of_a_pruned_model_never_go_into_another(pruned: Path, parent: Path, folder: Path) -> None:
    full, model = handoff.load(parent).model, handoff.load(pruned).model
    with pytest.raises(PlanError, match="own checkpoint"):
        stub("detect").get_model(cfg=full.yaml, weights=model, verbose=False)
    yolo = handoff.load(network(folder))
    before = copy.deepcopy(yolo.model.state_dict())
    for weights in (pruned, model, {"model": model}):
        with pytest.raises(PlanError, match="own checkpoint"):
            trainers.YOLO.load(yolo, weights)
    assert all(torch.equal(v, before[k]) for k, v in yolo.model.state_dict().items())
    handoff.load(pruned).load(pruned)
    handoff.load(pruned).load(parent)  # the structure stays pruned, so this is the user's choice


def test_fused_weights_are_refused(pruned: Path) -> None:
    yolo = handoff.load(pruned)
    config = yolo.model.yaml
    with pytest.raises(PlanError, match="fused"):
        stub("detect").get_model(cfg=config, weights=yolo.model.fuse(), verbose=False)


@pytest.mark.parametrize("source", ["checkpoint", "yaml"])
def test_model_cut_in_memory_is_not_trained_full_size(
    source: str, parent: Path, folder: Path, data: Path, tmp_path: Path
) -> None:
    yolo = handoff.load(parent if source == "checkpoint" else network(folder))
    child = cut(yolo, plan_of(yolo.model))
    with pytest.raises(PlanError, match="own checkpoint"):
        child.train(data=str(data), **run_of(tmp_path))


def test_tune_refuses(pruned: Path) -> None:
    with pytest.raises(ModelError, match="Tune the parent"):
        handoff.load(pruned).tune(iterations=1)


@pytest.mark.parametrize("kind", ["WorldModel", "YOLOEModel", "RTDETRDetectionModel"])
def test_families_without_a_trainer_here_do_not_train_in_silence(kind: str) -> None:
    from ultralytics.models.rtdetr.train import RTDETRTrainer
    from ultralytics.models.yolo.world import WorldTrainer
    from ultralytics.models.yolo.yoloe import YOLOETrainer

    model = getattr(nets, kind).__new__(getattr(nets, kind))
    nn.Module.__init__(model)
    model.yaml = nets.yaml_model_load(
        {"W": "yolov8s-worldv2.yaml", "Y": "yoloe-11s.yaml", "R": "rtdetr-l.yaml"}[kind[0]]
    )
    before = copy.deepcopy(model.yaml)
    trainers.mark(model, {"version": 1, "widths": {"a": {}}, "numbers": {}, "provenance": {}})
    trainer = object.__new__({"W": WorldTrainer, "Y": YOLOETrainer, "R": RTDETRTrainer}[kind[0]])
    trainer.data = {"nc": 3, "channels": 3, "names": dict(enumerate(NAMES))}
    trainer.args = types.SimpleNamespace(task="detect", cls_remap=True)
    with pytest.raises((KeyError, FileNotFoundError), match="pruned by yoloprune"):
        trainer.get_model(cfg=copy.deepcopy(model.yaml), verbose=False)
    assert trainers.true_yaml(model.yaml) == before


# ---- training --------------------------------------------------------------------------------------------------------


def test_training_keeps_widths_weights_and_provenance(pruned: Path, data: Path, tmp_path: Path) -> None:
    yolo = trainers.YOLO(str(pruned))
    before = yolo.model
    yolo.train(data=str(data), **run_of(tmp_path, **STILL))
    for path in (yolo.trainer.last, yolo.trainer.best):
        model = ultralytics.YOLO(str(path)).model  # stripped by Ultralytics
        assert shapes_of(model) == shapes_of(before)
        assert handoff.provenance(model) == handoff.provenance(before)
        assert handoff.pruned_widths(model) == handoff.pruned_widths(before)
        weights = body(model)
        for name, p in before.named_parameters():
            if name in weights:
                assert torch.equal(weights[name], p), name  # loaded in full, and nothing was learnt at lr0=0
        assert model.nc == len(NAMES) and model.names == dict(enumerate(NAMES))
    with pytest.raises(KeyError, match="yoloprune finetune"):
        ultralytics.YOLO(str(path)).train(data=str(data), **run_of(tmp_path))


def test_stock_object_trains_with_our_trainer(pruned: Path, data: Path, tmp_path: Path) -> None:
    yolo = ultralytics.YOLO(str(pruned))
    shapes = shapes_of(yolo.model)
    yolo.train(trainer=trainers.DetectionTrainer, data=str(data), freeze=2, **run_of(tmp_path))
    assert shapes_of(yolo.model) == shapes
    before, after = body(handoff.load(pruned).model), body(yolo.model)
    assert torch.equal(before["model.1.conv.weight"], after["model.1.conv.weight"])
    assert not torch.equal(before["model.3.conv.weight"], after["model.3.conv.weight"])


class Stopped(Exception):
    """Stands for a crash."""


def _crash(trainer: Any) -> None:
    if trainer.epoch == 0:
        raise Stopped


def test_interrupted_run_resumes_at_the_pruned_widths(pruned: Path, data: Path, tmp_path: Path) -> None:
    yolo = trainers.YOLO(str(pruned))
    shapes = shapes_of(yolo.model)
    yolo.add_callback("on_fit_epoch_end", _crash)
    with pytest.raises(Stopped):
        yolo.train(data=str(data), **run_of(tmp_path, epochs=2))
    last = Path(yolo.trainer.last)
    with pytest.raises(KeyError, match="yoloprune finetune"):
        ultralytics.YOLO(str(last)).train(resume=True)
    again = trainers.YOLO(str(last))
    again.train(resume=True)
    assert again.trainer.start_epoch == 1 and again.trainer.epoch == 1
    assert shapes_of(again.model) == shapes
    assert handoff.provenance(again)["parent"]["name"] == "parent.pt"


def test_model_marked_in_memory_trains_at_its_widths(folder: Path, data: Path, tmp_path: Path) -> None:
    yolo = handoff.load(network(folder))  # from a YAML: there is no checkpoint that Ultralytics could go back to
    plan = plan_of(yolo.model)
    child = cut(yolo, plan)
    handoff.mark_pruned(child.model, plan, {})
    before = child.model
    child.train(data=[str(data)], **run_of(tmp_path, **STILL))  # a list of data sets, each in a run of its own
    model = ultralytics.YOLO(str(next((tmp_path / "runs").rglob("best.pt")))).model
    assert shapes_of(model) == shapes_of(before)
    assert torch.allclose(body(model)["model.3.conv.weight"], body(before)["model.3.conv.weight"], atol=1e-3)


def test_parent_as_teacher(pruned: Path, parent: Path, data: Path, tmp_path: Path) -> None:
    yolo = trainers.YOLO(str(pruned))
    shapes = shapes_of(yolo.model)
    yolo.train(data=str(data), distill_model=str(parent), **run_of(tmp_path))
    assert shapes_of(yolo.model) == shapes


def _labels(root: Path, task: str) -> Path:
    """The shapes data set with labels of another task, made from its boxes."""
    for file in (root / "labels").rglob("*.txt"):
        lines = []
        for line in file.read_text().splitlines():
            c, x, y, w, h = line.split()[0], *map(float, line.split()[1:])
            x1, y1, x2, y2 = x - w / 2, y - h / 2, x + w / 2, y + h / 2
            polygon = [x1, y1, x2, y1, x2, y2, x1, y2]
            values = [x, y, w, h, x1, y1, 2, x2, y2, 2] if task == "pose" else polygon
            lines.append(" ".join([c, *(f"{min(max(v, 0), 1 if v != 2 else 2):.6f}" for v in values)]))
        file.write_text("\n".join(lines) + "\n")
    text = yaml.safe_load((root / "data.yaml").read_text())
    (root / "data.yaml").write_text(yaml.safe_dump({**text, "kpt_shape": [2, 3]}))
    return root / "data.yaml"


def _pictures(root: Path) -> Path:
    """A classification data set: one folder per class."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in NAMES[:2]:
            (root / split / name).mkdir(parents=True)
            for i in range(2):
                cv2.imwrite(str(root / split / name / f"{i}.jpg"), rng.integers(0, 255, (64, 64, 3), dtype=np.uint8))
    return root


@pytest.mark.parametrize("task", ["segment", "pose", "obb", "classify"])
def test_other_tasks_train_at_the_pruned_widths(task: str, folder: Path, tmp_path: Path) -> None:
    if task == "classify":
        source = _pictures(tmp_path / "pictures")
    else:
        source = _labels(make_shapes(tmp_path / "data", train=4, val=2, imgsz=64).parent, task)
    yolo = handoff.load(network(folder, task))
    plan = plan_of(yolo.model)
    out = handoff.save(cut(yolo, plan), tmp_path / "p.pt", plan=plan, provenance={})
    pruned = trainers.YOLO(str(out))
    shapes = shapes_of(pruned.model)
    pruned.train(data=str(source), **run_of(tmp_path))
    assert type(pruned.trainer) is trainers.TRAINERS[task]
    assert shapes_of(pruned.model) == shapes
    assert len(pruned.names) == (2 if task == "classify" else len(NAMES))


# ---- other processes -------------------------------------------------------------------------------------------------


def run_python(script: str, *args: object, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, args)],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def test_multi_gpu_worker_rebuilds_the_trainer(
    pruned: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ultralytics.utils import dist

    monkeypatch.setattr("ultralytics.utils.checks.check_requirements", lambda *a, **k: True)
    monkeypatch.setattr(dist, "USER_CONFIG_DIR", tmp_path)
    yolo = trainers.YOLO(str(pruned))
    trainer = trainers.DetectionTrainer(overrides={"model": str(pruned), "data": str(data), **run_of(tmp_path)})
    if importlib.util.find_spec("cloudpickle") is None:  # Ultralytics installs it when it first needs it
        monkeypatch.setitem(sys.modules, "cloudpickle", pickle)  # stricter: everything must be importable by name
        trainer.callbacks = {}  # those of Ultralytics hold a lambda
    trainer.model = trainer.get_model(cfg=yolo.model.yaml, weights=yolo.model)  # as YOLO.train does
    worker = Path(dist.generate_ddp_file(trainer))
    trainer.model = str(pruned)  # as in a resumed run, where the worker itself builds the model
    path_worker = Path(dist.generate_ddp_file(trainer))
    report = "    print('TRAINED', type(trainer).__module__, trainer.model.model[0].conv.out_channels, trainer.last)\n"
    said = run_python("\n".join(file.read_text() + report for file in (worker, path_worker)))
    for line in said.split("TRAINED ")[1:]:
        module, width, last = line.split()[:3]
        assert module == "yoloprune.trainers"
        assert int(width) == yolo.model.model[0].conv.out_channels
        assert shapes_of(ultralytics.YOLO(last).model) == shapes_of(yolo.model)
    assert said.count("TRAINED ") == 2


WITHOUT = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "yoloprune":
            raise ImportError("yoloprune is blocked")

sys.meta_path.insert(0, Block())
import json, numpy as np
from ultralytics import YOLO
from ultralytics.cfg import entrypoint
from ultralytics.nn.tasks import SAFE_LOAD

path, data, parent, project = sys.argv[1:]
fast = dict(data=data, imgsz=64, batch=4, plots=False, verbose=False, workers=0, project=project)
said = {"safe": SAFE_LOAD, "image": np.zeros((64, 64, 3), "uint8")}

def attempt(name, action):
    try:
        said[name] = action()
    except Exception as e:
        said[name] = f"{type(e).__name__}: {e}"

attempt("import", lambda: __import__("yoloprune"))
attempt("parameters", lambda: sum(p.numel() for p in YOLO(path).model.parameters()))
attempt("info", lambda: YOLO(path).info()[1])
attempt("predict", lambda: len(YOLO(path).predict(said["image"], imgsz=64, verbose=False)))
attempt("val", lambda: "metrics/mAP50(B)" in YOLO(path).val(**fast).results_dict)
attempt("fuse", lambda: YOLO(path).fuse().model.is_fused())
attempt("export", lambda: YOLO(path).export(format="onnx", imgsz=64))
attempt("train", lambda: YOLO(path).train(epochs=1, **fast))
attempt("scratch", lambda: YOLO(path).reset_weights().train(epochs=1, **fast))
attempt("saved again", lambda: YOLO(path).save(path + "2.pt") or YOLO(path + "2.pt").train(epochs=1, **fast))
flags = " ".join(f"{k}={v}" for k, v in fast.items())
attempt("command line", lambda: entrypoint(f"train model={path} epochs=1 {flags}"))
attempt("teacher", lambda: bool(YOLO(parent).train(epochs=1, distill_model=path, **fast)))
del said["image"]
print("SAID" + json.dumps(said))
"""


def test_without_yoloprune(pruned: Path, parent: Path, data: Path, tmp_path: Path) -> None:
    path = tmp_path / "pruned.pt"
    path.write_bytes(pruned.read_bytes())
    out = run_python(WITHOUT, path, data, parent, tmp_path / "runs", ULTRALYTICS_SAFE_LOAD="1")
    said = json.loads(out.rpartition("SAID")[2])
    assert said.pop("safe") is True
    assert said.pop("import") == "ImportError: yoloprune is blocked"
    parameters = sum(p.numel() for p in handoff.load(pruned).model.parameters())
    assert said.pop("parameters") == said.pop("info") == parameters
    if (exported := said.pop("export")) != "skipped":
        assert exported.endswith("pruned.onnx")
    for name in ("train", "scratch", "saved again", "command line"):
        assert said.pop(name) == f"KeyError: {trainers.STOP!r}", name
    assert said == {"predict": 1, "val": True, "fuse": True, "teacher": True}
