#!/usr/bin/env bash
# Run the core of the tests against other Ultralytics releases: only that wheel changes, torch stays.
#   bash scripts/versions.sh 8.3.0 8.4.0 8.4.190
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh
failed=""
for release in "${@:-8.3.0}"; do
  folder=$(mktemp -d)
  # What older releases need and newer ones do not install.
  python -m pip install --quiet --disable-pip-version-check --no-deps --target "$folder" "ultralytics==$release" \
    tqdm pandas pytz python-dateutil six tzdata
  echo "== ultralytics $release"
  YOLO_CONFIG_DIR="$folder" PYTHONPATH="$folder" OMP_NUM_THREADS=1 python -m pytest -q -p no:cacheprovider \
    tests/cutting/test_exact.py tests/cutting/test_surgery.py tests/cutting/test_width_attributes.py tests/tracing/test_tracing_*.py \
    tests/tracing/test_odd_networks.py tests/backend/test_host.py tests/backend/test_backend_surface.py \
    tests/reporting/test_overview.py tests/commands/test_pipeline.py tests/commands/test_steps.py \
    tests/checkpoint/test_load.py tests/checkpoint/test_save.py tests/checkpoint/test_rebuild.py \
    tests/checkpoint/test_handoff_training.py tests/test_shortages.py || failed="$failed $release"
  rm -rf "$folder"
done
if [ -n "$failed" ]; then
  echo "Tests failed with ultralytics$failed" >&2
  exit 1
fi
