"""Where the modules of 0.1.0 went, found under their old names as well; kept for one release."""

from __future__ import annotations

import warnings
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from types import ModuleType
from typing import Any

MOVED = {
    "backend": {
        "builder": "model_builder",
        "calibration": "calibration_images",
        "datasets": "datasets",
        "host": "yolo_tracing",
        "progress": "training_ramp",
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
    "sparse": {"fading": "sparse_run", "scales": "batch_norm_scales", "sparsity": "callback"},
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


def place_of(name: str) -> str | None:
    """Dotted name of the module that a name of 0.1.0 stands for, None for any other name."""
    return next((f"yoloprune.{package}.{old[name]}" for package, old in MOVED.items() if name in old), None)


def find(name: str) -> ModuleType | None:
    """The module that a name of 0.1.0 stands for, with a DeprecationWarning; None for any other name."""
    place = place_of(name)
    if place is None:
        return None
    warnings.warn(f"yoloprune.{name} is {place} now", DeprecationWarning, stacklevel=3)
    return import_module(place)


class FormerPlaces(MetaPathFinder, Loader):
    """Lets `import yoloprune.<old name>` find the new module; asked after all other finders."""

    def __init__(self) -> None:
        self._specs: dict[str, ModuleSpec | None] = {}

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        """See `importlib.abc.MetaPathFinder`."""
        package, _, name = fullname.rpartition(".")
        return spec_from_loader(fullname, self) if package == "yoloprune" and place_of(name) else None

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """The module in its new place, under the old name as well."""
        module = find(spec.name.rpartition(".")[2])
        self._specs[spec.name] = getattr(module, "__spec__", None)
        return module

    def exec_module(self, module: ModuleType) -> None:
        """It was executed in its new place, whose specification it keeps."""
        spec = self._specs.pop(module.__spec__.name, None) if module.__spec__ else None
        if spec is not None:
            module.__spec__ = spec
