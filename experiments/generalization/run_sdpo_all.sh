#!/usr/bin/env bash
# SDPO without environment feedback: 2 models on 5 data sets, 10 runs.
#
#   bash experiments/generalization/run_sdpo_all.sh [options] [key=value ...]

set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../lib/submit.sh"
read_options submit '' "$@"

for model in Qwen/Qwen3-8B allenai/Olmo-3-7B-Instruct; do
  for data in "${GENERALIZATION[@]}"; do
    add_sdpo FINAL-SDPO generalization "$data" "$model" 1e-5 0.5 \
      "$ACTOR.optim.lr_warmup_steps=10" \
      "$ACTOR.ppo_mini_batch_size=32" \
      "$DISTILLATION.distillation_topk=100" \
      "$DISTILLATION.include_environment_feedback=False" \
      actor_rollout_ref.rollout.val_kwargs.n=16
  done
done
run_jobs
