#!/usr/bin/env bash
# The batch script of a Slurm job:   bash experiments/lib/job.sh COMMAND [ARGUMENT ...]

set -euo pipefail
exec "$@"
