"""The script that times networks on another machine, run as it is there: without torch, without yoloprune."""

from __future__ import annotations

import ast
import csv
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from yoloprune.runtimes import device_commands, device_folder, device_runtimes, device_script, engines
from yoloprune.runtimes.deployment import Deployment
from yoloprune.runtimes.device_commands import DeviceError
from yoloprune.runtimes.device_runtimes import Way

BARE = [sys.executable, "-I", "-S"]
"""A Python without any package."""


def folder_of(path: Path, *ms: float, **change: Any) -> Path:
    """A folder whose networks are texts that say how long they take, the parent first; `cat` runs them."""
    (path / "networks").mkdir(parents=True)
    listed = []
    for i, time in enumerate(ms):
        (path / "networks" / f"{i:02d}.txt").write_text(
            f"Throughput: 9\nGPU Compute Time: mean = 1 ms, median = {time} ms"
        )
        name = f"{i:02d}" if i else "parent"
        listed.append({"name": name, "file": f"networks/{i:02d}.txt", "imgsz": 64, "widths": [i, 8]})
    facts = {"format": "engine", "threads": None, "cmd": "cat {model}", "pattern": None, "batch": 1, "channels": 3}
    facts |= {"precision": "fp32", "parent": "abc", "next": "yoloprune prune"}
    (path / "measure.py").write_text(device_folder.script(), encoding="utf-8")
    (path / "networks.json").write_text(json.dumps({**facts, **change, "networks": listed}), encoding="utf-8")
    return path


def measure(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*BARE, str(folder / "measure.py"), *words], capture_output=True, text=True, cwd="/")


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "times.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_script_needs_the_standard_library_of_an_old_python() -> None:
    tree = ast.parse(device_folder.script(), feature_version=(3, 8))
    names = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    names |= {str(n.module) for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert {n.partition(".")[0] for n in names} <= sys.stdlib_module_names
    keywords = {k.arg for n in ast.walk(tree) if isinstance(n, ast.Call) for k in n.keywords}
    assert not keywords & {"strict", "slots", "kw_only"}  # which later ones brought
    assert (ast.get_docstring(tree) or "").startswith("Time the networks of this folder")


def test_times_of_a_command(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "a", 20.0, 10.0, 15.0, 5.0, batch=2)
    done = measure(folder, "--at-once", "2")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[:3] == [
        "3 of 3 networks to time in cat {model} on what the command runs on",
        "2 of 3: parent takes 10.00 ms, known to ±0.0%",
        "3 of 3: parent takes 10.00 ms, known to ±0.0%",
    ]
    assert done.stdout.endswith("times.csv\nnext: yoloprune prune\n")
    rows = table(folder)
    assert list(rows[0]) == list(device_script.COLUMNS)
    told = [(row["network"], row["ms"], row["parent_ms"], row["runs"], row["widths"]) for row in rows]
    assert told == [
        ("01", "5.0", "10.0", "6", "1 8"),
        ("02", "7.5", "10.0", "6", "2 8"),
        ("03", "2.5", "10.0", "6", "3 8"),
    ]
    assert {(row["of"], row["batch"], row["parent"], row["imgsz"], row["threads"]) for row in rows} == {
        ("3", "2", "abc", "64", "")
    }


def test_it_goes_on_where_it_was(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "a", 20.0, 10.0, 15.0, 5.0)
    last = folder / "networks" / "03.txt"
    text = last.read_text()
    last.write_text("no time here")
    done = measure(folder, "--at-once", "2")
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("measure.py: error: cat networks/03.txt: prints no time that is known.")
    whole = (folder / "times.csv").read_text()
    assert whole.count("\n") == 3
    last.write_text(text)
    (folder / "times.csv").write_text(whole + "03,5.0,5.")  # killed while it wrote
    done = measure(folder)
    assert done.returncode == 0 and "1 of 3 networks to time" in done.stdout and "3 of 3" in done.stdout
    assert (folder / "times.csv").read_text().startswith(whole)
    assert [row["network"] for row in table(folder)] == ["01", "02", "03"]
    again = measure(folder, "--cmd", "cat ./{model}")
    assert (
        again.returncode == 1 and "was measured with runtime cat {model}, and now it is cat ./{model}" in again.stderr
    )


def test_two_models_side_by_side(tmp_path: Path) -> None:
    done = measure(folder_of(tmp_path / "a", 20.0, 12.5, next=""))
    assert "01 takes 12.5 ms, 0.625 of the 20.0 ms of parent\n" in done.stdout and "next" not in done.stdout


def test_a_command_that_fails(tmp_path: Path) -> None:
    done = measure(folder_of(tmp_path / "a", 20.0, 10.0), "--cmd", "echo out of paper {model}; exit 3")
    assert done.returncode == 1
    assert done.stderr == (
        "measure.py: error: echo out of paper networks/00.txt; exit 3: ended with 3: out of paper networks/00.txt\n"
    )


def test_a_device_that_changes_its_pace_is_noticed(tmp_path: Path) -> None:
    """The parent takes longer each time that it is asked."""
    folder = folder_of(tmp_path / "a", 20.0, 10.0, 15.0)
    slower = "echo x >> {model}.log; echo $(wc -l < {model}.log) ms"
    done = measure(folder, "--cmd", slower, "--at-once", "1", "--seconds", "0")
    assert "warning: the parent took 4.50 to 11.50 ms" in done.stdout  # runs 2 to 7, and 9 to 14


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ("onnx", "onnx needs the package onnxruntime, which is not installed: pip install numpy onnxruntime"),
        ("ncnn", "ncnn needs the package ncnn, which is not installed: pip install ncnn numpy"),
        (
            "rknn",
            "rknn needs the package rknn-toolkit-lite2, which is not installed: pip install numpy rknn-toolkit-lite2",
        ),
        ("litert", "litert needs the package ai-edge-litert, which is not installed: pip install ai-edge-litert numpy"),
    ],
)
def test_a_missing_package_is_named(tmp_path: Path, form: str, said: str) -> None:
    folder = folder_of(tmp_path / "a", 20.0, 10.0, format=form, cmd=None)
    for words in (["--check", form], []):
        done = measure(folder, *words)
        assert (done.returncode, done.stderr) == (1, f"measure.py: error: {said}\n")
    assert not (folder / "times.csv").exists()


# What programs print --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "ms"),
    [
        (
            "[I] Latency: min = 2 ms, median = 2.2 ms\n[I] GPU Compute Time: min = 1.1 ms, median = 1.23 ms, p = 2 ms",
            1.23,
        ),
        ("[ INFO ]    Median:        12.34 ms\n[ INFO ]    Average:  13 ms", 12.34),
        ("Inference timings in us: Init: 4, First inference: 9, Warmup (avg): 8, Inference (avg): 5432.5", 5.4325),
        ("   yolov8n  min =   20.12  max =   21.03  avg =   20.40", 20.4),
        ("load 3 ms\nrun 7.5ms", 7.5),
    ],
)
def test_times_that_programs_print(text: str, ms: float) -> None:
    assert device_commands.milliseconds(text, None) == pytest.approx(ms)


def test_a_pattern_of_ones_own() -> None:
    assert device_commands.milliseconds("took 5 s, 3 ms", r"took (\d+) s") == 5
    for text in ("took a while", "took 5"):
        with pytest.raises(DeviceError, match=r"^run: prints no time that is known"):
            device_commands.milliseconds(text, r"took (\D+)", "run")
    assert device_commands.command("true", device_commands.WALL)() is None


def test_tensorrt_builds_and_times_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "trtexec"
    program.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/log\necho "GPU Compute Time: mean = 9 ms, median = 1.5 ms"\n'
    )
    with monkeypatch.context() as change:
        change.setattr(device_commands, "TRTEXEC", str(tmp_path / "none"))
        with pytest.raises(DeviceError, match="engine needs trtexec"):
            device_runtimes.require("engine")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    file = tmp_path / "01.onnx"
    assert device_runtimes.opened(file, 64, Way("engine", half=True))() == 1.5
    built = tmp_path / "01.engine"
    assert (tmp_path / "log").read_text().splitlines() == [
        f"--onnx={file} --saveEngine={built} --fp16",
        f"--loadEngine={built} --warmUp=200 --duration=1",
    ]


# Runtimes -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("form", "needed", "pattern"),
    [("onnx", "onnxruntime", "*"), ("openvino", "openvino", "*.xml"), ("ncnn", "pnnx", "*.param")],
)
@pytest.mark.slow
def test_exports_run_in_the_runtime_alone(tiny: Path, tmp_path: Path, form: str, needed: str, pattern: str) -> None:
    pytest.importorskip(needed)
    import yoloprune

    file = engines.exported(yoloprune.load(tiny).model, Deployment(form), 64, tmp_path / "07.pt")
    assert file.parent == tmp_path and file.name.startswith("07")
    assert device_runtimes.require(form).startswith(f"{device_runtimes.MODULES[form][0]} ")
    for threads in (None, 1):
        assert device_runtimes.opened(file, 64, Way(form, threads=threads))() is None  # the clock tells
    with pytest.raises(DeviceError, match=f"08.*: does not run in {form} here: "):
        device_runtimes.opened(tmp_path / "08", 64, Way(form))


def stand_in(monkeypatch: pytest.MonkeyPatch, name: str, **attributes: Any) -> None:
    """Put a module in the place of a package that is not here."""
    package, _, _ = name.partition(".")
    for one in (package, name):
        module = ModuleType(one)
        module.__spec__ = SimpleNamespace(name=one)  # type: ignore[assignment]
        vars(module).update(attributes)
        monkeypatch.setitem(sys.modules, one, module)


@pytest.mark.parametrize("last", [False, True])
def test_litert_gets_its_order_of_axes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: bool) -> None:
    seen: list[Any] = []

    class Interpreter:
        def __init__(self, path: str, num_threads: int | None) -> None:
            seen.append((path, num_threads))

        def allocate_tensors(self) -> None: ...

        def get_input_details(self) -> list[dict[str, Any]]:
            return [{"shape": np.array([1, 64, 64, 3] if last else [1, 3, 64, 64]), "dtype": np.float32, "index": 5}]

        def set_tensor(self, index: int, values: np.ndarray) -> None:
            seen.append((index, values.shape, values.dtype))

        def invoke(self) -> None: ...

    stand_in(monkeypatch, "ai_edge_litert.interpreter", Interpreter=Interpreter)
    device_runtimes.opened(tmp_path / "a.tflite", 64, Way("litert", threads=2))()
    assert seen == [(str(tmp_path / "a.tflite"), 2), (5, (1, 64, 64, 3) if last else (1, 3, 64, 64), np.float32)]


def test_rknn_gets_bytes_with_channels_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a_rknn_model").mkdir()
    (tmp_path / "a_rknn_model" / "a-rk3588.rknn").write_bytes(b"")
    seen: list[Any] = []

    class RKNNLite:
        def load_rknn(self, path: str) -> int:
            seen.append(path)
            return 0

        def init_runtime(self) -> int:
            return status

        def inference(self, inputs: list[np.ndarray]) -> None:
            seen.extend((one.shape, one.dtype) for one in inputs)

    stand_in(monkeypatch, "rknnlite.api", RKNNLite=RKNNLite)
    status = 0
    device_runtimes.opened(tmp_path / "a_rknn_model", 64, Way("rknn"))()
    assert seen == [str(tmp_path / "a_rknn_model" / "a-rk3588.rknn"), ((1, 64, 64, 3), np.uint8)]
    status = -1
    with pytest.raises(DeviceError, match="the NPU is not there"):
        device_runtimes.opened(tmp_path / "a_rknn_model", 64, Way("rknn"))


def test_onnxruntime_leaves_the_cores_to_the_next_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each session has threads of its own, which wait busily for its next image unless they are told not to."""
    told: dict[str, str] = {}

    class SessionOptions:
        intra_op_num_threads = 0

        def add_session_config_entry(self, key: str, value: str) -> None:
            told[key] = value

    class InferenceSession:
        def __init__(self, path: str, options: SessionOptions, providers: list[str]) -> None:
            told["threads"], told["on"] = str(options.intra_op_num_threads), providers[0]

        def get_inputs(self) -> list[Any]:
            return [SimpleNamespace(name="images", type="tensor(float)")]

        def run(self, names: None, feed: dict[str, np.ndarray]) -> None:
            told["images"] = str(feed["images"].shape)

    stand_in(monkeypatch, "onnxruntime", SessionOptions=SessionOptions, InferenceSession=InferenceSession)
    device_runtimes.opened(tmp_path / "a.onnx", 64, Way("onnx", threads=2))()
    assert told == {
        "session.force_spinning_stop": "1",
        "threads": "2",
        "on": "CPUExecutionProvider",
        "images": "(1, 3, 64, 64)",
    }
