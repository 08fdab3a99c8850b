"""The tracer: a `TorchDispatchMode` that sees each ATen operation of a forward pass and applies its rule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from yoloprune.errors import ModelError
from yoloprune.torch_internals import DispatchMode, is_out_of_memory, schema_of
from yoloprune.tracing import odd_layers
from yoloprune.tracing.attribute_widths import Attributes
from yoloprune.tracing.labels import Tag
from yoloprune.tracing.operation import COSTED, Call
from yoloprune.tracing.rule_table import rule_of
from yoloprune.tracing.rules_elementwise import restride
from yoloprune.tracing.rules_layers import batch_norm
from yoloprune.tracing.trace_state import TraceState
from yoloprune.tracing.writes import Writes, written_by


class Tracer(TraceState, DispatchMode):
    """The state of a trace that the operations of a running model bring up to date."""

    def __init__(self, model: nn.Module, frozen: Mapping[str, str], growth: list[float]) -> None:
        DispatchMode.__init__(self)
        TraceState.__init__(self, model, frozen, growth)
        self.attributes = Attributes({}, lambda module: ())
        self.writes = Writes()

    def tag(self, tensor: Tensor) -> Tag | None:
        tag = super().tag(tensor)
        return replace(tag, zero=False) if tag is not None and tag.zero and tensor in self.writes else tag

    def left(self, name: str, layer: nn.Module, args: Any, output: Any) -> None:
        super().left(name, layer, args, output)
        if isinstance(output, Tensor):
            self.writes.discard(output)
        odd_layers.hold(self, name, layer, args, output)

    def operation(self, func: Any, args: Any, kwargs: Any) -> Any:
        rule, name = rule_of(func), schema_of(func).name
        reshapes = rule is restride or torch.Tag.inplace_view in func.tags
        before = (list(args[0].shape), args[0].stride()) if reshapes else ()
        out = func(*args, **kwargs)
        self.worked += name in COSTED
        call = Call(self, func, args, kwargs, out, *before)
        tensors = call.tensors()
        self.saw(tensors)
        if rule is not batch_norm:
            self.read_bare(tensors)
        self.literals.saw(func, tensors, out)
        try:
            rule(call)
        except Exception as e:  # a rule runs operations anew, and meets forms of them that torch may add; no fallback
            if is_out_of_memory(e):
                raise
            raise ModelError(f"The trace cannot follow {call.name.removeprefix('aten::')} in {self.place}: {e}") from e
        for tensor in written_by(func, args, kwargs):
            if (known := self._tags.get(tensor)) is None or not known.zero:
                self.writes.add(tensor)
        self.hold(self.where, (args, kwargs, out))
        return out
