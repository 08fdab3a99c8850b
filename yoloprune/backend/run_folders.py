"""Folders of runs, and the args.yaml in them that says how each was made."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml

from yoloprune import files
from yoloprune.backend import compat
from yoloprune.errors import ArgumentError, PruneError, first_line

ARGS = "args.yaml"
LABELS = "labels-of-its-classes"
"""In the folder of a run: a data set with the labels of the model's classes alone."""

PARENT_LABELS = "labels-of-its-parent"
"""The same with what the parent finds."""

DATA_SETS = (LABELS, PARENT_LABELS)
"""Data sets that a run makes for itself before it begins."""


@dataclass(frozen=True)
class Run:
    """The folder of a run; as a context, gone again if the block fails before anything is in it.

    Attributes:
        folder (Path): Where it writes.
        made (bool): Whether this process made it, so that it may remove it.
        above (tuple[Path, ...]): Folders above it that were made for it, the nearest first.
    """

    folder: Path
    made: bool
    above: tuple[Path, ...] = field(default=(), compare=False)

    def drop_unused(self) -> None:
        """Remove the folder of a run that was refused before it began, so that the next one gets its name."""
        ours = {self.folder / name for name in DATA_SETS}
        made = [f for f in self.folder.rglob("*") if not f.is_dir() and not ours.intersection(f.parents)]
        begun = {f.name for f in made} - {ARGS, "labels.jpg"}
        if self.made and self.folder.is_dir() and not begun:
            shutil.rmtree(self.folder, ignore_errors=True)  # not to hide why it was refused
            with contextlib.suppress(OSError):  # another run has its folder there by now
                for folder in self.above:
                    folder.rmdir()

    def __enter__(self) -> Path:
        return self.folder

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.drop_unused()


def claim(arguments: Any, reads: Iterable[Any] = ()) -> Run:
    """Make the folder that Ultralytics chooses, or take the one that `exist_ok` and `save_dir` point at.

    Two runs that choose the same name at the same time get one each: the second one finds it taken and asks again.

    Args:
        arguments (SimpleNamespace): Ultralytics' arguments: `task`, `mode`, `project`, `name`, `exist_ok`, `save_dir`.
        reads (Iterable): Files that the run starts from; what is not the path of a file is passed over.

    Returns:
        (Run): The folder.

    Raises:
        ArgumentError: If one of these files lies in a folder that was there before.
        PruneError: If the folder cannot be made.
    """
    _drop_killed(arguments)
    shared = bool(arguments.exist_ok or getattr(arguments, "save_dir", None))
    taken: Path | None = None
    while True:
        folder = Path(compat.get_save_dir(arguments))
        above = tuple(f for f in folder.parents if not f.exists())
        try:
            folder.mkdir(parents=True)
            return Run(folder, made=True, above=above)
        except FileNotFoundError as e:  # a run that was refused has taken the folder above away again
            if folder == taken:
                raise PruneError(f"Cannot write to {e.filename}: {e.strerror}. Choose another project= folder.") from e
            taken = folder
        except FileExistsError:
            if shared and folder.is_dir():
                _require_elsewhere(folder, reads)
                return Run(folder, made=False)
            if folder == taken:  # nothing that Ultralytics sees as taken, e.g. a link that leads nowhere
                raise PruneError(f"Cannot write to {folder}: something else is there. Choose another name=.") from None
            taken = folder
        except OSError as e:
            raise PruneError(f"Cannot write to {e.filename}: {e.strerror}. Choose another project= folder.") from e


def _drop_killed(arguments: Any) -> None:
    """Remove what killed runs of this name left that had finished no file, so that the next ones get their names."""
    first = Path(compat.get_save_dir(SimpleNamespace(**{**vars(arguments), "exist_ok": True})))
    for folder in sorted(_numbered(first)):
        if files.drop_left_parts(folder):
            with contextlib.suppress(OSError):  # where something is in it
                folder.rmdir()


def _numbered(first: Path) -> dict[Path, int]:
    """Folders of runs that Ultralytics called by one name, and their numbers."""
    number = re.compile(re.escape(first.name) + r"(?:-?(\d+))?")
    found = {folder: number.fullmatch(folder.name) for folder in first.parent.glob("*")}
    return {folder: int(match[1] or 1) for folder, match in found.items() if match}


def _require_elsewhere(folder: Path, reads: Iterable[Any]) -> None:
    folder = folder.resolve()
    for file in reads:
        if isinstance(file, (str, Path)) and Path(file).is_file() and folder in Path(file).resolve().parents:
            raise ArgumentError(
                f"{file} is what this run starts from, and would be written over: it lies in {folder}, the folder of "
                "the run. Choose another name=, or leave exist_ok out."
            )


def new_run(task: str, name: str, arguments: Mapping[str, Any], reads: Iterable[Any] = ()) -> Run:
    """A folder runs/<task>/<name>, numbered as Ultralytics does unless `exist_ok`.

    Args:
        task (str): Task of the model.
        name (str): Name of the folder unless `name` is among the arguments.
        arguments (Mapping): `project`, `name` and `exist_ok` count.
        reads (Iterable): See `claim`.

    Returns:
        (Run): The folder.

    Raises:
        ArgumentError: See `claim`; also under torchrun, where each process would make one.
        PruneError: If the folder cannot be made.
    """
    if compat.RANK != -1:
        raise ArgumentError(f"{name}: torchrun is for train-sparse and finetune on data= as it is. Start it without")
    return claim(_places(task, name, arguments), reads)


def require_other(task: str, name: str, arguments: Mapping[str, Any], file: str, source: Any) -> None:
    """Raise PruneError where a run would write over the file that it starts from, before work starts.

    Args:
        task (str): Task of the model.
        name (str): Name of the folder unless `name` is among the arguments.
        arguments (Mapping): `project`, `name` and `exist_ok` count.
        file (str): The checkpoint that it will write.
        source (Any): The file that it starts from, None where there is none.
    """
    if source is None or not arguments.get("exist_ok"):
        return
    target = Path(compat.get_save_dir(_places(task, name, arguments))) / "weights" / file
    if target.exists() and Path(source).exists() and target.samefile(source):
        raise PruneError(f"{target} is the file that the model came from and is not overwritten. Choose another name.")


def earlier_runs(task: str, name: str, arguments: Mapping[str, Any]) -> list[Path]:
    """The folders of runs that were called so, the latest first: with `exist_ok` the one that is taken again."""
    base = Path(compat.get_save_dir(_places(task, name, {**arguments, "exist_ok": True})))
    found = {base: 1} if arguments.get("exist_ok") else _numbered(base)
    runs = {f: number for f, number in found.items() if (f / ARGS).is_file()}
    return sorted(runs, key=lambda f: runs[f], reverse=True)


def changed_since(began: Path, *places: Any) -> list[str]:
    """Which files, a model or the description of data, were written anew since a run wrote its first one.

    Args:
        began (Path): What the run wrote as it began, and not again.
        *places (Any): What it reads; what is not the path of a file is passed over.
    """
    written = began.stat().st_mtime_ns
    files_now = [Path(str(place)) for place in places if place]
    return [str(file) for file in files_now if file.is_file() and file.stat().st_mtime_ns > written]


def _places(task: str, name: str, arguments: Mapping[str, Any]) -> Any:
    """Ultralytics' arguments, of which those count that say where a run lies."""
    given = {k: arguments.get(k) for k in ("project", "name", "exist_ok")}
    given["name"] = given["name"] or name
    given["exist_ok"] = bool(given["exist_ok"])
    return compat.get_cfg(overrides={"task": task, "mode": "train", **given})


def write_args(folder: Path, arguments: Mapping[str, Any]) -> None:
    """Write args.yaml as Ultralytics does; paths and devices, which YAML knows nothing of, as text."""
    write_yaml(folder / ARGS, as_written(arguments))


def as_written(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What args.yaml says of arguments."""
    told = plain(arguments)
    for key in ("model", "data", "images"):
        if key in told:
            told[key] = rooted(told[key])
    if isinstance(models := arguments.get("models"), Mapping):
        told["models"] = {name: rooted(model) for name, model in models.items()}
    for key in ("distill_model", "labels_from", "times", "against"):  # a file, else a word that means one
        if isinstance(arguments.get(key), (str, Path)) and Path(told[key]).is_file():
            told[key] = rooted(told[key])
    return told


def rooted(place: Any) -> Any:
    """A path that is there as one that is found from any working directory; anything else as it is."""
    return str(Path(str(place)).absolute()) if Path(str(place)).exists() else place


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values that YAML knows, the others as text."""

    def told(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return [told(v) for v in value]
        return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)

    return {k: told(v) for k, v in values.items()}


def write_yaml(path: Path, content: Mapping[str, Any]) -> None:
    """Write a YAML mapping in one step."""
    files.write_at_once(path, lambda f: f.write(yaml.safe_dump(dict(content), sort_keys=False).encode()))


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises:
        ArgumentError: If the file holds none.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ArgumentError(f"{path}: cannot be read ({first_line(error)}).") from error
    if not isinstance(content, dict):
        raise ArgumentError(f"{path}: must hold 'key: value' lines. Received: a {type(content).__name__}")
    return content
