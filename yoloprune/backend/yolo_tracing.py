"""Tracing of Ultralytics models: on what, what is frozen, and what `keep=` may call by name."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from functools import partial
from math import ceil, sqrt
from typing import Any

import torch
from torch import nn

from yoloprune.backend.model_facts import channels, check_prunable, head_name, network, parts, stride
from yoloprune.backend.moved_layers import names_of
from yoloprune.cutting import trial_cut
from yoloprune.cutting.width_attributes import corrected_numbers
from yoloprune.planning.channel_graph import ChannelGraph
from yoloprune.probing.examples import Example, Probe
from yoloprune.probing.survey import first_to_run, survey
from yoloprune.tracing import named_layers, residual_branches, trace_network


def trace_yolo(
    model: nn.Module, *, imgsz: int = 640, keep: Iterable[str] = (), probe: Probe | None = None
) -> ChannelGraph:
    """Trace an Ultralytics model: probe size from its stride, head frozen, FLOPs counted at `imgsz`.

    Args:
        model (nn.Module): An Ultralytics model (`YOLO(...).model`), unfused.
        imgsz (int): Image size for which FLOPs are counted.
        keep (Iterable[str]): Module names or shell patterns whose output channels stay; also "backbone" and "neck".
        probe (Probe | None): From `probe`, where there is one already.

    Returns:
        (ChannelGraph): See `tracing.trace`.

    Raises:
        ModelError: If the model is not an Ultralytics model, is fused, or does not run.
        ArgumentError: If a `keep` pattern matches nothing.
    """
    check_prunable(model)
    with _forgetting_the_last_size(model):
        found = _survey(model, imgsz) if probe is None else probe
        size = found.examples[0].inputs[0].shape[-1]
        layers = network(model).model
        graph = trace_network.trace(
            model,
            found,
            frozen={head_name(model): f"{type(layers[-1]).__name__} head"},
            keep=kept_modules(model, keep),
            sized=corrected_numbers,
            outputs=True,  # the neck's features are among the outputs, and follow the head's input side
            area=(imgsz / size) ** 2,
            handing_on=[f"model.{i}" for i in range(len(layers))],
            names=names_of(model),
        )
        return trial_cut.sound(model, graph, found)


def with_branches(model: nn.Module, graph: ChannelGraph, keep: Iterable[str], probe: Probe) -> ChannelGraph:
    """A graph that knows the residual branches that may go: those outside the head of which nothing is to stay."""
    held = [head_name(model), *kept_modules(model, keep)]
    with _forgetting_the_last_size(model):
        return residual_branches.with_branches(model, graph, probe, held)


def kept_modules(model: nn.Module, keep: Iterable[str]) -> dict[str, str]:
    """Modules and parameters that `keep=` names, with the pattern as the reason; names are those of the model that was
    first pruned.

    Raises:
        ArgumentError: If a pattern matches nothing.
    """
    return named_layers.match(model, keep, parts(model), names=names_of(model))


def layer_shares(model: nn.Module, layers: Iterable[tuple[str, float]]) -> dict[str, float]:
    """From modules to the share that `layers=` gives them; names are those of the model that was first pruned.

    Raises:
        ArgumentError: If a pattern matches nothing.
    """
    return named_layers.shares(model, layers, parts(model), names_of(model))


def probe(model: nn.Module, imgsz: int = 640) -> Probe:
    """Examples that stand for an Ultralytics model at an image size, for one image and for two: see `survey`.

    Raises:
        ModelError: If the model is not an Ultralytics model, is fused, or does not run.
    """
    check_prunable(model)
    with _forgetting_the_last_size(model):
        return _survey(model, imgsz)


def _survey(model: nn.Module, imgsz: int) -> Probe:
    images = partial(_images, model)
    smallest = example(model).shape[-1]
    asked = max(smallest, ceil(imgsz / stride(model)) * stride(model))  # Ultralytics makes it a multiple as well
    head: Any = network(model).model[-1]
    also: list[Example] = []
    if hasattr(head, "savpe"):
        also.append(Example(images(smallest, 2).inputs, "a visual prompt", visual_prompts))
    if hasattr(head, "reprta") and (weights := list(head.reprta.parameters())):
        words = torch.rand(1, 2, weights[0].shape[-1], generator=torch.Generator().manual_seed(0)).to(weights[0])
        also.append(Example((words,), "a text prompt", text_prompts))
    return survey(model, images, smallest, asked, tuple(also))


def _images(model: nn.Module, size: int, batch: int) -> Example:
    title = f"{'an image' if batch == 1 else f'{batch} images'} of {size} pixels"
    return Example((example(model, batch, size),), title)


def runnable_example(model: nn.Module, batch: int = 1) -> torch.Tensor:
    """Like `example`, as large as the network needs it: some pad by more than what is left of a small image.

    Raises:
        ModelError: If it does not run on images 16 times as large either.
    """
    smallest = example(model).shape[-1]
    size, *_ = first_to_run(model, partial(_images, model), [smallest << i for i in range(5)])
    return example(model, batch, size)


@contextlib.contextmanager
def _forgetting_the_last_size(model: nn.Module) -> Iterator[None]:
    """Without the size of the last image that a head has seen: comparing with it would count as a use of widths."""
    head: Any = network(model).model[-1]
    remembered = vars(head).pop("shape", None)
    try:
        yield
    finally:
        if remembered is not None:
            head.shape = remembered


def text_prompts(model: nn.Module, words: torch.Tensor) -> torch.Tensor:
    """What YOLOE makes of the embeddings of a text: shape (B, N, D) to the same."""
    head: Any = network(model).model[-1]
    prompts: torch.Tensor = head.get_tpe(words)
    return prompts


def visual_prompts(model: nn.Module, image: torch.Tensor) -> torch.Tensor:
    """Embedding of one visual prompt, the middle of the image, by YOLOE: shape (B, 1, D)."""
    side = image.shape[-1] // 8  # the prompt is a mask on the finest feature map
    mask = image.new_zeros(len(image), 1, side, side)
    mask[..., side // 4 : -side // 4, side // 4 : -side // 4] = 1
    prompt: torch.Tensor = model(image, vpe=mask, return_vpe=True)  # `get_visual_pe` without its inference mode
    return prompt


def example(model: nn.Module, batch: int = 1, size: int | None = None) -> torch.Tensor:
    """Seeded noise, square images of a size, shape (batch, C, S, S).

    Without a size it is a small one, on which most models do what they do on any: the coarsest feature map has at least
    2x2 cells, and a decoder that selects queries has enough to select from.
    """
    coarsest, weight = stride(model), next(model.parameters())
    head = network(model).model[-1]
    queries = getattr(head, "num_queries", 0)
    per_cell = sum(4**level for level in range(getattr(head, "nl", 1)))
    size = size or coarsest * max(2, ceil(sqrt(queries / per_cell)))
    noise = torch.rand(batch, channels(model), size, size, generator=torch.Generator().manual_seed(0))
    return noise.to(weight.device, weight.dtype)
