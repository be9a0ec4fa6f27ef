#!/usr/bin/env bash
# GRPO on this machine.
#
#   bash experiments/local/run_local_grpo.sh [suffix] [options] [key=value ...]
#
# Environment: N_GPUS_PER_NODE (default: the visible GPUs; without GPU, ranks on the CPU), MODEL_PATH, TASK (data folder).

set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../lib/submit.sh"
read_options local local_grpo "$@"

MODEL=${MODEL_PATH:-Qwen/Qwen2.5-7B-Instruct}
DATA=${TASK:-$CLUSTER_DATA_DIR/tooluse}
LR=1e-5

name=$(run_name "$DATA" LOCAL-GRPO-mbs-8 train32 rollout8 "lr$LR" "model$MODEL")
add_training "$name" baseline_grpo "$DATA" "${COMMON[@]}" \
  trainer.group_name=GRPO-local \
  actor_rollout_ref.model.path="$MODEL" \
  actor_rollout_ref.actor.optim.lr="$LR" \
  actor_rollout_ref.actor.optim.lr_warmup_steps=10 \
  actor_rollout_ref.actor.ppo_mini_batch_size=8 \
  actor_rollout_ref.rollout.val_kwargs.n=16
run_jobs
