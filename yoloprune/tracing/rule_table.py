"""What each ATen operation does to channel labels: the policy, one table. Mechanism is in the modules it imports.

An operation that is not in the table and not point-wise freezes every channel it touches, so a missing rule costs
channels, never correctness.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from yoloprune.torch_internals import schema_of
from yoloprune.tracing.operation import Call
from yoloprune.tracing.rules_elementwise import (
    MOVED,
    REDUCED,
    anew,
    fill,
    layer_norm,
    like,
    pointwise,
    reduce,
    restride,
    same,
    spatial,
    unknown,
)
from yoloprune.tracing.rules_layers import batch_norm, convolution, group_norm, matmul, transpose
from yoloprune.tracing.rules_picked import boxes, gather, picked, windows
from yoloprune.tracing.rules_shape import along, cat, move, parts, split, stack
from yoloprune.tracing.rules_shuffle import glu, packs


def _names(rule: Callable[[Call], None], names: str) -> dict[str, Callable[[Call], None]]:
    return {f"aten::{n}": rule for n in names.split()}


RULES: dict[str, Callable[[Call], None]] = {
    **_names(move, "view _unsafe_view reshape permute transpose squeeze unsqueeze expand flip repeat movedim"),
    **_names(along, "slice select unbind roll narrow"),
    **_names(parts, "view_as_real view_as_complex"),
    **_names(split, "split split_with_sizes"),
    **_names(same, "_to_copy detach alias contiguous lift_fresh native_dropout"),
    **_names(like, "zeros_like ones_like empty_like full_like rand_like randn_like bernoulli"),
    **_names(fill, "fill_ zero_ normal_ uniform_"),
    **_names(anew, "new_full new_zeros new_ones new_empty"),
    **_names(restride, "as_strided"),
    **_names(pointwise, "copy_ hardswish _prelu_kernel clip masked_fill floor_divide true_divide rsub polar complex"),
    **_names(pointwise, "log_sigmoid_forward rrelu_with_noise"),
    **_names(spatial, "max_pool2d_with_indices max_pool2d avg_pool2d adaptive_avg_pool2d _adaptive_avg_pool2d"),
    **_names(spatial, "max_pool3d_with_indices max_pool3d avg_pool3d adaptive_avg_pool3d _adaptive_avg_pool3d"),
    **_names(spatial, "adaptive_max_pool2d upsample_nearest2d _upsample_nearest_exact2d upsample_bilinear2d"),
    **_names(spatial, "adaptive_max_pool3d upsample_nearest3d _upsample_nearest_exact3d upsample_trilinear3d"),
    **_names(spatial, "upsample_nearest1d _upsample_nearest_exact1d upsample_linear1d reflection_pad1d"),
    **_names(spatial, "upsample_bicubic2d _upsample_bilinear2d_aa _upsample_bicubic2d_aa constant_pad_nd"),
    **_names(spatial, "reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d replication_pad3d"),
    **_names(spatial, "grid_sampler_2d grid_sampler_3d"),
    **_names(glu, "glu"),
    **_names(packs, "pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle im2col col2im"),
    **_names(reduce, f"{REDUCED} {MOVED} logsumexp var std var_mean std_mean _softmax _log_softmax argmax argmin"),
    **_names(reduce, "_safe_softmax logcumsumexp"),
    **_names(cat, "cat"),
    **_names(stack, "stack"),
    **_names(convolution, "convolution _convolution"),
    **_names(batch_norm, "native_batch_norm cudnn_batch_norm _native_batch_norm_legit_no_training"),
    **_names(layer_norm, "native_layer_norm"),
    **_names(group_norm, "native_group_norm"),
    **_names(transpose, "t"),
    **_names(matmul, "mm addmm bmm"),
    **_names(picked, "index"),
    **_names(gather, "gather"),
    **_names(windows, "unfold"),
    **{f"torchvision::{n}": boxes for n in ("roi_align", "roi_pool")},
}
"""Rule of each operation by its ATen name; point-wise operations are recognised by PyTorch's own tag."""


def rule_of(func: Any) -> Callable[[Call], None]:
    """The rule of an operation, `unknown` when there is none; one that works in place has that of its other form."""
    name = schema_of(func).name
    plain = name.removesuffix("_")
    if (found := RULES.get(name) or RULES.get(plain)) is not None:
        return found
    return pointwise if torch.Tag.pointwise in func.tags or _is_pointwise(plain) else unknown


@cache
def _is_pointwise(name: str) -> bool:
    """Whether torch says of some form of an operation that it is point-wise."""
    packet = getattr(torch.ops.aten, name.removeprefix("aten::"), None)
    return packet is not None and any(torch.Tag.pointwise in getattr(packet, o).tags for o in packet.overloads())
