"""Time by layer: what shared activations and nameless modules count for, and medians of networks that take turns."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import yoloprune
from yoloprune.backend import evaluation, yolo_tracing
from yoloprune.reporting import layer_table
from yoloprune.runtimes import layer_times

ACT = nn.ReLU()


class Block(nn.Module):
    """A convolution and the activation that all blocks share."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv2d(3, 3, 1), ACT

    def forward(self, x: Tensor) -> Tensor:
        """In turn."""
        return self.act(self.conv(x))


class Net(nn.Module):
    """Two blocks, one inside another module, and a pooling that has no row."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.inner, self.pool = Block(), nn.Sequential(Block()), nn.MaxPool2d(1)

    def forward(self, x: Tensor) -> Tensor:
        """In turn."""
        return self.pool(self.inner(self.a(x)))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Whoever looks at it finds that a second has gone, so each module without children takes one."""
    seconds = count()
    monkeypatch.setattr(layer_times, "time", SimpleNamespace(perf_counter=lambda: next(seconds)))
    return seconds


def test_each_module_counts_for_the_layer_it_runs_in(clock: Any) -> None:
    found = layer_times._run(Net(), torch.zeros(1, 3, 4, 4), ["a", "inner.0"], lambda: None)
    assert found == {"a": 2000.0, "inner.0": 3000.0}


def test_medians_of_networks_that_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = {"x": iter([9.0, 9.0, *range(1, 10)]), "y": iter([0.5] * 11)}
    order: list[str] = []

    def run(model: str, *_: Any) -> dict[str, float]:
        order.append(model)
        return {"a": float(next(runs[model]))}

    monkeypatch.setattr(layer_times, "RUNS", 9)
    monkeypatch.setattr(layer_times, "_run", run)
    monkeypatch.setattr(evaluation, "fused_copy", lambda name: SimpleNamespace(to=lambda _: name))
    monkeypatch.setattr(layer_times.model_facts, "channels", lambda _: 3)
    found = layer_times.by_layer(["x", "y"], ["a"], 4, torch.device("cpu"))  # type: ignore[list-item]
    assert found == [{"a": 5.0}, {"a": 0.5}] and order == ["x", "y"] * 11


def test_every_layer_of_a_detector_takes_its_time(tiny: Path) -> None:
    model = yoloprune.load(tiny).model
    names = [row["layer"] for row in layer_table.layer_rows(yolo_tracing.trace_yolo(model, imgsz=64))]
    (found,) = layer_times.by_layer([model], names, 64, torch.device("cpu"))
    assert [*found] == names and all(ms > 0 for ms in found.values())
    assert not any(module._forward_hooks for module in model.modules())
