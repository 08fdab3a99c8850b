"""Checkpoints of pruned models: written as Ultralytics writes them, in one step, with an entry that tells of them."""

from __future__ import annotations

import hashlib
import json
import os
import pickletools
import traceback
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import ultralytics
import yaml
from checkpoints import cut, plan_of, shapes_of, stub
from torch import nn
from ultralytics.nn import tasks as nets
from ultralytics.utils import DEFAULT_CFG_DICT

from yoloprune.backend import yaml_markers
from yoloprune.checkpoint import saving
from yoloprune.errors import ModelError, PlanError, PruneError
from yoloprune.planning.plan import Plan

pytestmark = pytest.mark.usefixtures("one_thread")


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
    yolo = saving.load(parent)
    yolo.ckpt["train_args"] = {"imgsz": 96, "sparsity": 0.5}
    out = saving.save(yolo, tmp_path / "p.pt", plan=Plan({}), provenance=saving.make_provenance(None, {}))
    assert torch.load(out, weights_only=False)["train_args"] == {"task": "detect", "imgsz": 96}


def test_save_leaves_the_object_alone(parent: Path, tmp_path: Path) -> None:
    yolo = saving.load(parent)
    plan = plan_of(yolo.model)
    child = cut(yolo, plan)
    saving.save(child, tmp_path / "p.pt", plan=plan, provenance={})
    assert saving.pruned_widths(child) is None
    assert child.model.yaml["backbone"][0][2] == "Conv"
    assert {p.dtype for p in child.model.parameters()} == {torch.float32}


def test_save_survives_half_precision(parent: Path, tmp_path: Path) -> None:
    yolo = saving.load(parent)
    yolo.model.model[0].bn.running_var[0] = 1e6
    out = saving.save(yolo, tmp_path / "p.pt", plan=Plan({}), provenance={})
    assert saving.load(out).model.model[0].bn.running_var[0] == 65504


def test_save_refuses_the_source(parent: Path, tmp_path: Path) -> None:
    source = tmp_path / "mine.pt"
    source.write_bytes(parent.read_bytes())
    link = tmp_path / "link.pt"
    link.symlink_to(source)
    yolo = saving.load(source)
    for path in (source, link, tmp_path / "." / "mine.pt"):
        with pytest.raises(PruneError, match="not overwritten"):
            saving.save(yolo, path, plan=Plan({}), provenance={})
    assert source.read_bytes() == parent.read_bytes() and link.is_symlink()


def test_save_into_a_place_that_cannot_be_written(parent: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    places = [tmp_path / "file" / "p.pt"]
    if os.geteuid():  # root may write everywhere
        (tmp_path / "locked").mkdir(mode=0o500)
        places.append(tmp_path / "locked" / "p.pt")
    for place in places:
        with pytest.raises(PruneError, match="Cannot write") as caught:
            saving.save(saving.load(parent), place, plan=Plan({}), provenance={})
        assert "\n" not in str(caught.value)


def test_interrupted_save_keeps_the_old_file(parent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = tmp_path / "p.pt"
    old.write_bytes(b"old")

    def full(obj: Any, file: Any) -> None:
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(PruneError, match="No space left on device"):
        saving.save(saving.load(parent), old, plan=Plan({}), provenance={})
    assert [(f.name, f.read_bytes()) for f in tmp_path.iterdir()] == [("p.pt", b"old")]


def test_save_replaces_in_one_step(parent: Path, tmp_path: Path) -> None:
    old, seen = tmp_path / "p.pt", tmp_path / "open elsewhere"
    old.write_bytes(b"old")
    os.link(old, seen)
    saving.save(saving.load(parent), old, plan=Plan({}), provenance={})
    assert saving.load(old).task == "detect"
    assert seen.read_bytes() == b"old"  # the old file was not written into
    assert sorted(f.name for f in tmp_path.iterdir()) == ["open elsewhere", "p.pt"]


@pytest.mark.slow
def test_save_refuses_a_plan_that_does_not_describe_the_model(parent: Path, tmp_path: Path) -> None:
    yolo = saving.load(parent)
    child = cut(yolo, plan_of(yolo.model, 0))
    with pytest.raises(PlanError):
        saving.save(child, tmp_path / "p.pt", plan=plan_of(yolo.model, 1), provenance={})
    assert not list(tmp_path.iterdir())


def test_stock_training_stops_though_the_plan_says_nothing(parent: Path, tmp_path: Path) -> None:
    yolo = saving.load(parent)
    file = saving.save(cut(yolo, plan_of(yolo.model, 0)), tmp_path / "p.pt", plan=Plan({}), provenance={})
    with pytest.raises(KeyError, match="not the one that its YAML describes"):
        type(yolo.model)(saving.load(file).model.yaml, verbose=False)


def test_uncut_model_stays_trainable_by_stock_ultralytics(parent: Path, tmp_path: Path) -> None:
    out = saving.save(saving.load(parent), tmp_path / "p.pt", plan=Plan({}), provenance={"a": 1})
    model = ultralytics.YOLO(str(out)).model
    assert nets.DetectionModel(model.yaml, verbose=False).yaml["backbone"][0][2] == "Conv"
    assert saving.provenance(model) == {"a": 1, "earlier": []}


# ---- the entry -------------------------------------------------------------------------------------------------------


def test_yaml_of_the_pruned_model(pruned: Path, parent: Path) -> None:
    before, after = (ultralytics.YOLO(str(p)).model.yaml for p in (parent, pruned))
    assert "yoloprune" in after["backbone"][0][2] and after["backbone"][1:] == before["backbone"][1:]
    assert yaml_markers.true_yaml(after) == before
    assert yaml.safe_load(yaml.safe_dump(after)) == after  # plain data
    assert "/" not in json.dumps(after["yoloprune"])  # no path of this machine


def test_stop_sentence_names_both_ways_out() -> None:
    for needed in ("yoloprune finetune", "from yoloprune import YOLO", "Install yoloprune"):
        assert needed in yaml_markers.STOP_PRUNED
    stop = yaml_markers.STOP_PRUNED
    assert '"' not in stop and "nn." not in stop and "\n" not in stop


def test_pages_show_what_stock_training_ends_with(pruned: Path) -> None:
    """A traceback, whose last line this is: README has its beginning, and the guide all of it."""
    with pytest.raises(KeyError) as raised:
        nets.DetectionModel(saving.load(pruned).model.yaml, verbose=False)
    last = traceback.format_exception_only(raised.type, raised.value)[-1].strip()
    root = Path(__file__).parents[2]
    assert f"\n{last}\n" in (root / "docs" / "guide" / "troubleshooting.md").read_text(encoding="utf-8")
    assert f'`{last.partition(". ")[0]}. …"`' in (root / "README.md").read_text(encoding="utf-8")


def test_provenance(pruned: Path, parent: Path) -> None:
    told = saving.provenance(saving.load(pruned))
    assert told["parent"] == {"name": "parent.pt", "sha256": hashlib.sha256(parent.read_bytes()).hexdigest()}
    assert told["arguments"] == {"flops": 0.5, "data": "my.yaml"}
    assert told["versions"]["ultralytics"] == ultralytics.__version__ and told["versions"]["torch"] in torch.__version__
    assert told["earlier"] == [] and told["date"][:2] == "20"


def test_provenance_of_live_objects_and_odd_values() -> None:
    told = saving.make_provenance(None, {"a": Path("x/y.pt"), "b": np.float32(0.5), "c": ("k", None), "d": {"e": True}})
    assert told["parent"] is None
    assert told["arguments"] == {"a": "y.pt", "b": 0.5, "c": ["k", None], "d": {"e": True}}


def test_unpruned_models_tell_nothing(parent: Path) -> None:
    yolo = saving.load(parent)
    assert saving.provenance(yolo) is None and saving.pruned_widths(yolo) is None


def test_second_pruning_is_relative_to_the_true_yaml(pruned: Path, parent: Path, tmp_path: Path) -> None:
    first = saving.load(pruned)
    plan = plan_of(first.model, 3)
    out = saving.save(cut(first, plan), tmp_path / "twice.pt", plan=plan, provenance={"second": True})
    twice, widths = saving.load(out), saving.pruned_widths(saving.load(out))
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
    told = saving.provenance(twice)
    assert told["second"] and [p["parent"]["name"] for p in told["earlier"]] == ["parent.pt"]


def test_the_record_of_a_later_release_is_refused(pruned: Path, tmp_path: Path) -> None:
    yolo = saving.load(pruned)
    yolo.model.yaml["yoloprune"] = {"version": 99, "said": "otherwise"}
    with pytest.raises(PlanError, match="Upgrade yoloprune"):
        stub("detect").get_model(cfg=yolo.model.yaml, weights=yolo.model, verbose=False)
    with pytest.raises(ModelError, match="model: This model was pruned by a later yoloprune"):
        saving.load(yolo)
    yolo.save(tmp_path / "later.pt")
    with pytest.raises(ModelError, match=r"later\.pt: This model was pruned by a later yoloprune"):
        saving.load(tmp_path / "later.pt")
    saving.load(tmp_path / "later.pt", prunable=False)  # validation is Ultralytics' own


@pytest.mark.parametrize(
    "change",
    [
        lambda e: e.pop("widths"),
        lambda e: e["widths"].update({"model.0.conv": {"outputs": 5, "of": [17, None]}}),
        lambda e: e["widths"].pop(next(iter(e["widths"]))),
    ],
)
def test_whatever_the_record_says_the_network_of_the_checkpoint_is_trained(change: Any, pruned: Path) -> None:
    model = saving.load(pruned).model
    change(model.yaml["yoloprune"])
    assert shapes_of(stub("detect").get_model(cfg=model.yaml, weights=model, verbose=False)) == shapes_of(model)
