"""From keys and values to one checked request; imports neither torch nor Ultralytics."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from yoloprune.errors import ArgumentError
from yoloprune.settings import keys, own_options, recipes
from yoloprune.settings.command import Command
from yoloprune.settings.commands import COMMANDS, TIMED
from yoloprune.settings.host_ranges import is_number
from yoloprune.settings.request import Asked, Request
from yoloprune.settings.request_table import REQUESTS

QUANTIZED = frozenset({"8", "int8", "w8a8", "w8a16", "w8a32"})
"""What `quantize=` may be in a training with quantizers."""


def request(command: str, given: Mapping[str, Any]) -> Request:
    """Check what a command was given by its name, see `build`."""
    return build(REQUESTS[command], given)


def build(kind: type[Asked], given: Mapping[str, Any]) -> Asked:
    """Check keys and values and fill in the defaults.

    Args:
        kind (type[Request]): The command's own kind of request.
        given (Mapping[str, Any]): Own and Ultralytics keys with texts or Python values; `cfg` names a recipe, which
            they override. The settings and passed keys of an earlier request come back unchanged.

    Returns:
        (Asked): What to do.

    Raises:
        ArgumentError: If a key or value is wrong, or a required one is missing.
    """
    command = kind.command
    spec = COMMANDS[command]
    given = dict(given)
    cfg = given.pop("cfg", None)
    direct = keys.check_keys(given, spec)
    layers = [direct] if cfg in (None, "") else [*recipes.load_recipe(cfg, command), direct]

    values: dict[str, Any] = {}
    for layer in layers:
        one_of = {o.name for o in own_options.EXCLUSIVE.get(command, ())} | set(own_options.MASKED.get(command, ()))
        if any(layer.get(name) is not None for name in one_of):
            # one budget only, or masks: a nearer source that names another replaces, it does not contradict
            values = {k: v for k, v in values.items() if k not in one_of}
        values.update(layer)
    settings = {o.name: values.pop(o.name, o.default) for o in spec.options}
    if not values.get("model") and isinstance(values.get("resume"), (str, Path)):
        values["model"] = str(values["resume"])  # as `yolo train resume=last.pt`
    if values.get("optimizer") is None and not values.get("resume"):  # a resumed run brings its own
        values = {**spec.own_defaults, **values}
    _check_together(spec, settings, values)
    built = kind.build(settings, values)
    _check_timed(spec, built)
    return built


def _check_timed(spec: Command, built: Request) -> None:
    """Raise where it is told how a network runs, and no time is measured."""
    if spec.host_keys is None or "half" not in spec.host_keys or built.timed:
        return
    for key in (*TIMED, *(() if "workers" in spec.host_keys else ("batch",))):  # a batch may be that of a validation
        if built.passed.get(key) is not None:
            wanted = "latency= or format=" if spec.option("latency") else "format= or threads="
            raise ArgumentError(f"{key}={built.passed[key]}: must come with {wanted}, it is for what is timed")


def _check_together(spec: Command, settings: dict[str, Any], passed: Mapping[str, Any]) -> None:
    """Check what single values cannot show, and fill in the budget of sparse training."""
    resume = bool(passed.get("resume"))
    for key in spec.required:
        if not passed.get(key) and not (key == "data" and resume):
            example = {"model": "yolov8n.pt", "data": "coco8.yaml", "format": "onnx"}[key]
            raise ArgumentError(f"{spec.name} needs '{key}', e.g. {key}={example}")
    _check_project(passed.get("project"))
    _check_fraction(passed)
    if not isinstance(trainer := passed.get("trainer"), type | None):
        raise ArgumentError(f"trainer={trainer}: must be a class, which only Python can give. Received: {trainer}")
    if spec.name == "train-sparse" and (str(passed.get("quantize")).lower() in QUANTIZED or passed.get("int8")):
        raise ArgumentError(
            f"quantize={passed.get('quantize', 8)}: train-sparse needs weights that pass no quantizer. Prune before, "
            "then fine-tune with quantize=8"
        )
    if spec.name == "train-sparse" and isinstance(passed.get("data"), (list, tuple)):
        raise ArgumentError(f"data={passed['data']}: train-sparse takes one data set. Received: {len(passed['data'])}")
    if spec.name in own_options.EXCLUSIVE:
        names = [o.name for o in own_options.EXCLUSIVE[spec.name]]
        given = [name for name in names if settings[name] is not None]
        if len(given) > 1:
            raise ArgumentError(f"{spec.name} takes exactly one of {', '.join(names)}. Received: {', '.join(given)}")
        masks = any(settings[key] is not None for key in own_options.MASKED.get(spec.name, ()))
        if not given and not resume and not masks:  # a resumed run brings its own
            settings.update(own_options.DEFAULT_BUDGET[spec.name])
    if isinstance(passed.get("imgsz"), str):
        _check_shared(spec.name, settings)
    if spec.name == "finetune" and settings["distill"] and passed.get("distill_model"):
        raise ArgumentError("distill=parent: must not be combined with distill_model=, which names another teacher")


def _check_shared(command: str, settings: Mapping[str, Any]) -> None:
    """Raise where a side that is left open has nothing to share with widths."""
    latency = settings.get("latency")
    if settings.get("times") is not None and latency is not None:
        raise ArgumentError("imgsz=auto: must not come with times=, which are those of one size")
    if command == "slim" and latency is not None:
        if isinstance(latency, str) or (settings["steps"] or 1) > 1 or settings["max_drop"] is not None:
            raise ArgumentError(
                "imgsz=auto: must come with flops=, or with latency= as a fraction (0.6) that one cut meets"
            )
    elif settings["flops"] is None and latency is None and not _takes_default_flops(command, settings):
        other = "" if command == "train-sparse" else " or latency="
        raise ArgumentError(f"imgsz=auto: must come with flops={other}, which widths and image share (e.g. flops=0.5)")


def _takes_default_flops(command: str, settings: Mapping[str, Any]) -> bool:
    """Whether `slim` is given nothing that says how far it goes."""
    return command == "slim" and all(settings[key] is None for key in ("params", "sparsity", "max_drop"))


def _check_fraction(passed: Mapping[str, Any]) -> None:
    """Raise where `fraction=`, which may be a number of images, asks for less than a batch: a percentage, perhaps."""
    fraction, batch = passed.get("fraction"), passed.get("batch") or keys.host_defaults()["batch"]
    if is_number(fraction) and 1 < fraction < batch:
        raise ArgumentError(
            f"fraction={fraction}: must be a fraction up to 1, or a number of images that fills a batch of {batch}. "
            f"Received: {fraction}"
        )


def _check_project(project: Any) -> None:
    """Raise where no run folder can be made, before hours of work; where a relative one lies is Ultralytics' to say."""
    if not project or not Path(project).is_absolute():
        return
    home = next((p for p in (Path(project), *Path(project).parents) if p.exists()), None)
    if home is None:
        raise ArgumentError(f"project={project}: there is no drive {Path(project).anchor}")
    if not home.is_dir():
        raise ArgumentError(f"project={project}: {home} is a file, so no folder can be made there")
    if not os.access(home, os.W_OK):
        raise ArgumentError(f"project={project}: {home} may not be written to. Choose another folder")
