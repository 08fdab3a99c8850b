"""What a file was exported to is told by its name."""

from __future__ import annotations

import pytest

from yoloprune.runtimes import registry


@pytest.mark.parametrize(
    ("file", "word"),
    [
        ("slim/best.onnx", "onnx"),
        ("w/best_openvino_model/", "openvino"),
        ("w/best_int8_openvino_model", "openvino"),
        ("best.torchscript", "torchscript"),
        ("best.engine", "engine"),
        ("best.what", "what"),
    ],
)
def test_a_file_says_what_it_was_exported_to(file: str, word: str) -> None:
    assert registry.format_of(file) == word
