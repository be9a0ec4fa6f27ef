#!/usr/bin/env bash
# SDPO on this machine.
#
#   bash experiments/local/run_local_sdpo.sh [suffix] [options] [key=value ...]
#
# Environment: N_GPUS_PER_NODE (default: the visible GPUs; without GPU, ranks on the CPU), MODEL_PATH, TASK (data folder).

set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../lib/submit.sh"
read_options local local_sdpo "$@"

DATA=${TASK:-$CLUSTER_DATA_DIR/tooluse}
FEEDBACK=True
# A tool call that differs from the expected one is not wrong for a reason that could be said without the answer.
if [[ $(basename "$DATA") == tooluse ]]; then FEEDBACK=False; fi

add_sdpo LOCAL-SDPO local "$DATA" "${MODEL_PATH:-Qwen/Qwen2.5-7B-Instruct}" 1e-5 0.5 \
  "$ACTOR.optim.lr_warmup_steps=10" \
  "$ACTOR.ppo_mini_batch_size=32" \
  "$DISTILLATION.distillation_topk=100" \
  "$DISTILLATION.include_environment_feedback=$FEEDBACK" \
  actor_rollout_ref.rollout.val_kwargs.n=16
run_jobs
