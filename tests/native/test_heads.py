"""Attention heads: which groups run through each, on graphs written by hand."""

from __future__ import annotations

import pytest
from conftest import hand_graph
from torch import nn
from ultralytics.nn.modules.block import Attention

from yoloprune.native import attention_heads

QKV = "0.qkv.conv.outputs"


def attention(n: int = 2) -> nn.Module:
    """Per head one query, one key and two values."""
    return nn.Sequential(Attention(2 * n, num_heads=n, attn_ratio=0.5))


def test_groups_of_each_head() -> None:
    graph = hand_graph({QKV: [0, 0, 1, 2, 3, 3, 4, 5]}, group_of=[0, 1, 1, 2, 3, 3])
    assert attention_heads.find(attention(), graph) == {0: ((0, 1), (2, 3))}


@pytest.mark.parametrize(
    ("classes", "group_of"),
    [
        ([0, 0, 1, 2, 0, 0, 3, 4], [0, 1, 1, 2, 2]),  # both heads share their query
        ([0, 0, 1, 2, 3, 3, 4, 5], [0, 1, 1, 2, 1, 1]),  # values of both heads are one group
        ([0, 0, 1, 2, 3, 3, 4, 4], [0, 1, 1, 2, 3]),  # the second head has fewer classes
    ],
)
def test_heads_that_cannot_go_alone(classes: list[int], group_of: list[int]) -> None:
    assert attention_heads.find(attention(), hand_graph({QKV: classes}, group_of=group_of)) == {}


def test_a_single_head_is_none() -> None:
    graph = hand_graph({QKV: [0, 0, 1, 2]}, group_of=[0, 1, 1])
    assert attention_heads.find(attention(1), graph) == {}
