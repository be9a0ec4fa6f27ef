#!/usr/bin/env bash
# The batch process of a Slurm job:   bash experiments/lib/job.sh COMMAND [ARGUMENT ...]
#
# Runs COMMAND (a launcher, or srun with one) once, on the first node of the allocation. Submit it with
#
#   sbatch --requeue --open-mode=append --signal=B:USR1@SECONDS ...
#
# SECONDS before the time limit Slurm signals this shell. It asks the trainer, by making the file VERL_STOP_FILE, to
# finish its step, save a checkpoint and end with status 75; then the job is queued again, and goes on from there. A
# file reaches the trainer through any number of shells, srun and containers, and hits no process but the one that looks
# for it. A second signal cancels the job. Any other status of COMMAND is the job's.
#
# With several nodes Ray is started on each of them, COMMAND finds it by RAY_ADDRESS, and all of it ends with the job.
# Environment: SRUN_OPTIONS (of a container, separated by blanks), RAY_START_SECONDS (300: what the nodes get to join),
# RAY_HEAD_IP (the first node's address, if its host name stands for one that the others do not reach).

# shellcheck disable=SC2317,SC2329 # functions that traps call
set -euo pipefail

readonly REQUEUE_STATUS=75 # verl.trainer.interrupts.EXIT_REQUEUE
readonly SECONDS_TO_END=60 # of Ray, before Slurm ends it with the job
RAY='' IS_SIGNALLED=false

say() { printf '[job %s, %(%F %T)T] %s\n' "$SLURM_JOB_ID" -1 "$*" >&2; }

near_the_end() {
  IS_SIGNALLED=true
  if [[ -e $VERL_STOP_FILE ]]; then
    say "A second signal: the job is cancelled."
    scancel "$SLURM_JOB_ID"
  else
    say "The time limit is near: the trainer is asked to finish its step and to save a checkpoint."
    touch "$VERL_STOP_FILE"
  fi
}

end() { # Slurm, which sends this, sends it to all processes of the job; srun would end COMMAND by force if it came twice
  IS_SIGNALLED=true
  say "Slurm ends the job."
}

run() { # run COMMAND ...: wait for it, also when signals interrupt the waiting; sets STATUS
  "$@" &
  while true; do
    IS_SIGNALLED=false STATUS=0
    wait "$!" || STATUS=$?
    [[ $IS_SIGNALLED == true ]] || break
  done
}

allocation() { # allocation COMMAND ...: of verl.single_controller.allocation, on the first node
  srun --overlap --relative=0 --nodes=1 --ntasks=1 "${OPTIONS[@]}" "${MODULE[@]}" "$@"
}

start_ray() { # on every node of the allocation; only who has the token may speak to it
  local nodes
  mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
  RAY_ADDRESS=$(allocation address)
  RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
  export RAY_ADDRESS RAY_AUTH_TOKEN RAY_AUTH_MODE=token
  say "Starting Ray at $RAY_ADDRESS on: ${nodes[*]}"
  srun --overlap --nodes="${#nodes[@]}" --ntasks-per-node=1 "${OPTIONS[@]}" "${MODULE[@]}" join &
  RAY=$!
  allocation wait --seconds "${RAY_START_SECONDS:-300}" "${nodes[@]}"
}

clean_up() {
  rm -f "$VERL_STOP_FILE"
  if [[ -z $RAY ]]; then return; fi
  say "Ending Ray; that its step is cancelled, as srun will say, is meant."
  kill -TERM "$RAY" 2>/dev/null || true # srun passes it on to every node
  for ((left = SECONDS_TO_END; left > 0; left--)); do
    kill -0 "$RAY" 2>/dev/null || return 0
    sleep 1
  done
}

(($#)) || { sed -n '2,/^$/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" && exit 1; }
: "${SLURM_JOB_ID:?this script is for jobs of Slurm; without it run the command itself}"
read -ra OPTIONS <<<"${SRUN_OPTIONS:-}"
MODULE=(bash experiments/lib/python.sh -m verl.single_controller.allocation)
if [[ -n ${SLURM_CPUS_PER_TASK:-} ]]; then export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK; fi # srun does not take it over

export VERL_STOP_FILE="$PWD/.stop-$SLURM_JOB_ID"
rm -f "$VERL_STOP_FILE" # of the job's life before
trap clean_up EXIT
trap near_the_end USR1
trap end TERM

if ((${SLURM_NNODES:-1} > 1)); then start_ray; fi
run "$@"
if ((STATUS == REQUEUE_STATUS)); then
  say "The checkpoint is saved; the job is queued again (restarts until now: ${SLURM_RESTART_COUNT:-0})."
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$STATUS"
