#!/usr/bin/env bash
# GRPO, what SDPO is compared with: 2 learning rates, 2 models, mini-batches of 8 and (on policy) 32, 5 data sets, 40 runs.
#
#   bash experiments/generalization/run_baseline_grpo_all.sh [options] [key=value ...]

set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../lib/submit.sh"
read_options submit '' "$@"

for lr in 1e-5 1e-6; do
  for model in Qwen/Qwen3-8B allenai/Olmo-3-7B-Instruct; do
    for mini_batch in 8 32; do
      for data in "${GENERALIZATION[@]}"; do
        add_grpo FINAL-GRPO generalization "$data" "$model" "$lr" "$mini_batch" \
          "$ACTOR.optim.lr_warmup_steps=10" actor_rollout_ref.rollout.val_kwargs.n=16
      done
    done
  done
done
run_jobs
