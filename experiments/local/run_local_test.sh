#!/usr/bin/env bash
# A trial of a machine with GPUs: SDPO with an 8B model on the task of recipes/embedded, which needs no download.
#
#   bash experiments/local/run_local_test.sh [suffix] [options] [key=value ...]
#
# Environment: N_GPUS_PER_NODE (default: the visible GPUs; without GPU, ranks on the CPU), MODEL_PATH, TASK (data folder).
# The trial for a machine without GPU is experiments/local/run_embedded.sh.

set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../lib/submit.sh"
read_options local local_test "$@"

MODEL=${MODEL_PATH:-Qwen/Qwen3-8B}
DATA=${TASK:-$CLUSTER_DATA_DIR/home_api}
LR=1e-5
ALPHA=1.0

if [[ -z ${TASK:-} ]]; then make_if_missing "$DATA"; fi
name=$(run_name "$DATA" LOCAL-TEST-train32 "alpha$ALPHA" rollout8 "lr$LR" drossTrue "$MODEL")
add_training "$name" sdpo "$DATA" "${COMMON[@]}" \
  trainer.group_name=SDPO-local \
  actor_rollout_ref.model.path="$MODEL" \
  actor_rollout_ref.actor.optim.lr="$LR" \
  actor_rollout_ref.actor.optim.lr_warmup_steps=-1 \
  actor_rollout_ref.actor.self_distillation.alpha="$ALPHA" \
  actor_rollout_ref.actor.self_distillation.dont_reprompt_on_self_success=True
run_jobs
