#!/usr/bin/env bash
# GRPO on LiveCodeBench v6, what SDPO with feedback is compared with: 1 run.
#
#   bash experiments/rich_feedback/run_baseline_grpo.sh [options] [key=value ...]

set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../lib/submit.sh"
read_options submit '' "$@"

MODEL=${MODEL_PATH:-Qwen/Qwen3-8B}
DATA=${TASK:-$CLUSTER_DATA_DIR/lcb_v6}
LR=1e-6

name=$(run_name "$DATA" FINAL-GRPO-mbs-8 train32 rollout8 "lr$LR" "model$MODEL")
add_training "$name" baseline_grpo "$DATA" "${COMMON[@]}" \
  trainer.group_name=GRPO-rich-feedback \
  actor_rollout_ref.model.path="$MODEL" \
  actor_rollout_ref.actor.optim.lr="$LR" \
  actor_rollout_ref.actor.optim.lr_warmup_steps=0 \
  actor_rollout_ref.actor.ppo_mini_batch_size=8 \
  actor_rollout_ref.rollout.val_kwargs.n=4
run_jobs
