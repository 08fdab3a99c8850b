"""A part of the campaign: random networks of users' own classes, each cut rightly or refused with the reason."""

from __future__ import annotations

import copy
import io
import random
import warnings
from collections.abc import Iterator
from typing import Any

import campaign_more_blocks
import torch
from campaign_blocks import BLOCKS, Own, unit
from campaign_ground import TINY, Ground, Part
from reference import Reference, outputs
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from yoloprune import Budget, Limits, prune_module
from yoloprune.cutting import lively_copy
from yoloprune.errors import PruneError
from yoloprune.probing import examples

TOLERANCE = 1e-4
"""Largest error of a channel of what comes out, relative to its largest value, on images in float64."""

SIDE = 32  # pixels
assert campaign_more_blocks  # whose blocks are in the table by now


def network(seed: int) -> tuple[str, nn.Module]:
    """A stem, two to four blocks, and one of several ends; every sixth is an Ultralytics model around such blocks."""
    r = random.Random(seed)
    torch.manual_seed(seed)
    names, layers = list(BLOCKS), []
    # Every block has its turn as the first one
    chosen = [names[seed % len(names)], *r.choices(names, k=r.randrange(1, 4))]
    r.shuffle(chosen)
    c = r.choice((8, 16, 24))
    stem = unit(r, 3, c)
    for name in chosen:
        module, n = BLOCKS[name](r, c)
        layers.append(module)
        if n % 8:  # some blocks want halves or heads
            layers.append(unit(r, n, 16, 1))
            n = 16
        c = n
    model = _in_ultralytics(stem, layers, c) if seed % 6 == 5 else _with_an_end(r, stem, layers, c)
    lively_copy.settle(model, torch.rand(4, 3, SIDE, SIDE))
    return " + ".join(chosen), model.eval()


def _with_an_end(r: random.Random, stem: nn.Module, layers: list[nn.Module], c: int) -> nn.Module:
    how, body = r.randrange(4), nn.Sequential(stem, *layers)
    if how == 0:
        return nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c, 5))
    if how == 1:
        return Own(lambda m, x: {"map": m.a(m.body(x)), "vector": m.b(m.body(x).mean((2, 3)))}, **_ends(body, c))
    if how == 2:  # which hands out a map from between as well
        return Own(lambda m, x: (m.a(y := m.body(x)), y.amax((2, 3)).sum(1)), **_ends(body, c))
    return Own(lambda m, x: m.b(m.a(m.body(x)).flatten(1)), body=body, a=unit(r, c, 4, 1), b=nn.Linear(4 * SIDE**2, 3))


def _ends(body: nn.Module, c: int) -> dict[str, nn.Module]:
    return {"body": body, "a": nn.Conv2d(c, 4, 1), "b": nn.Linear(c, 3)}


def _in_ultralytics(stem: nn.Module, layers: list[nn.Module], c: int) -> nn.Module:
    """A detection model with these blocks in the place of its second row."""
    from ultralytics.nn.tasks import DetectionModel

    rows: dict[str, Any] = copy.deepcopy(TINY)
    model = DetectionModel(rows, verbose=False)
    body = nn.Sequential(stem, *layers, nn.Conv2d(c, 8, 3, 2, 1))
    layers_of: Any = model.model
    for key, value in {"i": 0, "f": -1, "type": "body", "np": 0}.items():  # what Ultralytics' forward pass reads
        setattr(body, key, value)
    layers_of[0] = body
    return model


def _judged(model: nn.Module, seed: int) -> tuple[str, list[str]]:
    """What became of a network, and what is wrong with that."""
    r = random.Random(-seed)
    example = torch.rand(1, 3, SIDE, SIDE)
    budget = r.choice((Budget(ratio=0.4), Budget(flops=0.6), Budget(params=0.6), Budget(ratio=0.15)))
    limits = r.choice((Limits(round_to=1, min_width=1, native=False), Limits(round_to=2, min_width=2, native=False)))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    try:
        found = prune_module(model, example, budget, limits, score=r.choice(("l1", "random", "l2")))
    except PruneError as e:
        print(f"refused: {' '.join(str(e).split())}")
        many = [f"the reason has {len(str(e).splitlines())} lines"] if "\n" in str(e).strip() else []
        return f"refused: {type(e).__name__}", many
    except Exception as e:
        return "failed", [f"{type(e).__name__}: {' '.join(str(e).split())[:300]}"]
    return "cut", list(_wrong(model, found.model, found.plan, before))


def _wrong(model: nn.Module, child: nn.Module, plan: Any, before: dict[str, Tensor]) -> Iterator[str]:
    """What is wrong with a cut network, found by nothing of the proof."""
    if any(not v.equal(before[k]) for k, v in model.state_dict().items()):
        yield "the parent is changed"
    pictures = torch.rand(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(5)).double()
    runs = examples.modes(model, examples.Example.of(pictures[:1].float()))
    error = Reference.of(model, plan, pictures, runs).error(child)
    if not error <= TOLERANCE:
        yield f"wrong by {error:.1e}"
    if sum(p.numel() for p in child.parameters()) >= sum(p.numel() for p in model.parameters()):
        yield "nothing is smaller"
    learner = copy.deepcopy(child).train()
    given = learner(pictures.float())
    loss = sum(t.float().square().mean() for t in tree_leaves(given) if isinstance(t, Tensor) and t.requires_grad)
    if isinstance(loss, Tensor):
        loss.backward()
        if any(p.grad is not None and p.grad.shape != p.shape for p in learner.parameters()):
            yield "a gradient of another shape"
    file = io.BytesIO()
    torch.save(child.state_dict(), file)
    shapes = [[t.shape for t in outputs(m, pictures[:1], False)] for m in (model, child)]
    if shapes[0] != shapes[1] and not hasattr(model, "yaml"):  # heads of Ultralytics hand out what they read as well
        yield "outputs of other shapes"


def networks(ground: Ground, count: int, seed: int) -> Part:
    """Cut so many random networks and compare each with its masked parent."""
    del ground  # they need no files
    part = Part("networks")
    torch.set_num_threads(1)
    for i in range(count):
        number = seed * 1000 + i
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            name, model = network(number)
            came, faults = _judged(model, number)
        part.count(came)
        part.judge(f"network {number} ({name})", *faults)
    return part
