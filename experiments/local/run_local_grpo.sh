#!/usr/bin/env bash
# GRPO on this machine.
#
#   bash experiments/local/run_local_grpo.sh [suffix] [options] [key=value ...]
#
# Environment: N_GPUS_PER_NODE (default: the visible GPUs; without GPU, ranks on the CPU), MODEL_PATH, TASK (data folder).

set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../lib/submit.sh"
read_options local local_grpo "$@"

add_grpo LOCAL-GRPO local "${TASK:-$CLUSTER_DATA_DIR/tooluse}" "${MODEL_PATH:-Qwen/Qwen2.5-7B-Instruct}" 1e-5 8 \
  "$ACTOR.optim.lr_warmup_steps=10" actor_rollout_ref.rollout.val_kwargs.n=16
run_jobs
