#!/usr/bin/env bash
# One run. What every launcher starts, here or in a job; the exit status is the trainer's.
#
#   bash experiments/verl_training.sh EXPERIMENT CONFIG DATA [key=value ...]
#
#   EXPERIMENT  name of the run, and of its folder
#   CONFIG      preset: sdpo, baseline_grpo, quickstart, ...
#   DATA        folder with train.parquet and test.parquet; relative to the repository
#   key=value   overrides, e.g. trainer.total_training_steps=10; trainer.dry_run=true prints the plan and starts nothing

set -euo pipefail
if (($# < 3)); then
  sed -n '2,/^$/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
  exit 1
fi

cd "$(dirname "${BASH_SOURCE[0]}")/.."
export EXPERIMENT=$1 TASK=$3 PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false
ulimit -c 0

echo "Experiment: $EXPERIMENT"
echo "Config: $2"
echo "Task: $TASK"
echo "Arguments: ${*:4}"
exec bash experiments/lib/python.sh -m verl.trainer.main_ppo --config-name "$2" "${@:4}"
