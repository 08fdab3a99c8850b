"""Folders of runs, and the args.yaml in them that says how each was made."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from ultralytics.cfg import get_cfg, get_save_dir

from yoloprune.errors import PruneError


def run_folder(task: str, name: str, arguments: Mapping[str, Any]) -> Path:
    """A new folder runs/<task>/<name>, numbered as Ultralytics does unless `exist_ok`.

    Raises:
        PruneError: If the folder cannot be made.
    """
    given = {k: arguments.get(k) for k in ("project", "name", "exist_ok")}
    given["name"] = given["name"] or name
    given["exist_ok"] = bool(given["exist_ok"])
    try:
        folder = Path(get_save_dir(get_cfg(overrides={"task": task, "mode": "train", **given})))
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise PruneError(f"Cannot write to {e.filename}: {e.strerror}. Choose another project= folder.") from e
    return folder


def drop_unused(folder: Path) -> None:
    """Remove the folder of a training that was refused before it began, so that the next one gets its name."""
    begun = {f.name for f in folder.glob("*")} - {"args.yaml", "labels.jpg", "weights"}
    if folder.is_dir() and not begun and not any(folder.glob("weights/*")):
        shutil.rmtree(folder)


def write_args(folder: Path, arguments: Mapping[str, Any]) -> None:
    """Write args.yaml as Ultralytics does; paths and devices, which YAML knows nothing of, as text."""

    def told(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return [told(v) for v in value]
        return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)

    plain = {k: told(v) for k, v in arguments.items()}
    for key in ("model", "data"):
        if key in plain and Path(str(plain[key])).exists():
            plain[key] = str(Path(str(plain[key])).absolute())  # found from any working directory
    (folder / "args.yaml").write_text(yaml.safe_dump(plain, sort_keys=False), encoding="utf-8")


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping."""
    return yaml.safe_load(path.read_text(encoding="utf-8")) or {}
