"""What the campaign measures by itself, with nothing of the proof: the masked parent on images, in float64."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from ultralytics.data.augment import LetterBox

from yoloprune.commands.demo_images import make_shapes
from yoloprune.planning.plan import Plan

FLOOR = 1e-9
"""A channel all of whose values are below this share of the output's largest one is judged at that size."""

SETS = ("coco128/images/train2017", "bccd/images/val")


def images(data: Path | None, count: int, imgsz: int) -> Tensor:
    """The first images of a data set, letterboxed, shape (count, 3, imgsz, imgsz); drawn ones where there is none."""
    folder = next((f for s in SETS if data and (f := data / s).is_dir()), None)
    with tempfile.TemporaryDirectory() as drawn:
        folder = folder or make_shapes(drawn, train=count, val=1, imgsz=imgsz).parent / "images" / "train"
        files = sorted(folder.glob("*.jpg"))[:count]
        pictures = [np.asarray(LetterBox((imgsz, imgsz))(image=cv2.imread(str(f))))[..., ::-1] for f in files]
    return torch.from_numpy(np.stack(pictures).copy()).permute(0, 3, 1, 2).double() / 255


@dataclass(frozen=True)
class Reference:
    """The masked parent's outputs on images.

    Attributes:
        wanted (dict[bool, list[Tensor]]): Outputs by mode, True for training, where it runs in that mode.
        images (Tensor): Shape (B, 3, H, W), float64.
    """

    wanted: dict[int, list[Tensor]]
    images: Tensor

    @classmethod
    def of(cls, parent: nn.Module, plan: Plan, pictures: Tensor, modes: Sequence[int]) -> Reference:
        """Run the masked parent once per mode."""
        masked = masked_parent(parent, plan)
        return cls({training: outputs(masked, pictures, training) for training in modes}, pictures)

    def error(self, child: nn.Module) -> float:
        """Largest error of a cut network on any image, in any mode, in any channel that comes out."""
        return max(
            apart(a, b)
            for training, wanted in self.wanted.items()
            for a, b in zip(wanted, outputs(child, self.images, training), strict=True)
            if a.shape == b.shape  # else the neck's features, handed out by the head, which lost channels
        )

    def change_at(self, layer: str, right: nn.Module, wrong: nn.Module) -> float:
        """How far apart the outputs of one module are in two cut networks."""
        found = [_seen(model, layer, self.images) for model in (right, wrong)]
        return max((apart(a, b) for a, b in zip(*found, strict=True)), default=0.0)


def masked_parent(parent: nn.Module, plan: Plan) -> nn.Module:
    """A copy whose cut channels are zero wherever a planned layer reads or writes them."""
    parent = copy.deepcopy(parent)
    modules = dict(parent.named_modules())
    for name, keep in plan.keep.items():
        if (module := modules.get(name)) is None:
            continue
        dim = -1 if isinstance(module, nn.Linear) else 1
        outputs, inputs = keep.of
        if keep.inputs is not None and inputs is not None:
            fill = _zeros(keep.inputs, inputs, dim)
            module.register_forward_pre_hook(lambda m, args, fill=fill: (fill(args[0]), *args[1:]))
        if keep.outputs is not None and outputs is not None:
            fill = _zeros(keep.outputs, outputs, dim)
            module.register_forward_hook(lambda m, args, output, fill=fill: fill(output))
    return parent


def _zeros(kept: Sequence[int], width: int, dim: int) -> Callable[[Tensor], Tensor]:
    mask = torch.zeros(width, dtype=torch.bool)
    mask[list(kept)] = True
    return lambda x: x.where(mask.reshape([-1 if d == dim % x.ndim else 1 for d in range(x.ndim)]), 0.0)


def outputs(model: nn.Module, pictures: Tensor, training: int) -> list[Tensor]:
    """All tensors that a copy in float64 gives, batch-norm and dropout in evaluation mode."""
    model = copy.deepcopy(model).double().train(bool(training))
    for m in model.modules():
        if isinstance(m, nn.modules.batchnorm._BatchNorm | nn.modules.dropout._DropoutNd):
            m.eval()
    with torch.no_grad():
        return [t for t in tree_leaves(model(pictures)) if isinstance(t, Tensor)]


def _seen(model: nn.Module, layer: str, pictures: Tensor) -> list[Tensor]:
    model = copy.deepcopy(model)
    found: list[Tensor] = []

    def look(module: nn.Module, args: Any, output: Any) -> None:
        found.extend(t for t in tree_leaves(output) if isinstance(t, Tensor))

    model.get_submodule(layer).register_forward_hook(look)
    outputs(model, pictures, False)
    return found


def apart(a: Tensor, b: Tensor) -> float:
    """Largest error of a channel, relative to its largest value in the first tensor.

    Channels are the second dimension, and the last one of a list of boxes, shape (B, boxes, 6), and of vectors.
    """
    if a.shape != b.shape:
        return float("inf")
    if not a.is_floating_point():
        return 0.0 if torch.equal(a, b) else float("inf")
    dim = -1 if a.ndim < 3 or (a.ndim == 3 and a.shape[2] < a.shape[1]) else 1
    a, b = (x.movedim(dim, 0).reshape(x.shape[dim], -1) for x in (a, b))
    size = a.abs().amax(1)
    return float(((a - b).abs().amax(1) / size.clamp_min(max(FLOOR * float(size.max()), 1e-290))).max())
