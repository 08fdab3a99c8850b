"""A device as strict as a GPU: what mixes devices, or asks one for float64 that has none, fails here."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from page_runner import ROOT
from tiny_line import NETWORK
from torch.utils import cpp_extension
from ultralytics import YOLO

from yoloprune.commands.demo_images import make_shapes

pytestmark = pytest.mark.slow
HERE = ROOT / "tests" / "strange_device"


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The device, compiled: half a minute."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("needs g++")
    made = tmp_path_factory.mktemp("device") / "device.so"
    places = [f"-I{place}" for place in cpp_extension.include_paths()]
    parts = [*(f"-L{place}" for place in cpp_extension.library_paths()), "-lc10", "-ltorch_cpu"]
    words = [compiler, "-O1", "-std=c++20", "-shared", "-fPIC", *places, str(HERE / "device.cpp"), *parts]
    done = subprocess.run([*words, "-o", str(made)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"torch {torch.__version__} has another interface: {done.stderr[:300]}")
    return made


@pytest.mark.long
@pytest.mark.parametrize("without", ["", "float64"])
def test_commands_run_on_it(library: Path, without: str, tmp_path: Path) -> None:
    data = make_shapes(tmp_path / "data", train=16, val=8, imgsz=64)
    (tmp_path / "network.yaml").write_text(NETWORK)
    torch.manual_seed(0)
    YOLO(tmp_path / "network.yaml", task="detect").save(tmp_path / "w.pt")
    told = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    told |= {"PYTHONPATH": str(ROOT), "YOLO_OFFLINE": "true", "OMP_NUM_THREADS": "1"}
    told |= {"STRANGE_WITHOUT_FLOAT64": "1"} if without else {}
    places = [library, tmp_path / "w.pt", data, tmp_path / "runs"]
    words = [sys.executable, str(HERE / "lines.py"), *map(str, places)]
    done = subprocess.run(words, env=told, cwd=tmp_path, capture_output=True, text=True)
    assert "\nOF " in done.stdout, done.stdout[-2000:] + done.stderr[-2000:]
    failed = done.stdout.partition("FAILED ")[2]
    assert not failed, failed[:3000]
    assert done.stdout.count("\nDONE ") + done.stdout.startswith("DONE ") == int(done.stdout.rpartition("OF ")[2])
