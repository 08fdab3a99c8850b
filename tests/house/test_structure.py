"""The house: imports run downward through the levels of packages, deciding never sees a module, files stay short."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from yoloprune.settings.commands import COMMANDS

PACKAGE = Path(__file__).resolve().parents[2] / "yoloprune"

GROUND = {"errors", "files", "csv_rows", "shell_words", "torch_internals"}
ALLOWED: dict[str, set[str]] = {
    "probing": set(),
    "settings": set(),
    "planning": {"settings"},
    "tracing": {"planning", "probing"},
    "cutting": {"planning", "probing"},
    "repair": {"planning", "probing"},
    "importance": {"planning", "probing"},
    "reporting": {"planning"},
    "backend": {"settings", "planning", "tracing", "cutting", "probing"},
    "runtimes": {"backend", "probing"},
    "native": {"settings", "planning", "cutting", "backend", "probing"},
    "selection": {
        "settings",
        "planning",
        "cutting",
        "repair",
        "importance",
        "backend",
        "runtimes",
        "native",
        "probing",
    },
    "sparse": {"settings", "planning", "importance", "backend", "native", "probing"},
    "checkpoint": {"planning", "cutting", "backend", "native", "probing"},
}
ALLOWED["commands"] = set(ALLOWED)
"""By package, which others it may import besides the ground; faces may import all."""

ABOVE = {"api", "cli", "completion", "help_text", "__main__", "trainers", "former_places", "__init__"}

MODULES = sorted(
    ".".join(p.relative_to(PACKAGE).with_suffix("").parts) for p in PACKAGE.rglob("*.py") if p.name != "__init__.py"
)


class Imports(ast.NodeVisitor):
    """Full names of everything imported, late imports and those for type checkers included."""

    def __init__(self, source: str) -> None:
        self.found: list[str] = []
        self.visit(ast.parse(source))

    def visit_Import(self, node: ast.Import) -> None:
        self.found += [alias.name for alias in node.names]

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        assert not node.level, "imports are absolute"
        self.found += [f"{node.module}.{alias.name}" for alias in node.names]

    def visit_Call(self, node: ast.Call) -> None:
        if ast.unparse(node.func).endswith("import_module") and node.args and isinstance(node.args[0], ast.Constant):
            self.found.append(str(node.args[0].value))
        self.generic_visit(node)


def imports(module: str) -> list[str]:
    return Imports((PACKAGE / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")).found


def own(names: list[str]) -> set[str]:
    """Modules of this package among imported names, the dotted names below it."""
    found = set()
    for name in names:
        inner = name.removeprefix("yoloprune.").split(".") if name.startswith("yoloprune.") else []
        found |= {".".join(inner[:n]) for n in range(1, len(inner) + 1)} & set(MODULES)
    return found


def foreign(names: list[str]) -> set[str]:
    """Top-level names of other packages."""
    return {n.split(".")[0] for n in names} - {"yoloprune"}


def room(module: str) -> str:
    """The package of a module, or itself where it lies on the ground or is a face."""
    return module.partition(".")[0]


def test_the_reader_of_imports() -> None:
    source = """
import torch.nn, yoloprune.planning.cost
from typing import TYPE_CHECKING
from yoloprune.backend import datasets
from yoloprune import api
if TYPE_CHECKING:
    from yoloprune.cli import main
def late():
    from yoloprune.planning.plan import Plan
    import_module("yoloprune.sparse.callback")
"""
    found = Imports(source).found
    assert own(found) == {"planning.cost", "backend.datasets", "api", "cli", "planning.plan", "sparse.callback"}
    assert foreign(found) == {"torch", "typing"}


def test_every_module_has_its_room() -> None:
    assert {room(m) for m in MODULES} <= {*GROUND, *ALLOWED, *ABOVE}


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_downward(module: str) -> None:
    here = room(module)
    if here in ABOVE:
        return
    may = {*GROUND, here, *ALLOWED.get(here, set())} if here not in GROUND else GROUND
    upward = {m for m in own(imports(module)) if room(m) not in may}
    assert not upward, f"{module} imports {sorted(upward)}, which it may not see"


@pytest.mark.slow
def test_levels_have_no_circle() -> None:
    """The table itself runs downward, and so do the imports inside each package."""
    assert all(name in list(ALLOWED)[: list(ALLOWED).index(here)] for here in ALLOWED for name in ALLOWED[here])
    below = {m: own(imports(m)) - {m} for m in MODULES}
    left = set(MODULES)
    while ready := {m for m in left if not below[m] & left}:
        left -= ready
    assert not left, f"a circle of imports: {sorted(left)}"


@pytest.mark.parametrize("module", [m for m in MODULES if room(m) in {"settings", "planning", "errors", "files"}])
def test_deciding_needs_no_torch(module: str) -> None:
    allowed = {*sys.stdlib_module_names, "yaml"} | ({"numpy"} if room(module) == "planning" else set())
    assert foreign(imports(module)) <= allowed


@pytest.mark.parametrize("module", MODULES)
def test_ultralytics_stays_at_the_edge(module: str) -> None:
    below = set(ALLOWED).difference(list(ALLOWED)[list(ALLOWED).index("backend") :])
    assert room(module) not in below or "ultralytics" not in foreign(imports(module))


PUBLIC = {"ultralytics", "ultralytics.YOLO", "ultralytics.RTDETR", "ultralytics.__version__"}
TRAINERS = {"ultralytics.models.yolo", "ultralytics.models.rtdetr.train", "ultralytics.engine.trainer.BaseTrainer"}
"""Trainers are public as well: our own derive from them, and annotations name their base."""


def of_ultralytics(source: str) -> set[str]:
    """Names of Ultralytics that a module imports, or reads from the package."""
    tree = ast.parse(source)
    read = {ast.unparse(n) for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
    return {n for n in {*Imports(source).found, *read} if n.split(".")[0] == "ultralytics" and "(" not in n}


@pytest.mark.parametrize("module", MODULES)
def test_names_of_ultralytics_that_are_not_public_are_looked_up_in_one_file(module: str) -> None:
    source = (PACKAGE / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")
    allowed = PUBLIC | (TRAINERS if room(module) in {"checkpoint", "sparse"} else set())
    assert of_ultralytics(source) <= allowed
    assert module == "backend.compat" or 'import_module(f"ultralytics' not in source


def test_the_reader_of_names_of_ultralytics() -> None:
    source = "import ultralytics\nfrom ultralytics.nn import tasks\nultralytics.utils.LOGGER, other.ultralytics.x"
    found = {"ultralytics", "ultralytics.nn.tasks", "ultralytics.utils", "ultralytics.utils.LOGGER"}
    assert of_ultralytics(source) == found


def hidden(source: str) -> list[str]:
    """Names with a leading underscore that a module takes from elsewhere: imported, read from an object, handed on.

    What a module reads from `self`, or defines itself, is its own.
    """

    def under(name: str | None) -> bool:
        return bool(name) and name.startswith("_") and not name.startswith("__") and name != "_"

    tree, found = ast.parse(source), []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            found += [n for n in (*node.module.split("."), *(a.name for a in node.names)) if under(n)]
        elif isinstance(node, ast.Import):
            found += [n for a in node.names for n in a.name.split(".")[1:] if under(n)]
        elif isinstance(node, ast.Attribute) and under(node.attr) and ast.unparse(node.value) not in {"self", "cls"}:
            found.append(node.attr)
        elif isinstance(node, ast.keyword) and under(node.arg):
            found.append(str(node.arg))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and under(node.value):
            found += [node.value] if hasattr(torch.nn.Module(), node.value) or hasattr(torch.Tensor, node.value) else []
        elif isinstance(node, ast.FunctionDef) and under(node.name) and hasattr(TorchDispatchMode, node.name):
            found.append(node.name)
    defined = {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    return [name for name in found if name not in defined or hasattr(TorchDispatchMode, name)]


def test_the_reader_of_hidden_names() -> None:
    source = """
from torch.nn.modules.conv import _ConvNd
import torch.utils._pytree
class Mode:
    @classmethod
    def _should_skip_dynamo(cls): return self._own
    def _own(self): other._own(func._schema, _modules={})
vars(module).get("_buffers"), vars(module).get("_mine")
"""
    assert sorted(hidden(source)) == ["_ConvNd", "_buffers", "_modules", "_pytree", "_schema", "_should_skip_dynamo"]


@pytest.mark.parametrize("module", [m for m in MODULES if m != "torch_internals"])
def test_torch_internals_stay_in_one_file(module: str) -> None:
    assert not hidden((PACKAGE / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8"))


@pytest.mark.parametrize("module", MODULES)
def test_files_stay_short_and_say_what_they_are_for(module: str) -> None:
    source = (PACKAGE / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")
    assert len(source.splitlines()) <= 250
    assert ast.get_docstring(ast.parse(source))


WORDS = {*COMMANDS, "yoloprune", "chunk", "in_channels"}
"""Commands, and words of torch that no file here reads; all others between backticks are names of this program."""


def unheard(module: str, source: str) -> set[str]:
    """Words between backticks in the first docstring that are no module, here or beside this one, nor a name in one."""
    tree = ast.parse(source)
    keys = ("id", "attr", "arg", "name")
    known = WORDS | {str(getattr(node, key)) for node in ast.walk(tree) for key in keys if hasattr(node, key)}
    words = re.findall(r"`([a-z_]{2,}(?:\.[a-z_]+)*)`", ast.get_docstring(tree) or "")
    places = {word: {word, word.rpartition(".")[0]} for word in words}
    return {
        word
        for word, at in places.items()
        if not (at | {f"{room(module)}.{place}" for place in at}) & {*MODULES} and word.split(".")[0] not in known
    }


def test_the_reader_of_words() -> None:
    said = "With `callback`, `backend.compat`, `api.pyi`, `run`, `self.own`, `prune`; see `sparsity` and `no.such`."
    assert unheard("sparse.sparse_run", f'"""{said}"""\ndef run(self): ...') == {"sparsity", "no.such"}


@pytest.mark.parametrize("module", MODULES)
def test_modules_that_are_named_exist(module: str) -> None:
    assert not unheard(module, (PACKAGE / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8"))
