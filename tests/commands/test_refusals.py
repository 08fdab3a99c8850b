"""What cannot work is refused in one line that names it, before there is a folder."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from checkpoints import untrained
from sparse_loop import TINY

import yoloprune
from yoloprune.backend import console, evaluation
from yoloprune.cli import main
from yoloprune.commands.demo_images import make_shapes
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
@pytest.mark.parametrize("name", list(WORDS))
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
