#!/usr/bin/env bash
# Python, from the environment that belongs to this repository:   bash experiments/lib/python.sh ARGUMENT ...
#
# $PYTHON if it is set (the images in docker/ set it), else the active environment (venv, conda), else .venv, which
# experiments/install.sh makes, else what the PATH has. It imports this repository, whichever copy is installed.

set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

if [[ -z ${PYTHON:-} ]]; then
  PYTHON=python
  if [[ -z ${VIRTUAL_ENV:-} && ${CONDA_DEFAULT_ENV:-base} == base && -x $ROOT/.venv/bin/python ]]; then
    PYTHON=$ROOT/.venv/bin/python
  fi
fi
command -v "$PYTHON" >/dev/null || {
  echo "error: there is no $PYTHON on $(hostname). Activate an environment, or make one: bash experiments/install.sh" >&2
  exit 2
}
export PYTHONPATH=$ROOT${PYTHONPATH:+:$PYTHONPATH}
exec "$PYTHON" "$@"
