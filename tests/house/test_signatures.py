"""What editors see: signatures from the table of options, and every public name, though torch is imported late."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import yoloprune
from yoloprune import api
from yoloprune.settings.commands import COMMANDS

ROOT = Path(yoloprune.__file__).resolve().parents[1]
NAMES = tuple(name for name, command in COMMANDS.items() if command.options and name != "demo")

SCRIPT = """
from pathlib import Path
import yoloprune
from yoloprune import api
from ultralytics.models.yolo.model import YOLO
from yoloprune import Budget, Limits, finetune, prune

child = prune("best.pt", flops=0.5, score="taylor", native="tied", keep=["neck"], data="my.yaml", imgsz=320)
tuned: YOLO = finetune(Path("pruned.pt"), distill="parent", epochs=3)
rows = yoloprune.sweep(child, flops=(0.9, "4.2G"), within=2.0)
print(rows[0]["model"], yoloprune.Limits(round_to=4), Budget.parse("4.2G"), tuned.task)
"""
WRONG = {
    'yoloprune.prune("best.pt", score="tailor")': "arg-type",
    'yoloprune.prune("best.pt", round_to="8")': "arg-type",
    'yoloprune.train_sparse("best.pt", penalty=1)': "arg-type",
    "yoloprune.prune()": "call-arg",
    "yoloprune.prun": "attr-defined",
}


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("signatures_script", ROOT / "scripts" / "signatures.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_stub_is_what_the_table_of_options_tells() -> None:
    stub = (ROOT / "yoloprune" / "api.pyi").read_text(encoding="utf-8")
    assert stub == script().stub(), "run scripts/signatures.py"
    ast.parse(stub)


@pytest.mark.parametrize("name", NAMES)
def test_each_own_option_stands_in_the_signature_and_in_the_help(name: str) -> None:
    function = getattr(api, name.replace("-", "_"))
    found = inspect.signature(function).parameters
    first, *own, last = found.values()
    several = COMMANDS[name].option("models")
    assert first.name == ("model" if several is None else "models") and first.default is inspect.Parameter.empty
    options = [o for o in COMMANDS[name].options if o is not several]
    assert [(p.name, p.default) for p in own] == [(o.name, o.default) for o in options]
    assert last.kind is inspect.Parameter.VAR_KEYWORD
    text = " ".join(inspect.getdoc(function).split())
    for option in options:
        assert " ".join(option.meaning[1:].split()) in text


def test_all_public_names_are_seen_by_static_analyzers() -> None:
    tree = ast.parse((ROOT / "yoloprune" / "__init__.py").read_text(encoding="utf-8"))
    seen = {a.asname for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) for a in n.names if a.asname}
    assert seen == set(yoloprune.__all__) - {"__version__"}


def test_every_command_is_a_function() -> None:
    commands = [name for name, command in COMMANDS.items() if command.options and name != "demo"]
    assert {name.replace("-", "_") for name in commands} <= set(yoloprune.__all__)


@pytest.mark.long
@pytest.mark.slow
def test_a_user_script_is_checked_by_mypy(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    lines = [SCRIPT, *WRONG]
    (tmp_path / "user.py").write_text("\n".join(lines), encoding="utf-8")
    run = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "--ignore-missing-imports"]
    env = {**os.environ, "MYPYPATH": str(ROOT)}  # as where it is installed from a wheel
    cache = f"--cache-dir={tmp_path / 'cache'}"
    done = subprocess.run([*run, cache, "user.py"], capture_output=True, text=True, cwd=tmp_path, timeout=600, env=env)
    errors = [line for line in done.stdout.splitlines() if line.startswith("user.py") and ": error: " in line]
    at = SCRIPT.count("\n") + 1
    expected = [f"user.py:{at + i}" for i in range(1, 1 + len(WRONG))]
    assert [e.split(": ")[0] for e in errors] == expected, done.stdout + done.stderr
    assert all(f"[{code}]" in e for e, code in zip(errors, WRONG.values(), strict=True))
