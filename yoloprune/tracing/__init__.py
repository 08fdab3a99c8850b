"""A forward pass to a channel graph. `trace` and `match` are handed on here, and imported when they are asked for."""

from typing import Any


def __getattr__(name: str) -> Any:
    if name == "trace":
        from yoloprune.tracing.trace_network import trace as found
    elif name == "match":
        from yoloprune.tracing.trace_network import match as found
    else:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return found
