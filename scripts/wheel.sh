#!/usr/bin/env bash
# Build wheel and sdist, check them, install the wheel into an empty environment and use it from outside the repository.
set -euo pipefail
cd "$(dirname "$0")/.."
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python -m build --outdir "$work/dist" . >"$work/build.log" 2>&1 || { tail -20 "$work/build.log"; exit 1; }
python -m twine check --strict "$work"/dist/*
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check "$work"/dist/*.whl
cd "$work"
export YOLO_OFFLINE=true
"$work/venv/bin/yoloprune" help >/dev/null
"$work/venv/bin/python" - <<'PY'
from ultralytics import YOLO

import yoloprune

graph = yoloprune.trace("yolov8n.yaml", imgsz=64)
pruned = yoloprune.prune("yolov8n.yaml", flops=0.7, imgsz=64, data=False)
assert type(pruned.model).__module__.startswith("ultralytics."), type(pruned.model)
assert YOLO(pruned.ckpt_path).model.yaml, graph
PY
"$work/venv/bin/yoloprune" demo epochs=1 project="$work/demo"
