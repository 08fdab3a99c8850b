"""Every command and block of README and guide is run as it stands, on the smallest settings."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import page_runner
import pytest
import yaml
from page_runner import GUIDE, NOTEBOOK, ROOT
from tiny_line import NETWORK, QUICK
from ultralytics import YOLO

from yoloprune.commands.demo_images import make_shapes

pytestmark = pytest.mark.slow

PAGES = [page for page in [*GUIDE, NOTEBOOK] if page_runner.lines(page.read_text(encoding="utf-8"))]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a reader has: trained and untrained weights, two data sets, photographs."""
    folder = tmp_path_factory.mktemp("reader")
    made = make_shapes(folder / "data", train=16, val=8, imgsz=64)
    told = yaml.safe_load(made.read_text(encoding="utf-8"))
    everyday = {0: "person", 1: "dog", 2: "car"}
    for name, classes in {"my": told["names"], "coco": everyday}.items():
        content = yaml.safe_dump({**told, "path": str(folder / "data"), "names": classes})
        (folder / f"{name}.yaml").write_text(content, encoding="utf-8")
    (folder / "network.yaml").write_text(NETWORK, encoding="utf-8")
    yolo = YOLO(folder / "network.yaml", task="detect")
    told_to_train = {**QUICK, "epochs": 1, "verbose": False, "project": str(folder / "made"), "exist_ok": True}
    for name, data in {"best.pt": "my.yaml", "yolov8n.pt": "coco.yaml"}.items():
        yolo.train(data=str(folder / data), **told_to_train)
        shutil.copy(yolo.trainer.best, folder / name)
    shutil.copytree(folder / "data" / "images" / "train", folder / "photos")
    (folder / "settings").mkdir()
    return folder


@pytest.fixture(scope="module" if hasattr(os, "fork") else "function")
def runner(home: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that runs pages."""
    told = {
        **{key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")},  # which moves runs/
        "YOLO_CONFIG_DIR": str(home / "settings"),
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
        "YOLO_OFFLINE": "true",
        "YOLO_AUTOINSTALL": "false",
        "MPLBACKEND": "Agg",
    }
    # Ultralytics puts runs/ beside the repository that it finds itself installed in, where there is one.
    settle = "from ultralytics import settings; settings.update({'runs_dir': 'runs'})"
    subprocess.run([sys.executable, "-c", settle], check=True, cwd=home, env=told)
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, page_runner.__file__], cwd=home, env=told, **pipes) as process:
        yield process


@pytest.mark.long
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_tells_works(page: Path, home: Path, tmp_path: Path, runner: subprocess.Popen[str]) -> None:
    for name in ("best.pt", "yolov8n.pt", "my.yaml", "coco.yaml", "photos"):
        (tmp_path / name).symlink_to(home / name)
    (tmp_path / "yolov8n-coco.pt").symlink_to(home / "yolov8n.pt")  # what figures were measured with
    (tmp_path / "bccd").mkdir()
    (tmp_path / "bccd" / "data.yaml").symlink_to(home / "coco.yaml")
    shutil.copytree(home / "settings", tmp_path / "settings")
    assert runner.stdin and runner.stdout
    runner.stdin.write(f"{page}\t{tmp_path}\n")
    runner.stdin.flush()
    code = int(runner.stdout.readline() or runner.wait())
    said = (tmp_path / "said.txt").read_text()
    assert code == 0, said[-3000:]
    assert said.count("\nDONE: ") + said.startswith("DONE: ") == said.count("RUN: ")
