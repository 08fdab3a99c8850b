"""What `handoff.load` takes: paths, official names, live objects; and what it refuses in one line."""

from __future__ import annotations

import copy
import os
import pickle
import shutil
import socket
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import ultralytics
from checkpoints import NC, network, untrained
from sparse_loop import TINY
from torch import nn

from yoloprune.backend import console
from yoloprune.checkpoint import saving
from yoloprune.errors import ArgumentError, ModelError

pytestmark = pytest.mark.usefixtures("one_thread")


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


def test_load_path(parent: Path, offline: None) -> None:
    yolo = saving.load(parent)
    assert isinstance(yolo, ultralytics.YOLO)
    assert {p.dtype for p in yolo.model.parameters()} == {torch.float32}
    assert not yolo.model.training
    stock = ultralytics.YOLO(str(parent)).model.state_dict()
    assert all(torch.equal(v, stock[k]) for k, v in yolo.model.state_dict().items())


def test_load_bare_name_in_working_directory(parent: Path, monkeypatch: pytest.MonkeyPatch, offline: None) -> None:
    monkeypatch.chdir(parent.parent)
    for name in ("parent.pt", "parent"):
        assert saving.load(name).task == "detect"


def test_load_model_yaml(offline: None) -> None:
    assert saving.load("yolov8n.yaml").model.yaml["scale"] == "n"


def test_load_live_object_copies(folder: Path) -> None:
    live = network(folder)
    live.model.half().train()
    live.add_callback("on_train_start", print)
    yolo = saving.load(live)
    assert {p.dtype for p in yolo.model.parameters()} == {torch.float32}
    assert not yolo.model.training
    yolo.model.model[0].conv.weight.data.zero_()
    yolo.model.yaml["nc"] = -1
    yolo.overrides["imgsz"] = -1
    assert live.model.model[0].conv.weight.abs().sum() > 0
    assert live.model.yaml["nc"] == NC and "imgsz" not in live.overrides
    assert live.model.training and next(live.model.parameters()).dtype == torch.float16
    assert print in yolo.callbacks["on_train_start"]  # the user's are called as in stock Ultralytics
    yolo.add_callback("on_train_start", repr)
    assert repr not in live.callbacks["on_train_start"]  # and what is added here stays off the user's object


def test_with_model_does_not_share(folder: Path) -> None:
    yolo = network(folder)
    before = yolo.model
    other = saving.with_model(yolo, copy.deepcopy(before))
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
        saving.load(file)
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
        saving.load(name)
    assert name in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["yolov8n.pt", "yolov8n"])
def test_load_fetches_an_official_name_that_was_asked_for(
    name: str, parent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline: None
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = []

    def download(file: str) -> str:
        if Path(file).is_file():  # Ultralytics' loader asks for every file
            return file
        asked.append(file)
        Path(file).write_bytes(parent.read_bytes())
        return file

    monkeypatch.setattr("ultralytics.utils.downloads.attempt_download_asset", download)
    assert saving.load(name).task == "detect"
    assert saving.load(name).task == "detect"  # it is there now
    assert asked == ["yolov8n.pt"]


def test_an_official_name_may_lie_among_the_weights_of_ultralytics(
    parent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline: None
) -> None:
    """Its function for downloads then downloads nothing, and says where."""
    there = tmp_path / "weights" / "yolov8n.pt"
    there.parent.mkdir()
    there.write_bytes(parent.read_bytes())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ultralytics.utils.downloads.attempt_download_asset", lambda name: str(there))
    assert saving.load("yolov8n.pt").ckpt_path == str(there)


def test_load_official_name_without_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(file: str) -> None:
        raise ConnectionError("no route\nand more lines")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ultralytics.utils.downloads.attempt_download_asset", unreachable)
    with pytest.raises(ModelError, match=r"yolov8n\.pt is not here and could not be downloaded: no route$"):
        saving.load("yolov8n.pt")


def test_load_damaged_file_with_official_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline: None) -> None:
    monkeypatch.chdir(tmp_path)
    Path("yolov8n.pt").write_bytes(b"not a model")
    with pytest.raises(ModelError):
        saving.load("yolov8n.pt")
    assert Path("yolov8n.pt").read_bytes() == b"not a model"


def test_load_name_that_ultralytics_rewrites(tmp_path: Path, parent: Path, offline: None) -> None:
    if "u" in str(tmp_path):  # Ultralytics looks at the whole path
        tmp_path = Path(os.path.realpath("/tmp")) / f"y{os.getpid()}"
        tmp_path.mkdir()
    file = tmp_path / "yolov5n.pt"
    file.write_bytes(parent.read_bytes())
    with pytest.raises(ModelError, match=r"yolov5nu\.pt"):
        saving.load(file)


def test_load_below_a_folder_whose_name_ultralytics_rewrites(
    tmp_path: Path, parent: Path, monkeypatch: pytest.MonkeyPatch, offline: None
) -> None:
    """It leaves out apostrophes, so that only a path that goes on from there is found."""
    (tmp_path / "o'n").mkdir()
    monkeypatch.chdir(shutil.copy(parent, tmp_path / "o'n" / "best.pt").parent)
    assert saving.load("best.pt").task == "detect"
    with pytest.raises(ModelError, match=r"as \S*on.best\.pt, which is not there"):
        saving.load(Path("best.pt").absolute())


@pytest.mark.parametrize("text", ["nc: 1\nhead: 5\n", "nc: 1\nhead: []\n", "- 1\n"])
def test_load_yaml_of_something_else(text: str, tmp_path: Path) -> None:
    (tmp_path / "model.yaml").write_text(text)
    with pytest.raises(ModelError, match="is not a YOLO model"):
        saving.load(tmp_path / "model.yaml")


@pytest.mark.parametrize("name", ["model.onnx", "model.torchscript", "model_openvino_model"])
def test_load_exported_model(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(ModelError, match="Exported models cannot be pruned"):
        saving.load(tmp_path / name)


def test_what_is_no_model_at_all_is_not_taken_for_an_export(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("words")
    with pytest.raises(ModelError, match=r"README.md is no model. Give the path of a .pt checkpoint"):
        saving.load(tmp_path / "README.md")


def test_load_fused_model(folder: Path, tmp_path: Path) -> None:
    yolo = network(folder)
    yolo.fuse()
    yolo.save(str(tmp_path / "fused.pt"))
    for model in (yolo, tmp_path / "fused.pt"):
        with pytest.raises(ModelError, match="fused"):
            saving.load(model)


@pytest.mark.parametrize(("inside", "told"), [("weights/best.pt", True), ("best.pt", True), ("last.pt", False)])
def test_load_folder_names_the_file_in_it(inside: str, told: bool, tmp_path: Path) -> None:
    (tmp_path / inside).parent.mkdir(exist_ok=True)
    (tmp_path / inside).touch()
    with pytest.raises(ModelError, match="is a folder") as caught:
        saving.load(tmp_path)
    assert (str(tmp_path / inside) in str(caught.value)) == told


def test_load_foreign_classes_installs_nothing(tmp_path: Path, offline: None) -> None:
    module = types.ModuleType("a_private_package")
    module.Layer = type("Layer", (nn.Identity,), {"__module__": "a_private_package"})
    sys.modules["a_private_package"] = module
    try:
        torch.save({"model": nn.Sequential(module.Layer())}, tmp_path / "foreign.pt")
    finally:
        del sys.modules["a_private_package"]
    with pytest.raises(ModelError, match="a_private_package"):
        saving.load(tmp_path / "foreign.pt")
    with pytest.raises(ModelError, match="a_private_package"):
        saving.reopen(tmp_path / "foreign.pt")  # to resume


@pytest.mark.parametrize("model", [nn.Linear(3, 3), 5, None], ids=["network", "number", "nothing"])
def test_what_is_neither_path_nor_yolo(model: Any) -> None:
    with pytest.raises(ModelError, match=f"A {type(model).__name__} is no model that can be opened.*prune_module"):
        saving.load(model)


def interrupted(folder: Path, home: Path | None) -> Path:
    """A last.pt in `folder`, of a run that was in `home`."""
    (folder / "weights").mkdir()
    file = untrained(folder, TINY, 32).rename(folder / "weights" / "last.pt")
    checkpoint = torch.load(file, weights_only=False) | {"optimizer": {}}
    checkpoint["train_args"] = {"save_dir": str(home)} if home else {}
    torch.save(checkpoint, file)
    return file


def test_a_copy_of_a_run_is_not_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ultralytics would write into the run that it was copied from; where that is gone it is made again."""
    said: list[str] = []
    monkeypatch.setattr(console, "warn", said.append)
    for name in ("run", "copy", "old"):
        (tmp_path / name).mkdir()
    saving.reopen(interrupted(tmp_path / "run", tmp_path / "run"))
    saving.reopen(interrupted(tmp_path / "old", None))
    assert not said
    copy = interrupted(tmp_path / "copy", tmp_path / "run")
    with pytest.raises(ArgumentError, match=r"copy of the run in .*run, into which .* Resume .*run.weights.last\.pt"):
        saving.reopen(copy)
    shutil.rmtree(tmp_path / "run")
    saving.reopen(copy)
    assert len(said) == 1 and "its results are written there again" in said[0]


@pytest.mark.parametrize(
    ("wrote", "cause", "said"),
    [("8.1.2", AttributeError("qkv"), "version 8.1.2"), (None, AttributeError("qkv"), "^no$"), ("8.1.2", None, "^no$")],
)
def test_where_a_network_does_not_run_it_is_said_who_wrote_it(wrote: Any, cause: Any, said: str) -> None:
    yolo: Any = types.SimpleNamespace(ckpt={"version": wrote})
    with pytest.raises(ModelError, match=said), saving.told_who_wrote(yolo):
        raise ModelError("no") from cause
