"""Every family and task that Ultralytics ships, at its smallest scale, through the checks of scripts/models.py."""

from __future__ import annotations

import importlib.util
from functools import partialmethod
from pathlib import Path
from typing import Any

import pytest
from ultralytics.nn.modules.head import RTDETRDecoder

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "models.py"
LARGE = (
    "rtdetr-l",
    "rtdetr-x",
    "rtdetr-resnet101",
    "yolov10b",
    "yolov10l",
    "yolov10m",
    "yolov10x",
    "yolov9e",
    "yolov9m",
    "yolov3.",
)
"""Too slow for every run; scripts/models.py covers them."""

# Share of the channel classes outside the head that may be cut. Text-guided blocks write widths as numbers, and the
# encoder of RT-DETR has layer norms: their channels stay. The mask branch of YOLO26 adds its own to those of the neck;
# that of YOLOE-26 has a semantic branch that a caller may ask for: what it reads stays.
LEAST = {"world": 0.35, "rtdetr": 0.85, "yoloe-26n-seg": 0.91, "26n-seg": 0.98}


def _script() -> Any:
    spec = importlib.util.spec_from_file_location("models_script", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


models = _script()
NAMES = [n for n in models.shipped() if not n.startswith(LARGE)]


def test_all_are_listed() -> None:
    assert len(NAMES) > 50
    assert {"yolov8n.yaml", "yolo11n-pose.yaml", "yolo12n.yaml", "yolov9t.yaml", "yolov10n.yaml"} <= set(NAMES)


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_pruned_exactly(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # A tenth of the queries find room in an image of 64 pixels; their number is no width.
    monkeypatch.setattr(RTDETRDecoder, "__init__", partialmethod(RTDETRDecoder.__init__, nq=30))
    try:
        yolo = models.build(name)
    except (OSError, ImportError) as e:  # torchvision backbones come with pretrained weights
        pytest.skip(f"cannot be built offline: {e}")
    result = models.examine(name, yolo=yolo)
    assert result["saved"] == "yes"
    assert result["error"] <= 1e-4
    least = next((share for word, share in LEAST.items() if word in name), 0.99)
    assert result["prunable"] >= least, result["frozen outside the head"]
    if not result["out of reach"]:
        assert abs(result["FLOPs kept"] - 0.5) <= 0.01
    else:  # only where the head alone costs too much
        assert "head" in result["out of reach"]
