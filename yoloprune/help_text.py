"""What `yoloprune help` says, all from the table of commands."""

from __future__ import annotations

import shutil
from textwrap import wrap

from yoloprune.settings.command import Command
from yoloprune.settings.command_line import find_command, merge_tokens
from yoloprune.settings.commands import COMMANDS

WIDTH = 110
"""Characters of a line, where the terminal is not narrower."""


def _columns() -> int:
    """Return how many characters a line of the help may have."""
    return max(40, min(WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns))


def _indented(text: str) -> list[str]:
    """Return a paragraph of the help in lines."""
    return wrap(text, _columns(), initial_indent="  ", subsequent_indent="  ")


def of(topic: list[str]) -> str:
    """Return the help of the command that the words name, or of the whole program where there are none."""
    if not topic:
        return _overview()
    command = COMMANDS[find_command(merge_tokens(topic))]
    return _command_help(command)


def _overview() -> str:
    """Return the help of the program."""
    width = max(map(len, COMMANDS))
    return "\n".join(
        [
            "yoloprune prunes Ultralytics YOLO models.",
            "",
            "Usage: yoloprune COMMAND key=value ...",
            "",
            "Commands",
            *(f"  {c.name:<{width}}  {c.summary}" for c in COMMANDS.values()),
            "",
            "From a trained model to the one that is shipped, in one command",
            "  yoloprune slim model=best.pt data=my.yaml flops=0.5 epochs=50 format=onnx",
            "",
            "The same step by step",
            "  yoloprune sweep model=best.pt data=my.yaml",
            "  yoloprune prune model=best.pt data=my.yaml flops=0.5",
            "  yoloprune finetune model=runs/detect/prune/weights/pruned.pt data=my.yaml epochs=50",
            "  yolo predict model=runs/detect/finetune/weights/best.pt source=image.jpg",
            "",
            "Or from one that is not trained yet",
            "  yoloprune train-sparse model=yolov8n.pt data=my.yaml epochs=50 flops=0.5",
            "  yoloprune prune model=runs/detect/train-sparse/weights/best.pt",
            "",
            *wrap(
                "'yoloprune COMMAND help' lists the options of a command. cfg=recipe.yaml reads keys from a file; the "
                "command line wins over it. Every Ultralytics train and val argument passes through train-sparse, "
                "slim, finetune and val. YOLOPRUNE_DEBUG=1 shows the traceback of an error.",
                _columns(),
            ),
        ]
    )


def _command_help(command: Command) -> str:
    """Return the help of one command: usage, own options with defaults, Ultralytics' keys, examples."""
    if not command.options:
        lines = [f"yoloprune {command.name}: {command.summary}", "", "Examples"]
        return "\n".join([*lines, *(f"  yoloprune {example}" for example in command.examples)])
    names = [f"{o.name}={'' if o.default == () else o.default}" for o in command.options]
    width = max(map(len, names))
    lines = [
        f"yoloprune {command.name}: {command.summary}",
        "",
        f"Usage: yoloprune {' '.join([command.name, *(f'{key}=...' for key in command.required)])} key=value ...",
        "",
        "Options and their defaults",
    ]
    for name, option in zip(names, command.options, strict=True):
        text = f"{option.meaning} [{option.kind.allowed}]"
        start, hang = f"  {name:<{width}}  ", " " * (width + 4)
        lines += wrap(text, _columns(), initial_indent=start, subsequent_indent=hang, break_on_hyphens=False)
    lines += [line for note in command.notes for line in _indented(note)]
    lines += ["", "Ultralytics arguments"]
    if command.host_keys is None:
        lines += _indented(
            f"Every Ultralytics {command.mode} argument passes through unchanged ('yolo cfg' lists them):"
        )
        lines += _indented("imgsz, batch, device, workers, project, name, seed ...")
        if command.own_defaults:
            said = " ".join(f"{k}={v}" for k, v in command.own_defaults.items())
            lines += _indented(f"Other defaults unless optimizer= is given: {said}")
    else:
        lines += _indented(", ".join(command.host_keys))
    lines += _indented("cfg=recipe.yaml reads keys of both sorts from a file; the command line wins over it.")
    return "\n".join([*lines, "", "Examples", *(f"  yoloprune {example}" for example in command.examples)])
