# shellcheck shell=bash
# Makes a Python environment for this repository, once. Sourced by experiments/quickstart.sh and tests/run.sh, from the
# repository's root; it may also be run by itself: bash experiments/install.sh
#
# Uses the active environment (venv, or conda other than base), else .venv, which is made if needed. Installs for CUDA where nvidia-smi
# finds a GPU, for the CPU elsewhere. A stamp, keyed by what the requirement files say, makes a second call a no-op.
# Leaves PYTHON (the interpreter) and KIND (cuda or cpu) for the caller.

set -euo pipefail

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }

fail() {
  printf 'error: %s\n' "$*" >&2
  exit 2
}

is_new_enough() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 15))' 2>/dev/null; }

find_python() {
  local candidate
  for candidate in python3 python python3.11 python3.12 python3.13 python3.14; do
    if is_new_enough "$candidate"; then
      echo "$candidate"
      return
    fi
  done
  fail "no Python between 3.11 and 3.14 on the PATH (python3 is: $(python3 --version 2>&1 || true)). Install one and try again."
}

make_environment() {
  local base
  base=$(find_python)
  say "Making .venv with $("$base" --version)"
  if ! "$base" -m venv .venv 2>/dev/null; then
    # Some distributions ship venv without pip: take the base's pip to bring one in.
    "$base" -m venv --clear --without-pip .venv
    "$base" -m pip --python .venv/bin/python install pip
  fi
}

if [[ -n "${VIRTUAL_ENV:-}" && -x "$VIRTUAL_ENV/bin/python" ]]; then
  PYTHON="$VIRTUAL_ENV/bin/python"
elif [[ "${CONDA_DEFAULT_ENV:-base}" != base && -x "$CONDA_PREFIX/bin/python" ]]; then
  PYTHON="$CONDA_PREFIX/bin/python"
else
  .venv/bin/python -m pip --version >/dev/null 2>&1 || make_environment
  PYTHON="$PWD/.venv/bin/python"
fi
is_new_enough "$PYTHON" || fail "$PYTHON is $("$PYTHON" --version), and 3.11 to 3.14 is needed. Deactivate it, or make another."

if nvidia-smi -L 2>/dev/null | grep -q GPU; then
  KIND=cuda
  REQUIREMENTS=(requirements.txt requirements-common.txt)
else
  KIND=cpu
  REQUIREMENTS=(requirements-cpu.txt requirements-common.txt requirements-cpu-no-deps.txt)
fi

# The folder is part of the key: an environment that was shared with another clone imports that clone's `verl`.
STAMP="$("$PYTHON" -c 'import sys; print(sys.prefix)')/.sdpo-verl-$KIND"
KEY=$(cat "${REQUIREMENTS[@]}" setup.py <(pwd) | "$PYTHON" -c 'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())')

if [[ ! -f "$STAMP" || "$(cat "$STAMP")" != "$KEY" ]]; then
  started=$SECONDS
  say "Installing for $KIND into $("$PYTHON" -c 'import sys; print(sys.prefix)') (once; a few minutes and about 4.5 GB)"
  if [[ $KIND == cuda ]]; then
    "$PYTHON" -m pip install --no-warn-conflicts -r requirements.txt
    "$PYTHON" -m pip install 'setuptools>=77'
  else
    "$PYTHON" -m pip install --no-warn-conflicts -r requirements-cpu.txt
    "$PYTHON" -m pip install --no-deps -r requirements-cpu-no-deps.txt
  fi
  "$PYTHON" -m pip install --no-deps --no-build-isolation -e .
  # A real import: the list of packages cannot tell whether their builds get on with each other.
  "$PYTHON" -c 'import ray, verl; from vllm import LLM' || fail "the installation is not complete; see the messages above (vLLM's CPU build needs libnuma1 and g++ of your system)."
  echo "$KEY" >"$STAMP"
  say "Installed in $((SECONDS - started)) seconds"
fi
