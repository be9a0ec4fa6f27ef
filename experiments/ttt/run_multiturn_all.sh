#!/usr/bin/env bash
# The multi-turn baseline: each of 19 hard questions of LiveCodeBench v6 is asked again and again, with its feedback.
#
#   bash experiments/ttt/run_multiturn_all.sh [options] [-- flag of recipes/multiturn_baseline/multiturn.py ...]
#
# Environment: QUESTIONS (hard, very_hard, or indices such as "3 10 46"), TEMPLATE (feedback_only or attempt_and_feedback),
# MODEL_PATH, SEED (0).

set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../lib/submit.sh"
source experiments/lib/questions.sh
read_options submit '' "$@"
case ${EXTRA[0]:-} in
  -* | '') ;;
  *) refuse "${EXTRA[0]}: multiturn.py takes flags, not key=value; they go behind --, as in  -- --max-turns 100" ;;
esac
one_engine
SPAN=()
if ((ENGINE_GPUS > 1)); then SPAN=(--tensor-parallel-size "$ENGINE_GPUS"); fi

TEMPLATE=${TEMPLATE:-feedback_only}
MODEL=${MODEL_PATH:-Qwen/Qwen3-8B}
SEED=${SEED:-0}

QUESTION_FOLDERS=$(question_folders)
for data in $QUESTION_FOLDERS; do
  name=$(run_name "$data" FINAL-MULTITURN "$TEMPLATE" "seed$SEED" "$MODEL")
  add_job "$name" "$data" bash experiments/lib/python.sh recipes/multiturn_baseline/multiturn.py \
    --data-dir "$data" --run-name "$name" --template "$TEMPLATE" --seed "$SEED" --model "$MODEL" \
    "${SPAN[@]}" "${EXTRA[@]}"
done
run_jobs
