"""What cannot work is refused in one line that names it, before there is a folder."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from checkpoints import network, untrained
from PIL import Image
from sparse_loop import TINY

import yoloprune
from yoloprune import csv_rows
from yoloprune.backend import calibration_images, class_rows, console, evaluation
from yoloprune.cli import main
from yoloprune.commands.demo_images import make_shapes
from yoloprune.runtimes import device_script, engines
from yoloprune.runtimes.timing import Times
from yoloprune.settings.command_line import parse

Command = Callable[..., tuple[int, str]]
TRAINING = (
    "epochs=1",
    "batch=4",
    "nbs=4",
    "optimizer=AdamW",
    "plots=False",
    "amp=False",
    "workers=0",
    "warmup_epochs=0",
)
SMALL = ("round_to=1", "min_width=1")
WORDS: dict[str, tuple[str, ...]] = {
    "train-sparse": ("flops=0.9", *TRAINING, *SMALL),
    "finetune": TRAINING,
    "prune": ("flops=0.9", *SMALL),
    "sweep": ("flops=0.9", *SMALL),
    "val": (),
    "sensitivity": (),
    "mask": (),
    "slim": ("flops=0.9", *TRAINING, *SMALL, "epochs=2"),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shapes(tmp_path_factory.mktemp("shapes") / "data", train=4, val=4, imgsz=32)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained(tmp_path_factory.mktemp("model"), TINY, 32)


@pytest.fixture
def command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a command: its exit status, and what it said last; it may not leave a folder when it fails."""

    def run(name: str, model: Path, data: Path, *words: str) -> tuple[int, str]:
        told = ["imgsz=32", f"project={tmp_path / 'runs'}", "device=cpu", f"model={model}", f"data={data}"]
        given = {word.partition("=")[0]: word for word in (*told, *WORDS[name], *words)}
        status = main([name, *given.values()])
        assert not status or not (tmp_path / "runs").exists() or not list((tmp_path / "runs").iterdir())
        return status, capsys.readouterr().err.strip().splitlines()[-1] if status else ""

    return run


@pytest.mark.slow
@pytest.mark.parametrize("name", ["prune", "sweep", "val"])
def test_images_of_another_number_of_channels(name: str, command: Command, tiny: Path, data: Path) -> None:
    grey = data.with_name("grey.yaml")
    grey.write_text(data.read_text() + "channels: 1\n")
    status, said = command(name, tiny, grey)
    assert status == 1 and "channels: 1" in said and "takes 3 channels" in said


@pytest.mark.slow
def test_a_training_adapts_the_first_layer(command: Command, tiny: Path, data: Path, tmp_path: Path) -> None:
    grey = data.with_name("grey.yaml")
    grey.write_text(data.read_text() + "channels: 1\n")
    for name in ("train-sparse", "finetune"):
        assert command(name, tiny, grey, "val=False")[0] == 0
        trained = yoloprune.YOLO(tmp_path / "runs" / name / "weights" / "last.pt")
        assert next(trained.model.parameters()).shape[1] == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["train-sparse", "finetune", "prune", "sweep", "val"])
def test_no_image_that_can_be_read(name: str, command: Command, tiny: Path, tmp_path: Path) -> None:
    broken = make_shapes(tmp_path / "data", train=2, val=2, imgsz=32)
    for image in broken.parent.rglob("*.jpg"):
        image.write_bytes(b"no image")
    status, said = command(name, tiny, broken)
    assert status == 1 and str(broken.parent) in said


@pytest.mark.parametrize("wrong", ["freeze=999", "device=tpu:0", "seed=1e30", "lr0=2", "optimizer=Best"])
@pytest.mark.parametrize("name", ["train-sparse", "finetune"])
def test_wrong_values(name: str, wrong: str, command: Command, tiny: Path, data: Path) -> None:
    status, said = command(name, tiny, data, wrong)
    assert status in (1, 2) and wrong.partition("=")[0] in said and "Traceback" not in said


@pytest.fixture
def nothing_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """No image is looked at, nothing is validated and no runtime is opened."""
    for module, name in ((calibration_images, "batches"), (evaluation, "validate"), (engines, "opened")):
        monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("work has begun"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("prune keep=model.99", "keep=model.99: no layer"),
        ("prune layers=model.99=0.5", "layers=model.99"),
        ("prune flops=0.001", "flops=0.001 of the parent is out of reach"),
        ("prune flops=900G", "The model already meets flops=900G"),
        ("prune params=0.001 latency=0.5 flops=None", "params=0.001 of the parent is out of reach"),
        ("prune flops=None", "No channel is dead"),
        ("prune flops=None latency=0.5 times={folder}/missing.csv", "missing.csv: there is no such file"),
        ("prune flops=None latency=0.5 times={folder}/other.csv", "is of a network of other layers or widths"),
        ("sweep flops=0.001,0.002", "flops=0.001 of the parent is out of reach"),
        ("sweep keep=model.99", "keep=model.99: no layer"),
        ("sensitivity layer=model.99", "layer=model.99"),
        ("mask keep=model.99", "keep=model.99: no layer"),
        ("train-sparse keep=model.99", "keep=model.99: no layer"),
        ("train-sparse flops=0.001", "out of reach"),
        ("finetune distill_model={folder}/none.pt", "none.pt: there is no such file"),
        ("slim keep=model.99", "keep=model.99: no layer"),
        ("slim flops=900G", "The model already meets flops=900G"),
        ("slim flops=900G steps=2 epochs=4", "The model already meets flops=900G, so there is nothing to cut"),
        ("slim flops=900G params=90M steps=2 epochs=4", "The model already meets flops=900G params=90M"),
        ("slim flops=None params=90M max_drop=1", "The model already meets params=90M"),
    ],
)
def test_what_takes_no_time_is_told_before_what_does(
    line: str, told: str, command: Command, tiny: Path, data: Path, tmp_path: Path, nothing_long: None
) -> None:
    name, *words = line.format(folder=tmp_path).split()
    _table_of_another_model(tmp_path / "other.csv")
    status, said = command(name, tiny, data, *words)
    assert status in (1, 2) and told in said


def _table_of_another_model(file: Path) -> None:
    """Enough rows of a device, measured at the right size."""
    how = {"format": "ncnn", "runtime": "ncnn 1.0", "machine": "a board", "threads": "4", "precision": "fp32"}
    how |= {"imgsz": "32", "batch": "1", "parent": "another", "of": "20"}
    times = Times(10.0, 10.0, 0.0, 9)
    for i in range(20):
        csv_rows.append_row(file, device_script.row_of({"name": f"{i:02d}", "widths": [8]}, times, times, how))


@pytest.mark.parametrize(("name", "file"), [("prune", "pruned.pt"), ("mask", "masked.pt")])
def test_a_run_does_not_write_over_the_file_that_it_starts_from(
    name: str, file: str, tiny: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], nothing_long: None
) -> None:
    mine = tmp_path / "runs" / "mine" / "weights" / file
    mine.parent.mkdir(parents=True)
    shutil.copyfile(tiny, mine)
    words = [f"project={tmp_path / 'runs'}", "name=mine", "exist_ok=True", f"model={mine}", f"data={data}", "imgsz=32"]
    assert main([name, *words, *(("flops=0.9", *SMALL) if name == "prune" else ())]) == 1
    assert "is the file that the model came from and is not overwritten" in capsys.readouterr().err
    assert mine.read_bytes() == tiny.read_bytes()


@pytest.mark.parametrize("name", ["prune", "sweep", "sensitivity", "slim"])
def test_classes_that_the_data_lacks(
    name: str, command: Command, tiny: Path, data: Path, nothing_long: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(class_rows, "names_of", lambda _: ["circle", "person", "dog"])
    monkeypatch.setattr(class_rows, "prove", lambda *_: pytest.fail("work has begun"))
    status, said = command(name, tiny, data, "classes=circle,dog")
    assert status == 2 and said == (
        f"yoloprune: error: classes=circle,dog: data={data} has no dog; its classes are circle, square, triangle. "
        "Give data= that has them, or other classes"
    )


@pytest.mark.usefixtures("nothing_long")
def test_an_interval_of_a_figure_that_has_none(command: Command, tmp_path: Path) -> None:
    """Told before a training: whoever leaves it out afterwards asks for another run."""
    network(tmp_path, "classify").save(tmp_path / "classify.pt")
    for name in ("train/circle", "train/square", "val/circle", "val/square"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(tmp_path / "photos" / name / "0.jpg")
    told = command("slim", tmp_path / "classify.pt", tmp_path / "photos", "max_drop=1", "confidence=0.9", "flops=None")
    assert told[0] == 2 and "confidence=0.9: classify models have no mAP" in told[1] and "Leave it out" in told[1]


@pytest.mark.slow
def test_a_training_that_makes_a_model_worse(
    command: Command, tiny: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = iter([{"mAP50": 0.6, "mAP50-95": 0.4}, {"mAP50": 0.5, "mAP50-95": 0.3}])
    heard: list[str] = []
    monkeypatch.setattr(evaluation, "metrics", lambda _: next(figures))
    monkeypatch.setattr(console, "warn", heard.append)
    assert command("finetune", tiny, data)[0] == 0
    assert any("mAP50-95 is 0.3000, below the 0.4000" in said for said in heard)
    report = json.loads((tmp_path / "runs" / "finetune" / "report.json").read_text())
    assert [row["mAP50-95"] for row in report["table"]] == [0.4, 0.3] and report["start"]["mAP50-95"] == 0.4


@pytest.mark.slow
@pytest.mark.parametrize("name", ["train-sparse", "finetune"])
def test_a_training_is_done_again_from_any_folder(
    name: str, command: Command, tiny: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The data set was named from where the first one was typed."""
    monkeypatch.chdir(data.parent)
    assert command(name, tiny, Path(data.name), "val=False")[0] == 0
    monkeypatch.chdir(tmp_path)
    again = json.loads((tmp_path / "runs" / name / "report.json").read_text())["repeat"][0]
    request = parse(shlex.split(again)[1:])
    assert request.passed["data"] == str(data) and request.model == str(tiny)


@pytest.mark.slow
def test_other_data_than_the_models_has_no_start(
    command: Command, tiny: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = data.with_name("other.yaml")
    other.write_text(data.read_text().replace("names:", "old_names:") + "names: [a, b, c, d, e]\n")
    assert command("finetune", tiny, other)[0] == 0
    report = json.loads((tmp_path / "runs" / "finetune" / "report.json").read_text())
    assert len(report["table"]) == 1 and report["start"] == {}
