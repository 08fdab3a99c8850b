"""Where the time of a network goes: each of its layers, timed while torch runs it on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import nn

from yoloprune.backend import evaluation, model_facts, progress_bar
from yoloprune.probing.forward import hooked
from yoloprune.runtimes.engines import wait_for

WARM_UP, RUNS = 2, 31
"""Runs before the clock starts, and those whose median counts: of few, one that was held up in a layer would show."""

SECONDS = 10.0
"""When to stop although there were fewer."""


def by_layer(
    networks: Sequence[nn.Module], names: Sequence[str], imgsz: int, device: torch.device
) -> list[dict[str, float]]:
    """Milliseconds of each layer of networks that take turns, fused, one image at full precision.

    What runs between layers, in no module of its own, such as a sum or a product of activations, is not in it.

    Args:
        networks (Sequence[nn.Module]): Ultralytics models with modules of the same names, stay untouched.
        names (Sequence[str]): Of the layers. Modules inside one count for it, all others for the one that ran before.
        imgsz (int): Side of the square image.
        device (torch.device): Where they run.

    Returns:
        (list[dict[str, float]]): Of each network, the median by layer.
    """
    copies = [evaluation.fused_copy(network).to(device) for network in networks]
    image = torch.rand(1, model_facts.channels(copies[0]), imgsz, imgsz, device=device)
    found: list[list[dict[str, float]]] = [[] for _ in copies]
    end = time.perf_counter() + SECONDS
    with progress_bar.Wait(WARM_UP + RUNS, "timing layers") as wait:
        for turn in wait.over(range(WARM_UP + RUNS)):
            for copy, rows in zip(copies, found, strict=True):
                row = _run(copy, image, names, partial(wait_for, device))
                if turn >= WARM_UP:
                    rows.append(row)
            if time.perf_counter() > end and found[0]:
                break
    return [{name: round(median(row[name] for row in rows), 4) for name in names} for rows in found]


def _run(model: nn.Module, image: torch.Tensor, names: Sequence[str], wait: Callable[[], None]) -> dict[str, float]:
    """Milliseconds by layer of one run."""
    took = dict.fromkeys(names, 0.0)
    inside: list[str] = []  # the modules that are running, the outermost first
    began: list[float] = []
    place = names[0] if names else ""

    def enter(_: nn.Module, __: Any, *, name: str) -> None:
        inside.append(name)

    def leave(*_: Any) -> None:
        inside.pop()

    def start(*_: Any) -> None:
        wait()
        began.append(time.perf_counter())

    def stop(*_: Any, name: str) -> None:
        nonlocal place
        wait()
        spent = 1e3 * (time.perf_counter() - began.pop())
        # An activation that many blocks share has the name of the first: it belongs to the block that runs
        shared = inside and not name.startswith(f"{inside[-1]}.")
        place = _layer_of(inside[-1] if shared else name, took) or place
        if place in took:
            took[place] += spent

    with hooked() as hooks, torch.inference_mode():
        for name, module in model.named_modules():
            if next(module.children(), None) is None:
                hooks += [
                    module.register_forward_pre_hook(start),
                    module.register_forward_hook(partial(stop, name=name)),
                ]
            elif name:
                hooks.append(module.register_forward_pre_hook(partial(enter, name=name)))
                hooks.append(module.register_forward_hook(leave))
        model(image)
    return took


def _layer_of(path: str, names: dict[str, float]) -> str | None:
    """The innermost layer that a module is in, or is."""
    while path and path not in names:
        path = path.rpartition(".")[0]
    return path or None
