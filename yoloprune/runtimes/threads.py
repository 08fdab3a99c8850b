"""How many threads a runtime takes, which Ultralytics leaves to each of them, and what they do between two networks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch

from yoloprune.runtimes.device_runtimes import NO_IDLE_SPINNING


@contextlib.contextmanager
def _of_torch(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _of_onnxruntime(count: int | None) -> AbstractContextManager[None]:
    def session(make: Any, path: Any, options: Any = None, **told: Any) -> Any:
        options = options or told.pop("sess_options", None) or import_module("onnxruntime").SessionOptions()
        if count is not None:
            options.intra_op_num_threads = count
        options.add_session_config_entry(*NO_IDLE_SPINNING)
        return make(path, options, **told)

    return _made_by("onnxruntime", "InferenceSession", session)


def _of_openvino(count: int | None) -> AbstractContextManager[None]:
    def core(make: Any) -> Any:
        made = make()
        if count is not None:
            made.set_property("CPU", {"INFERENCE_NUM_THREADS": count})
        return made

    return _made_by("openvino", "Core", core)


def _of_ncnn(count: int | None) -> AbstractContextManager[None]:
    def net(make: Any) -> Any:
        made = make()
        if count is not None:
            made.opt.num_threads = count
        return made

    return _made_by("ncnn", "Net", net)


@contextlib.contextmanager
def _made_by(package: str, name: str, maker: Callable[..., Any]) -> Iterator[None]:
    """Put a maker in the place of a runtime's class, which it gets first: Ultralytics hands no threads on to it."""
    if find_spec(package) is None:  # whoever opens a network says so
        yield
        return
    module = import_module(package)
    before = getattr(module, name)
    setattr(module, name, lambda *args, **told: maker(before, *args, **told))
    try:
        yield
    finally:
        setattr(module, name, before)


PINNED: dict[str, Callable[[int | None], AbstractContextManager[None]]] = {
    "torch": _of_torch,
    "torchscript": _of_torch,
    "onnx": _of_onnxruntime,
    "openvino": _of_openvino,
    "ncnn": _of_ncnn,
}
"""By format: while it is entered, what is opened takes that many threads; torch's hold for the process."""


def pinned(form: str, count: int | None) -> AbstractContextManager[None]:
    """Hold a runtime to so many threads, which leave the cores to others once an image is done; None leaves it its own
    choice of how many.
    """
    return PINNED[form](count) if form in PINNED else contextlib.nullcontext()
