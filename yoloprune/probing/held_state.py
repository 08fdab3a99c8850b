"""What a network holds beside its parameters: to put it back after a forward pass, and to tell whether it changed."""

from __future__ import annotations

import contextlib
import copy
import zlib
from collections.abc import Container, Iterable, Iterator, Mapping
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from yoloprune.errors import ModelError, first_line
from yoloprune.probing.containers import CONTAINERS, PLAIN, Content
from yoloprune.torch_internals import HOOK_DICTS, is_out_of_memory, version_of

NUMBERS = (int, float, bool, complex, torch.Size)
LARGE = 1 << 24
"""Bytes of an array of numpy beyond which nobody looks whether it changed."""

FUNCTIONS = (FunctionType, MethodType, BuiltinFunctionType)
ATOMS = frozenset({*NUMBERS, *FUNCTIONS, str, bytes, type(None), torch.dtype, torch.device, ModuleType, type})
"""Kinds of values that hold nothing that could change; most attributes are of them."""


class Held:
    """What a network holds now, put back at the end of a `with` block, of one after the other as often as is wanted.

    Hooks are those that it has when a block begins: whoever runs a network may watch it otherwise the next time.

    Attributes:
        model (nn.Module): The network.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._owners = [vars(module) for module in model.modules()]
        found = _found(model)
        self._containers = [Content(v) for v in found if isinstance(v, CONTAINERS)]
        self._hooks: list[list[Content]] = []  # of each block
        tensors = [v for v in found if isinstance(v, Tensor) and not v.is_inference()]  # which nothing can change
        self._values = [(v, version_of(v), v.detach().clone()) for v in tensors]
        self._arrays = [(v, v.copy()) for v in found if isinstance(v, np.ndarray)]
        self._generators = [(v, v.get_state()) for v in found if isinstance(v, torch.Generator)]

    @property
    def draws(self) -> bool:
        """Whether the network has generators of random numbers of its own."""
        return bool(self._generators)

    def __enter__(self) -> Held:
        self._hooks.append([Content(hooks) for hooks in _hooks(self._owners)])
        return self

    def __exit__(self, *_: object) -> None:
        watching = self._hooks.pop()
        for content in (*self._containers, *watching):
            content.put_back()
        known = {id(content.container) for content in watching}
        for hooks in _hooks(self._owners):
            if id(hooks) not in known:  # empty when it began
                hooks.clear()
        for tensor, version, value in self._values:
            if _is_dense(tensor) and tensor.shape != value.shape:  # made larger in place, as observers of quantizers do
                tensor.data = value.clone()
            elif version_of(tensor) != version or not _holds(tensor, value):  # `.data` is written to and not counted
                tensor.detach().copy_(value)
        for array, numbers in self._arrays:
            if array.tobytes() != numbers.tobytes():
                array[...] = numbers
        for generator, state in self._generators:
            generator.set_state(state)


def preserved(model: nn.Module) -> Held:
    """Put back whatever a forward pass changes: attributes, the lists and dicts among them, tensors, generators.

    A head remembers its anchors, a network for video its last frame.
    """
    return Held(model)


@contextlib.contextmanager
def weights_kept(model: nn.Module) -> Iterator[None]:
    """Put parameters back that a network changes itself when it runs, or is told its mode, and refuse it.

    Raises:
        ModelError: If there is such a parameter: the networks of a proof share weights, and each would change those of
            the others.
    """
    kept = [
        (name, p, p.data, p.detach().clone())
        for name, p in model.named_parameters()
        if not p.is_inference() and _is_dense(p)
    ]

    def put_back() -> list[str]:
        changed = []
        for name, p, data, value in kept:
            same = p.shape == value.shape and _holds(p, value)
            if p.data_ptr() != data.data_ptr():
                p.data = data
            if not same:
                data.copy_(value)
                changed.append(name)
        return changed

    try:
        yield
    except BaseException:
        put_back()
        raise
    if changed := put_back():
        raise ModelError(
            f"the network changes its own weights when it runs, or is put into another mode: {changed[0]}. Have it "
            "merge them for good (as adapters can), or take out what normalises them, and prune what comes of it"
        )


def copied(model: nn.Module, memo: Mapping[int, Any] | None = None) -> nn.Module:
    """A deep copy of a network, whatever it keeps: tensors that hang on a graph of gradients cannot be copied, so their
    values are.

    Args:
        model (nn.Module): The network.
        memo (Mapping): What stands for an object, by its identity, in place of a copy.

    Raises:
        ModelError: If it cannot be copied, or a part of it is its own copy, so that no change leaves it alone.
    """
    made = [v for v in held_tensors(model) if not v.is_leaf]
    try:
        twin = copy.deepcopy(model, {**{id(v): v.detach().clone() for v in made}, **(memo or {})})
    except Exception as e:  # whatever the attributes of a network may raise
        if is_out_of_memory(e):
            raise
        raise ModelError(f"the network cannot be copied: {first_line(e)}. Take what cannot be out of it") from e
    own = {id(module) for module in model.modules()}
    mine = ((name, module) for name, module in twin.named_modules() if id(module) in own)
    if shared := next((name for name, module in mine if any(True for _ in module.state_dict())), None):
        kind = type(model.get_submodule(shared)).__name__
        raise ModelError(f"a copy of the network shares '{shared}' with it: {kind} makes no copy of itself")
    return twin


def state_of(model: nn.Module) -> list[tuple[Any, ...]]:
    """What a network holds, to tell whether it holds the same later; only while the objects in it live."""
    return [
        (id(v), *map(id, _items(v))) if isinstance(v, CONTAINERS) else (id(v), _counted(v), _digest(v))
        for v in _found(model)
        if isinstance(v, (*CONTAINERS, np.ndarray)) or (isinstance(v, Tensor) and not v.is_inference())
    ]


def held_tensors(model: nn.Module) -> list[Tensor]:
    """Buffers, and tensors among the attributes of all modules and in their lists and dicts; no parameters."""
    return [v for v in _found(model) if isinstance(v, Tensor)]


def _items(container: Any) -> Iterable[Any]:
    return container.values() if isinstance(container, dict) else container


def _found(model: nn.Module) -> list[Any]:
    """All that a forward pass could change: the attributes of every module, and what these hold.

    That is every container but for those of hooks, tensor that is no parameter, and generator, by identity. A loop
    without calls: a command comes by here dozens of times.
    """
    modules = [*model.modules()]
    owners = [vars(module) for module in modules]
    homes = {kind.__module__.partition(".")[0] for kind in {*map(type, modules)}} - {"torch"}
    found: dict[int, Any] = {id(owner): owner for owner in owners}
    open_: list[Any] = [v for owner in owners for k, v in owner.items() if k not in HOOK_DICTS]
    while open_:
        value = open_.pop()
        kind = type(value)
        if kind in ATOMS or kind is nn.Parameter or id(value) in found:
            continue
        if kind in PLAIN or isinstance(value, CONTAINERS):
            found[id(value)] = value
            open_ += value.values() if isinstance(value, dict) else () if isinstance(value, set) else value
        elif isinstance(value, (nn.Module, nn.Parameter)):
            continue
        elif isinstance(value, (Tensor, torch.Generator)) or _is_small_array(value):
            found[id(value)] = value
        elif isinstance(value, tuple):
            open_ += value
        elif isinstance(held := getattr(value, "__dict__", None), dict) and _is_own(value, homes):
            open_.append(held)
    return list(found.values())


def _is_small_array(value: Any) -> bool:
    """Whether a forward pass may write into an array; large ones are data that something brought along."""
    return isinstance(value, np.ndarray) and value.flags.writeable and value.nbytes <= LARGE


def _is_own(value: Any, homes: Container[str]) -> bool:
    """Whether an object is part of a network: of a class from where its own classes are, or of none to speak of.

    A logger, a trainer or a data set may hang on it as well, and all of a process on these.
    """
    return isinstance(value, SimpleNamespace) or type(value).__module__.partition(".")[0] in homes


def _holds(tensor: Tensor, value: Tensor) -> bool:
    """Whether a tensor has these values; one that is not dense, or has none, is taken at its word."""
    if not _is_dense(tensor) or torch.equal(tensor.detach(), value):
        return True
    tensor = tensor.detach()  # one not-a-number is another
    return bool(((tensor == value) | (tensor.isnan() & value.isnan())).all())


def _is_dense(tensor: Tensor) -> bool:
    unlike = tensor.is_quantized or tensor.is_nested or tensor.is_meta
    return tensor.layout == torch.strided and not unlike


def _counted(value: Any) -> float:
    """How often something was written into a tensor, the same values among it."""
    return version_of(value) if isinstance(value, Tensor) else 0


def _digest(value: Any) -> int:
    """What tells the values of a tensor or an array from others; of one that is not dense, nothing."""
    if isinstance(value, Tensor):
        if not _is_dense(value):
            return 0
        value = value.detach().cpu().clone().reshape(-1).view(torch.uint8).numpy()  # memory shared with numpy is fixed
    return zlib.crc32(np.ascontiguousarray(value).tobytes())


def _hooks(owners: Iterable[dict[str, Any]]) -> list[dict[Any, Any]]:
    """The dicts of hooks that are not empty, of the attributes of modules."""
    return [hooks for owner in owners for key in HOOK_DICTS if (hooks := owner.get(key))]
