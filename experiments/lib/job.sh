#!/usr/bin/env bash
# The batch script of a Slurm job:   bash experiments/lib/job.sh COMMAND [ARGUMENT ...]
#
# Runs COMMAND (a launcher or a trainer) once, on the first node of the allocation. Submit it with
#
#   sbatch --requeue --open-mode=append --signal=B:USR1@SECONDS ...
#
# SECONDS before the time limit Slurm signals this shell. It asks the trainer, by making the file VERL_STOP_FILE, to
# finish its step, save a checkpoint and end with status 75; then the job is queued again and goes on by itself. A file
# reaches the trainer through any number of shells, srun and containers, and hits no process but the one that looks for
# it. A second signal, or Slurm's SIGTERM, ends COMMAND at once. Any other status of COMMAND is the job's.
#
# With several nodes Ray is started on each of them, COMMAND finds it by RAY_ADDRESS, and all of it ends with the job.
# Settings, by environment variable: PYTHON (python), SRUN_OPTIONS (such as a container's), RAY_START_SECONDS (300).

# shellcheck disable=SC2317,SC2329 # functions that traps call
set -euo pipefail

PYTHON=${PYTHON:-python}
readonly REQUEUE_STATUS=75 # verl.trainer.interrupts.EXIT_REQUEUE
CHILD='' RAY='' IS_SIGNALLED=false

say() { printf '[job %s, %(%F %T)T] %s\n' "${SLURM_JOB_ID:-?}" -1 "$*" >&2; }

ask_to_stop() {
  IS_SIGNALLED=true
  if [[ -e $VERL_STOP_FILE ]]; then
    stop_now
  else
    say "The time limit is near: asking the trainer to finish its step and to save a checkpoint."
    : >"$VERL_STOP_FILE"
  fi
}

stop_now() {
  IS_SIGNALLED=true
  say "Stopping at once."
  [[ -z $CHILD ]] || kill -TERM "$CHILD" 2>/dev/null || true
}

run() { # run COMMAND ...: wait for it, also when signals interrupt the waiting; sets STATUS
  "$@" &
  CHILD=$!
  while true; do
    IS_SIGNALLED=false STATUS=0
    wait "$CHILD" || STATUS=$?
    [[ $IS_SIGNALLED == true ]] || break
  done
  CHILD=''
}

clean_up() {
  rm -f "$VERL_STOP_FILE"
  if [[ -n $RAY ]]; then
    kill -TERM "$RAY" 2>/dev/null || true # srun passes it on to every node
    wait "$RAY" || true
  fi
}

start_ray() { # on every node of the allocation; only who has the token may speak to it
  local nodes
  mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
  RAY_ADDRESS=$("$PYTHON" -m verl.single_controller.allocation address)
  RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
  export RAY_ADDRESS RAY_AUTH_TOKEN RAY_AUTH_MODE=token
  say "Starting Ray at $RAY_ADDRESS on: ${nodes[*]}"
  # shellcheck disable=SC2086 # SRUN_OPTIONS is a list of words
  srun --overlap --nodes="${#nodes[@]}" --ntasks-per-node=1 ${SRUN_OPTIONS:-} \
    "$PYTHON" -m verl.single_controller.allocation join &
  RAY=$!
  "$PYTHON" -m verl.single_controller.allocation wait --seconds "${RAY_START_SECONDS:-300}" "${nodes[@]}"
}

(($#)) || { sed -n '2,/^$/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" && exit 1; }
: "${SLURM_JOB_ID:?this script is for jobs of Slurm; without it run the command itself}"

export VERL_STOP_FILE="$PWD/.stop-$SLURM_JOB_ID"
rm -f "$VERL_STOP_FILE" # of the job's life before
trap clean_up EXIT
trap ask_to_stop USR1
trap stop_now TERM INT

if ((${SLURM_NNODES:-1} > 1)); then start_ray; fi
run "$@"
if ((STATUS == REQUEUE_STATUS)); then
  say "The checkpoint is saved; the job is queued again (restart ${SLURM_RESTART_COUNT:-0} until now)."
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$STATUS"
