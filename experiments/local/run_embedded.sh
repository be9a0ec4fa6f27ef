#!/usr/bin/env bash
# The model and the task of recipes/embedded: a trial of a machine, or of a cluster (--submit), without GPU or network.
#
#   bash experiments/local/run_embedded.sh [suffix] [options] [key=value ...]
#
# Environment: N_GPUS_PER_NODE (default: the visible GPUs; without GPU, ranks on the CPU). The preset is `quickstart`.

set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../lib/submit.sh"
read_options local embedded "$@"

DATA=$CLUSTER_DATA_DIR/home_api

make_if_missing "$DATA"
name=$(run_name "$DATA" LOCAL-SDPO)
add_training "$name" quickstart "$DATA" "vars.data=$DATA" "trainer.default_local_dir=checkpoints/$name"
run_jobs
