#!/usr/bin/env bash
# SDPO with the feedback of a judge of programs, on LiveCodeBench v6: 1 run.
#
#   bash experiments/rich_feedback/run_sdpo.sh [options] [key=value ...]

set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../lib/submit.sh"
read_options submit '' "$@"

add_sdpo FINAL-SDPO rich-feedback "${TASK:-$CLUSTER_DATA_DIR/lcb_v6}" "${MODEL_PATH:-Qwen/Qwen3-8B}" 1e-6 1.0 \
  "$ACTOR.optim.lr_warmup_steps=0" \
  "$ACTOR.ppo_mini_batch_size=1" \
  "$DISTILLATION.distillation_topk=20" \
  "$DISTILLATION.teacher_update_rate=0.01" \
  actor_rollout_ref.rollout.val_kwargs.n=4
run_jobs
