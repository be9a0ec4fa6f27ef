#!/usr/bin/env bash
# SDPO on this machine.
#
#   bash experiments/local/run_local_sdpo.sh [suffix] [options] [key=value ...]
#
# Environment: N_GPUS_PER_NODE (default: the visible GPUs; without GPU, ranks on the CPU), MODEL_PATH, TASK (data folder).

set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../lib/submit.sh"
read_options local local_sdpo "$@"

MODEL=${MODEL_PATH:-Qwen/Qwen2.5-7B-Instruct}
DATA=${TASK:-$CLUSTER_DATA_DIR/tooluse}
LR=1e-5
ALPHA=0.5
FEEDBACK=True
# A tool call that differs from the expected one is not wrong for a reason that could be said without the answer.
if [[ $(basename "$DATA") == tooluse ]]; then FEEDBACK=False; fi

name=$(run_name "$DATA" LOCAL-SDPO-train32 "alpha$ALPHA" rollout8 "lr$LR" drossTrue "$MODEL")
add_training "$name" sdpo "$DATA" "${COMMON[@]}" \
  trainer.group_name=SDPO-local \
  actor_rollout_ref.model.path="$MODEL" \
  actor_rollout_ref.actor.optim.lr="$LR" \
  actor_rollout_ref.actor.optim.lr_warmup_steps=10 \
  actor_rollout_ref.actor.ppo_mini_batch_size=32 \
  actor_rollout_ref.actor.self_distillation.alpha="$ALPHA" \
  actor_rollout_ref.actor.self_distillation.distillation_topk=100 \
  actor_rollout_ref.actor.self_distillation.dont_reprompt_on_self_success=True \
  actor_rollout_ref.actor.self_distillation.include_environment_feedback="$FEEDBACK" \
  actor_rollout_ref.rollout.val_kwargs.n=16
run_jobs
