"""What people see of a cut: the page with figures of both models, comparisons of many, pictures of weights."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny_line
import yaml
from schemas import faults
from ultralytics import YOLO

import yoloprune
from yoloprune import api, cli
from yoloprune.backend import console, evaluation
from yoloprune.checkpoint import saving
from yoloprune.commands import compare, plot, side_by_side, sweep_table
from yoloprune.errors import ArgumentError, DataError
from yoloprune.reporting import page_network, schema, text_table
from yoloprune.settings.command_line import parse, written

work, data = tiny_line.work, tiny_line.data  # fixtures, made once a file


@pytest.fixture(scope="module")
def pruned(work: Path, data: Path, tiny: Path) -> Path:
    yoloprune.prune(tiny, data=str(data), flops=0.7, imgsz=64, project=str(work), name="cut")
    return work / "cut" / "weights" / "pruned.pt"


def told(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "report.json").read_text())
    assert faults(found, schema.SCHEMA) == [] and set(found) <= set(schema.PROPERTIES)
    return found


# prune ----------------------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_a_cut_with_data_is_validated_and_looked_at(pruned: Path, data: Path) -> None:
    found = told(pruned.parents[1])
    assert {"mAP50", "mAP50-95"} <= set(found["table"][0]) & set(found["table"][1])
    assert len(found["images"]) == 8 and all(image["labels"] for image in found["images"])
    assert {c["name"] for c in found["by_class"]} == {"0", "1", "2"}  # as a network is born that was never trained
    boxes = sum(len(f.read_text().splitlines()) for f in (data.parent / "labels" / "val").glob("*.txt"))
    assert sum(c["boxes"] for c in found["by_class"]) == boxes
    assert sum(found["importance"]["kept"]) > 0 and sum(found["importance"]["cut"]) > 0
    assert not list(data.parent.rglob("*.cache"))
    page = (pruned.parents[1] / "report.html").read_text()
    assert "The same images" in page and "By class" in page


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize(
    "given, why",
    [
        ({"val": False}, "val=True measures it on data="),
        ({"data": False}, "prune with data= does it"),
        ({}, "8 images are not validated on the CPU unasked, val=True does it"),
        ({"val": True}, ""),
    ],
    ids=["val", "data", "too many images", "asked for"],
)
def test_validation_can_be_left_out_and_it_is_said_why(
    given: dict[str, Any], why: str, tiny: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(console, "log", lambda _, message: said.append(message))
    monkeypatch.setattr(side_by_side, "MANY", 1)
    yoloprune.prune(tiny, **{"data": str(data), "flops": 0.7, "imgsz": 64, "project": str(tmp_path), **given})
    found = told(tmp_path / "prune")
    assert ("by_class" in found) is ("mAP50-95" in found["table"][0]) is (not why)
    for text in (found["verdict"], said[-1]):
        assert (f"quality was not measured: {why}" in text) if why else ("not measured" not in text)


@pytest.mark.slow
def test_data_of_other_classes_is_not_validated_and_it_is_said_why(
    tiny: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(console, "log", lambda _, message: said.append(message))
    content = yaml.safe_load(data.read_text())
    other = data.with_name("four.yaml")
    other.write_text(yaml.safe_dump({**content, "names": {0: "a", 1: "b", 2: "c", 3: "d"}}))
    yoloprune.prune(tiny, data=str(other), flops=0.7, imgsz=64, project=str(tmp_path), score="l2", recover="fold")
    why = f"quality was not measured: data={other} has other classes (4 and not 3); after 'yoloprune finetune' it is"
    assert why in said[-1].splitlines() and why in told(tmp_path / "prune")["verdict"]


@pytest.mark.slow
def test_a_validation_that_fails_does_not_cost_the_cut(
    tiny: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(console, "warn", said.append)

    def failing(*_: Any) -> Any:
        raise DataError("an image is torn")

    monkeypatch.setattr(side_by_side, "validated", failing)
    yoloprune.prune(tiny, data=str(data), flops=0.7, imgsz=64, project=str(tmp_path), score="l2", recover="fold")
    assert (tmp_path / "prune" / "weights" / "pruned.pt").is_file()
    assert any("the page shows less than it could" in line and "an image is torn" in line for line in said)


@pytest.mark.slow
@pytest.mark.parametrize("torn", ["2", "", "mine\n1\n"], ids=["torn", "whole", "of somebody else"])
def test_what_lies_beside_a_model_does_not_cost_the_cut(
    torn: str, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run" / "weights").mkdir(parents=True)
    shutil.copy(tiny, tmp_path / "run" / "weights" / "best.pt")
    keys = sorted(page_network.GAMMA)
    whole = "".join(f"{line}\n" for line in (",".join(keys), *(",".join([str(n)] * len(keys)) for n in (1, 2))))
    (tmp_path / "run" / "sparsity.csv").write_text(torn if "mine" in torn else whole + torn)
    monkeypatch.chdir(tmp_path / "run" / "weights")
    given: dict[str, Any] = {"data": False, "score": "l2", "recover": "fold", "project": str(tmp_path)}
    yoloprune.prune("best.pt", flops=0.7, imgsz=64, **given)
    assert len(told(tmp_path / "prune").get("gamma", ())) == (0 if "mine" in torn else 2)
    assert ("Gamma over the epochs" in (tmp_path / "prune" / "report.html").read_text()) == ("mine" not in torn)


@pytest.mark.slow
def test_a_fault_of_ours_while_looking_is_not_hidden(pruned: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side_by_side, "by_class", lambda *_: 1 / 0)
    yolo = saving.load(pruned)
    with pytest.raises(ZeroDivisionError):
        side_by_side.look(yolo, yolo, str(data), 64, {}, validate=True)


@pytest.mark.slow
def test_a_model_beside_itself_has_not_changed(pruned: Path, data: Path) -> None:
    yolo = saving.load(pruned)
    looks = side_by_side.look(yolo, yolo, str(data), 64, {}, validate=True)
    assert [image.changed for image in looks.images] == [0.0] * 8
    assert looks.figures[0] == looks.figures[1] and all(c.change == 0 for c in looks.by_class)


@pytest.mark.slow
def test_figures_by_class_are_those_of_ultralytics(pruned: Path, data: Path, tmp_path: Path) -> None:
    yolo = YOLO(pruned)
    metrics = yolo.val(data=str(data), imgsz=64, plots=False, project=str(tmp_path), workers=0, device="cpu")
    figures, boxes = evaluation.by_class(yolo)
    assert list(figures.values()) == pytest.approx([metrics.maps[i] for i in metrics.ap_class_index], abs=1e-5)
    assert boxes is None or list(figures) == list(boxes)


# sweep ----------------------------------------------------------------------------------------------------------------
def test_a_sweep_takes_the_smallest_safe_budget_and_says_why() -> None:
    rows = [{"model": "parent"}, {"model": "flops=0.9"}, {"model": "flops=0.8"}]
    assert sweep_table.taken_by({"safe": "flops=0.8"}, rows)[0] == "flops=0.8"
    budget, why = sweep_table.taken_by({"safe": "parent"}, rows)
    assert budget == "flops=0.9" and "mildest" in why
    assert sweep_table.taken_by(None, rows)[0] is None


# compare --------------------------------------------------------------------------------------------------------------
def test_models_get_the_shortest_ends_of_their_paths_that_differ(tmp_path: Path) -> None:
    assert list(compare.named(["a.pt", "b.onnx"])) == ["a.pt", "b.onnx"]
    runs = [tmp_path / name / "weights" / "best.pt" for name in ("dense", "sparse")]
    assert list(compare.named(["yolov8n.pt", *runs])) == [
        "yolov8n.pt",
        "dense/weights/best.pt",
        "sparse/weights/best.pt",
    ]
    assert list(compare.named([runs[0], runs[0]])) == ["dense/weights/best.pt-1", "dense/weights/best.pt-2"]
    of_one = [runs[0], runs[0].with_name("last.pt")]
    assert list(compare.named(of_one)) == ["dense/weights/best.pt", "dense/weights/last.pt"]


def test_names_of_models_say_which_is_which() -> None:
    """Whoever has `best.pt` in a folder, or two projects with a run of one name."""
    own = ["data/weights/yolov8n-coco.pt", "runs/dense/weights/epoch10.pt"]  # the one is in no run
    assert list(compare.named(own)) == ["yolov8n-coco.pt", "dense/weights/epoch10.pt"]
    assert list(compare.named(["best.pt", "w/best.pt"])) == ["best.pt", "w/best.pt"]
    stages = ["runs/slim/2-train/weights/best.pt", "runs/slim/7-export/best.onnx", "r/x/weights/best_openvino_model"]
    told = ["slim/2-train/weights/best.pt", "slim/7-export/best.onnx", "x/weights/best_openvino_model"]
    assert list(compare.named(stages)) == told
    two = ["a/runs/detect/slim/weights/best.pt", "b/runs/detect/slim/weights/best.pt"]
    assert list(compare.named(two)) == ["a/.../slim/weights/best.pt", "b/.../slim/weights/best.pt"]
    assert list(compare.named(["/best.pt", "/w/best.pt"])) == ["best.pt", "w/best.pt"]  # the root is no folder
    assert list(compare.named(["/x.pt", "/y/x.pt"])) == ["x.pt", "y/x.pt"]
    assert list(compare.named(["a/small.pt", "b/small.pt", "c/large.pt"])) == ["a/small.pt", "b/small.pt", "large.pt"]


def test_words_without_an_equals_sign_are_models_to_compare(tmp_path: Path) -> None:
    odd = tmp_path / "flops=0.5.pt"
    odd.touch()
    request = parse(["compare", "a.pt", "b.pt", str(odd), "data=my.yaml"])
    assert request.settings["models"] == ("a.pt", "b.pt", str(odd))
    assert request.host == {"data": "my.yaml"}
    for words in (["models=a.pt,b.pt", "c.pt"], ["models=[a.pt,b.pt]", "c.pt"], ["models=a.pt", "b.pt", "c.pt"]):
        assert parse(["compare", *words]).settings["models"] == ("a.pt", "b.pt", "c.pt")


@pytest.mark.parametrize(
    "given, said",
    [
        ({"imgzs": 64}, "'imgzs' is not a valid argument of compare"),
        ({"imgsz": "64x"}, "imgsz=64x: must be"),
        ({"threads": "one"}, "threads=one: must be an integer"),
        ({"half": "yes"}, "half=yes: must be True or False"),
        ({"command": "val"}, "'command' is not a valid argument of compare"),
        ({"models": {"small": "a.pt"}}, "compare needs two models or more"),
        ({"models": {"small": "a.pt", "..": "b.pt"}}, "models="),
        ({"models": {"small": "a.pt", "large": 3}}, "models="),
    ],
)
def test_from_python_a_comparison_is_checked_as_well(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ArgumentError, match=re.escape(said)):
        api.compare(**{"models": {"small": "a.pt", "large": "b.pt"}, **given})


@pytest.mark.parametrize("given, said", [({"keep": "backbon"}, "keep="), ({"imgsz": "64x"}, "imgsz=64x: must be")])
def test_from_python_a_trace_is_checked_as_well(given: dict[str, Any], said: str, tiny: Path) -> None:
    with pytest.raises(ArgumentError, match=f"^{said}") as refused:
        api.trace(tiny, **given)
    assert "keep" not in given or "backbon" in str(refused.value)


@pytest.mark.slow
def test_names_that_models_are_given_are_theirs_also_when_it_is_done_again(
    pruned: Path, tiny: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told_args = {"data": str(data), "imgsz": 64, "workers": 0, "device": "cpu", "project": str(tmp_path)}
    rows = api.compare({"whole": saving.load(tiny), "pruned": pruned}, **told_args)
    assert [row["model"] for row in rows] == ["whole", "pruned"]
    args = yaml.safe_load((tmp_path / "compare" / "args.yaml").read_text())
    assert args["models"] == {"whole": str(tiny), "pruned": str(pruned)} and args["mode"] == "compare"
    assert "args.yaml lies beside this page" in (tmp_path / "compare" / "report.html").read_text()
    monkeypatch.chdir(tmp_path)
    assert cli.main(["compare", f"cfg={tmp_path / 'compare' / 'args.yaml'}"]) == 0
    assert [row["model"] for row in told(tmp_path / "compare-2")["table"]] == ["whole", "pruned"]


@pytest.mark.slow
def test_a_validation_is_done_again_by_what_it_leaves(
    pruned: Path, tiny: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = [f"project={tmp_path}", "workers=0", "imgsz=64", "device=cpu", f"data={data}", "threads=1"]
    monkeypatch.chdir(pruned.parent)
    words = ["val", "model=pruned.pt", f"against={tiny}", *place]
    assert cli.main(words) == 0
    by_file, typed = (parse(shlex.split(line)[1:]) for line in told(tmp_path / "val")["repeat"])
    assert typed == parse(words)
    assert by_file == parse(["val", f"model={pruned}", *words[2:]])


@pytest.mark.parametrize("words", [[], ["a.pt"], ["a.pt", "a.pt"]])
def test_two_models_are_needed(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["compare", *words, "data=my.yaml"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.slow
def test_checkpoints_and_an_export_side_by_side(pruned: Path, tiny: Path, data: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    shutil.copy(pruned, own := tmp_path / "small.pt")
    YOLO(own).export(format="onnx", imgsz=64)
    place = [f"project={tmp_path}", "name=run", "workers=0", "imgsz=64", "device=cpu", f"data={data}"]
    words = ["compare", str(tiny), str(own), str(own.with_suffix(".onnx")), *place]
    assert cli.main(words) == 0
    found = told(tmp_path / "run")
    assert parse(shlex.split(found["repeat"][1])[1:]) == parse(words)
    names = [row["model"] for row in found["table"]]
    assert names == [tiny.name, "small.pt", "small.onnx"]
    assert [row["runtime"] for row in found["table"]] == found["timing"]["runtimes"] == ["torch", "torch", "onnx"]
    assert "of those on onnx small.onnx" in found["verdict"]
    assert {"MB", "ms"} & {*text_table.with_change(found["table"])[-1]} == {"MB"}
    assert all(row["ms"] > 0 and "mAP50-95" in row for row in found["table"])
    assert "params" not in found["table"][2] and found["table"][2]["MB"] > 0
    assert [p["model"] for p in found["points"]] == names
    assert all(list(c["figures"]) == names for c in found["by_class"])
    assert found["pair"] == names[:2]  # an export is not looked at image by image
    captions = re.findall(r"<figcaption>(.*?): ", (tmp_path / "run" / "report.html").read_text(encoding="utf-8"))
    assert captions[:3] == ["labels", *names[:2]]


@pytest.mark.slow
def test_an_export_runs_at_its_own_size_only_and_not_alone(
    tiny: Path, tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime")
    shutil.copy(tiny, own := tmp_path / "own.pt")
    file = YOLO(own).export(format="onnx", imgsz=32)
    place = [f"data={data}", f"project={tmp_path / 'runs'}"]
    assert cli.main(["compare", str(own), str(file), "imgsz=64", *place]) == 2
    assert "was exported for imgsz=32 and takes no other. Received: imgsz=64" in capsys.readouterr().err
    assert cli.main(["val", f"model={file}", *place]) == 1
    assert "one model at least must be a checkpoint" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
    assert cli.main(["compare", str(own), str(file), "workers=0", *place]) == 0  # which was trained at 64
    assert [row["imgsz"] for row in told(tmp_path / "runs" / "compare")["table"]] == [64, 32]


@pytest.mark.slow
def test_models_of_other_classes_are_named(
    tiny: Path, tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = yaml.safe_load(data.read_text(encoding="utf-8"))
    (other := tmp_path / "other.yaml").write_text(
        yaml.safe_dump({**told, "path": str(data.parent), "names": ["one", "two", "three", "four"]}), encoding="utf-8"
    )
    heard: list[str] = []
    monkeypatch.setattr(console, "warn", heard.append)
    shutil.copy(tiny, small := tmp_path / "small.pt")
    api.val(small, data=str(other), imgsz=32, project=str(tmp_path / "runs"), device="cpu")
    assert any("the classes of data= are not those of small, 4 and not 3" in said for said in heard)


# plot -----------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("text", ["[]", "{}", "no JSON", '{"plan": 3}', '{"plan": {"model.1": 3}}', '{"plan": null}'])
def test_a_report_of_somebody_else_beside_a_model_is_passed_over(text: str, tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(text, encoding="utf-8")
    assert plot._plan_beside(tmp_path / "weights" / "pruned.pt") is None


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["2d", "3d", "gamma"])
def test_weights_are_drawn_before_and_after(kind: str, pruned: Path, tiny: Path, tmp_path: Path) -> None:
    picture = api.plot(pruned, against=str(tiny), kind=kind, layer="model.1", project=str(tmp_path), name="drawn")
    assert picture == tmp_path / "drawn" / f"{kind}.png" and picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.long
@pytest.mark.slow
def test_what_a_model_was_not_cut_from_is_drawn_without_marks(
    pruned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[str] = []
    monkeypatch.setattr(console, "warn", heard.append)
    api.plot(pruned, against=str(pruned), kind="gamma", project=str(tmp_path), name="drawn")
    assert len(heard) == 1 and f"model= was not cut from against={pruned}" in heard[0]


@pytest.mark.slow
def test_a_layer_that_is_not_there_is_named(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plot", f"model={tiny}", "layer=model.99", f"project={tmp_path}"]) == 2
    assert "layer=model.99" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


# words ----------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "line",
    [
        "prune model=best.pt data=my.yaml flops=0.5 keep=model.2,neck layers=model.2.*=0.3,model.4=0.5 classes=a,b",
        "sweep model=best.pt data=my.yaml params=2M,0.5 within=1.5",
        "train-sparse model=a.pt data=b.yaml flops=0.4 epochs=3 imgsz=320",
        "compare models=a.pt,b.pt data=my.yaml",
        "plot model=a.pt kind=3d layer=model.1",
    ],
)
def test_a_request_is_written_as_it_is_typed(line: str) -> None:
    request = parse(line.split())
    assert parse(shlex.split(written(request))[1:]) == request
