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

MODEL=${MODEL_PATH:-Qwen/Qwen3-8B}
SEED=${SEED:-0}

FOLDERS_OF_QUESTIONS=$(question_folders)
shared_overrides
for data in $FOLDERS_OF_QUESTIONS; do
  name=$(run_name "$data" FINAL-TTT-SDPO "seed$SEED" "$MODEL")
  add_job "$name" "$data" bash experiments/lib/python.sh -m recipes.test_time.main \
    --data-dir "$data" --run-name "$name" --seed "$SEED" actor_rollout_ref.model.path="$MODEL" "${SHARED[@]}"
done
run_jobs
