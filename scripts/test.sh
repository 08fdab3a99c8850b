#!/usr/bin/env bash
# Install what is needed into .venv (once) and run the tests. Arguments go to pytest: bash scripts/test.sh -k budget
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh
# One torch thread per worker: two workers on two cores do not fight over them.
export OMP_NUM_THREADS=1 YOLO_OFFLINE=true
python -m ruff check .
python -m ruff format --check .
python -m mypy
python -m pytest -n "${WORKERS:-2}" --dist worksteal "$@"
if [ $# -eq 0 ] && python -m mkdocs --version > /dev/null 2>&1; then
  NO_MKDOCS_2_WARNING=1 python -m mkdocs build --strict --quiet --site-dir "$(mktemp -d)"
fi
[ $# -gt 0 ] || bash scripts/wheel.sh # with all tests the package as well
