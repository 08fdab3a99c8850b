"""`yoloprune mask`, from the words of the command line to the checkpoint and the page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_line
import torch
import yaml
from schemas import faults
from ultralytics import YOLO

import yoloprune
from yoloprune import cli
from yoloprune.backend import console, model_facts, run_folders, yaml_markers
from yoloprune.checkpoint import saving
from yoloprune.commands import mask
from yoloprune.cutting import masks
from yoloprune.errors import ArgumentError, ModelError
from yoloprune.reporting import schema
from yoloprune.selection import mask_scores
from yoloprune.settings.checking import build
from yoloprune.settings.mask_request import MaskRequest

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

work, data = tiny_line.work, tiny_line.data  # fixtures, made once a file


@pytest.fixture(scope="module")
def trained(work: Path, data: Path, tiny: Path) -> Path:
    """Knows the classes of the data, and has seen them once."""
    yolo = YOLO(str(tiny))
    yolo.train(data=str(data), epochs=1, project=str(work), name="trained", **tiny_line.QUICK)
    return Path(yolo.trainer.best)


def ran(model: Path, folder: Path, **given: Any) -> mask.MaskResult:
    told = {"model": str(model), "imgsz": 64, "project": str(folder), "device": "cpu", **given}
    return mask.run(build(MaskRequest, told))


def weights(file: Path | str) -> dict[str, torch.Tensor]:
    model = YOLO(str(file)).model
    return {n: m.weight.float() for n, m in model.named_modules() if masks.maskable(m)}


@pytest.mark.long
def test_from_the_command_line_to_a_stock_checkpoint(
    trained: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(console, "log", lambda prefix, message: said.append(message))
    before = trained.read_bytes()
    words = ["mask", f"model={trained}", f"data={data}", "pattern=2:4", "imgsz=64", f"project={tmp_path}", "device=cpu"]
    assert cli.main(words) == 0
    folder = tmp_path / "mask"
    file = folder / "weights" / "masked.pt"
    record = yaml_markers.masks_of(YOLO(str(file)))
    assert record["pattern"] == "2:4" and trained.read_bytes() == before
    for name, weight in weights(file).items():
        assert (name in record["layers"]) == (name not in left(file)), name
        if name in record["layers"]:
            assert masks.is_n_of_m(weight, 2, 4) and int((weight == 0).sum()) >= record["layers"][name]
    found = json.loads((folder / "report.json").read_text())
    assert faults(found, schema.SCHEMA) == [] and set(found) <= set(schema.PROPERTIES)
    assert [row["layer"] for row in found["zeros"]] == list(record["layers"])
    assert {row["share"] for row in found["zeros"]} == {0.5}
    parent, masked = found["table"]
    assert parent["params"] == masked["params"] and parent["GFLOPs"] == masked["GFLOPs"]
    assert masked["nonzero"] < 0.9 * parent["nonzero"] and {"mAP50-95"} <= set(masked)
    assert "Zeros by layer" in (folder / "report.html").read_text()
    told = run_folders.read_yaml(folder / "args.yaml")
    assert (told["pattern"], told["score"], told["recover"]) == ("2:4", "magnitude", "auto")
    assert said[-1].splitlines()[-1] == f"next: yoloprune finetune model={file} data={data} imgsz=64"
    again = ["mask", f"cfg={folder / 'args.yaml'}", f"project={tmp_path}", "name=again"]
    assert cli.main(again) == 0
    other = weights(tmp_path / "again" / "weights" / "masked.pt")
    assert all(torch.equal(w, other[name]) for name, w in weights(file).items())


def left(file: Path) -> set[str]:
    """Layers of the small YOLO that 2:4 does not fit: the first, which reads colours, and the head."""
    model = YOLO(str(file)).model
    head = model_facts.head_name(model)
    return {n for n, m in model.named_modules() if n == "model.0.conv" or n.startswith(f"{head}.")}


@pytest.mark.parametrize(
    "given",
    [
        {"score": "magnitude", "sparsity": 0.7},
        {"score": "taylor", "sparsity": 0.7, "scope": "layer"},
        {"score": "wanda", "sparsity": 0.7, "scope": "output"},
        {"score": "random", "sparsity": 0.7, "scope": "layer", "head": True},
        {"score": "wanda", "pattern": "kernel", "sparsity": 0.25},
        {"score": "magnitude", "pattern": "filter", "sparsity": 0.25},
    ],
    ids=lambda given: " ".join(map(str, given.values())),
)
def test_the_share_that_was_asked_for_is_zero(given: dict[str, Any], trained: Path, data: Path, tmp_path: Path) -> None:
    done = ran(trained, tmp_path, data=str(data), val=False, recover="none", **given)
    zero, count = (sum(row[key] for row in done.zeros) for key in ("zeros", "weights"))
    if given.get("pattern") in {"kernel", "filter"}:
        for row in done.zeros:
            w = weights(done.file)[row["layer"]]
            units = w.flatten(2) if given["pattern"] == "kernel" else w.flatten(1)
            whole = (units == 0).all(-1)
            assert float(whole.float().mean()) == pytest.approx(0.25, abs=0.5 / whole.numel() + 1e-9)
    else:
        assert zero / count == pytest.approx(0.7, abs=0.01)
    stayed, was = weights(done.file), weights(trained)
    assert all(torch.equal(w[w != 0], was[name][w != 0]) for name, w in stayed.items())  # nothing else was touched
    assert any(row["layer"].startswith("model.9.") for row in done.zeros) is bool(given.get("head"))


def test_the_repair_brings_outputs_back_and_keeps_zeros(trained: Path, data: Path, tmp_path: Path) -> None:
    image = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(1))

    def outputs(file: Path) -> torch.Tensor:
        with torch.no_grad():
            return YOLO(str(file)).model.float().eval()(image)[0]

    told: dict[str, Any] = {"data": str(data), "score": "magnitude", "pattern": "1:4", "val": False}
    done = {how: ran(trained, tmp_path, recover=how, name=how, **told) for how in ("none", "bn", "lsq")}
    wanted = outputs(trained)
    away = {how: float((outputs(d.file) - wanted).square().mean()) for how, d in done.items()}
    assert away["lsq"] < 0.5 * away["none"]
    zeros = {how: [row["zeros"] for row in d.zeros] for how, d in done.items()}
    assert zeros["none"] == zeros["bn"] == zeros["lsq"]
    norm = "model.1.bn.running_mean"
    told_means = {how: YOLO(str(d.file)).model.state_dict()[norm] for how, d in done.items()}
    assert not torch.equal(told_means["bn"], told_means["none"])


def test_more_can_be_masked_later(trained: Path, tmp_path: Path) -> None:
    first = ran(trained, tmp_path, data=False, sparsity=0.3, recover="none")
    second = ran(first.file, tmp_path, data=False, sparsity=0.6, recover="none", name="second")
    one, two = weights(first.file), weights(second.file)
    assert all(not two[row["layer"]][one[row["layer"]] == 0].any() for row in first.zeros)
    told = saving.provenance(second.model)
    assert told["arguments"]["sparsity"] == 0.6 and [e["arguments"]["sparsity"] for e in told["earlier"]] == [0.3]
    for share in (0.6, 0.2):  # some weights of no score at all would go as well
        with pytest.raises(ArgumentError, match=rf"sparsity={share}: must be above what is zero already, 60\.0%"):
            ran(second.file, tmp_path, data=False, sparsity=share, recover="none", name="third")
    assert not (tmp_path / "third").exists()


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ({"sparsity": 0.7}, {"pattern": "2:4"}),
        ({"pattern": "2:4"}, {"pattern": "filter", "sparsity": 0.6}),
        ({"pattern": "2:4"}, {"pattern": "kernel", "sparsity": 0.6}),
        ({"sparsity": 0.7}, {"sparsity": 0.75, "scope": "layer"}),
    ],
    ids=["2:4 over single weights", "filters over 2:4", "kernels over 2:4", "each layer over all"],
)
def test_a_second_mask_and_its_repair_leave_what_the_first_took(
    first: dict[str, Any],
    then: dict[str, Any],
    trained: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Units that stay have holes of an earlier mask, which the fit may not fill."""
    said: list[str] = []
    monkeypatch.setattr(console, "log", lambda prefix, message: said.append(message))
    told: dict[str, Any] = {"data": str(data), "score": "magnitude", "val": False}
    one = ran(trained, tmp_path, name="one", recover="none", **told, **first)
    two = ran(one.file, tmp_path, name="two", recover="lsq", **told, **then)
    before, after = weights(one.file), weights(two.file)
    layers = [row["layer"] for row in one.zeros]
    assert not any(after[name][before[name] == 0].any() for name in layers)
    assert any(not torch.equal(after[name], before[name] * (after[name] != 0)) for name in layers)  # it was repaired
    patterns = [given.get("pattern", "unstructured") for given in (first, then)]
    both = " and ".join(dict.fromkeys(patterns))
    assert yaml_markers.masks_of(two.model)["pattern"] == both
    assert said[-1].startswith(f"pattern {both}: ")
    if "2:4" in patterns:
        taken = [name for name in layers if "pattern" in first or name not in left(two.file)]
        assert all(masks.is_n_of_m(after[name], 2, 4) for name in taken)


def test_a_pattern_that_holds_already_is_refused(trained: Path, tmp_path: Path) -> None:
    first = ran(trained, tmp_path, data=False, pattern="2:4", recover="none")
    for pattern in ("2:4", "3:4"):
        with pytest.raises(ArgumentError, match=rf"pattern={pattern}: all these layers have so many zeros already"):
            ran(first.file, tmp_path, data=False, pattern=pattern, recover="none")
    with pytest.raises(ArgumentError, match=r"sparsity=1e-09: must be above what .* 0\.0% of these weights \(\d of"):
        ran(trained, tmp_path, data=False, sparsity=1e-9, recover="none")


def test_what_auto_stands_for(trained: Path, data: Path, tmp_path: Path) -> None:
    for pattern, score in (("unstructured", "taylor"), ("filter", "taylor"), ("2:4", "magnitude")):
        assert mask_scores.best(saving.load(trained), str(data), pattern) == score
        assert mask_scores.best(saving.load(trained), None, pattern) == "magnitude"
    other = saving.load(trained)
    other.model.names = {0: "cat", 1: "dog", 2: "cow"}
    assert mask_scores.best(other, str(data), "filter") == "magnitude"
    done = ran(trained, tmp_path, recover="none")  # finds the data that it was trained on
    told = run_folders.read_yaml(done.file.parents[1] / "args.yaml")
    assert (told["data"], told["score"], told["scope"]) == (str(data), "taylor", "global")


def test_why_quality_is_not_known_is_said(
    trained: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(console, "log", lambda prefix, message: said.append(message))
    other = data.with_name("four.yaml")
    other.write_text(yaml.safe_dump({**yaml.safe_load(data.read_text()), "names": ["a", "b", "c", "d"]}))
    for given, why in (({"data": str(other)}, "has other classes (4 and not "), ({"data": False}, "mask with data=")):
        name = str(len(said))
        ran(trained, tmp_path, sparsity=0.5, score="magnitude", recover="none", name=name, **given)
        verdict = json.loads((tmp_path / name / "report.json").read_text())["verdict"]
        assert all("quality was not measured: " in text and why in text for text in (verdict, said[-1]))


def test_refused_before_there_is_a_folder(trained: Path, data: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for given, said in (
        ({"data": False, "score": "taylor"}, "score=taylor: must come with data="),
        ({"data": False, "recover": "lsq"}, "recover=lsq: must come with data="),
        ({"images": str(data.parent), "score": "taylor"}, "score=taylor: .* wanda needs none"),
        ({"keep": "model.77"}, "keep=model.77"),
        ({"pattern": "2:63"}, "pattern=2:63: no layer is left that it fits"),
    ):
        with pytest.raises(ArgumentError, match=said):
            ran(trained, runs, **given)
    world = YOLO("yolov8s-world.yaml")
    world.ckpt = {}
    with pytest.raises(ModelError, match="has no trainer for YOLO-World"):
        yoloprune.mask(world, data=False, recover="none", project=str(runs))
    assert not runs.exists()


def test_nothing_left_of_a_layer_is_said(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    yolo = saving.load(trained)
    yolo.model.get_submodule("model.3.conv").weight.data.mul_(1e-6)
    said: list[str] = []
    monkeypatch.setattr(console, "warn", said.append)
    yoloprune.mask(yolo, data=False, recover="none", sparsity=0.5, imgsz=64, project=str(tmp_path))
    assert any("nothing is left of model.3.conv" in line for line in said)
