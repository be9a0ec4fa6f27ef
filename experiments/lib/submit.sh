# shellcheck shell=bash
# What all launchers share: options, names, and one job per run, submitted to Slurm, run here, or only printed.
#
# A launcher sources this file, calls `read_options`, then `add_training` or `add_job` for each of its runs, then
# `run_jobs`. Nothing is submitted or started before run_jobs has seen that the data of every run are there.

shopt -s inherit_errexit # so that a mistake found within $( ) ends the launcher
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
LAUNCHER=$(realpath "$0")
if [[ -n ${CLUSTER_FILE:-} ]]; then
  [[ -f $CLUSTER_FILE || -f $ROOT/$CLUSTER_FILE ]] || {
    echo "error: CLUSTER_FILE=$CLUSTER_FILE: there is no such file (nor in $ROOT); experiments/clusters has examples" >&2
    exit 2
  }
  if [[ -f $CLUSTER_FILE ]]; then CLUSTER_FILE=$(realpath "$CLUSTER_FILE"); fi
fi
cd "$ROOT" || exit
# shellcheck source=/dev/null
if [[ -n ${CLUSTER_FILE:-} ]]; then source "$CLUSTER_FILE"; fi
# shellcheck source=experiments/cluster.sh
source experiments/cluster.sh
source experiments/lib/datasets.sh
source experiments/lib/methods.sh
source experiments/lib/placement.sh
source experiments/lib/slurm.sh

MODE=submit  # submit, or local
DRY_RUN=false
SUFFIX=      # last part of every name
EXTRA=()     # key=value of the command line
NAMES=()     # of the jobs, in order
COMMANDS=()  # of the jobs, quoted for a shell
FOLDERS=()   # data of the jobs

OPTIONS="Options:
  --dry-run      print the jobs and their commands; start nothing
  --submit       one Slurm job per run (cluster facts: experiments/cluster.sh)
  --local        run on this machine, one after another
  --suffix TEXT  last part of every run's name, e.g. seed2; runs of one name share a folder and resume each other
  key=value ...  overrides for every run; the last one counts
  -- WORD ...    the same, whatever the words are"

refuse() { # a mistake in the command line or in what it needs
  printf 'error: %s\n' "$1" >&2
  exit 2
}

usage() { # the comment at the top of the launcher, and the options of all
  sed -n '2,/^$/s/^# \{0,1\}//p' "$LAUNCHER"
  printf '\n%s\n' "$OPTIONS"
}

read_options() { # read_options MODE SUFFIX ARGUMENT...: MODE is the default; with a default SUFFIX a bare word replaces it
  MODE=$1 SUFFIX=$2
  local word_allowed=$2
  shift 2
  while (($#)); do
    case $1 in
      --dry-run) DRY_RUN=true ;;
      --local) MODE=local ;;
      --submit) MODE=submit ;;
      --suffix) SUFFIX=${2:?--suffix needs a text} && shift ;;
      --suffix=?*) SUFFIX=${1#*=} ;;
      -h | --help) usage && exit 0 ;;
      --) shift && EXTRA+=("$@") && break ;;
      -* | =*) refuse "unknown option $1 (allowed: --dry-run, --submit, --local, --suffix TEXT, --help, key=value)" ;;
      *=*) EXTRA+=("$1") ;;
      *)
        [[ -n $word_allowed ]] || refuse "unknown argument $1 (overrides are key=value)"
        SUFFIX=$1 word_allowed=
        ;;
    esac
    shift
  done
}

run_name() { # run_name DATA FIELD...: fields, the data set's last folder and the suffix, joined by "-"; "/" becomes "-"
  local name='' field
  for field in "${@:2}" "$(basename "$1")" "$SUFFIX"; do
    field=${field#/} field=${field%/} # of a model's folder
    if [[ -n $field ]]; then name+="${name:+-}${field//\//-}"; fi
  done
  echo "$name"
}

add_job() { # add_job NAME DATA COMMAND...
  NAMES+=("$1")
  FOLDERS+=("$2")
  COMMANDS+=("$(quote "${@:3}")")
}

shared_overrides() { # sets SHARED: placement, the cluster's overrides, and last those of the command line
  local placed cluster
  placed=$(placement)
  mapfile -t SHARED <<<"$placed"
  read -ra cluster <<<"$CLUSTER_OVERRIDES"
  SHARED+=("${cluster[@]}" "${EXTRA[@]}")
}

add_training() { # add_training NAME CONFIG DATA key=value...: a run of the trainer; see experiments/verl_training.sh
  local saving=()
  if [[ $MODE == submit ]]; then saving=(trainer.save_freq=20); fi # the presets save nothing; a job may meet its walltime
  shared_overrides
  add_job "$1" "$3" bash experiments/verl_training.sh "$@" "${saving[@]}" "${SHARED[@]}"
}

make_if_missing() { # make_if_missing FOLDER: for data that this repository can make without a network
  if [[ $DRY_RUN == true ]] || is_made "$1"; then return; fi
  how_to_make "$1" | sed 's|^python |bash experiments/lib/python.sh |' | bash -e
}

refuse_missing_data() { # a note in a dry run, else an error
  local folder text='' missing=()
  while read -r folder; do
    is_made "$folder" && continue
    missing+=("$folder")
    text+=$(how_to_make "$folder")$'\n'
  done < <(printf '%s\n' "${FOLDERS[@]}" | sort -u)
  ((${#missing[@]})) || return 0
  text=$(awk '!seen[$0]++' <<<"${text%$'\n'}") # questions of one set are made together
  text="not here: ${missing[*]}. Make them in $ROOT with"$'\n'"$text"
  if [[ $DRY_RUN == true ]]; then printf 'note: %s\n' "$text" >&2; else refuse "$text"; fi
}

refuse_bad_names() { # a name is a folder, so two runs of one name would share it
  local twice name
  twice=$(printf '%s\n' "${NAMES[@]}" | sort | uniq -d)
  [[ -z $twice ]] || refuse "two runs have the name $twice"
  for name in "${NAMES[@]}"; do
    [[ $name =~ ^[A-Za-z0-9._-]+$ ]] || refuse "'$name' is no name for a run and its folder (allowed: letters, digits, . _ -)"
  done
}

run_jobs() { # print, submit or run what was added
  refuse_bad_names
  refuse_missing_data
  if [[ $MODE == local ]]; then run_here; else submit_all; fi
}

run_here() {
  local i status failed=()
  if [[ -n $WANDB_ENTITY ]]; then export WANDB_ENTITY; fi
  for i in "${!NAMES[@]}"; do
    if [[ $DRY_RUN == true ]]; then
      printf 'Would run here: %s\n(cd %s && %s)\n' "${NAMES[i]}" "$(quote "$ROOT")" "${COMMANDS[i]}"
      continue
    fi
    echo "Run $((i + 1)) of ${#NAMES[@]}: ${NAMES[i]}"
    status=0
    bash -c "${COMMANDS[i]}" || status=$?
    if ((status >= 128)); then exit "$status"; fi # interrupted: the others are not wanted either
    if ((status)); then failed+=("${NAMES[i]} (exit status $status)"); fi
  done
  ((${#failed[@]} == 0)) || {
    printf 'failed: %s\n' "${failed[@]}" >&2
    exit 1
  }
}
