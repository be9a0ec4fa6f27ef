#!/usr/bin/env bash
# Set up, then style, types, spelling and tests.
#
#   bash tests/run.sh [pytest arguments ...]
#   bash tests/run.sh --all [pytest arguments ...]    everything, also the tests that take minutes (marked slow)
#   bash tests/run.sh --chaos [pytest arguments ...]  of everything the runs to which faults happen (tests/chaos) alone
#
# Tests marked gpu run where there is a GPU.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

MARKS="not slow"
WHICH=()
case ${1:-} in
  --all) MARKS="" && shift ;;
  --chaos) MARKS="" && WHICH=(tests/chaos) && shift ;;
esac

source experiments/install.sh
if [[ $KIND == cpu ]]; then MARKS="${MARKS:+$MARKS and }not gpu"; fi

# One thread for each of the many processes of a test; no test may need a network.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1 WANDB_MODE=offline

CHECKED=(verl recipes data tests)
say "Style"
"$PYTHON" -m ruff check "${CHECKED[@]}"
"$PYTHON" -m ruff format --check "${CHECKED[@]}"
say "Spelling"
"$PYTHON" -m codespell_lib "${CHECKED[@]}" experiments ./*.md ./*.txt
say "Types"
"$PYTHON" -m pyright --pythonpath "$PYTHON"
say "Tests"
exec "$PYTHON" -m pytest -m "$MARKS" "${WHICH[@]}" "$@"
