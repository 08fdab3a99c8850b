"""Which examples stand for all: the smallest image on which a network does what it does at the size that is asked for.

A trace and a proof on an image of 64 pixels say something about 640 only if the same operations run there. So the
operations of both are listed and compared, and those for one image and for two; where they differ, the larger image
decides, and both batches are followed. For the list nothing is multiplied: layers and element-wise operations hand on
a single zero in the shape of their result, so that 640 pixels cost no more than 64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from yoloprune.errors import ModelError
from yoloprune.examples import Example, Probe
from yoloprune.outputs import tensors
from yoloprune.watching import preserved, running, state_of

PROVED = 12e9
"""FLOPs of one pass up to which a cut is proved at the size that is asked for as well: 0.1 s on two cores."""

LAYOUT = {"aten::_unsafe_view": "aten::view", "aten::reshape": "aten::view", "aten::clone": None}
"""Operations whose choice depends on how a tensor lies in memory, by the name they are listed under; None for not."""


@dataclass
class Listing:
    """What one pass did.

    Attributes:
        operations (list): Modules entered and operations run, with the numbers that were given to them beside tensors;
            sizes are none of these.
        flops (float): Of its convolutions and products.
    """

    operations: list[tuple[Any, ...]]
    flops: float


def survey(
    model: nn.Module, make: Callable[[int, int], Example], smallest: int, asked: int, also: tuple[Example, ...] = ()
) -> Probe:
    """Find the examples that stand for a network at one image size, for one image and for two.

    Args:
        model (nn.Module): The network.
        make (Callable): From image size and number of images to an example.
        smallest (int): Image size to begin with; it is doubled as often as needed.
        asked (int): Image size that was asked for.
        also (tuple[Example, ...]): Further ways of running the network, for layers that a plain pass does not reach.

    Returns:
        (Probe): Its first example is one image.

    Raises:
        ModelError: If the network does not run at the size that was asked for.
    """
    sizes = [size for i in range(16) if (size := smallest << i) < asked] + [asked]
    at, work = _first_to_run(model, make, sizes)
    large = make(asked, 1)
    lists = _Lists(model, large)
    wanted = lists.of(large)
    candidates = [make(s, 1) for s in sizes[sizes.index(at) : -1]] + [large]
    one = next(e for e in candidates if e is large or lists.of(e) == wanted)
    size = sizes[sizes.index(at) + candidates.index(one)]
    two = make(size, 2)
    alike = lists.of(two) == lists.of(one)
    return Probe(
        examples=(one, *(() if alike else (two,)), *also),
        proving=(*(() if alike else (one,)), two, *also),
        asked=(large, make(asked, 2)) if size < asked else (),
        affordable=work <= PROVED,
        frames=lists.frames(one),
    )


def survey_around(model: nn.Module, examples: tuple[Example, ...]) -> Probe:
    """The probe of a network that is run on examples as they were given, and on another number of images.

    Args:
        model (nn.Module): The network.
        examples (tuple[Example, ...]): One at least.

    Returns:
        (Probe): Another number of images is among its examples where other operations run for it.

    Raises:
        ModelError: If the network does not run on one of them.
    """
    for example in examples:
        try:
            listing(model, example, training=False)
        except Exception as e:  # whatever a network may raise
            raise ModelError(f"The model does not run on an input of shape {example.shapes}: {e}") from e
    other, lists = _other_batch(examples[0]), _Lists(model, examples[0])
    if other is not None and (ran := lists.of(other)) and ran != lists.of(examples[0]):
        examples = (*examples, other)
    return Probe(examples, examples, frames=lists.frames(examples[0]))


def _first_to_run(model: nn.Module, make: Callable[[int, int], Example], sizes: list[int]) -> tuple[int, float]:
    """The smallest size at which the network runs at all, and the FLOPs that it has at the largest."""
    for size in sizes:
        try:
            found = listing(model, make(size, 1), training=False)
        except Exception as e:  # whatever a network may raise, e.g. because the image is too small for it
            if size == sizes[-1]:
                shapes = make(size, 1).shapes
                raise ModelError(f"The model does not run on an input of shape {shapes}: {e}") from e
        else:
            return size, found.flops * (sizes[-1] / size) ** 2
    raise AssertionError("no size")


class _Lists:
    """Lists the operations of examples, without the work where the network goes on with zeros as well."""

    def __init__(self, model: nn.Module, largest: Example) -> None:
        self.model, self.hollow = model, True
        self._known: dict[Example, tuple[Any, ...]] = {}
        if not self.of(largest):
            self.hollow, self._known = False, {}

    def of(self, example: Example) -> tuple[Any, ...]:
        """Operations in evaluation and in training mode, the latter empty where it wants targets; () if it fails."""
        if example not in self._known:
            self._known[example] = self._list(example)
        return self._known[example]

    def _list(self, example: Example) -> tuple[Any, ...]:
        found = []
        for training in (False, True):
            try:
                found.append(tuple(listing(self.model, example, training=training, hollow=self.hollow).operations))
            except Exception:  # whatever a network may raise: in training mode some want targets
                found.append(())
        return tuple(found) if found[0] else ()

    def frames(self, example: Example) -> int:
        """2 if the network remembers something of its first image that makes it do something else with the second.

        A head that keeps its anchors until the image size changes does less the second time: one image tells all.
        """
        with preserved(self.model), running(self.model, training=False):
            before = state_of(self.model)
            first = _listing(self.model, example, self.hollow).operations
            if state_of(self.model) == before:
                return 1
            second = _listing(self.model, example, self.hollow).operations
        return 1 if len(second) < len(first) and set(second) <= set(first) else 2


def listing(model: nn.Module, example: Example, *, training: bool, hollow: bool = False) -> Listing:
    """List what one pass does, `hollow` without the work; raises what the network raises."""
    with preserved(model), running(model, training):
        return _listing(model, example, hollow)


def _listing(model: nn.Module, example: Example, hollow: bool = False) -> Listing:
    names = {module: name for name, module in model.named_modules()}
    with _Lister(hollow) as mode:
        hook = register_module_forward_pre_hook(lambda module, _: mode.found.operations.append((names.get(module),)))
        try:
            example(model)
        finally:
            hook.remove()
    return mode.found


class _Lister(TorchDispatchMode):
    """Lists operations; with `hollow` it does none that costs and whose result has a known shape."""

    def __init__(self, hollow: bool) -> None:
        super().__init__()
        self.hollow, self.found = hollow, Listing([], 0.0)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # or the first use of a mode imports the compiler: seconds

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = _hollow(func, args, kwargs) if self.hollow else None
        out = func(*args, **kwargs) if out is None else out
        schema = func._schema
        taken = [a for a in args if isinstance(a, Tensor)]
        if (name := LAYOUT.get(schema.name, schema.name)) is not None:
            given = zip(args, schema.arguments, strict=False)
            numbers = [a for a, of in given if isinstance(a, int | float) and str(of.type) in {"number", "float"}]
            # what is made of no tensor is as long as the image, e.g. the coordinates of a grid
            self.found.operations.append((name, schema.overload_name, *(numbers if taken else ())))
        if schema.name in CONVOLUTIONS:
            self.found.flops += 2.0 * out.numel() * args[1].shape[1:].numel()
        elif schema.name in PRODUCTS:
            self.found.flops += 2.0 * out.numel() * taken[-1].shape[-2]
        return out


CONVOLUTIONS = frozenset({"aten::convolution", "aten::_convolution"})
PRODUCTS = frozenset({"aten::mm", "aten::addmm", "aten::bmm"})
SAME_SHAPE = frozenset({"aten::_softmax", "aten::_log_softmax"})
NORMS = frozenset({"aten::native_batch_norm", "aten::cudnn_batch_norm"})


def _hollow(func: Any, args: Any, kwargs: Any) -> Any:
    """One zero in the shape that the operation's result has; None where it is better run."""
    name = func._schema.name
    if name in CONVOLUTIONS:
        return _blank(args[0], _convolved(*args))
    if name in PRODUCTS:
        a, b = args[-2:]
        if a.shape[-1] != b.shape[-2]:
            raise ValueError(f"a product of {tuple(a.shape)} and {tuple(b.shape)}")
        return _blank(a, (*a.shape[:-1], b.shape[-1]))
    if name in SAME_SHAPE:
        return _blank(args[0], args[0].shape)
    if name in NORMS:
        width = next((a.shape[0] for a in args[1:5] if isinstance(a, Tensor)), args[0].shape[1])
        if args[0].shape[1] != width:
            raise ValueError(f"a batch-norm of {width} channels is given {args[0].shape[1]}")
        return _blank(args[0], args[0].shape), args[0].new_empty(0), args[0].new_empty(0)
    if func._schema.is_mutable:  # nothing can be written into a single zero
        return args[0] if args and isinstance(args[0], Tensor) and _is_blank(args[0]) else None
    taken = [a for a in args if isinstance(a, Tensor)]
    if torch.Tag.pointwise not in func.tags or not taken or any(isinstance(a, list | tuple) for a in args):
        return None

    def corner(x: Any) -> Any:
        return x[(slice(0, 1),) * x.ndim] if isinstance(x, Tensor) and x.ndim else x

    out = func(*map(corner, args), **{k: corner(v) for k, v in kwargs.items()})
    return out.expand(torch.broadcast_shapes(*(t.shape for t in taken))) if isinstance(out, Tensor) else None


def _blank(like: Tensor, shape: Sequence[int]) -> Tensor:
    return like.new_zeros([1] * len(shape)).expand(list(shape))


def _is_blank(x: Tensor) -> bool:
    return any(n > 1 and stride == 0 for n, stride in zip(x.shape, x.stride(), strict=True))


def _convolved(
    x: Tensor,
    weight: Tensor,
    bias: Any,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    extra: Sequence[int],
    groups: int,
    *_: Any,
) -> list[int]:
    """Shape of a convolution's result; ValueError if it is given another number of channels."""
    channels = weight.shape[0] if transposed else weight.shape[1] * groups
    if x.shape[1] != channels:
        raise ValueError(f"a convolution of {channels} channels is given {x.shape[1]}")
    sides = zip(x.shape[2:], weight.shape[2:], stride, padding, dilation, extra, strict=True)
    if transposed:
        sizes = [(n - 1) * s - 2 * p + d * (k - 1) + e + 1 for n, k, s, p, d, e in sides]
        return [x.shape[0], weight.shape[1] * groups, *sizes]
    return [x.shape[0], weight.shape[0], *((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d, _ in sides)]


def _other_batch(example: Example) -> Example | None:
    """The example with twice as many images, or with one of several; None where no tensor has a first dimension."""
    counts = [t.shape[0] for t in tensors(example.inputs) if t.ndim > 1]
    if not counts:
        return None
    count = counts[0]

    def each(x: Any) -> Any:
        if not isinstance(x, Tensor) or x.ndim < 1 or x.shape[0] != count:
            return x
        return torch.cat([x, x.flip(0)]) if count == 1 else x[:1]

    return replace(example, inputs=tree_map(each, example.inputs), title="another number of images")
