"""Files of the campaign that are not what their names say: checkpoints, model YAMLs, data sets and recipes."""

from __future__ import annotations

import copy
import zipfile
from pathlib import Path
from typing import Any

import torch
import yaml
from campaign_ground import TINY, Ground


def _folder(ground: Ground, name: str) -> Path:
    folder = ground.folder / "wrong" / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def damaged_checkpoints(ground: Ground) -> list[Path]:
    """Files named `.pt` that hold something else, or half of it."""
    folder, whole = _folder(ground, "checkpoints"), ground.tiny.read_bytes()
    middle = len(whole) // 2
    for name, content in {
        "text": b"text",
        "empty": b"",
        "half": whole[:middle],
        "flipped": whole[:middle] + bytes(255 - b for b in whole[middle : middle + 4096]) + whole[middle + 4096 :],
        "picture": next(ground.data.parent.rglob("*.jpg")).read_bytes(),
        "old pickle": b"\x80\x02cnosuch\nThing\n.",
    }.items():
        (folder / f"{name}.pt").write_bytes(content)
    with zipfile.ZipFile(folder / "zip.pt", "w") as file:
        file.writestr("a.txt", "text")
    (folder / "folder.pt").mkdir(exist_ok=True)
    checkpoint = torch.load(ground.tiny, map_location="cpu", weights_only=False)
    model = checkpoint["ema"] or checkpoint["model"]
    others: dict[str, Any] = {
        "list": [1, 2],
        "number": 7,
        "nothing": None,
        "no model": {"model": None, "ema": None},
        "a word for a model": {"model": "yolov8n"},
        "state": model.state_dict(),
        "a plain layer": {"model": torch.nn.Conv2d(3, 8, 3)},
    }
    pruned = torch.load(ground.small, map_location="cpu", weights_only=False)
    for name, record in {"a word": "x", "a list": [1], "another version": {"version": 99}, "empty": {}}.items():
        broken = copy.deepcopy(pruned)
        (broken["ema"] or broken["model"]).yaml["yoloprune"] = record
        others[f"record is {name}"] = broken
    for name, content in others.items():
        torch.save(content, folder / f"{name}.pt")
    return sorted(folder.iterdir())


def damaged_models(ground: Ground) -> list[Path]:
    """Model YAMLs that describe no network."""
    folder = _folder(ground, "models")
    no_head = {k: v for k, v in TINY.items() if k != "head"}
    rows: dict[str, Any] = {
        "empty": "",
        "list": "- 1\n- 2\n",
        "word": "text",
        "tab": "nc: 3\n\tbackbone: 1\n",
        "binary": "\x00\x01",
        "object": "!!python/object/apply:os.getcwd []",
        "no head": yaml.safe_dump(no_head),
        "no class": yaml.safe_dump({**TINY, "nc": 0}),
        "classes in words": yaml.safe_dump({**TINY, "nc": "many"}),
        "unknown block": yaml.safe_dump({**TINY, "backbone": [[-1, 1, "Nosuch", [8]]]}),
        "a layer that is not there": yaml.safe_dump({**TINY, "head": [[[40], 1, "Detect", ["nc"]]]}),
        "too few words": yaml.safe_dump({**TINY, "backbone": [[-1, 1]]}),
        "no numbers": yaml.safe_dump({**TINY, "backbone": [[-1, 1, "Conv", ["wide", 3, 2]]]}),
    }
    return _texts(folder, rows)


def damaged_data(ground: Ground) -> list[Path]:
    """Data YAMLs of nothing."""
    good = yaml.safe_load(ground.data.read_text())
    good = {**good, "path": str(ground.data.parent)}
    folder = _folder(ground, "data sets")
    (folder / "nothing").mkdir(exist_ok=True)
    (folder / "not pictures").mkdir(exist_ok=True)
    (folder / "not pictures" / "a.jpg").write_text("text")
    rows: dict[str, Any] = {
        "empty": "",
        "list": "- 1\n",
        "word": "text",
        "tab": "a:\n\t- b",
        "binary": "\x00\x01",
        "no names": yaml.safe_dump({k: v for k, v in good.items() if k != "names"}),
        "no val": yaml.safe_dump({k: v for k, v in good.items() if k != "val"}),
        "no train": yaml.safe_dump({k: v for k, v in good.items() if k not in {"train", "val"}}),
        "gone": yaml.safe_dump({**good, "path": str(folder / "gone")}),
        "other count": yaml.safe_dump({**good, "nc": 5}),
        "names is a number": yaml.safe_dump({**good, "names": 3}),
        "no pictures": yaml.safe_dump({**good, "path": str(folder), "train": "nothing", "val": "nothing"}),
        "not pictures": yaml.safe_dump({**good, "path": str(folder), "train": "not pictures", "val": "not pictures"}),
        "train is a number": yaml.safe_dump({**good, "train": 7, "val": 7}),
    }
    return _texts(folder, rows)


def damaged_recipes(ground: Ground) -> list[Path]:
    """Recipes that say nothing that can be done."""
    rows: dict[str, Any] = {
        "list": "- 1\n",
        "word": "text",
        "tab": "a:\n\t- b",
        "binary": "\x00\x01",
        "object": "!!python/object/apply:os.getcwd []",
        "twice": "imgsz: 32\nimgsz: 64\n",
        "unknown": "nosuch: 1\n",
        "recipe in it": "cfg: other.yaml\n",
        "wrong value": "imgsz: wide\n",
        "unknown section": "nosuch: {imgsz: 32}\n",
        "numbers for keys": "1: 2\n",
    }
    return _texts(_folder(ground, "recipes"), rows)


def _texts(folder: Path, rows: dict[str, Any]) -> list[Path]:
    for name, text in rows.items():
        (folder / f"{name}.yaml").write_text(text)
    return [folder / f"{name}.yaml" for name in rows]
