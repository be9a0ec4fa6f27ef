#!/usr/bin/env bash
# SDPO with the feedback of a judge of programs, on LiveCodeBench v6: 1 run.
#
#   bash experiments/rich_feedback/run_sdpo.sh [options] [key=value ...]

set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../lib/submit.sh"
read_options submit '' "$@"

MODEL=${MODEL_PATH:-Qwen/Qwen3-8B}
DATA=${TASK:-$CLUSTER_DATA_DIR/lcb_v6}
LR=1e-6
ALPHA=1.0

name=$(run_name "$DATA" FINAL-SDPO-train32 "alpha$ALPHA" rollout8 "lr$LR" drossTrue "$MODEL")
add_training "$name" sdpo "$DATA" "${COMMON[@]}" \
  trainer.group_name=SDPO-rich-feedback \
  actor_rollout_ref.model.path="$MODEL" \
  actor_rollout_ref.actor.optim.lr="$LR" \
  actor_rollout_ref.actor.optim.lr_warmup_steps=0 \
  actor_rollout_ref.actor.ppo_mini_batch_size=1 \
  actor_rollout_ref.actor.self_distillation.alpha="$ALPHA" \
  actor_rollout_ref.actor.self_distillation.distillation_topk=20 \
  actor_rollout_ref.actor.self_distillation.dont_reprompt_on_self_success=True \
  actor_rollout_ref.actor.self_distillation.teacher_update_rate=0.01 \
  actor_rollout_ref.rollout.val_kwargs.n=4
run_jobs
