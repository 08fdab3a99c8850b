"""The wheel: all modules of the source tree, those of packages within the package too, and nothing else."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
from checkpoints import run_python

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
INNER = "yoloprune/rooms/inner"  # a package within a package, which the copy that is built has besides


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of the sources: building leaves folders behind."""
    pytest.importorskip("pip")
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    shutil.copytree(ROOT / "yoloprune", source / "yoloprune", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("tests", "scripts", "docs", "configs"):  # which a search for packages could take for some
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "golden"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    (source / INNER).mkdir(parents=True)
    for place in (source / INNER, (source / INNER).parent):
        (place / "__init__.py").touch()
    (source / INNER / "module.py").write_text("ANSWER = 42\n")
    isolation = [] if not _has_setuptools() else ["--no-build-isolation"]  # an isolated build fetches one
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--disable-pip-version-check"]
    command += isolation
    done = subprocess.run([*command, "--wheel-dir", str(folder), str(source)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return next(folder.glob("*.whl"))


def _has_setuptools() -> bool:
    try:
        return int(version("setuptools").partition(".")[0]) >= 77  # as pyproject.toml asks for
    except PackageNotFoundError:
        return False


def test_all_modules_are_in_it_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {n for n in archive.namelist() if ".dist-info/" not in n}
    modules = {str(f.relative_to(ROOT)) for f in (ROOT / "yoloprune").rglob("*.py")}
    modules |= {"yoloprune/py.typed", "yoloprune/api.pyi"}
    modules |= {"yoloprune/reporting/page.css", "yoloprune/reporting/page.js"}
    assert len(modules) > 50
    assert names == modules | {f"{INNER}/__init__.py", f"{INNER}/module.py", "yoloprune/rooms/__init__.py"}


def test_it_can_be_imported_from(wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    script = "import yoloprune.api, yoloprune.rooms.inner.module as m; print(yoloprune.__file__, m.ANSWER)"
    assert run_python(script, PYTHONPATH=str(wheel)).split()[-2:] == [str(wheel / "yoloprune" / "__init__.py"), "42"]
