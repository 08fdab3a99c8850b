"""Commands that run a network, and the time that they print.

Part of the script that measures on other machines, see `device_folder`: standard library only, and Python 3.8.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


class DeviceError(Exception):
    """What a user can do something about, in one line."""


TRTEXEC = "/usr/src/tensorrt/bin/trtexec"
"""Where TensorRT's packages for Ubuntu and Jetson put it, which is not in the PATH."""

WALL = "wall"
"""The pattern that takes the time of a whole command."""

PATTERNS = (
    (r"GPU Compute Time:.*? median = ([\d.]+) ms", 1.0),  # trtexec
    (r"Median: +([\d.]+) ms", 1.0),  # benchmark_app of OpenVINO
    (r"Inference \(avg\): ([\d.e+]+)", 1e-3),  # benchmark_model of TensorFlow Lite, in microseconds
    (r"avg = +([\d.]+)", 1.0),  # benchncnn
    (r"([\d.]+) ?ms\b", 1.0),
)
"""What programs that time networks print, and how many milliseconds one of it is; the last match counts."""


def trtexec() -> str:
    """TensorRT's own program; raises DeviceError where it is not there."""
    found = shutil.which("trtexec") or shutil.which(TRTEXEC)
    if found is None:
        raise DeviceError("engine needs trtexec, which is not in the PATH: install TensorRT, or name it with --cmd")
    return found


def engine(file: Path, half: bool) -> Callable[[], float | None]:
    """TensorRT builds an engine of an ONNX file, which no other machine takes, and times it itself."""
    program, built = trtexec(), file.with_suffix(".engine")
    _said([program, f"--onnx={file}", f"--saveEngine={built}", *(["--fp16"] if half else [])])
    return command([program, f"--loadEngine={built}", "--warmUp=200", "--duration=1"], None)


def command(words: str | Sequence[str], pattern: str | None) -> Callable[[], float | None]:
    """What runs a command, and returns the milliseconds that it prints; None with the pattern `WALL`."""

    def run() -> float | None:
        text = _said(words)
        return None if pattern == WALL else milliseconds(text, pattern, words)

    return run


def milliseconds(text: str, pattern: str | None, words: str | Sequence[str] = "") -> float:
    """The time that a program printed, by a pattern with one group, or by those that are known."""
    for known, unit in PATTERNS if pattern is None else ((pattern, 1.0),):
        found = re.findall(known, text)
        try:
            return unit * float(found[-1])
        except (IndexError, TypeError, ValueError):  # it is not there, or no number
            continue
    line = words if isinstance(words, str) else " ".join(words)
    raise DeviceError(
        f"{line}: prints no time that is known. Say how it prints milliseconds, as --pattern 'took ([0-9.]+) ms', or "
        f"take the time of the whole command: --pattern {WALL}"
    )


def _said(words: str | Sequence[str]) -> str:
    """What a command prints; raises DeviceError where it fails."""
    into = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "errors": "replace"}
    done: Any = subprocess.run(words, shell=isinstance(words, str), **into)  # type: ignore[call-overload]
    if done.returncode:
        line = words if isinstance(words, str) else " ".join(words)
        last = (done.stdout.strip().splitlines() or ["nothing was printed"])[-1]
        raise DeviceError(f"{line}: ended with {done.returncode}: {last}")
    return str(done.stdout)
