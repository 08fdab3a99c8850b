"""Names of torch that are not public, each under a public name of ours: one place to mend when torch moves them."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from threading import RLock, get_ident
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm
from torch.nn.modules.conv import _ConvNd as ConvNd
from torch.nn.modules.conv import _ConvTransposeNd as ConvTransposeNd
from torch.nn.modules.dropout import _DropoutNd as Dropout
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode as FunctionMode
from torch.utils._device import DeviceContext
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

if TYPE_CHECKING:
    from weakref import WeakKeyDictionary as WeakIdKeyDictionary  # torch's has no types, and differs in what is a key
else:
    from torch.utils.weak import WeakIdKeyDictionary

__all__ = [
    "CHILDREN",
    "HOOK_DICTS",
    "BatchNorm",
    "ConvNd",
    "ConvTransposeNd",
    "DispatchMode",
    "Dropout",
    "FunctionMode",
    "WeakIdKeyDictionary",
    "drop_hooks",
    "filled",
    "float64_home",
    "hollow",
    "hooks_of",
    "is_out_of_memory",
    "multiply_all",
    "padding_of",
    "register_module_forward_hook",
    "register_module_forward_pre_hook",
    "schema_of",
    "storage_key",
    "tree_leaves",
    "tree_map",
    "undrawn",
    "version_of",
    "with_children",
]

CHILDREN = "_modules"
"""Attribute of a module that holds its children by name."""

HOOK_DICTS = frozenset(k for k, v in vars(nn.Module()).items() if isinstance(v, dict) and not v and "hooks" in k)
"""Attributes of every module that hold its hooks, most of them empty for good."""

NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "cannot allocate memory")
"""What a RuntimeError says that stands for a shortage: of a GPU's or a library's allocator, of the CPU's."""


_COMPOSITE: dict[int, bool] = {}
"""Whether an operation is made of others, by its identity; asking torch takes as long as a small operation."""


class DispatchMode(TorchDispatchMode):
    """Base of modes that see every ATen operation, the same ones whatever mode the code that runs has switched on.

    Under `torch.inference_mode` torch hands on composite operations (`conv2d`, `batch_norm`) as they are called; here
    they are taken apart as otherwise. The first use of a mode does not import the compiler, which takes seconds.

    Attributes:
        takes_apart (bool): Whether that is of any use to a mode; those of another mode inside it come composed as well.
    """

    takes_apart: ClassVar[bool] = True

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's own, which takes nothing

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if (composite := _COMPOSITE.get(id(func))) is None:  # operations live as long as torch
            composite = _COMPOSITE[id(func)] = torch._C._dispatch_has_kernel_for_dispatch_key(
                func.name(), "CompositeImplicitAutograd"
            )
        if composite and self.takes_apart:
            with self:
                return func._op_dk(torch._C.DispatchKey.CompositeImplicitAutograd, *args, **(kwargs or {}))
        return self.operation(func, args, kwargs or {})

    def operation(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Run one operation, and look at it; gives what it gives."""
        return func(*args, **kwargs)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False


def schema_of(func: Any) -> torch.FunctionSchema:
    """Schema of an ATen operation as a dispatch mode gets it: its name, overload, arguments, whether it mutates."""
    schema: torch.FunctionSchema = func._schema
    return schema


def storage_key(storage: Any) -> int:
    """What tells storages apart, whichever object stands for one."""
    key: int = storage._cdata
    return key


def version_of(tensor: Tensor) -> float:
    """How often a tensor was changed in place, by whatever name it is known; not a number, which equals nothing, for
    one made under `torch.inference_mode`, of which nobody counts it.
    """
    return math.nan if tensor.is_inference() else tensor._version


@functools.cache
def float64_home(device: torch.device) -> torch.device:
    """Where float64 is computed for what lives on a device: there, or on the CPU where it has none, as Apple's GPUs."""
    try:
        torch.ones(1, dtype=torch.float64, device=device).square()
    except (TypeError, RuntimeError) as e:
        if is_out_of_memory(e):
            raise
        return torch.device("cpu")
    return device


def channel_dim(layer: nn.Module) -> int:
    """The dimension of a layer's channels, from behind where it takes one image without a batch dimension as well."""
    if isinstance(layer, nn.Linear):
        return -1
    return -1 - len(layer.kernel_size) if isinstance(layer, ConvNd) else 1


def padding_of(conv: ConvNd) -> list[int]:
    """Padding of a convolution as `functional.pad` takes it; of "same" as well."""
    return list(conv._reversed_padding_repeated_twice)


HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")


def hooks_of(module: nn.Module) -> list[Any]:
    """What is called whenever a module runs, forward or backward."""
    return [hook for kind in HOOKS for hook in getattr(module, kind).values()]


def drop_hooks(module: nn.Module, kept: Callable[[Any], bool]) -> int:
    """Take hooks off a module but for those that are kept; how many."""
    dropped = 0
    for kind in HOOKS:
        hooks = getattr(module, kind)
        for key in [key for key, hook in hooks.items() if not kept(hook)]:
            del hooks[key]
            dropped += 1
    return dropped


class _Meta(DeviceContext):
    """All tensors on the meta device. There `arange` is made of other operations, for which torch imports its compiler,
    which takes a second.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.arange:
            return func(*args, **{**(kwargs or {}), "device": "cpu"}).to("meta")
        return super().__torch_function__(func, types, args, kwargs)  # type: ignore[no-untyped-call]


_undrawing = RLock()  # by threads in turn, or what each finds and puts back is what another one put there
DRAWN = (ConvNd, nn.Linear)
NUMBERED = (*DRAWN, BatchNorm.__base__)
"""Layers that set their numbers in `reset_parameters`; batch-norms have it from a base of their own."""


@contextlib.contextmanager
def undrawn(kinds: Sequence[Any] = DRAWN) -> Iterator[None]:
    """Layers built inside draw no weights, most of the work: theirs are what the memory held. Other threads draw."""
    with _undrawing:
        before = [(kind, vars(kind)["reset_parameters"]) for kind in kinds]
        try:
            for kind, method in before:
                kind.reset_parameters = _unless_in(get_ident(), method)
            yield
        finally:
            for kind, method in before:
                kind.reset_parameters = method


def _unless_in(builder: int, draw: Callable[[nn.Module], None]) -> Callable[[nn.Module], None]:
    return lambda layer: None if get_ident() == builder else draw(layer)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Many small operations: where cores are busy, waiting for a second thread takes ten times what it saves."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextlib.contextmanager
def hollow() -> Iterator[None]:
    """Modules built inside are shapes without numbers."""
    with undrawn(NUMBERED), _Meta(torch.device("meta")):
        yield


def filled(module: nn.Module) -> nn.Module:
    """The same module with zeros for its numbers, on the CPU; `to_empty` imports torch's compiler for tensors of the
    meta device.
    """
    whole: nn.Module = module._apply(lambda t: torch.zeros(t.shape, dtype=t.dtype))
    return whole


def with_children(module: nn.Module, **children: nn.Module) -> nn.Module:
    """A copy of a module that shares all but these children with it."""
    other = copy(module)
    other._modules = {**module._modules, **children}
    return other


def multiply_all(tensors: Sequence[Tensor], factors: Sequence[Tensor]) -> None:
    """Multiply tensors in place, all in one call."""
    torch._foreach_mul_(list(tensors), list(factors))


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or what it was raised from, is a shortage of memory and says nothing about a network."""
    if error is None:
        return False
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):  # the second is `torch.OutOfMemoryError` as well
        return True
    said = str(error).lower() if isinstance(error, RuntimeError) else ""
    return any(words in said for words in NO_MEMORY) or is_out_of_memory(error.__cause__)
