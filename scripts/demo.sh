#!/usr/bin/env bash
# Install what is needed into .venv (once) and run the demo. Arguments go to it: bash scripts/demo.sh flops=0.4
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh
exec python -m yoloprune demo "$@"
