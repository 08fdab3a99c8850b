"""Have networks timed on another device: a folder to carry there, or all of it over a command that reaches it."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import ultralytics
from torch import nn

from yoloprune import files, shell_words
from yoloprune.backend import compat, console, host_arguments, progress_bar, run_folders, yolo_tracing
from yoloprune.checkpoint import saving
from yoloprune.cutting import surgery
from yoloprune.native.candidates import Channels
from yoloprune.planning.channel_graph import ChannelGraph
from yoloprune.probing.random_draws import generators_kept
from yoloprune.reporting import text_table
from yoloprune.runtimes import device_folder
from yoloprune.runtimes.deployment import Deployment
from yoloprune.runtimes.device_folder import SCRIPT, TIMES, Measurement, Network
from yoloprune.runtimes.device_link import Link
from yoloprune.selection import device_times, time_profile
from yoloprune.settings import command_line
from yoloprune.settings.view_requests import LatencyRequest

BUILT_THERE = "{0} runs only on the device that built it, so {1} is exported here and {2} has {0} built there"
"""Why another format is exported than was asked for."""


@generators_kept()
def run(request: LatencyRequest) -> Path:
    """Write the folder, and measure where the device is at hand, see `api.latency`."""
    compat.require("latency")
    host_arguments.require(request.host)
    passed = request.passed
    how = Measurement(str(passed["format"]).strip().lower(), request.threads, request.cmd, request.pattern)
    exported = how.export(passed)
    link = None if request.target is None else Link(request.target, request.python)
    if link is not None:
        link.require(None if how.cmd else how.format)
    yolo = saving.load(request.model)
    with saving.told_who_wrote(yolo):
        networks, parent = _beside(yolo, request) if request.against is not None else _variants(yolo, request)
    after = None if link is not None else _next(request)
    told = {"parent": parent, "precision": how.precision(passed, exported), "next": after}
    bar = f"exporting networks to {exported.format}"
    if exported.format != how.format:
        bar += f", of which the device builds {how.format}"
        console.log("latency: ", BUILT_THERE.format(how.format, exported.format, device_folder.SCRIPT))
    with run_folders.new_run(yolo.task, "latency", request.host) as folder:
        run_folders.write_args(folder, {"mode": "latency", "model": request.model, **request.kwargs()})
        place = _place(networks, told, how, exported)
        if link is None or not link.has(place):
            with (
                files.staged(folder) as part,
                progress_bar.counted(len(networks), bar) as tick,
            ):
                device_folder.write(part, networks, how, exported, told, tick)
        if link is None:
            console.conclude("latency: ", _carried(folder, how, request, exported))
            return folder
        return _measured(link, folder, place, request, exported)


def _variants(yolo: ultralytics.YOLO, request: LatencyRequest) -> tuple[list[Network], str]:
    """The model, and networks of other widths from which it is learnt what those cost; and what tells the model."""
    imgsz = saving.image_size(yolo, request.passed.get("imgsz"))
    graph = Channels(yolo.model, request.limits, imgsz).graph
    drawn = time_profile.variants(graph, request.limits, time_profile.VARIANTS, seed=0)
    whole = device_times.widths_of(graph, np.ones(graph.n_classes, dtype=bool))
    networks = [Network("parent", lambda: yolo.model, imgsz, whole)]
    for i, alive in enumerate(drawn, 1):
        make = partial(_cut, yolo.model, graph, alive)
        networks.append(Network(f"{i:02d}", make, imgsz, device_times.widths_of(graph, alive)))
    return networks, device_times.fingerprint(graph)


def _cut(parent: nn.Module, graph: ChannelGraph, alive: np.ndarray) -> nn.Module:
    return surgery.cut(copy.deepcopy(parent), graph.plan(alive))


def _beside(yolo: ultralytics.YOLO, request: LatencyRequest) -> tuple[list[Network], str]:
    """The model to compare with, and the model, each at its own image size unless one is named for both."""
    other = saving.load(request.against)
    networks, told = [], []
    for name, one in (("parent", other), ("pruned", yolo)):
        imgsz = saving.image_size(one, request.passed.get("imgsz"))
        told.append(device_times.fingerprint(yolo_tracing.trace_yolo(one.model, imgsz=imgsz)))
        networks.append(Network(name, partial(_itself, one.model), imgsz))
    return networks, "-".join(told)


def _itself(model: nn.Module) -> nn.Module:
    return model


def _place(networks: Sequence[Network], told: dict[str, Any], how: Measurement, exported: Deployment) -> str:
    """What the folder is called on the device: the same command goes on where it was."""
    listed = [(one.name, one.imgsz, list(one.widths)) for one in networks]
    facts = {**told, **vars(how), "networks": listed, "exported": exported.facts()}
    return f"yoloprune-times-{hashlib.sha256(json.dumps(facts, default=str).encode()).hexdigest()[:12]}"


def _next(request: LatencyRequest, table: str | Path = TIMES) -> str:
    """What to type when the table is back."""
    if request.against is not None:
        return ""
    words = {"model": request.model, "imgsz": request.passed.get("imgsz"), "latency": 0.6, "times": table}
    limits = command_line.taken("prune", command_line.changed(request))  # widths beyond these were not timed
    words |= {k: v for k, v in limits.items() if k != "threads"}
    return " ".join(["yoloprune prune", *map(shell_words.quoted, command_line.pairs(words))])


def _carried(folder: Path, how: Measurement, request: LatencyRequest, exported: Deployment) -> str:
    """What to do with the folder, and what to type when the table is back."""
    runs = "trtexec" if how.format in device_folder.SHIPPED else f"what runs {how.format}"
    needs = f"it needs Python and {how.cmd.split()[0] if how.cmd else runs}"
    told = f"copy {folder} to the device and run there ({needs}; neither torch nor yoloprune):\n  python3 {SCRIPT}\n"
    if request.against is not None:
        return f"{told}it says how long both take\nnext: {_shipped(request, exported)}"
    return f"{told}then bring {TIMES} back into {folder}\nnext: {_next(request, folder / TIMES)}"


def _shipped(request: LatencyRequest, exported: Deployment) -> str:
    """What to type where the time of a model is good enough: it makes what was timed."""
    passed = request.passed
    told = {key: passed.get(key) for key in ("model", "imgsz", "format", "half", "quantize")}  # also of what is built
    told |= {**exported.arguments, "batch": passed.get("batch")}
    return " ".join(["yolo export", *map(shell_words.quoted, command_line.pairs(told))])


def _measured(link: Link, folder: Path, place: str, request: LatencyRequest, exported: Deployment) -> Path:
    """Send the folder, measure, and fetch the table; what was measured before something failed stays there."""
    table = folder / TIMES
    if not link.has(place):
        console.log("latency: ", f"sending {folder}")
        link.send(folder, place)
    link.measure(place)
    content = link.fetch(place)
    files.write_at_once(table, lambda file: file.write(content))
    if request.against is None:
        found = device_times.read(table)
        told = f"{len(found.timed.shares)} networks in {found}, the parent {found.ms:.2f} ms"
        console.conclude("latency: ", text_table.closing(told, [], [table], _next(request, table)))
    else:
        console.conclude("latency: ", text_table.closing("measured", [], [table], _shipped(request, exported)))
    return table
