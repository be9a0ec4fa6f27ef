#!/usr/bin/env bash
# Best of k: independent attempts of the model as it is at each of 19 hard questions of LiveCodeBench v6.
#
#   bash experiments/ttt/run_best_of_k_all.sh [options] [key=value ...]
#
# Environment: QUESTIONS (hard, very_hard, or indices such as "3 10 46"), MODEL_PATH, SEED (0).

set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../lib/submit.sh"
source experiments/lib/questions.sh
read_options submit '' "$@"
one_engine
test_time_runs FINAL-BEST-OF-K recipes.test_time.best_of_k
