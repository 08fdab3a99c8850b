# Sourced by the other scripts: make and activate .venv when no virtual environment with yoloprune is active.
if ! python -c "import yoloprune, ultralytics, pytest" 2>/dev/null || [ -z "${VIRTUAL_ENV:-}" ]; then
  if [ ! -x .venv/bin/python ]; then
    "${PYTHON:-python3}" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || {
      echo "yoloprune needs Python 3.10 or newer; name one with PYTHON=python3.11 bash $0" >&2
      exit 1
    }
    "${PYTHON:-python3}" -m venv .venv
  fi
  # shellcheck disable=SC1091
  source .venv/bin/activate
  if [ ! -f .venv/installed ] || [ pyproject.toml -nt .venv/installed ]; then
    echo "Installing yoloprune and Ultralytics into .venv (a few minutes the first time) ..."
    python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
    touch .venv/installed
  fi
fi
