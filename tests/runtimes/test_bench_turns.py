"""Networks of one runtime take turns; those of others wait until they are done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from yoloprune.runtimes import bench, engines, threads
from yoloprune.runtimes.deployment import Deployment
from yoloprune.runtimes.timing import Times


def test_each_runtime_has_the_machine_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[list[str]] = []

    def opened(model: Any, *_: Any) -> Callable[[], str]:
        return lambda: model if isinstance(model, str) else "torch"

    def take(runs: list[Callable[[], str]], *_: Any, **__: Any) -> list[Times]:
        turns.append([run() for run in runs])
        return [Times(float(len(turns[-1][i])), 1.0, 0.0, 9) for i in range(len(runs))]

    monkeypatch.setattr(engines, "opened", opened)
    monkeypatch.setattr(bench, "take_turns", take)
    with bench.opened(Deployment(), nn.Identity(), 64) as timer:
        times = timer.time("a.onnx", nn.Identity(), "bb.onnx")
    assert turns == [["torch", "torch"], ["a.onnx", "bb.onnx"]]
    assert [t.median for t in times] == [5, 6, 5, 7]  # in the order in which they were given


def test_threads_are_those_of_the_runtime_of_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[tuple[str, int | None]] = []

    @contextmanager
    def pinned(form: str, count: int | None) -> Iterator[None]:
        held.append((form, count))
        yield

    monkeypatch.setattr(threads, "pinned", pinned)
    monkeypatch.setattr(engines, "_file", lambda *_: (lambda images: None, False))
    for file in ("best.onnx", "best.engine"):
        engines.opened(file, Deployment(device=torch.device("cpu"), threads=1), 64, Path())()
    assert held == [("onnx", 1), ("engine", None)]  # which has no threads to hold
