# shellcheck shell=bash disable=SC2154 # cluster facts come from cluster.sh, jobs from submit.sh
# From a run to a Slurm job: the words of the sbatch command, and the one line that the job runs.

quote() { # quote WORD...: the words as any POSIX shell reads them back
  local word line=
  for word; do
    if [[ ! $word =~ ^[A-Za-z0-9_./:,=@%+-]+$ ]]; then word="'${word//\'/"'\\''"}'"; fi
    line+="${line:+ }$word"
  done
  printf '%s\n' "$line"
}

flag() { # flag NAME VALUE: adds to FLAGS; an empty value leaves the flag out
  if [[ -n $2 ]]; then FLAGS+=("$1=$2"); fi
}

srun_command() { # sets FLAGS to the words that start a job's command on its first node
  local others
  FLAGS=()
  flag --container-image "$CLUSTER_CONTAINER"
  flag --container-mounts "$CLUSTER_MOUNTS"
  read -ra others <<<"$CLUSTER_SRUN_FLAGS"
  CONTAINER=("${FLAGS[@]}" "${others[@]}") # job.sh starts Ray on the other nodes with the same
  FLAGS=(srun --overlap --relative=0 --nodes=1 --ntasks=1)
  flag --cpus-per-task "$CLUSTER_CPUS_PER_TASK" # srun does not take it over from sbatch
  FLAGS+=("${CONTAINER[@]}")
}

batch_script() { # batch_script COMMAND: the one line that Slurm runs as the job
  # `exec`: the signal goes to the batch process, and job.sh has to be that process.
  local script settings=()
  srun_command
  flag_setting WANDB_ENTITY "$WANDB_ENTITY"
  flag_setting SRUN_OPTIONS "${CONTAINER[*]}"
  if ((${#settings[@]})); then settings=(env "${settings[@]}"); fi
  script="exec $(quote "${settings[@]}" bash experiments/lib/job.sh "${FLAGS[@]}") $1"
  if [[ -n $CLUSTER_SETUP ]]; then script="exec bash -c $(quote "set -e; ${CLUSTER_SETUP%;}; $script")"; fi
  printf '%s\n' "$script"
}

flag_setting() { # flag_setting NAME VALUE: adds to the caller's settings, if there is a value
  if [[ -n $2 ]]; then settings+=("$1=$2"); fi
}

sbatch_command() { # sbatch_command NAME COMMAND: sets FLAGS to the words of the sbatch command
  local others script
  script=$(batch_script "$2")
  read -ra others <<<"$CLUSTER_FLAGS"
  FLAGS=(sbatch)
  flag --job-name "$CLUSTER_JOB_NAME"
  flag --comment "$1"
  flag --account "$CLUSTER_ACCOUNT"
  flag --nodes "$CLUSTER_NODES"
  flag --partition "$CLUSTER_PARTITION"
  flag --time "$CLUSTER_TIME"
  flag --environment "$CLUSTER_ENVIRONMENT"
  flag --ntasks-per-node 1
  flag --gpus-per-node "$CLUSTER_GPUS_PER_NODE"
  flag --mem "$CLUSTER_MEM"
  flag --cpus-per-task "$CLUSTER_CPUS_PER_TASK"
  flag --output "$LOGS/%j.log"
  flag --error "$LOGS/%j.err"
  FLAGS+=(--open-mode=append) # a requeued job keeps its number, and must not erase its log
  if [[ -n $CLUSTER_SIGNAL_SECONDS ]]; then FLAGS+=(--requeue "--signal=B:USR1@$CLUSTER_SIGNAL_SECONDS"); fi
  FLAGS+=("--chdir=$ROOT" "${others[@]}" "--wrap=$script")
}

submit_all() {
  local i
  if [[ -z $CLUSTER_GPUS_PER_NODE ]]; then
    echo "note: CLUSTER_GPUS_PER_NODE is empty, so the jobs ask for no GPU (experiments/cluster.sh)" >&2
  fi
  LOGS=$(realpath -m "$CLUSTER_LOG_DIR")
  if [[ $DRY_RUN == false ]]; then
    command -v sbatch >/dev/null || refuse "sbatch is not on the PATH: this is no machine that submits to Slurm (--local runs here, --dry-run prints)"
    mkdir -p "$LOGS"
  elif [[ ! -d $LOGS ]]; then
    echo "mkdir -p $(quote "$LOGS")  # Slurm does not make the folder of its logs"
  fi
  for i in "${!NAMES[@]}"; do
    sbatch_command "${NAMES[i]}" "${COMMANDS[i]}"
    if [[ $DRY_RUN == true ]]; then
      printf 'Would submit job for: %s\n%s\n' "${NAMES[i]}" "$(quote "${FLAGS[@]}")"
    else
      echo "Submitting: ${NAMES[i]}"
      "${FLAGS[@]}" || refuse "sbatch refused the job of ${NAMES[i]}; $i of ${#NAMES[@]} were submitted before it"
    fi
  done
}
