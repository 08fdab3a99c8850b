"""A part of the campaign: wrong invocations, each of which has to end in one line and leave nothing behind."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from campaign_files import damaged_checkpoints, damaged_data, damaged_models, damaged_recipes
from campaign_ground import TRAINING, Ended, Ground, Part, Run

from yoloprune.errors import ArgumentError
from yoloprune.settings.commands import COMMANDS
from yoloprune.settings.option import Option

ALIVE = ("slim", "train-sparse", "prune", "sweep", "finetune", "val", "info")
NUMBERS = ("x", "nan", "-1", "[8]")
SHARES = ("0", "1", "2", "-1", "x", "nan", "50%", "[0.5", "1e400")
AMOUNTS = ("banana", "0", "1", "-0.5", "50%", "nan", "1.5", "0.5Q", "1e400", "True", "0.00001")
OWN: dict[str, tuple[str, ...]] = {
    "flops": AMOUNTS,
    "params": AMOUNTS,
    "sparsity": SHARES,
    "ratio": SHARES,
    "latency": ("fast", "0", "-3ms", "1", "inf", "ms", "1e-9"),
    "threads": ("0", "1.5", "99999", *NUMBERS),
    "classes": ("nosuch", "99", "-1", "1.5", "square,nosuch"),
    "round_to": ("0", "1.5", *NUMBERS),
    "min_width": ("0", "1.5", *NUMBERS),
    "max_ratio": ("0", "1.5", *NUMBERS),
    "layers": ("model.2", "model.2=2", "=0.5", "model.2=x", "nosuch=0.5"),
    "keep": ("nosuch", "model.99", "a b", "model/2"),
    "uniform": ("1", "yes"),
    "native": ("2", "tight"),
    "score": ("bogus", "1", "taylorr"),
    "reduce": ("median", "0"),
    "normalize": ("bogus", "1"),
    "recover": ("magic", "lsqq"),
    "within": ("x", "nan", "-1"),
    "penalty": ("l3", "1"),
    "penalty_weight": ("0", *NUMBERS),
    "penalty_decay": ("2", "x"),
    "ramp_start": ("1", "0.9", *NUMBERS),
    "ramp_end": ("0", "1.1", "0.05", *NUMBERS),
    "fade": SHARES,
    "max_drop": ("0", *NUMBERS),
    "confidence": ("0.95", *SHARES),  # without max_drop=
    "steps": ("0", "1.5", "99", *NUMBERS),
    "schedule": ("cubic", "linear"),
    "way": ("cut", "sparsely"),
    "distill": ("teacher", "parentt", "parent"),
    "against": ("gone.pt", "text.pt", "empty.pt", "."),
}
"""Values of the wrong kind, out of range, or of nothing that is there, by own key."""

HOST: dict[str, tuple[str, ...]] = {
    "imgsz": ("0", "-32", "x", "1e9", "[32,64,96]", "[]", "32.5", "nan"),
    "batch": ("0", "-2", "x", "1.5"),
    "device": ("99", "tpu:0", "x"),
    "epochs": ("x", "1.5", "[1]"),
    "lr0": ("x", "nan", "[0.1]"),
    "optimizer": ("Best", "7"),
    "seed": ("-1", "1e30", "x"),
    "workers": ("-1", "x"),
    "freeze": ("999", "x"),
    "split": ("nosuch", "7"),
    "format": ("nosuch", "7", "onxx"),
    "exist_ok": ("2", "maybe"),
    "fraction": ("2", "-1", "x"),
    "patience": ("x", "1.5"),
    "time": ("-1", "0", "x"),
    "pretrained": ("gone.pt", "text.pt"),
    "data": ("gone.yaml", ".", "text.pt", "https", "7"),
    "model": ("gone.pt", ".", "gone", "7", "tiny.jpg"),
    "cfg": ("gone.yaml", ".", "tiny.pt"),
    "resume": ("gone.pt", "text.pt", "True"),
}
"""The same by key of Ultralytics."""

TOGETHER = (
    "train-sparse flops=0.5 params=0.5",
    "train-sparse flops=0.5 sparsity=0.5",
    "train-sparse ramp_start=0.7 ramp_end=0.3",
    "train-sparse quantize=8",
    "train-sparse flops=0.5 min_width=1000",
    "train-sparse flops=0.5 keep=model.*",
    "prune latency=0.5 flops=0.5",
    "prune recover=lsq data=False",
    "prune score=taylor data=False",
    "prune flops=0.5 keep=model.*",
    "prune flops=0.5 max_ratio=0.01",
    "prune flops=0.5 round_to=1000",
    "prune params=9M",
    "slim max_drop=1 flops=0.5 params=0.5",
    "slim way=sparse latency=0.5",
    "slim max_drop=1 way=prune",
    "slim resume",
    "sweep flops=0.5 ratio=0.5",
    "sweep flops=0.5,0.5",
    "sweep flops=0.5,x",
    "sweep flops=,",
    "finetune distill=parent distill_model=tiny.pt",
    "finetune resume model=tiny.pt",
    "finetune distill_model=gone.pt",
    "val split=nosuch",
    "info keep=[a",
    "demo flops=2",
    "demo epochs=x",
    "demo model=tiny.pt",
    "prune",
    "train-sparse model=tiny.pt",
    "train-sparse data=data/data.yaml",
    "finetune",
    "predict model=tiny.pt",
    "export model=tiny.pt",
    "prune prune=1 model=tiny.pt",
    "prune model=tiny.pt model=tiny.pt",
    "prune model= data=False",
    "prune tiny.pt",
    "prune model=tiny.pt [",
    "help nosuch",
    "prune --nosuch",
    "sweep model=tiny.pt train-sparse",
)
"""Words that contradict each other, are missing, or are of another program."""


@dataclass(frozen=True)
class Wrong:
    """One wrong invocation and what is wrong about it."""

    kind: str
    words: tuple[str, ...]


def all_wrong(ground: Ground) -> Iterator[Wrong]:
    """Every command with every own key, with keys of Ultralytics, with damaged files, and with misspelt words."""
    for name in ALIVE:
        command = COMMANDS[name]
        for option in command.options:
            for value in OWN.get(option.name) or _refused(option):
                if value != "parent":  # which is wrong only where the model has none
                    yield _with(ground, "own key", name, f"{option.name}={value}")
            yield _with(ground, "misspelt", name, f"{_misspelt(option.name)}={option.default}")
            if not isinstance(option.default, bool):
                yield _with(ground, "no value", name, option.name)
            yield _with(ground, "no value", name, f"{option.name}=")
        for key, values in HOST.items():
            if (command.host_keys is None or key in (*command.host_keys, "cfg")) and not _unread(name, key):
                for value in values:
                    yield _with(ground, "key of Ultralytics", name, f"{key}={value}")
                yield _with(ground, "misspelt", name, f"{_misspelt(key)}=1")
        for file in damaged_checkpoints(ground):
            if name == "val" and "version" in file.name:
                continue  # the network itself is whole, and validation needs no more
            yield _with(ground, "damaged checkpoint", name, f"model={file}")
        for file in damaged_models(ground):
            yield _with(ground, "wrong model YAML", name, f"model={file}")
        for file in damaged_recipes(ground):
            yield _with(ground, "wrong recipe", name, f"cfg={file}")
        if name not in {"info", "prune"}:
            for file in damaged_data(ground):
                yield _with(ground, "wrong data", name, f"data={file}")
        yield Wrong("misspelt", (_misspelt(name), f"model={ground.tiny}"))
    yield from (Wrong("words together", tuple(_filled(ground, line))) for line in TOGETHER)


def _refused(option: Option) -> Iterator[str]:
    """For an option that nobody has thought of yet: what it does not take itself."""
    for value in ("bogus", *NUMBERS, "1e400"):
        try:
            option.check(value)
        except ArgumentError:
            yield value


def _unread(command: str, key: str) -> bool:
    """Keys that a command takes, as every other of Ultralytics, and that it has no use for."""
    training = {"epochs", "lr0", "optimizer", "freeze", "patience", "time", "pretrained", "resume", "fraction"}
    trains = command in {"train-sparse", "finetune"}
    unread = {"val": {*training, "exist_ok", "seed"}}.get(command, {"split"}) | ({"format"} if trains else set())
    return key in unread


def _misspelt(word: str) -> str:
    """Two letters have changed places, or one is there twice."""
    swapped = f"{word[:1]}{word[2:3]}{word[1:2]}{word[3:]}"
    return swapped if swapped != word else word + word[-1]


def _least(ground: Ground, command: str) -> dict[str, str]:
    told = {"model": str(ground.tiny), "imgsz": "32"}
    if command != "info":
        told |= {"device": "cpu", "project": "runs", "data": "False" if command == "prune" else str(ground.data)}
    if command in {"slim", "train-sparse", "finetune"}:
        told |= {"epochs": "2" if command == "slim" else "1", **dict(word.split("=") for word in TRAINING)}
    if command in {"slim", "train-sparse", "prune"}:
        told |= {"flops": "0.8", "round_to": "1", "min_width": "1"}
    return told


def _with(ground: Ground, kind: str, command: str, word: str) -> Wrong:
    key = word.partition("=")[0]
    told = {k: v for k, v in _least(ground, command).items() if k != key}
    if key in {"params", "ratio", "sparsity", "latency"}:
        told.pop("flops", None)  # two of them would be another mistake
    return Wrong(kind, (command, *(f"{k}={v}" for k, v in told.items()), word))


def _filled(ground: Ground, line: str) -> list[str]:
    """A line with the rest of what its command needs, where it names nothing of that itself."""
    words = line.split()
    if not words or words[0] not in ALIVE or any(w.startswith(("model", "data=data", "tiny")) for w in words):
        return words
    if len(words) == 1:
        return words
    given = {w.partition("=")[0] for w in words}
    least = {k: v for k, v in _least(ground, words[0]).items() if k not in given | {"flops"}}
    return [*words, *(f"{k}={v}" for k, v in least.items())]


def chosen(ground: Ground, count: int, seed: int) -> list[Wrong]:
    """So many of them, the kinds by turns."""
    chance = random.Random(seed)
    kinds: dict[str, list[Wrong]] = {}
    for wrong in all_wrong(ground):
        kinds.setdefault(wrong.kind, []).append(wrong)
    for rows in kinds.values():
        chance.shuffle(rows)
    taken: list[Wrong] = []
    while len(taken) < count and any(kinds.values()):
        taken += [rows.pop() for rows in kinds.values() if rows]
    return taken[:count]


def invocations(ground: Ground, count: int, seed: int) -> Part:
    """Run wrong invocations; every twentieth is a process from its start."""
    part = Part("invocations")
    folder = ground.folder / "words"
    for i, wrong in enumerate(chosen(ground, count, seed)):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        (folder / "tiny.pt").symlink_to(ground.tiny)
        (folder / "data").symlink_to(ground.data.parent)
        (folder / "text.pt").write_text("text")
        (folder / "empty.pt").touch()
        before = {f.name for f in folder.iterdir()}
        ended = Run(list(wrong.words), folder, fresh=i % 20 == 19).end()
        part.count(wrong.kind)
        part.judge(" ".join(wrong.words).replace(str(ground.folder), "..."), *_faults(ended, folder, before))
    return part


def _faults(ended: Ended, folder: Path, before: set[str]) -> Iterator[str]:
    if unclean := ended.unclean():
        yield f"{unclean}: {ended.said[-300:]!r}" if "traceback" not in unclean else unclean
    elif not ended.said.rstrip().splitlines()[-1].startswith("yoloprune: error: "):
        yield f"the error is not what is said last: {ended.said[-200:]!r}"
    left = {str(f.relative_to(folder)) for f in folder.glob("runs/**/*")} | (
        {f.name for f in folder.iterdir()} - before
    )
    if left - {"runs"}:
        yield f"left behind: {sorted(left)}"
