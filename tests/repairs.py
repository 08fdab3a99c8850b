"""Networks to repair after a cut, and how far two of them are apart, for the tests of each repair."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from ultralytics.nn.tasks import DetectionModel

from yoloprune.backend import yolo_tracing
from yoloprune.planning.channel_graph import ChannelGraph


def randomize(model: nn.Module, seed: int = 0) -> nn.Module:
    """Weights and statistics away from their initial values, evaluation mode."""
    g = torch.Generator().manual_seed(seed)
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.weight.data.uniform_(0.5, 1.5, generator=g)
            m.bias.data.normal_(0, 0.3, generator=g)
            m.running_mean.normal_(0, 0.3, generator=g)
            m.running_var.uniform_(0.5, 1.5, generator=g)
    return model.eval()


def noise(*shape: int, seed: int = 1) -> Tensor:
    """Seeded normal noise."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def outputs(*models: nn.Module, x: Tensor | None = None) -> list[Tensor]:
    """What each model makes of the same images."""
    with torch.no_grad():
        return [m(noise(2, 3, 16, 16) if x is None else x) for m in models]


def quarter_dead() -> tuple[nn.Module, ChannelGraph, np.ndarray]:
    """A YOLO with a quarter of all prunable channels dead, its graph, and which classes are dead."""
    torch.manual_seed(0)
    parent = randomize(DetectionModel("yolov8n.yaml", verbose=False))
    graph = yolo_tracing.trace_yolo(parent)
    dead = np.zeros(graph.n_classes, dtype=bool)
    for g, group in enumerate(graph.groups):
        if group.frozen is None:
            dead[graph.classes(g)[1::4]] = True
    modules = dict(parent.named_modules())
    for axis, classes in zip(graph.axes, graph.class_of, strict=True):
        if axis.side == "outputs" and isinstance(modules.get(axis.module), nn.BatchNorm2d):
            modules[axis.module].weight.data[torch.from_numpy(dead[classes])] = 0
    return parent, graph, dead


def logits(model: nn.Module, x: Tensor) -> Tensor:
    """What the last convolutions of the head put out without their bias, in one row."""
    last = [m for m in model.model[-1].modules() if isinstance(m, nn.Conv2d) and m.bias is not None]
    found: list[Tensor] = []
    handles = [m.register_forward_hook(lambda m, i, y: found.append(y - m.bias.reshape(-1, 1, 1))) for m in last]
    with torch.no_grad():
        model.eval()(x)
    for handle in handles:
        handle.remove()
    return torch.cat([y.flatten() for y in found])


def missed(parent: nn.Module, model: nn.Module, x: Tensor) -> float:
    """Largest error of any logit, in standard deviations of all logits."""
    a, b = logits(parent, x), logits(model, x)
    return float((a - b).abs().max() / a.std())
