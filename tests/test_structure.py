"""The house: imports run downward only, deciding never sees a module, cutting never sees a score, files stay short.

An import inside a function or for types alone counts as any other: what it names must lie below.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "yoloprune"
ORDER = (
    "errors",
    "files",
    "outputs",
    "descent",
    "loose_ends",
    "kernel_sums",
    "unreached",
    "watching",
    "examples",
    "operations",
    "survey",
    "lively",
    "values",
    "options",
    "limits",
    "sparse_config",
    "config",
    "plans",
    "groups",
    "overview",
    "report",
    "disjoint_sets",
    "labels",
    "cost",
    "budget",
    "sealing",
    "trace_state",
    "call",
    "elementwise",
    "movement",
    "layers",
    "rules",
    "grouping",
    "waiting",
    "growth",
    "sizes",
    "tracer",
    "tracing",
    "surgery",
    "masked_parent",
    "equivalence",
    "pair",
    "verify",
    "silence",
    "proof",
    "recover",
    "heads",
    "filters",
    "scoring",
    "host",
    "evaluation",
    "runs",
    "builder",
    "rows",
    "dials",
    "native",
    "channels",
    "datasets",
    "calibration",
    "refit",
    "scales",
    "progress",
    "fading",
    "sparsity",
    "trainers",
    "provenance",
    "loading",
    "handoff",
    "timing",
    "shapes",
    "any_network",
    "cutting",
    "cut_and_repair",
    "choosing",
    "sweeping",
    "api",
    "demo",
    "cli",
    "__main__",
)
"""Every module, lowest first: it may import those before it."""

TRACE = (
    "labels",
    "trace_state",
    "call",
    "elementwise",
    "movement",
    "layers",
    "rules",
    "grouping",
    "growth",
    "sizes",
    "tracer",
    "tracing",
)
"""The modules that find out what belongs together."""

LONG = {"api", "config", "host", "options", "trainers"}
"""Longer than the house wants them; none is to be added."""

MODULES = sorted(p.stem for p in PACKAGE.glob("*.py") if p.stem != "__init__")


class Imports(ast.NodeVisitor):
    """Full names of everything imported, those inside functions and those for type checkers alone included."""

    def __init__(self, source: str) -> None:
        self.found: list[str] = []
        self.visit(ast.parse(source))

    def visit_Import(self, node: ast.Import) -> None:
        self.found += [alias.name for alias in node.names]

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        base = ".".join(filter(None, ["yoloprune" if node.level else "", node.module or ""]))
        self.found += [f"{base}.{alias.name}" for alias in node.names]

    def visit_Call(self, node: ast.Call) -> None:
        if ast.unparse(node.func).endswith("import_module") and node.args and isinstance(node.args[0], ast.Constant):
            self.found.append(str(node.args[0].value))
        self.generic_visit(node)


def imports(module: str) -> list[str]:
    return Imports((PACKAGE / f"{module}.py").read_text(encoding="utf-8")).found


def own(names: list[str]) -> set[str]:
    """Modules of this package among imported names."""
    return {n.split(".")[1] for n in names if n.startswith("yoloprune.")} & {*MODULES, *ORDER}


def foreign(names: list[str]) -> set[str]:
    """Top-level names of other packages."""
    return {n.split(".")[0] for n in names} - {"yoloprune"}


def test_the_reader_of_imports() -> None:
    source = """
import torch.nn, yoloprune.cost
from typing import TYPE_CHECKING
from . import host
from .rules import Call
from yoloprune import api, tracing
if TYPE_CHECKING:
    from yoloprune.cli import main
else:
    from yoloprune.demo import run
def late():
    from yoloprune.report import page
    import_module("yoloprune.sparsity")
"""
    found = Imports(source).found
    assert own(found) == {"cost", "host", "rules", "api", "tracing", "cli", "demo", "report", "sparsity"}
    assert foreign(found) == {"torch", "typing"}


def test_every_module_has_its_place() -> None:
    assert set(MODULES) <= set(ORDER)


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_downward(module: str) -> None:
    below = set(ORDER[: ORDER.index(module)])
    upward = own(imports(module)) - below
    assert not upward, f"{module} imports {sorted(upward)}, which {'is' if len(upward) == 1 else 'are'} not below it"


@pytest.mark.parametrize(
    "module",
    [
        "errors",
        "files",
        "values",
        "options",
        "limits",
        "sparse_config",
        "config",
        "plans",
        "groups",
        "overview",
        "report",
        "disjoint_sets",
        "cost",
        "budget",
    ],
)
def test_deciding_needs_no_torch(module: str) -> None:
    """What torch-free modules import is torch-free as well."""
    seen, todo = set(), {module}
    while todo:
        name = todo.pop()
        seen.add(name)
        assert not foreign(imports(name)) & {"torch", "ultralytics"}, name
        todo |= own(imports(name)) - seen


def test_deciding_and_cutting_do_not_know_each_other() -> None:
    assert not own(imports("budget")) & {*TRACE, "surgery", "scoring", "host"}
    assert not own(imports("surgery")) & {"scoring", "budget", "cost"}
    assert not own(imports("verify")) & {*TRACE, "surgery", "budget", "scoring"}
    assert not own(imports("cost")) & {*TRACE, "surgery"}
    assert not own(imports("trainers")) & {"sparsity", "fading", "scales", "progress", "sparse_config"}


@pytest.mark.parametrize("module", [*TRACE, "surgery", "scoring", "verify", "cost"])
def test_the_core_needs_no_ultralytics(module: str) -> None:
    assert "ultralytics" not in foreign(imports(module))


@pytest.mark.parametrize("module", [*MODULES, "__init__"])
def test_files_stay_short_and_say_what_they_are_for(module: str) -> None:
    source = (PACKAGE / f"{module}.py").read_text(encoding="utf-8")
    assert len(source.splitlines()) <= (430 if module in LONG else 250)
    assert ast.get_docstring(ast.parse(source))
