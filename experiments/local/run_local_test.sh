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

DATA=${TASK:-$CLUSTER_DATA_DIR/home_api}
if [[ -z ${TASK:-} ]]; then make_if_missing "$DATA"; fi
add_sdpo LOCAL-TEST local "$DATA" "${MODEL_PATH:-Qwen/Qwen3-8B}" 1e-5 1.0 "$ACTOR.optim.lr_warmup_steps=-1"
run_jobs
