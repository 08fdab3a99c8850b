"""What stock Ultralytics does with a native pruned checkpoint where yoloprune cannot be imported; one table last.

    python scripts/stock.py --family yolo11n --out runs/stock

The model is pruned first, from its YAML or from a checkpoint of that name; everything after happens in a process that
blocks `import yoloprune`. `quantize=8` needs `pip install nvidia-modelopt huggingface_hub`. The images are
drawn by code; accuracy is not what counts here, the widths are.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from torch import nn
from ultralytics import YOLO

EPOCHS, STOP = 3, 1  # the interrupted run is killed after this epoch


BLOCK = "import sys; sys.modules['yoloprune'] = None"  # makes every import of it fail


def widths(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Shapes of all tensors outside the head, whose last layers follow the classes; quantizer states left out."""
    layers = model.get_submodule("model")
    assert isinstance(layers, nn.Sequential)
    head = f"model.{len(layers) - 1}."
    state = model.state_dict().items()
    return {k: tuple(v.shape) for k, v in state if not k.startswith(head) and "quantizer" not in k}


def uses(pruned: Path, parent: Path, data: Path, out: Path) -> dict[str, Callable[[], Path | list[Path]]]:
    """Every use by its name: a function that returns the checkpoints that came out."""
    common = {"data": str(data), "imgsz": 64, "batch": 8, "plots": False, "workers": 0, "project": str(out)}
    common |= {"exist_ok": True, "verbose": False, "device": "cpu"}

    def train(name: str, **own: Any) -> Path:
        yolo = YOLO(pruned)
        yolo.train(**{**common, "epochs": 1, "name": name, **own})
        return Path(yolo.trainer.best)

    def other_classes() -> Path:
        told = yaml.safe_load(data.read_text())
        told["names"] = {i: f"class {i}" for i in range(7)}
        file = data.with_name("seven.yaml")
        file.write_text(yaml.safe_dump(told))
        return train("classes", data=str(file))

    def resume() -> Path:
        def stop(trainer: Any) -> None:
            if trainer.epoch == STOP:
                raise KeyboardInterrupt

        first = YOLO(pruned)
        first.add_callback("on_fit_epoch_end", stop)
        try:
            first.train(**{**common, "epochs": EPOCHS, "name": "resume"})
        except KeyboardInterrupt:
            again = YOLO(first.trainer.last)
            again.train(resume=True)
            assert (
                again.trainer.start_epoch == STOP + 1 and len(again.trainer.csv.read_text().splitlines()) == EPOCHS + 1
            )
            return Path(again.trainer.best)
        raise AssertionError("was not interrupted")

    def tune() -> list[Path]:
        YOLO(pruned).tune(**{**common, "epochs": 1, "iterations": 2, "name": "tune"})
        return sorted(out.rglob("tune*/weights/best.pt"))

    def command_line() -> Path:
        told = {**common, "epochs": 1, "name": "cli", "model": pruned}
        code = f"{BLOCK}; from ultralytics.cfg import entrypoint; entrypoint()"  # what the command `yolo` runs
        words = [sys.executable, "-c", code, "train", *(f"{k}={v}" for k, v in told.items())]
        subprocess.run(words, check=True, capture_output=True)
        return out / "cli" / "weights" / "best.pt"

    def quantized() -> Path:
        file = train("quantized", quantize=8)
        onnx = YOLO(file).export(format="onnx", imgsz=64)
        YOLO(onnx, task="detect").predict(str(data.parent / "images" / "val"), imgsz=64, save=False, verbose=False)
        return file

    return {
        "train": lambda: train("train"),
        "train, 7 classes": other_classes,
        "train distill_model=parent": lambda: train("taught", distill_model=str(parent)),
        f"train, killed in epoch {STOP + 1} of {EPOCHS}, resume=True": resume,
        "tune, 2 iterations": tune,
        "yolo train (command line)": command_line,
        "train quantize=8, ONNX export, predict": quantized,
    }


def main() -> None:
    """Prune, then use what came out in a process without yoloprune."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", default="yolo11n", help="model YAML or checkpoint, without its suffix")
    parser.add_argument("--out", type=Path, default=Path("runs/stock"))
    parser.add_argument("--blocked", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    out = arguments.out.resolve() / Path(arguments.family).stem
    pruned, parent, data = out / "prune" / "weights" / "pruned.pt", out / "parent.pt", out / "data" / "data.yaml"
    if not arguments.blocked:
        import yoloprune
        from yoloprune.commands.demo_images import make_shapes

        make_shapes(data.parent, train=32, val=8, imgsz=64)
        checkpoint = Path(f"{arguments.family}.pt")
        YOLO(checkpoint if checkpoint.is_file() else f"{arguments.family}.yaml").save(parent)
        told: dict[str, Any] = {"score": "random", "imgsz": 64, "project": str(out), "name": "prune", "exist_ok": True}
        yoloprune.prune(parent, flops=0.5, native=True, **told)
        again = [sys.executable, __file__, "--blocked", "--family", arguments.family, "--out", str(arguments.out)]
        sys.exit(subprocess.run(again, check=False).returncode)
    exec(BLOCK)
    before, lines = widths(YOLO(pruned).model), []
    for name, use in uses(pruned, parent, data, out).items():
        if "quantize" in name and importlib.util.find_spec("modelopt") is None:
            lines.append(f"| {name} | left out, nvidia-modelopt is not installed |")
            continue
        found = use()
        files = found if isinstance(found, list) else [found]
        same = bool(files) and all(widths(YOLO(f).model) == before for f in files)
        lines.append(f"| {name} | {'all widths kept' if same else 'WIDTHS CHANGED'} |")
    print("\n".join(["", f"| {arguments.family} | outcome |", "| --- | --- |", *lines]))


if __name__ == "__main__":
    main()
