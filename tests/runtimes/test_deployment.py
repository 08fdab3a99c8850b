"""How a network is run, from the words of `yolo export`: what is taken, and what is refused before any work."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from command_lines import ROOT

from yoloprune.errors import ArgumentError
from yoloprune.runtimes import registry
from yoloprune.runtimes.deployment import Deployment

CPU = torch.device("cpu")


def test_nothing_said_is_torch_at_batch_one() -> None:
    assert Deployment.asked({}, CPU, None) == Deployment() == Deployment.asked({"format": "torch"}, CPU, None)
    facts = Deployment().facts()
    assert facts["runtime"].startswith("torch ") and facts["threads"] == torch.get_num_threads()
    assert (facts["precision"], facts["batch"], facts["device"]) == ("fp32", 1, "cpu") and facts["processor"]


def test_arguments_go_to_whom_they_are_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    given = {"format": "TorchScript", "nms": False, "dynamic": True, "project": "runs", "half": None}
    found = Deployment.asked(given, CPU, 2, 4)
    assert found == Deployment("torchscript", CPU, 4, 2, {"nms": False, "dynamic": True})
    assert str(found) == "torchscript on cpu" and found.facts()["threads"] == 2
    assert Deployment.asked({"channels_last": False, "compile": False}, CPU, None).arguments == {
        "channels_last": False,
        "compile": False,
    }


@pytest.mark.parametrize("told", [{"half": True}, {"quantize": 16}, {"quantize": "FP16"}])
def test_half_precision(told: dict[str, Any]) -> None:
    found = Deployment.asked(told, CPU, None)
    assert found.half and found.facts()["precision"] == "fp16"


@pytest.mark.parametrize("told", [{"int8": True}, {"quantize": "w8a16"}])
def test_images_for_int8_must_be_named(told: dict[str, Any]) -> None:
    """Ultralytics would download some."""
    with pytest.raises(ArgumentError, match=r"^format=torchscript: must come with data="):
        Deployment.asked({"format": "torchscript", **told}, CPU, None)
    found = Deployment.asked({"format": "torchscript", **told, "data": "my.yaml"}, CPU, None)
    assert found.arguments["data"] == "my.yaml" and found.facts()["precision"] == "int8"
    with pytest.raises(ArgumentError, match=r"^format=edgetpu: must come with data="):
        Deployment.asked({"format": "edgetpu"}, CPU, None)


@pytest.mark.parametrize(
    ("passed", "threads", "batch", "said"),
    [
        ({"format": "onx"}, None, None, r"format=onx: must be one of torch, .*\(nearest: onnx\)"),
        ({"dynamic": True}, None, None, "dynamic=True: must come with the format= of an export"),
        ({"format": "torchscript", "compile": True}, None, None, "compile=True: must come without format="),
        ({"format": "paddle"}, 2, None, "threads=2: can be set for torch, .* only. Received: format=paddle"),
        ({}, 99999, None, "threads=99999: must be at most 4, the processor cores of this machine"),
        ({"format": "torchscript"}, 5, None, "threads=5: must be at most 4"),
        ({}, None, 0, "batch=0: must be an integer of at least 1"),
        ({}, None, 0.7, "batch=0.7: must be an integer of at least 1"),
    ],
)
def test_refusals(
    monkeypatch: pytest.MonkeyPatch, passed: dict[str, Any], threads: int | None, batch: Any, said: str
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    with pytest.raises(ArgumentError, match=f"^{said}"):
        Deployment.asked(passed, CPU, threads, batch)


@pytest.mark.parametrize("form", ["onnx", "mnn", "engine"])
def test_what_is_not_installed_gets_one_line(monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    monkeypatch.setattr(registry, "find_spec", lambda name: None)
    package = registry.RUNTIMES[form].packages[0]
    remedy = rf'needs the package {package}, which is not installed: pip install "yoloprune\[{form}\]"$'
    with pytest.raises(ArgumentError, match=f"^format={form}: {remedy}"):
        Deployment.asked({"format": form}, CPU, None)


def test_remedies_of_what_no_extra_brings() -> None:
    assert str(registry.missing("openvino", "nncf")).endswith("not installed: pip install nncf")
    assert str(registry.missing("rknn", "rknn")).endswith("see https://docs.ultralytics.com/integrations/rknn")


def test_extras_bring_what_formats_need() -> None:
    extras = dict(re.findall(r"^(\w+) = (\[.*?\])", (ROOT / "pyproject.toml").read_text(), re.MULTILINE))
    for form, runtime in registry.RUNTIMES.items():
        if runtime.packages and runtime.packages[0] != "torch":
            assert all(f'"{package}' in extras[form] for package in runtime.packages), form
