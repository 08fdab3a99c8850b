"""The kind of request that each command has."""

from __future__ import annotations

from yoloprune.settings.mask_request import MaskRequest
from yoloprune.settings.request import Request
from yoloprune.settings.requests import (
    DemoRequest,
    FinetuneRequest,
    PruneRequest,
    TrainSparseRequest,
)
from yoloprune.settings.slim_request import SlimRequest
from yoloprune.settings.trial_requests import SensitivityRequest, SweepRequest
from yoloprune.settings.view_requests import (
    CompareRequest,
    CompletionRequest,
    HelpRequest,
    InfoRequest,
    LatencyRequest,
    PlotRequest,
    SchemaRequest,
    ValRequest,
    VersionRequest,
)

REQUESTS: dict[str, type[Request]] = {
    kind.command: kind
    for kind in (
        SlimRequest,
        TrainSparseRequest,
        PruneRequest,
        SweepRequest,
        SensitivityRequest,
        MaskRequest,
        FinetuneRequest,
        ValRequest,
        CompareRequest,
        PlotRequest,
        InfoRequest,
        LatencyRequest,
        DemoRequest,
        HelpRequest,
        CompletionRequest,
        SchemaRequest,
        VersionRequest,
    )
}
"""By name of the command."""
