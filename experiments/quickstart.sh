#!/usr/bin/env bash
# SDPO end to end on this machine: Ray, FSDP2, vLLM, the embedded model and task.
#
#   bash experiments/quickstart.sh [key=value ...]                       train, about a minute on two cores once installed
#   bash experiments/quickstart.sh --compare [--seeds N] [key=value ...] SDPO and GRPO, 25,600 generations each
#
# Installs what is missing on the first call, and nothing after that. The same command again resumes a run that was
# interrupted, from its newest checkpoint; a finished one is left alone, and a new run is begun. Runs are in
# runs/quickstart/<time>, comparisons in runs/compare/<time>; `latest` points to the newest.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

COMPARE=false
SEEDS=1
OVERRIDES=()
while (($#)); do
  case $1 in
    --compare) COMPARE=true ;;
    --seeds) SEEDS=${2:-}; shift ;;
    --seeds=*) SEEDS=${1#*=} ;;
    -h | --help) sed -n '2,/^$/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; echo; exit 0 ;;
    *=*) OVERRIDES+=("$1") ;;
    *) echo "error: unknown argument $1 (allowed: --compare, --seeds N, key=value)" >&2; exit 2 ;;
  esac
  shift || true
done
[[ $SEEDS =~ ^[1-9][0-9]*$ ]] || { echo "error: --seeds needs a whole number of at least 1, not '$SEEDS'" >&2; exit 2; }

source experiments/install.sh
export PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false

# One GPU holds everything; without one, two FSDP2 ranks share the CPU.
PLACEMENT=()
if [[ $KIND == cuda ]]; then PLACEMENT=(trainer.n_gpus_per_node=1); fi

status_of() { # what a run wrote into its folder (running: its process lives; stopped: it does not); empty: nothing
  "$PYTHON" - "$1" <<'PYTHON' 2>/dev/null || true
import json, os, socket, sys

record = json.load(open(sys.argv[1] + "/status.json"))
status = record["status"]
if status == "running" and record["host"] == socket.gethostname():
    try:
        os.kill(record["pid"], 0)
    except ProcessLookupError:
        status = "stopped"
print(status)
PYTHON
}

open_folder() { # open_folder PARENT: the folder of an unfinished run of the same command, else a new one; sets FOLDER
  local parent=$1 command
  command=$(printf '%s\n' "compare=$COMPARE seeds=$SEEDS" "${OVERRIDES[@]+"${OVERRIDES[@]}"}")
  FOLDER="$parent/$(readlink "$parent/latest" 2>/dev/null || true)"
  if [[ -f "$FOLDER/command.txt" && ! -f "$FOLDER/done" && "$(cat "$FOLDER/command.txt")" == "$command" ]]; then
    say "Resuming $FOLDER"
    return
  fi
  FOLDER="$parent/$(date +%Y-%m-%d_%H-%M-%S)"
  mkdir -p "$FOLDER"
  printf '%s\n' "$command" >"$FOLDER/command.txt"
  ln -sfn "$(basename "$FOLDER")" "$parent/latest"
  say "New run in $FOLDER"
}

train() { # train RUN_DIR key=value ...: one run, unless it is finished
  local run=$1
  shift
  case "$(status_of "$run")" in
    finished) echo "$run is finished"; return ;;
    running) fail "a process is still at work on $run. Wait for it, or stop it (its pid is in $run/status.json)." ;;
  esac
  "$PYTHON" -m verl.trainer.main_ppo --config-name quickstart "trainer.default_local_dir=$PWD/$run" \
    "${PLACEMENT[@]+"${PLACEMENT[@]}"}" "$@" "${OVERRIDES[@]+"${OVERRIDES[@]}"}"
}

"$PYTHON" recipes/embedded/make_data.py --output_dir runs/quickstart/data --feedback weak

if [[ $COMPARE == false ]]; then
  open_folder runs/quickstart
  train "$FOLDER"
  if [[ "$(status_of "$FOLDER")" == finished ]]; then # not after a dry run
    touch "$FOLDER/done"
    "$PYTHON" -m verl.trainer.main_report "$FOLDER"
  fi
  exit 0
fi

open_folder runs/compare
RUNS=()
for ((seed = 1; seed <= SEEDS; seed++)); do
  say "Seed $seed of $SEEDS: SDPO"
  train "$FOLDER/sdpo-$seed" trainer.total_training_steps=100 trainer.test_freq=10 "trainer.seed=$seed" \
    "trainer.experiment_name=sdpo-$seed"
  # GRPO has the settings that suit it: with SDPO's 8 updates a step it was seen to collapse.
  say "Seed $seed of $SEEDS: GRPO"
  train "$FOLDER/grpo-$seed" trainer.total_training_steps=100 trainer.test_freq=10 "trainer.seed=$seed" \
    "trainer.experiment_name=grpo-$seed" actor_rollout_ref.actor.policy_loss.loss_mode=vanilla \
    actor_rollout_ref.actor.optim.lr=5e-4 actor_rollout_ref.actor.ppo_mini_batch_size=8
  RUNS+=("$FOLDER/sdpo-$seed" "$FOLDER/grpo-$seed")
done
if [[ "$(status_of "${RUNS[-1]}")" == finished ]]; then
  "$PYTHON" -m verl.trainer.main_report --compare "${RUNS[@]}" --output "$FOLDER/learning_curves.png"
  touch "$FOLDER/done"
fi
