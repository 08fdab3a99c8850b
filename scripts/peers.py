"""Torch-Pruning on YOLOv8, for `experiment.py peers`; needs `pip install torch-pruning==1.6.1`, yoloprune does not.

Torch-Pruning 1.6 stops at the `chunk` of C2f, so each C2f is first rewritten into a block of ours with a convolution of
its own for either half; the outputs stay equal. The pruned checkpoint therefore needs this file to be importable, and
stock Ultralytics would rebuild the unpruned network from its YAML: `Trainer` trains the very module instead.
"""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import Tensor, nn
from ultralytics import YOLO
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.nn.modules import C2f, Conv
from ultralytics.utils.torch_utils import get_flops


class SplitC2f(nn.Module):
    """C2f whose two halves are computed by two convolutions."""

    def __init__(self, old: C2f) -> None:
        super().__init__()
        self.cv0, self.cv1 = _half(old.cv1, slice(0, old.c)), _half(old.cv1, slice(old.c, 2 * old.c))
        self.cv2, self.m = old.cv2, old.m
        for key in ("i", "f", "type", "np"):  # what Ultralytics' forward reads
            setattr(self, key, getattr(old, key))

    def forward(self, x: Tensor) -> Tensor:
        y = [self.cv0(x), self.cv1(x)]
        for block in self.m:
            y.append(block(y[-1]))
        joined: Tensor = self.cv2(torch.cat(y, 1))
        return joined


def _half(old: Conv, rows: slice) -> Conv:
    """Return the convolution that computes some of the output channels."""
    width = rows.stop - rows.start
    new = Conv(old.conv.in_channels, width, old.conv.kernel_size, old.conv.stride)
    new.conv.weight.data = old.conv.weight.data[rows].clone()
    for name in ("weight", "bias", "running_mean", "running_var"):
        getattr(new.bn, name).data = getattr(old.bn, name).data[rows].clone()
    new.bn.eps, new.bn.momentum, new.act = old.bn.eps, old.bn.momentum, old.act
    return new


def split_c2f(model: nn.Module) -> None:
    """Replace each C2f, in place."""
    for name, child in list(model.named_children()):
        if type(child) is C2f:
            setattr(model, name, SplitC2f(child))
        else:
            split_c2f(child)


def prune(source: Path, target: Path, *, importance: str, flops: float, imgsz: int) -> None:
    """Prune to a share of the FLOPs: global ranking, widths in steps of 8, at most 80 % of a layer, the head stays.

    Args:
        source (Path): Checkpoint of the parent.
        target (Path): Where the pruned checkpoint goes.
        importance (str): "bn" (scales, Network Slimming) or "group" (group norm of the weights), library defaults.
        flops (float): Share that may remain; the pruning ratio is bisected until it does.
        imgsz (int): Image size.
    """
    import torch_pruning as tp

    make = {"bn": tp.importance.BNScaleImportance, "group": tp.importance.GroupMagnitudeImportance}[importance]
    parent = YOLO(source)
    whole = get_flops(parent.model, imgsz)
    split_c2f(parent.model)
    for p in parent.model.parameters():
        p.requires_grad_(True)  # the library takes frozen parameters for no parameters

    def pruned(ratio: float) -> nn.Module:
        model: nn.Module = copy.deepcopy(parent.model)
        pruner = tp.pruner.BasePruner(
            model,
            torch.zeros(1, 3, imgsz, imgsz),
            importance=make(),
            global_pruning=True,
            pruning_ratio=ratio,
            max_pruning_ratio=0.8,
            round_to=8,
            ignored_layers=[list(model.get_submodule("model").children())[-1]],
        )
        pruner.step()
        return model

    low, high, best = 0.0, 1.0, None
    for _ in range(14):
        middle = (low + high) / 2
        candidate = pruned(middle)
        if get_flops(candidate, imgsz) <= flops * whole:
            high, best = middle, candidate
        else:
            low = middle
    if best is None:
        raise SystemExit(f"Torch-Pruning did not reach {flops} of the FLOPs")
    print(f"ratio {high:.3f}: {get_flops(best, imgsz) / whole:.3f} of the FLOPs")
    parent.model = best
    target.parent.mkdir(parents=True, exist_ok=True)
    parent.save(target)


class Trainer(DetectionTrainer):
    """Train the given module itself instead of the network that its YAML describes."""

    def get_model(self, cfg: object = None, weights: nn.Module | None = None, verbose: bool = True) -> nn.Module:
        assert weights is not None
        return weights.float()
