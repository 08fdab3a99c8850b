"""Networks timed on another device: the folder, the way there and back over a command, and what is refused before."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from torch import nn

import yoloprune
from yoloprune.backend import console, progress_bar
from yoloprune.commands import latency
from yoloprune.errors import ArgumentError, DeviceLinkError
from yoloprune.runtimes import device_runtimes, engines
from yoloprune.selection import time_profile
from yoloprune.settings.command_line import parse
from yoloprune.settings.view_requests import LatencyRequest

COUNT = 16
LOOSE: dict[str, Any] = {"imgsz": 64, "round_to": 1, "min_width": 2}


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Exports are texts that say how long they take, by the size of the network; which ones were written."""
    made: list[str] = []

    def export(model: nn.Module, deployment: Any, imgsz: int, beside: Path) -> Path:
        made.append(f"{beside.stem} {deployment.format} {imgsz}")
        file = beside.with_suffix(".txt")
        file.write_text(f"took {1 + 1e-5 * sum(p.numel() for p in model.parameters()):.4f} ms")
        return file

    monkeypatch.setattr(engines, "exported", export)
    monkeypatch.setattr(time_profile, "VARIANTS", COUNT)
    return made


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    told: list[str] = []
    monkeypatch.setattr(console, "log", lambda _, text: told.append(text))
    return told


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, str]:
    """The home of another machine, and a command that reaches it: `sh -c` in that folder, without what is set here."""
    home = tmp_path / "home"
    home.mkdir()
    return home, f"env -i -C {home} PATH=/usr/bin:/bin sh -c"


def table(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


# The folder -----------------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_a_folder_to_carry(
    tiny: Path, tmp_path: Path, exported: list[str], said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bars: list[str] = []
    counted = progress_bar.counted
    monkeypatch.setattr(progress_bar, "counted", lambda n, desc: bars.append(desc) or counted(n, desc))
    folder = yoloprune.latency(tiny, format="engine", half=True, project=str(tmp_path), **LOOSE)
    assert folder == tmp_path / "latency"
    assert {f.name for f in folder.iterdir()} == {"args.yaml", "measure.py", "networks.json", "networks"}
    assert exported == [f"{i:02d} onnx 64" for i in range(COUNT + 1)]  # the device builds the engine
    told = json.loads((folder / "networks.json").read_text())
    assert (told["format"], told["precision"], told["batch"], told["cmd"]) == ("engine", "fp16", 1, None)
    parent, *others = told["networks"]
    assert all((folder / one["file"]).is_file() for one in told["networks"])
    assert len({len(one["widths"]) for one in told["networks"]}) == 1
    assert all(sum(one["widths"]) < sum(parent["widths"]) for one in others)
    assert "python3 measure.py" in said[-1] and "it needs Python and trtexec;" in said[-1]
    step = (
        f"next: yoloprune prune model={tiny} imgsz=64 latency=0.6 times={folder / 'times.csv'} round_to=1 min_width=2"
    )
    assert said[-1].splitlines()[-1] == step
    why = "engine runs only on the device that built it, so onnx is exported here and measure.py has engine built there"
    assert why in said and bars == ["exporting networks to onnx, of which the device builds engine"]
    again = parse(told["next"].split()[1:])
    assert again.settings["times"] == "times.csv" and again.passed["imgsz"] == 64
    beside = yoloprune.latency(tiny, tiny, format="onnx", project=str(tmp_path), imgsz=64, half=True, batch=2)
    assert beside == tmp_path / "latency-2" and bars[1:] == ["exporting networks to onnx"]
    assert said[-1].splitlines()[-1] == f"next: yolo export model={tiny} imgsz=64 format=onnx half=True batch=2"


@pytest.mark.slow
def test_an_export_that_fails_leaves_nothing(tiny: Path, tmp_path: Path, exported: list[str], monkeypatch: Any) -> None:
    def export(*_: Any) -> Path:
        raise ArgumentError("format=onnx: does not run here: no")

    monkeypatch.setattr(engines, "exported", export)
    with pytest.raises(ArgumentError, match=r"does not run here"):
        yoloprune.latency(tiny, format="onnx", project=str(tmp_path / "runs"), **LOOSE)
    assert not (tmp_path / "runs").exists()


@pytest.mark.long
@pytest.mark.slow
def test_in_a_python_that_has_never_heard_of_torch(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """numpy and onnxruntime alone, in an environment of their own: the folder is all that gets there."""
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(time_profile, "VARIANTS", 3)
    bare = {k: v for k, v in os.environ.items() if k.startswith("PIP_") or k in {"PATH", "HOME"}}
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True, env=bare)
    python = tmp_path / "venv" / "bin" / "python"
    pip = [python, "-m", "pip", "install", "-q", "numpy", "onnxruntime"]
    if subprocess.run(pip, env=bare, capture_output=True).returncode:
        pytest.skip("pip cannot install onnxruntime")
    folder = yoloprune.latency(tiny, format="onnx", threads=1, project=str(tmp_path / "runs"), **LOOSE)
    shutil.move(folder, tmp_path / "carried")
    for name in ("torch", "yoloprune", "ultralytics"):
        assert subprocess.run([python, "-c", f"import {name}"], env=bare, capture_output=True, cwd=tmp_path).returncode
    words = [python, tmp_path / "carried" / "measure.py", "--seconds", "0.1"]
    done = subprocess.run(words, env=bare, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    rows = table(tmp_path / "carried" / "times.csv")
    assert [row["network"] for row in rows] == ["01", "02", "03"]
    assert all(float(row["ms"]) > 0 and int(row["runs"]) >= 6 and row["threads"] == "1" for row in rows)
    assert rows[0]["runtime"].startswith("onnxruntime ")


# Over a command -------------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_measured_over_a_command(
    tiny: Path, tmp_path: Path, exported: list[str], said: list[str], device: tuple[Path, str]
) -> None:
    home, target = device
    told = {"format": "onnx", "cmd": "cat {model}", "target": target, "python": sys.executable}
    times = yoloprune.latency(tiny, project=str(tmp_path), **told, **LOOSE)
    assert times == tmp_path / "latency" / "times.csv" and len(table(times)) == COUNT
    assert not list(home.iterdir())  # what was sent there is gone again
    assert f"times={times}" in said[-1]
    found = yoloprune.prune(
        tiny, latency=0.9, times=times, native=False, score="l1", recover="none", project=str(tmp_path), **LOOSE
    )
    assert (tmp_path / "prune" / "weights" / "pruned.pt").is_file() and found is not None


@pytest.mark.slow
def test_it_goes_on_where_the_connection_broke(
    tiny: Path, tmp_path: Path, exported: list[str], device: tuple[Path, str]
) -> None:
    home, target = device
    slow = "test ! -e stop || test {model} != networks/12.txt && cat {model}"
    (home / "stop").touch()
    told = {"format": "onnx", "cmd": slow.replace("stop", f"{home}/stop"), "target": target, "python": sys.executable}
    with pytest.raises(DeviceLinkError, match=r"the measurement ended: .*networks/12.txt: ended with 1"):
        yoloprune.latency(tiny, project=str(tmp_path), **told, **LOOSE)
    (place,) = (f for f in home.iterdir() if f.is_dir())
    before = (place / "times.csv").read_text()
    assert before.count("\n") == 1 + 8
    (home / "stop").unlink()
    exported.clear()
    times = yoloprune.latency(tiny, project=str(tmp_path), **told, **LOOSE)
    assert not exported and times.read_text().startswith(before) and len(table(times)) == COUNT


@pytest.mark.slow
def test_two_models_are_set_side_by_side(
    tiny: Path, tmp_path: Path, exported: list[str], device: Any, capfd: Any
) -> None:
    told: dict[str, Any] = {"round_to": 1, "min_width": 2, "native": False, "score": "l1", "recover": "none"}
    yoloprune.prune(tiny, flops=0.6, imgsz=64, project=str(tmp_path), **told)
    pruned = tmp_path / "prune" / "weights" / "pruned.pt"
    over = {"format": "onnx", "cmd": "cat {model}", "target": device[1], "python": sys.executable}
    (row,) = table(yoloprune.latency(pruned, tiny, project=str(tmp_path), **over))
    size, whole = (1 + 1e-5 * sum(p.numel() for p in yoloprune.load(f).model.parameters()) for f in (pruned, tiny))
    assert float(row["ms"]) == pytest.approx(size, abs=1e-3) and float(row["parent_ms"]) == pytest.approx(
        whole, abs=1e-3
    )
    assert f"pruned takes {row['ms']} ms, {size / whole:.3f} of" in capfd.readouterr().out


def test_a_device_is_asked_before_there_is_any_work(tmp_path: Path, device: tuple[Path, str]) -> None:
    home, target = device
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
    bare.chmod(0o755)
    told = {"model": tmp_path / "nowhere.pt", "format": "onnx"}
    with pytest.raises(
        DeviceLinkError, match=r"^target=env .*: nothing can .* which is not installed: pip install numpy "
    ):
        yoloprune.latency(**told, target=target, python=str(bare))
    with pytest.raises(DeviceLinkError, match=r": nothing can be measured there: .*snake: (not found|No such)"):
        yoloprune.latency(**told, target=target, python="./snake")
    with pytest.raises(DeviceLinkError, match=r"^target=sssh pi@host: sssh: No such file"):
        yoloprune.latency(**told, target="sssh pi@host")
    with pytest.raises(DeviceLinkError, match=r"^target=false: Python does not run there: status 1$"):
        yoloprune.latency(**told, cmd="cat {model}", target="false")
    assert not list(home.iterdir())


# What is refused ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "latency needs 'format', e.g. format=onnx"),
        ("format=onnx cmd=run", "cmd=run: must be a command with {model} in it"),
        ("format=onnx pattern=(a)", "pattern=(a): must come with cmd="),
        ("format=onnx cmd={model} pattern=a", "pattern=a: must be a regular expression with one group, or wall"),
        ("format=onnx cmd={model} pattern=(a", "pattern=(a: must be a regular expression with one group, or wall"),
        ("format=onnx compile=True", "'compile' is not a valid argument of latency"),
    ],
)
def test_words_that_are_wrong(words: str, message: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        parse(["latency", "model=a.pt", *words.split()])
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"format": "onx"}, r"^format=onx: .*nearest: onnx"),
        ({"format": "torch", "cmd": "run {model}"}, r"^format=torch: is no export"),
        ({"format": "torchscript"}, r"^format=torchscript: is timed on another machine by a command alone: give cmd="),
        ({"format": "rknn", "threads": 2}, r"^threads=2: can be set for onnx, openvino, ncnn"),
        ({"format": "onnx", "threads": 2, "cmd": "run {model}"}, r"^threads=2: can be set for .* without cmd="),
        ({"format": "engine", "int8": True}, r"^format=engine: int8 is calibrated where the engine is built"),
    ],
)
def test_formats_that_cannot_be_timed_there(told: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        yoloprune.latency("nowhere.pt", **told)


def test_formats_of_devices_are_those_that_ultralytics_exports() -> None:
    from yoloprune.backend import compat

    known = set(compat.export_formats()["Argument"])
    assert set(device_runtimes.MODULES) - {"litert", "tflite"} <= known and {"litert", "tflite"} & known


def test_what_was_not_narrowed_there_is_not_narrowed_by_its_table() -> None:
    asked = parse(["latency", "model=a.pt", "format=ncnn", "keep=neck,model.2", "layers=model.4=0.3", "threads=2"])
    assert isinstance(asked, LatencyRequest)
    words = "yoloprune prune model=a.pt latency=0.6 times=times.csv layers=model.4=0.3 keep=neck,model.2"
    assert latency._next(asked) == words
    assert parse(words.split()[1:]).settings["keep"] == ("neck", "model.2")
