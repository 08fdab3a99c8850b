"""Where the modules of 0.1.0 went, for `from yoloprune import <old name>`; kept for one release."""

from __future__ import annotations

import warnings
from importlib import import_module
from types import ModuleType

MOVED = {
    "backend": {
        "builder": "model_builder",
        "calibration": "calibration_images",
        "datasets": "datasets",
        "host": "yolo_tracing",
        "runs": "run_folders",
        "sealing": "yaml_markers",
        "waiting": "progress_bar",
    },
    "checkpoint": {"handoff": "saving", "loading": "loading", "provenance": "provenance"},
    "commands": {"any_network": "prune_module", "demo": "demo", "shapes": "demo_images", "sweeping": "sweep"},
    "cutting": {"proof": "proof", "surgery": "surgery", "verify": "comparison"},
    "importance": {"filters": "weight_criteria", "scoring": "criteria"},
    "native": {
        "channels": "candidates",
        "dials": "width_arguments",
        "heads": "attention_heads",
        "rows": "yaml_rows",
    },
    "planning": {"budget": "greedy_selection", "cost": "cost", "groups": "channel_graph", "plans": "plan"},
    "probing": {"watching": "forward"},
    "repair": {"recover": "constant_folding", "refit": "least_squares"},
    "reporting": {"overview": "layer_table", "report": "run_report"},
    "selection": {"choosing": "decision", "timing": "latency_search"},
    "settings": {
        "config": "checking",
        "limits": "budget",
        "options": "commands",
        "values": "value_kinds",
    },
    "sparse": {"fading": "sparse_run", "progress": "schedule", "scales": "batch_norm_scales", "sparsity": "callback"},
    "tracing": {
        "call": "operation",
        "elementwise": "rules_elementwise",
        "grouping": "graph_builder",
        "growth": "flop_scaling",
        "labels": "labels",
        "layers": "rules_layers",
        "movement": "rules_shape",
        "rules": "rule_table",
        "sizes": "symbolic_sizes",
        "tracer": "tracer",
    },
}
"""By package, from the old name to the new one; names that are packages now, or still lie there, are left out."""


def find(name: str) -> ModuleType | None:
    """The module that a name of 0.1.0 stands for, with a DeprecationWarning; None for any other name."""
    place = next((f"yoloprune.{package}.{old[name]}" for package, old in MOVED.items() if name in old), None)
    if place is None:
        return None
    warnings.warn(f"yoloprune.{name} is {place} now", DeprecationWarning, stacklevel=3)
    return import_module(place)
