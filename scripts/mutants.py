"""Make small faults in the code, one at a time, and list those that no test notices (cosmic-ray, a dev extra).

    python scripts/mutants.py --count 150 --seed 0            # a sample of planning, tracing and cutting
    python scripts/mutants.py --count 20 --packages planning

The tests run on a copy of the repository, for each package those of its folder. What survives is printed with its line,
to be read: a test is missing, or the fault changes nothing that anybody could see.
"""

from __future__ import annotations

import argparse
import ast
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from cosmic_ray.work_db import WorkDB, use_db
from cosmic_ray.work_item import TestOutcome, WorkerOutcome, WorkItem, WorkResult

ROOT = Path(__file__).resolve().parents[1]
LEFT_OUT = shutil.ignore_patterns(".git", ".venv", "*.egg-info", "__pycache__", "runs", ".*_cache")
TESTS = {  # folders of tests by package; the first that fails ends the run
    "planning": "tests/planning",
    "tracing": "tests/tracing tests/cutting/test_exact.py",
    "cutting": "tests/cutting tests/tracing/test_odd_networks.py",
}
CONFIG = """
[cosmic-ray]
module-path = "yoloprune/{package}"
timeout = 600.0
excluded-modules = []
test-command = "{python} -m pytest -x -q -p no:cacheprovider -m 'not slow' {tests}"

[cosmic-ray.distributor]
name = "local"
"""


def main() -> None:
    """Sample, run, and tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=150, help="mutants in all, shared out evenly")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--packages", nargs="+", default=list(TESTS), choices=list(TESTS))
    arguments = parser.parse_args()
    start, outcomes = time.time(), Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        shutil.copytree(ROOT, tree, ignore=LEFT_OUT)
        for package in arguments.packages:
            config, session = tree / f"{package}.toml", tree / f"{package}.sqlite"
            config.write_text(CONFIG.format(package=package, python=sys.executable, tests=TESTS[package]))
            _cosmic_ray(tree, "init", str(config), str(session))
            with use_db(session, WorkDB.Mode.open) as work:
                _sample(work, tree, arguments.count // len(arguments.packages), arguments.seed)
            _cosmic_ray(tree, "exec", str(config), str(session))
            with use_db(session, WorkDB.Mode.open) as work:
                outcomes += _told(work, tree, package)
    print(f"{dict(outcomes)} in {(time.time() - start) / 60:.0f} min")


def _cosmic_ray(tree: Path, *words: str) -> None:
    environment = {
        "PYTHONPATH": str(tree),
        "OMP_NUM_THREADS": "1",
        "YOLO_OFFLINE": "true",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = [str(Path(sys.executable).with_name("cosmic-ray")), *words]
    subprocess.run(["env", *(f"{k}={v}" for k, v in environment.items()), *command], cwd=tree, check=True)


def _sample(work: WorkDB, tree: Path, count: int, seed: int) -> None:
    """Mark all but a sample as skipped; what stands in an annotation is never evaluated, and never sampled."""
    items = list(work.work_items)
    lines = {path: _annotations(tree / path) for path in {str(item.mutations[0].module_path) for item in items}}
    able = [item for item in items if not _within(item, lines[str(item.mutations[0].module_path)])]
    able.sort(
        key=lambda item: (
            str(item.mutations[0].module_path),
            item.mutations[0].start_pos,
            item.mutations[0].operator_name,
        )
    )
    chosen = {item.job_id for item in random.Random(seed).sample(able, min(count, len(able)))}
    for item in items:
        if item.job_id not in chosen:
            work.set_result(item.job_id, WorkResult(WorkerOutcome.SKIPPED))


def _place(item: WorkItem) -> tuple[str, tuple[int, int], str]:
    """The same order in every run; identities of jobs are drawn anew."""
    mutation = item.mutations[0]
    return str(mutation.module_path), mutation.start_pos, f"{mutation.operator_name} {mutation.occurrence}"


def _annotations(file: Path) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Where the annotations of a file begin and end: (line, column) pairs."""
    found: list[ast.expr | None] = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.append(node.returns)
        elif isinstance(node, ast.arg | ast.AnnAssign):
            found.append(node.annotation)
    return [((n.lineno, n.col_offset), (n.end_lineno or 0, n.end_col_offset or 0)) for n in found if n is not None]


def _within(item: WorkItem, spans: list[tuple[tuple[int, int], tuple[int, int]]]) -> bool:
    at = item.mutations[0].start_pos
    return any(first <= at <= last for first, last in spans)


def _told(work: WorkDB, tree: Path, package: str) -> Counter[str]:
    """Print what survived, and count outcomes."""
    outcomes = Counter[str]()
    found = {item.job_id: item for item in work.work_items}
    for job, result in work.results:
        if result.worker_outcome is WorkerOutcome.SKIPPED:
            continue
        outcomes[f"{package} {result.test_outcome.value if result.test_outcome else result.worker_outcome.value}"] += 1
        if result.test_outcome is TestOutcome.SURVIVED:
            mutation = found[job].mutations[0]
            line = (tree / mutation.module_path).read_text(encoding="utf-8").splitlines()[mutation.start_pos[0] - 1]
            where = f"{mutation.module_path}:{mutation.start_pos[0]}"
            print(f"survived: {where} {mutation.operator_name}\n    {line.strip()}")
    return outcomes


if __name__ == "__main__":
    main()
