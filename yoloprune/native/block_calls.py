"""What a block does when it runs: which of its child modules it calls on what, and what happens in between."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from yoloprune.probing.forward import hooked, running
from yoloprune.probing.held_state import preserved
from yoloprune.torch_internals import DispatchMode, filled, is_out_of_memory, schema_of

SIDE = 4
"""Pixels of the image that a block is watched on."""

SPLITS = frozenset({"aten::split", "aten::split_with_sizes"})


@dataclass(frozen=True)
class Step:
    """One thing that a block's own code does.

    Attributes:
        kind (str): "call" of a child module that does something, "split" of channels, or "concat" of channels.
        child (str): Name of the child, empty if there is none.
        takes (tuple[int, ...]): Values that go in, by number; 0 is the block's input.
        gives (tuple[int, ...]): Values that come out.
    """

    kind: str
    child: str
    takes: tuple[int, ...]
    gives: tuple[int, ...]


@dataclass(frozen=True)
class Calls:
    """All that a block's own code does, in order.

    Attributes:
        steps (tuple[Step, ...]): The steps.
        widths (tuple[int, ...]): Channels of every value.
        result (int): Number of the value that comes out of the block.
    """

    steps: tuple[Step, ...]
    widths: tuple[int, ...]
    result: int


def watch(block: nn.Module, width: int) -> Calls | None:
    """Run a block once and list what its own code does.

    Args:
        block (nn.Module): Of any device; its numbers do not matter, and a copy without them will do.
        width (int): Channels of its input.

    Returns:
        (Calls | None): None if it does anything else than to call children on one tensor and nothing more, to split the
            channels that these make, and to join channels; if it takes or gives several tensors; or does not run on a
            small image.
    """
    block = filled(block)
    image = torch.zeros(1, width, SIDE, SIDE)
    with preserved(block), running(block, training=False), hooked() as hooks, _Watcher(image) as watcher:
        for name, module in block.named_modules():
            if name:
                hooks.append(module.register_forward_pre_hook(watcher.enter))
                hooks.append(module.register_forward_hook(watcher.leaving(name), with_kwargs=True))
        try:
            result = block(image)
        except Exception as e:  # of a constructor's choice of sizes, or a forward pass that wants more than an image
            if is_out_of_memory(e):
                raise
            return None
    number = watcher.number(result) if isinstance(result, Tensor) else None
    if watcher.lost or number is None:
        return None
    return Calls(tuple(watcher.steps), tuple(v.shape[1] for v in watcher.values), number)


class _Watcher(DispatchMode):
    """Numbers the tensors that a block's own code sees, and notes what it does with them."""

    def __init__(self, image: Tensor) -> None:
        super().__init__()
        self.values: list[Tensor] = [image]  # held, so that no other tensor gets the identity of one of them
        self.steps: list[Step] = []
        self.lost = False
        self._depth = 0
        self._worked, self._before = 0, 0  # operations so far, and when the running child began

    def number(self, value: Any) -> int | None:
        """Number of a tensor that was seen before."""
        return next((i for i, v in enumerate(self.values) if v is value), None)

    def enter(self, module: nn.Module, args: Any) -> None:
        """Hook before a child."""
        self._before = self._before if self._depth else self._worked
        self._depth += 1

    def leaving(self, name: str) -> Any:
        """Hook after a child of this name."""

        def leave(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            self._depth -= 1
            if self._depth:
                return
            alone = len(args) == 1 and not kwargs  # all that a row can give to a layer
            if not alone:
                self.lost = True
            elif self._worked != self._before or output is not args[0]:  # `nn.Identity` hands on what it is given
                self._note("call", name, args, [output])

        return leave

    def _note(self, kind: str, child: str, takes: Sequence[Any], gives: Sequence[Any]) -> None:
        known = [number for x in takes if (number := self.number(x)) is not None]
        if len(known) < len(takes) or not all(isinstance(x, Tensor) and x.ndim == 4 for x in gives):
            self.lost = True
            return
        first = len(self.values)
        self.values += gives
        self.steps.append(Step(kind, child, tuple(known), tuple(range(first, len(self.values)))))

    def _is_made(self, value: Tensor) -> bool:
        """Whether a child makes a tensor: that can be made piece by piece, no other one can be split by rows."""
        return any(step.kind == "call" and self.number(value) in step.gives for step in self.steps)

    def operation(self, func: Any, args: Any, kwargs: Any) -> Any:
        out = func(*args, **kwargs)
        self._worked += 1
        if self._depth:
            return out
        name = schema_of(func).name
        dim = args[-1] if len(args) > (2 if name in SPLITS else 1) else kwargs.get("dim", 0)
        if name in SPLITS and dim in {1, -3} and self._is_made(args[0]):
            self._note("split", "", [args[0]], list(out))
        elif name == "aten::cat" and dim in {1, -3}:
            self._note("concat", "", args[0], [out])
        else:
            self.lost = True
        return out


@contextmanager
def constructors() -> Iterator[dict[nn.Module, dict[str, Any]]]:
    """While active, what every module is constructed with is noted, by the names of its constructor's parameters."""
    told: dict[nn.Module, dict[str, Any]] = {}
    whole = nn.Module.__init__

    def noting(self: nn.Module, *args: Any, **kwargs: Any) -> None:
        frame, outermost = inspect.currentframe(), None
        frame = frame.f_back if frame is not None else None
        while frame is not None and frame.f_code.co_name == "__init__" and frame.f_code.co_argcount:
            if frame.f_locals.get(frame.f_code.co_varnames[0]) is not self:
                break
            frame, outermost = frame.f_back, frame
        whole(self, *args, **kwargs)
        if outermost is not None:
            code = outermost.f_code
            names = code.co_varnames[1 : code.co_argcount + code.co_kwonlyargcount]
            told[self] = {name: outermost.f_locals[name] for name in names}

    nn.Module.__init__ = noting  # type: ignore[method-assign]
    try:
        yield told
    finally:
        nn.Module.__init__ = whole  # type: ignore[method-assign]
