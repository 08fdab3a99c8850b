"""Which modules of a network are residual branches: with all their parameters zero they hand on their input.

No class is known here by name. A network is run once in each of its ways, and each module that took one tensor and gave
one of the same shape is run again, alone and with zeros, on what it took.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from yoloprune.probing.examples import Example, Probe, runs
from yoloprune.probing.forward import hooked, running
from yoloprune.probing.held_state import preserved
from yoloprune.probing.random_draws import seeded
from yoloprune.torch_internals import is_out_of_memory


@contextlib.contextmanager
def zeroed(*modules: nn.Module) -> Iterator[None]:
    """While active, all parameters of some modules are zero: weights, biases, scales and shifts of batch-norms."""
    held = [
        (owner, key, p)
        for module in modules
        for owner in module.modules()
        for key, p in owner.named_parameters(recurse=False, remove_duplicate=False)
    ]
    try:
        for owner, key, p in held:  # by other tensors, because copies may share these
            setattr(owner, key, nn.Parameter(torch.zeros_like(p), requires_grad=False))
        yield
    finally:
        for owner, key, p in held:
            setattr(owner, key, p)


def residual_modules(model: nn.Module, probe: Probe) -> list[str]:
    """Names of all residual branches of a network, nested ones included, in its order.

    A module is none that runs more than once in a pass, shares parameters with the rest of the network, or whose parts
    something else runs as well.

    Args:
        model (nn.Module): Any network; all of its state is put back.
        probe (Probe): The ways in which it is run.
    """
    candidates = _owning(model)
    ran: set[str] = set()
    for one in probe.examples:
        for training in probe.modes(model, one):
            watched = _Watched(model, candidates, one, training)
            candidates = {name: m for name, m in candidates.items() if name not in watched.failed}
            ran |= watched.taken.keys()
            with preserved(model), running(model, training):
                for name in candidates.keys() & watched.taken.keys():
                    if not _hands_on(candidates[name], watched.taken[name]):
                        del candidates[name]
    found = [name for name in candidates if name in ran]
    for depth in sorted({name.count(".") for name in found}):  # none of one depth is inside another
        level = [name for name in found if name.count(".") == depth]
        if not _runs_without(model, probe, level):
            missed = {name for name in level if not _runs_without(model, probe, [name])}
            found = [name for name in found if name not in missed]
    return found


LOUDER = (8.0, 64.0, 4096.0)
"""Positive, so that what a ReLU gave is still something that it gives."""

ROUTING = ("i", "f", "type", "np")
"""What Ultralytics writes on a layer to know where its input comes from."""


def take_out(model: nn.Module, name: str) -> nn.Module:
    """Put a module that hands on its input in the place of another one, which is given back."""
    parent, _, key = name.rpartition(".")
    gone, instead = model.get_submodule(name), nn.Identity()
    for told in ROUTING:
        if told in vars(gone):
            setattr(instead, told, vars(gone)[told])
    instead.train(gone.training)
    setattr(model.get_submodule(parent), key, instead)
    return gone


def _runs_without(model: nn.Module, probe: Probe, names: list[str]) -> bool:
    """Whether a network runs without some of its modules; it may ask one for a stride that nothing else has."""
    gone = {name: take_out(model, name) for name in names}
    try:
        return all(runs(model, one, training) for one in probe.examples for training in probe.modes(model, one))
    finally:
        for name, module in gone.items():
            parent, _, key = name.rpartition(".")
            setattr(model.get_submodule(parent), key, module)


def _owning(model: nn.Module) -> dict[str, nn.Module]:
    """Modules with parameters, none of which another module holds as well."""
    every = Counter(id(p) for m in model.modules() for p in m.parameters(recurse=False))
    return {
        name: module
        for name, module in model.named_modules()
        if name and (own := Counter(id(p) for m in module.modules() for p in m.parameters(recurse=False)))
        if all(every[p] == n for p, n in own.items())
    }


class _Watched:
    """One pass: what each candidate took, and which of them cannot be branches.

    Attributes:
        taken (dict[str, Tensor]): By module its input, copied.
        failed (set[str]): Modules that took or gave something else than one tensor, of one shape, ran twice, or whose
            parts ran outside them.
    """

    def __init__(self, model: nn.Module, candidates: dict[str, nn.Module], one: Example, training: int) -> None:
        self.taken: dict[str, Tensor] = {}
        self.failed: set[str] = set()
        self._open: list[str] = []
        self._candidates = candidates
        with seeded(0) as draws, preserved(model), running(model, training), hooked() as hooks, draws:
            for name, module in model.named_modules():
                if any(True for _ in module.parameters()) and name:  # one activation may serve several modules
                    hooks.append(module.register_forward_pre_hook(partial(self._enter, name), with_kwargs=True))
                    hooks.append(module.register_forward_hook(partial(self._leave, name)))
            one(model)

    def _enter(self, name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        parts = name.split(".")
        around = {".".join(parts[:n]) for n in range(1, len(parts))} & self._candidates.keys()
        self.failed |= around - {*self._open}
        self._open.append(name)
        if name not in self._candidates:
            return
        if name in self.taken or kwargs or len(args) != 1 or not isinstance(args[0], Tensor):
            self.failed.add(name)
        else:
            self.taken[name] = args[0].detach().clone()

    def _leave(self, name: str, module: nn.Module, args: Any, output: Any) -> None:
        self._open.pop()
        given = self.taken.get(name)
        if given is not None and not (isinstance(output, Tensor) and output.shape == given.shape):
            self.failed.add(name)


def _like(given: Tensor) -> Iterator[Tensor]:
    """What a module took, louder ones, and noise where it says nothing: one number everywhere."""
    yield given
    if not given.is_floating_point():
        return
    if given.numel() and bool((given == given.flatten()[0]).all()):  # zeros in most cases
        drawn = torch.randn(given.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
        given = drawn.to(given)
        yield given
    yield from (x for factor in LOUDER if (x := given * factor).isfinite().all())


def _hands_on(module: nn.Module, given: Tensor) -> bool:
    """Whether a module gives what it takes, bit by bit, once its parameters are zero, and louder things as well: what
    stops at six hands on all below.

    An activation behind the sum makes of negative numbers something else, and gives back what it would get.
    """
    try:
        with zeroed(module):
            for x in _like(given):
                got = module(x.clone())
                if not (isinstance(got, Tensor) and got.dtype == given.dtype and torch.equal(got, x)):
                    return False
    except Exception as e:  # whatever a module may raise that does not run alone
        if is_out_of_memory(e):
            raise
        return False
    return True
