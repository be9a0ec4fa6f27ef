#!/usr/bin/env bash
# SDPO without environment feedback: 2 models on 5 data sets, 10 runs.
#
#   bash experiments/generalization/run_sdpo_all.sh [options] [key=value ...]

set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../lib/submit.sh"
read_options submit '' "$@"

LR=1e-5
ALPHA=0.5

for model in Qwen/Qwen3-8B allenai/Olmo-3-7B-Instruct; do
  for data in "${GENERALIZATION[@]}"; do
    name=$(run_name "$data" FINAL-SDPO-train32 "alpha$ALPHA" rollout8 "lr$LR" drossTrue "$model")
    add_training "$name" sdpo "$data" "${COMMON[@]}" \
      trainer.group_name=SDPO-generalization \
      actor_rollout_ref.model.path="$model" \
      actor_rollout_ref.actor.optim.lr="$LR" \
      actor_rollout_ref.actor.optim.lr_warmup_steps=10 \
      actor_rollout_ref.actor.ppo_mini_batch_size=32 \
      actor_rollout_ref.actor.self_distillation.alpha="$ALPHA" \
      actor_rollout_ref.actor.self_distillation.distillation_topk=100 \
      actor_rollout_ref.actor.self_distillation.dont_reprompt_on_self_success=True \
      actor_rollout_ref.actor.self_distillation.include_environment_feedback=False \
      actor_rollout_ref.rollout.val_kwargs.n=16
  done
done
run_jobs
