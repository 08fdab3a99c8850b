"""Exported files of pruned models compute what torch computes; odd inputs and heads through the command line."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
import ultralytics
from checkpoints import CONFIGS, TEN_ROWS, build, narrow, network
from conftest import settle
from torch import Tensor
from torch.utils._pytree import tree_leaves
from ultralytics.nn.autobackend import AutoBackend
from ultralytics.utils.nms import non_max_suppression

import yoloprune
from yoloprune import cli
from yoloprune.backend import model_facts, yolo_tracing
from yoloprune.checkpoint import saving

pytestmark = pytest.mark.slow

CONF = 0.25


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    parent = network(folder)
    for branch in parent.model.model[-1].cv3:
        branch[-1].bias.data.zero_()  # an untrained head finds nothing
    parent.save(str(folder / "parent.pt"))
    told = {"ratio": 0.4, "native": False, "round_to": 1, "min_width": 1}  # odd widths
    yoloprune.prune(folder / "parent.pt", imgsz=64, project=str(folder), name="p", **told)
    return folder / "p" / "weights" / "pruned.pt"


def run(file: str, image: Tensor) -> Tensor:
    with torch.no_grad():
        outputs = AutoBackend(file, device=torch.device("cpu"), verbose=False)(image)
    return next(torch.as_tensor(t) for t in tree_leaves(outputs) if hasattr(t, "shape"))


@pytest.mark.long
@pytest.mark.parametrize("form", ["torchscript", "onnx"])
@pytest.mark.parametrize("setting", ["plain", "dynamic", "nms"])
def test_exported_file_computes_what_torch_does(form: str, setting: str, pruned: Path, tmp_path: Path) -> None:
    needed = {"onnx": ("onnx", "onnxruntime", "onnxslim")}.get(form, ())
    if missing := [p for p in needed if importlib.util.find_spec(p) is None]:
        pytest.skip(f"{missing[0]} is not installed")
    copy = tmp_path / "pruned.pt"
    copy.write_bytes(pruned.read_bytes())
    arguments: dict[str, Any] = {"plain": {}, "dynamic": {"dynamic": True}, "nms": {"nms": True, "conf": CONF}}[setting]
    file = ultralytics.YOLO(str(copy)).export(format=form, imgsz=64, **arguments)
    model = ultralytics.YOLO(str(pruned)).model.float().eval()
    for size in ((64, 64), (96, 64)) if setting == "dynamic" else ((64, 64),):
        image = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            wanted = model(image)[0]
        got = run(file, image)
        if setting == "nms":
            wanted = non_max_suppression(wanted, CONF, 0.7, nc=len(model.names), max_det=300)[0]
            got = got[0][: len(wanted)]
            assert len(wanted) > 0
        assert got.shape == wanted.shape
        assert torch.allclose(got, wanted, rtol=1e-3, atol=1e-4)


# ---- odd inputs and heads, through the command line ------------------------------------------------------------------


def checkpoint(folder: Path, config: str | None, channels: int = 3, **change: Any) -> Path:
    """A small checkpoint, of a shipped YAML an eighth as wide where one is named, with batch-norms that fit."""
    file = folder / f"{Path(config or 'ten').stem}.yaml"
    yolo = build(file, narrow(config, **change) if config else TEN_ROWS)
    if channels != 3:  # a training on such images builds it like this
        model = type(yolo.model)(str(file), ch=channels, verbose=False)
        yolo.model, model.args, model.task = model, yolo.model.args, yolo.model.task
    settle(yolo.model, yolo_tracing.example(yolo.model, 4))
    yolo.save(str(folder / "parent.pt"))
    return folder / "parent.pt"


CASES = {
    "four channels": (None, {"channels": 4}),
    "one channel": (None, {"channels": 1}),
    "p2": ("v8/yolov8-p2.yaml", {}),
    "p6": ("v8/yolov8-p6.yaml", {}),
    "end2end": ("26/yolo26.yaml", {"end2end": True}),
    "not end2end": ("26/yolo26.yaml", {"end2end": False}),
}


@pytest.mark.long
@pytest.mark.parametrize("case", CASES)
def test_pruned_from_the_command_line(case: str, tmp_path: Path) -> None:
    config, change = CASES[case]
    if config and not (CONFIGS / config).is_file():
        pytest.skip("not in this Ultralytics")
    parent = checkpoint(tmp_path, config, **change)
    size = 128 if case == "p6" else 64
    words = f"prune model={parent} ratio=0.3 round_to=4 min_width=4 imgsz={size} project={tmp_path} name=out"
    assert cli.main(words.split()) == 0
    out = tmp_path / "out" / "weights" / "pruned.pt"
    before, after = (ultralytics.YOLO(str(p)).model for p in (parent, out))
    assert sum(p.numel() for p in after.parameters()) < 0.9 * sum(p.numel() for p in before.parameters())
    channels = change.get("channels", 3)
    assert after.model[0].conv.in_channels == model_facts.channels(after) == channels
    assert after.stride.tolist() == before.stride.tolist()
    assert len(after.stride) == {"p2": 4, "p6": 4, "four channels": 2, "one channel": 2}.get(case, 3)
    if "end2end" in case:
        assert bool(saving.load(out).model.yaml.get("end2end")) is change["end2end"]
        assert hasattr(after.model[-1], "one2one_cv2") is hasattr(before.model[-1], "one2one_cv2") is change["end2end"]
    with torch.no_grad():
        a, b = (tree_leaves(m.float().eval()(torch.rand(1, channels, size, size))) for m in (before, after))
    assert [t.shape for t in a[:1]] == [t.shape for t in b[:1]]
