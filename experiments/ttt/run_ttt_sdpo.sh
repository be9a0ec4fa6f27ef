#!/usr/bin/env bash
# Test-time training: SDPO on each of 19 hard questions of LiveCodeBench v6 alone, until it is solved.
#
#   bash experiments/ttt/run_ttt_sdpo.sh [options] [key=value ...]
#
# Environment: QUESTIONS (hard, very_hard, or indices such as "3 10 46"), MODEL_PATH, SEED (0).

set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../lib/submit.sh"
source experiments/lib/questions.sh
read_options submit '' "$@"
test_time_runs FINAL-TTT-SDPO recipes.test_time.main
