"""Scripts that nobody runs for weeks: each still starts, and what copies a trainer's loop still goes through it."""

from __future__ import annotations

import importlib
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from page_runner import ROOT

pytestmark = pytest.mark.slow

SCRIPTS = [p for p in sorted((ROOT / "scripts").glob("*.py")) if 'if __name__ == "__main__":' in p.read_text("utf-8")]
NEEDS = {"mutants": "cosmic_ray", "mask_times": "openvino"}


def run(script: Path, *words: str) -> str:
    told = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, str(script), *words], env=told, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.stem)
def test_what_it_imports_is_there(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if script.stem in NEEDS:
        pytest.importorskip(NEEDS[script.stem])
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    assert callable(runpy.run_path(str(script), run_name="looked_at")["main"])


@pytest.mark.long
def test_steps_with_and_without_sparsity_are_timed() -> None:
    said = run(ROOT / "scripts" / "step_time.py", "--imgsz", "32", "--batch", "2", "--steps", "6", "--amp")
    assert "ratio, ramp: " in said


def test_an_arm_that_names_a_side_is_measured_at_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    arms, stages = importlib.import_module("arms"), importlib.import_module("arm_stages")
    named = {
        (table, arm): int(told[1])
        for table, chains in arms.TABLES.items()
        for arm in chains
        if (told := re.search(r"\bat (\d{3})\b", arm))
    }
    assert len(named) > 10
    for (table, arm), side in named.items():
        assert stages.side_of(arms.TABLES[table][arm], 320) == side, arm
