"""The kind of request that each command has."""

from __future__ import annotations

from yoloprune.settings.requests import (
    CompletionRequest,
    DemoRequest,
    FinetuneRequest,
    HelpRequest,
    InfoRequest,
    PruneRequest,
    Request,
    SweepRequest,
    TrainSparseRequest,
    ValRequest,
    VersionRequest,
)
from yoloprune.settings.slim_request import SlimRequest

REQUESTS: dict[str, type[Request]] = {
    kind.command: kind
    for kind in (
        SlimRequest,
        TrainSparseRequest,
        PruneRequest,
        SweepRequest,
        FinetuneRequest,
        ValRequest,
        InfoRequest,
        DemoRequest,
        HelpRequest,
        CompletionRequest,
        VersionRequest,
    )
}
"""By name of the command."""
