#!/usr/bin/env bash
# GRPO on LiveCodeBench v6, what SDPO with feedback is compared with: 1 run.
#
#   bash experiments/rich_feedback/run_baseline_grpo.sh [options] [key=value ...]

set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../lib/submit.sh"
read_options submit '' "$@"

add_grpo FINAL-GRPO rich-feedback "${TASK:-$CLUSTER_DATA_DIR/lcb_v6}" "${MODEL_PATH:-Qwen/Qwen3-8B}" 1e-6 8 \
  "$ACTOR.optim.lr_warmup_steps=0" actor_rollout_ref.rollout.val_kwargs.n=4
run_jobs
