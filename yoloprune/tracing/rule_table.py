"""What each ATen operation does to channel labels: the policy, one table. Mechanism is in the modules it imports.

An operation that is not in the table and not point-wise freezes every channel it touches, so a missing rule costs
channels, never correctness.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from yoloprune.torch_internals import schema_of
from yoloprune.tracing.operation import Call
from yoloprune.tracing.rules_elementwise import (
    anew,
    fill,
    group_norm,
    layer_norm,
    like,
    pointwise,
    reduce,
    same,
    spatial,
    unknown,
)
from yoloprune.tracing.rules_layers import batch_norm, convolution, matmul, transpose
from yoloprune.tracing.rules_shape import along, cat, move, split, stack


def _names(rule: Callable[[Call], None], names: str) -> dict[str, Callable[[Call], None]]:
    return {f"aten::{n}": rule for n in names.split()}


RULES: dict[str, Callable[[Call], None]] = {
    **_names(move, "view _unsafe_view reshape permute transpose squeeze unsqueeze expand flip repeat movedim"),
    **_names(along, "slice select unbind roll narrow"),
    **_names(split, "split split_with_sizes"),
    **_names(same, "_to_copy detach alias contiguous lift_fresh native_dropout"),
    **_names(like, "zeros_like ones_like empty_like full_like rand_like randn_like bernoulli"),
    **_names(fill, "fill_ zero_ normal_ uniform_"),
    **_names(anew, "new_full new_zeros new_ones new_empty"),
    **_names(pointwise, "copy_ hardswish hardswish_ _prelu_kernel clip clip_"),
    **_names(spatial, "max_pool2d_with_indices max_pool2d avg_pool2d adaptive_avg_pool2d _adaptive_avg_pool2d"),
    **_names(spatial, "adaptive_max_pool2d upsample_nearest2d _upsample_nearest_exact2d upsample_bilinear2d"),
    **_names(spatial, "upsample_bicubic2d constant_pad_nd reflection_pad2d replication_pad2d"),
    **_names(reduce, "mean sum amax amin max min logsumexp var std _softmax _log_softmax linalg_vector_norm"),
    **_names(cat, "cat"),
    **_names(stack, "stack"),
    **_names(convolution, "convolution _convolution"),
    **_names(batch_norm, "native_batch_norm cudnn_batch_norm _native_batch_norm_legit_no_training"),
    **_names(layer_norm, "native_layer_norm"),
    **_names(group_norm, "native_group_norm"),
    **_names(transpose, "t"),
    **_names(matmul, "mm addmm bmm"),
}
"""Rule of each operation by its ATen name; point-wise operations are recognised by PyTorch's own tag."""


def rule_of(func: Any) -> Callable[[Call], None]:
    """The rule of an operation, `unknown` when there is none."""
    found = RULES.get(schema_of(func).name)
    return found or (pointwise if torch.Tag.pointwise in func.tags else unknown)
