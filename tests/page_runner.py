"""Run what pages of the guide tell, on the smallest settings: `python page_runner.py`, then a page and a folder a line.

Words keep their keys and lose their cost; what needs a device or a runtime that is not here is passed over and told.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import conftest  # noqa: F401  networks are timed as briefly as in the other tests
import torch
import ultralytics.utils
from torch import nn

SMALL = {
    "epochs": "2",
    "imgsz": "64",
    "batch": "8",
    "threads": "1",
    "device": "cpu",
    "latency": "0.95",
    "half": "False",
    "target": "sh -c",
    "python": sys.executable,
}
"""What words of a page become."""

CELL = {"MODEL": '"best.pt"', "DATA": '"my.yaml"', "IMGSZ": "64", "EPOCHS": "2"}
"""Settings of the notebook."""

QUIET = "imgsz=64 workers=0 plots=False device=cpu"
TRAIN = f"{QUIET} epochs=2 batch=8 nbs=8 optimizer=AdamW lr0=0.002 warmup_epochs=0 amp=False"
UNSURE = "labels_conf=0.001"  # a model that was trained for an epoch is sure of nothing
ADDED = {
    "slim": f"{TRAIN} {UNSURE}",
    "train-sparse": TRAIN,
    "finetune": f"{TRAIN} {UNSURE}",
    "prune": "imgsz=64",
    "latency": f"imgsz=64 python={sys.executable}",
    "sweep": "imgsz=64",
    "sensitivity": "imgsz=64 widths=0.5 layer=model.2",
    "val": QUIET,
    "compare": "imgsz=64",
    "demo": "epochs=1",
    "export": "imgsz=64",
}
"""What a command is told besides, where the line says nothing of it."""

NEEDS = {
    "onnx": "onnxruntime",
    "openvino": "openvino",
    "ncnn": "ncnn",
    "engine": "tensorrt",
    "rknn": "rknn",
    "litert": "litert_torch",
}
"""Packages of formats."""

ROOT = Path(__file__).resolve().parents[1]
GUIDE = [ROOT / "README.md", *sorted((ROOT / "docs" / "guide").rglob("*.md"))]
NOTEBOOK = ROOT / "docs" / "guide" / "yoloprune.ipynb"
MEASURE = "measure.py"
"""What a line ends with that runs on a device, in the folder that was carried there."""

BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)

BEFORE = {
    "page.md": [
        "yoloprune prune model=best.pt data=my.yaml flops=0.5",
        "yoloprune train-sparse model=yolov8n.pt data=coco.yaml epochs=2 flops=0.5",
    ],
    "multi-gpu.md": ["yoloprune train-sparse model=yolov8n.pt data=coco.yaml epochs=2 flops=0.5"],
}
"""What a page takes for granted."""

GIVEN = """
from collections import OrderedDict
from torch import nn
def build_my_network():
    first = dict(a=nn.Conv2d(3, 16, 3, 8), b=nn.BatchNorm2d(16), c=nn.ReLU(), d=nn.Conv2d(16, 32, 3))
    last = dict(pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten(), classifier=nn.Linear(32, 4))
    return nn.Sequential(OrderedDict(**first, **last))
model = build_my_network().eval()
"""
"""What stands before the Python of a page: the reader's own network."""


def lines(page: str) -> list[tuple[str, str]]:
    """Shell lines, each for itself, and Python blocks of a page or cells of a notebook, in their order."""
    found = []
    if page.startswith("{"):
        cells = ["".join(c["source"]) for c in json.loads(page)["cells"] if c["cell_type"] == "code"]
        return [("python", cell) for cell in cells if not cell.startswith("%")]
    for kind, block in BLOCK.findall(page):
        if kind == "python":
            found.append((kind, block))
        for line in re.sub(r"\\\n\s*", "", block).splitlines() if kind == "bash" else ():
            words = line.partition(" #")[0].strip()
            if words.split(" ")[0] in {"yoloprune", "yolo"} or words.endswith(MEASURE):
                found.append((kind, words))
    return found


def missing(text: str) -> str | None:
    """What a line needs and this machine has not."""
    if re.search(r"device=\d", text) and not torch.cuda.is_available():
        return "a GPU"
    if text.endswith(MEASURE) and not carried():
        return "a folder of networks"
    if (table := re.search(r"times=(\S+)", text)) and not Path(table[1]).is_file():
        return "a table that a device measured"
    if " resume" in text:
        return "an interrupted training"
    if "ray=True" in text and importlib.util.find_spec("ray") is None:
        return "ray"
    if "format=openvino int8=True" in text and importlib.util.find_spec("nncf") is None:
        return "nncf"
    for name, package in NEEDS.items():
        if f"format={name}" in text and importlib.util.find_spec(package) is None:
            return package
    return None


def here(text: str) -> str:
    """The line, or the same in torch where its runtime is not here: the lines after it need the network it makes."""
    if text.startswith("yoloprune prune ") and missing(text) in NEEDS.values():
        return re.sub(r" (format|half|int8|dynamic|nms|threads)=\S+", "", text)
    return text


def carried() -> list[Path]:
    """Folders whose networks wait for a device."""
    return [f.parent for f in Path("runs").rglob(MEASURE) if not (f.parent / "times.csv").is_file()]


def small(line: str) -> list[str]:
    """A line on the smallest settings, as words behind the program's name."""
    command, *rest = shlex.split(line)[1:]
    given = dict(word.split("=", 1) for word in rest if "=" in word)
    plain = [word for word in rest if "=" not in word]
    added = dict(word.split("=") for word in ADDED.get(command, "").split() if "resume" not in plain)
    if given.keys() & {"pattern", "sparsity"}:  # of masks, which have no widths
        added.pop("widths", None)
    if "images" not in given:  # of whose labels it is
        added.pop("labels_conf", None)
    if "latency" in given and "times" not in given:  # threads of networks this small get in each other's way
        added["threads"] = SMALL["threads"]
    words = {**added, **{key: SMALL.get(key, value) for key, value in given.items()}}
    return [command, *plain, *(f"{key}={value}" for key, value in words.items())]


def run(kind: str, text: str, names: dict[str, Any]) -> None:
    """Run one line or block; whatever is wrong ends the process."""
    import ultralytics.cfg

    from yoloprune.cli import main
    from yoloprune.runtimes import device_script

    home = Path.cwd()
    if kind == "python":
        text = re.sub(r"epochs=\d+", f"epochs=2, {', '.join(_python(TRAIN))}", text)
        text = re.sub(r"^([A-Z]+) = .*", lambda found: f"{found[1]} = {CELL[found[1]]}", text, flags=re.MULTILINE)
        exec(compile(text, "page", "exec"), names)
    elif text.endswith(MEASURE):
        for folder in carried():
            if code := device_script.main(["--seconds", "0.1"], folder.resolve()):
                raise SystemExit(f"{code}: {text}")
            shutil.copy(folder / "times.csv", home)
    elif text.startswith("yolo "):
        ultralytics.cfg.entrypoint(" ".join(["yolo", *small(text)]))
    elif code := main(small(text)):
        raise SystemExit(f"{code}: {text}")


def _python(words: str) -> list[str]:
    pairs = [word.split("=") for word in words.split() if not word.startswith("epochs")]
    return [f"{key}={value if re.match(r'[0-9.]+$|False', value) else repr(value)}" for key, value in pairs]


def steady(opened: Callable[..., Callable[[], object]]) -> Callable[..., Callable[[], float]]:
    """What opens a network, which then says a time that follows from its size: of their own they have none."""

    def told(network: Any, *rest: Any) -> Callable[[], float]:
        run = opened(network, *rest)
        if isinstance(network, nn.Module):
            size = sum(p.numel() for p in network.parameters())
        else:
            files = [Path(network), *Path(network).rglob("*")]
            size = sum(file.stat().st_size for file in files if file.is_file()) // 4

        def ran() -> float:
            run()
            return 1e-4 * size

        return ran

    return told


def settle() -> None:
    """Networks are few, quickly timed, and taken at their word; what is drawn is little and small."""
    from yoloprune.commands import slim_search

    slim_search._require_drop = lambda *_: None  # so little training leaves a parent with nothing to lose
    from yoloprune.commands import demo
    from yoloprune.runtimes import device_folder, device_script, engines
    from yoloprune.selection import device_times, time_profile

    time_profile.VARIANTS, time_profile.SECONDS, time_profile.TRUSTED, device_times.ENOUGH = 8, 0.1, 10.0, 8
    measure = device_folder.script().replace("default=2.5", "default=0.1")
    device_folder.script = lambda: measure  # type: ignore[assignment]
    demo.DATA |= {"train": 16, "val": 8, "imgsz": 64}
    demo.TRAIN["imgsz"] = 64
    engines.opened, device_script.opened = steady(engines.opened), steady(device_script.opened)


def run_page(page: Path, folder: Path) -> None:
    """Run a page in a folder, as a process of its own does that has imported all this.

    Args:
        page (Path): Of the guide.
        folder (Path): The reader's, with the settings of Ultralytics; what is printed goes to `said.txt` there.
    """
    for stream, place, mode in ((0, Path(os.devnull), "r"), (1, folder / "said.txt", "w")):
        with place.open(mode) as file:
            os.dup2(file.fileno(), stream)
    os.dup2(1, 2)
    os.chdir(folder)
    os.environ["YOLO_CONFIG_DIR"] = str(folder / "settings")
    ultralytics.utils.USER_CONFIG_DIR = folder / "settings"  # where times that were measured are kept
    settle()
    names: dict[str, Any] = {"__name__": "page"}
    exec(GIVEN, names)
    before = [("bash", line) for line in BEFORE.get(page.name, [])]
    for kind, written in before + lines(page.read_text(encoding="utf-8")):
        text = here(written)
        if package := missing(text):
            print(f"PASSED OVER: {text} (needs {package})", flush=True)
            continue
        print(f"RUN: {text}", flush=True)
        run(kind, text, names)
        print(f"DONE: {text}", flush=True)


def serve() -> None:
    """Fork for each page that is asked for, and say how it ended: torch and Ultralytics are imported once for all.

    Where processes cannot fork, the first page is run by this one.
    """
    import yoloprune.cli  # noqa: F401  what every page needs

    while asked := sys.stdin.readline():
        page, folder = map(Path, asked.rstrip("\n").split("\t"))
        child = os.fork() if hasattr(os, "fork") else 0
        if not child:
            return run_page(page, folder)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    return None


if __name__ == "__main__":
    serve()
