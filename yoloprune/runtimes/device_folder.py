"""A folder that is carried to another machine: exported networks, and one script that times them there.

The script is put together from `timing`, `device_commands`, `device_runtimes` and `device_script`, so that what counts
as a time is decided once. Where it runs neither torch nor yoloprune is needed.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from yoloprune.backend import model_facts
from yoloprune.errors import ArgumentError
from yoloprune.runtimes import device_commands, device_runtimes, device_script, engines, registry, timing
from yoloprune.runtimes.deployment import Deployment

SCRIPT, TOLD, TIMES = "measure.py", "networks.json", "times.csv"
"""What lies in the folder, and what the script writes."""

SHIPPED = {"engine": "onnx"}
"""What is exported for a format that only the device itself can make."""

NAMED = ("rknn",)
"""Formats of whose export `name=` is the chip, as in `yolo export`; the run is called so too."""

THREADED = ("onnx", "openvino", "ncnn", "litert", "tflite")
"""Formats whose runtime takes a number of threads from the script."""


@dataclass(frozen=True)
class Network:
    """One that is to be timed.

    Attributes:
        name (str): In the table.
        make (Callable): The Ultralytics model, made when it is exported.
        imgsz (int): Side of its images.
        widths (Sequence[int]): Of all axes of the parent.
    """

    name: str
    make: Callable[[], nn.Module]
    imgsz: int
    widths: Sequence[int] = ()


@dataclass(frozen=True)
class Measurement:
    """How the networks are run on the device.

    Attributes:
        format (str): As of `yolo export`.
        threads (int | None): Of the runtime.
        cmd (str | None): Runs a network in place of a package.
        pattern (str | None): Finds milliseconds in what it prints.
    """

    format: str
    threads: int | None = None
    cmd: str | None = None
    pattern: str | None = None

    def export(self, passed: Mapping[str, Any]) -> Deployment:
        """What is exported here for it, checked before there is any work.

        Args:
            passed (Mapping[str, Any]): Ultralytics' arguments.

        Raises:
            ArgumentError: If nothing runs the format on a device, or its export needs what is not here.
        """
        form = SHIPPED.get(self.format, self.format)
        registry.require(form)
        if form == registry.TORCH:
            raise ArgumentError("format=torch: is no export that could be carried to another machine")
        if self.format not in device_runtimes.MODULES and self.cmd is None:
            known = ", ".join(device_runtimes.MODULES)
            raise ArgumentError(
                f"format={self.format}: is timed on another machine by a command alone: give cmd=, or one of {known}"
            )
        if self.threads is not None and (self.cmd is not None or self.format not in THREADED):
            able = ", ".join(THREADED)
            raise ArgumentError(f"threads={self.threads}: can be set for {able} only, without cmd=, which sets its own")
        if form != self.format and (passed.get("int8") or "8" in str(passed.get("quantize"))):
            raise ArgumentError(f"format={self.format}: int8 is calibrated where the engine is built, not by an export")
        told = {**passed, "format": form}
        half = [key for key in ("half", "quantize") if told.get(key) is not None]
        if form != self.format:  # which is built at half precision of a file at full
            told = {key: value for key, value in told.items() if key not in half}
        found = Deployment.asked(told, torch.device("cpu"), None, passed.get("batch"))
        if form in NAMED and passed.get("name"):
            found = replace(found, arguments={**found.arguments, "name": passed["name"]})
        return found

    def precision(self, passed: Mapping[str, Any], exported: Deployment) -> str:
        """At which precision networks run."""
        if self.format in SHIPPED:
            asked = replace(exported, arguments={k: passed[k] for k in ("half", "quantize") if passed.get(k)})
            return "fp16" if asked.half else "fp32"
        return str(exported.facts()["precision"])


def write(
    folder: Path,
    networks: Sequence[Network],
    how: Measurement,
    exported: Deployment,
    told: Mapping[str, Any],
    tick: Callable[[], None] = lambda: None,
) -> None:
    """Export networks, and write the script that times them.

    Args:
        folder (Path): Where to; exists.
        networks (Sequence[Network]): The parent first.
        how (Measurement): How they are run on the device.
        exported (Deployment): What is exported.
        told (Mapping[str, Any]): Further facts for the script.
        tick (Callable): Called after each.

    Raises:
        ArgumentError: If one cannot be exported, with what Ultralytics says.
    """
    (folder / "networks").mkdir()
    listed, channels = [], 3
    for i, network in enumerate(networks):
        model = network.make()
        channels = model_facts.channels(model)
        file = engines.exported(model, exported, network.imgsz, folder / "networks" / f"{i:02d}.pt")
        place = file.relative_to(folder).as_posix()
        listed.append({"name": network.name, "file": place, "imgsz": network.imgsz, "widths": list(network.widths)})
        tick()
    facts = {**asdict(how), "batch": exported.batch, "channels": channels, **told, "networks": listed}
    (folder / SCRIPT).write_text(script(), encoding="utf-8")
    (folder / TOLD).write_text(json.dumps(facts, indent=1), encoding="utf-8")


def script() -> str:
    """The script in one file."""
    parts = [Path(str(m.__file__)) for m in (timing, device_commands, device_runtimes, device_script)]
    head = f'"""{device_script.__doc__}"""\n\nfrom __future__ import annotations\n'
    return head + "".join(_body(part.read_text(encoding="utf-8")) for part in parts)


def _body(source: str) -> str:
    """A module without its docstring, and without what the script has already."""
    lines = source.splitlines(keepends=True)
    for i, node in enumerate(ast.parse(source).body):
        own = isinstance(node, ast.ImportFrom) and str(node.module).partition(".")[0] in {"__future__", "yoloprune"}
        if i == 0 or own:
            lines[node.lineno - 1 : node.end_lineno] = [""] * (int(node.end_lineno or 0) - node.lineno + 1)
    return "\n\n" + "".join(lines).strip() + "\n"
