"""Random numbers that a network draws: the process's generators left alone, and the same draws in every run."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from yoloprune.probing.outputs import tensors
from yoloprune.torch_internals import DispatchMode, schema_of


@contextlib.contextmanager
def generators_kept() -> Iterator[None]:
    """Leave the process's three generators as they are; what runs in between may draw and seed as it likes."""
    python, numpy = random.getstate(), np.random.get_state()
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


@contextlib.contextmanager
def seeded(seed: int, level: bool = False) -> Iterator[Draws]:
    """Own random numbers for all three generators, and the mode that watches them.

    It is for the caller to enter, behind all other modes: in front of them it would see what these run as well.
    """
    with generators_kept():
        draws = Draws(seed, level)
        random.seed(seed)
        np.random.seed(seed)
        before = _others()
        try:
            yield draws
        finally:
            draws.any = bool(draws.count) or draws.moved() or _others() != before
            draws.told = (*draws.uneven, _others())


def states() -> tuple[Any, ...]:
    """State of all generators of the process."""
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return (*(state.numpy().tobytes() for state in (torch.get_rng_state(), *devices)), *_others())


def _others() -> tuple[Any, ...]:
    """State of the generators outside torch."""
    numpy = np.random.get_state(legacy=False)["state"]
    return random.getstate(), numpy["key"].tobytes(), numpy["pos"]


DISTRIBUTIONS = ("uniform", "normal", "bernoulli", "exponential", "log_normal", "geometric", "random")
LEVELLED = frozenset(
    [f"aten::{name}{ending}" for name in DISTRIBUTIONS for ending in ("", "_")]
    + [f"aten::{name}{ending}" for name in ("rand", "randn", "randint") for ending in ("", "_like")]
)
"""Operations that draw many numbers of one kind; others draw an order, or change tensors on the way."""


class Draws(DispatchMode):
    """Seeds torch's generators anew before every operation that draws from them.

    Attributes:
        any (bool): Whether numbers were drawn; known when `seeded` ends, as is the next.
        told (tuple): What was drawn beside level numbers; two runs in which it is equal drew the same.
    """

    takes_apart = False

    def __init__(self, seed: int, level: bool) -> None:
        super().__init__()
        self.seed, self.level, self.count = seed, level, 0
        self.any = False
        self.told: tuple[Any, ...] = ()
        self.uneven: list[tuple[str | tuple[int, ...], ...]] = []  # what cannot be levelled, and its shapes
        torch.manual_seed(seed)
        self.before = torch.get_rng_state()

    def moved(self) -> bool:
        """Whether something drew from the generator past this mode."""
        return not self.count and not torch.equal(self.before, torch.get_rng_state())

    def operation(self, func: Any, args: Any, kwargs: Any) -> Any:
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **kwargs)
        self.count += 1
        torch.manual_seed(self.seed * 10007 + self.count)
        out = func(*args, **kwargs)
        if not self.level or schema_of(func).name not in LEVELLED:
            self.uneven.append((schema_of(func).name, *(tuple(t.shape) for t in tensors(out))))
        elif out.numel() > 1:
            out.fill_(out.flatten()[0])
        return out
