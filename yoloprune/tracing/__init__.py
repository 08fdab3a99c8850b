"""A forward pass to a channel graph. `trace` and `match` are handed on here, and imported when they are asked for."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from yoloprune.tracing.named_layers import match as match
    from yoloprune.tracing.trace_network import trace as trace


def __getattr__(name: str) -> Any:
    if name in {"match", "trace"}:
        from yoloprune.tracing import named_layers, trace_network

        return getattr(trace_network if name == "trace" else named_layers, name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
