#!/usr/bin/env bash
# Test-time training on five questions that the embedded model almost never answers, against multi-turn and best-of-k.
#
#   bash experiments/ttt/run_embedded.sh [--seeds N] [--budget K] [--jobs J] [--dry-run] [key=value ...]
#
# Five questions x N seeds (3) x four methods, each at most K attempts (1,024), J at a time (one for each core), then the
# table and the plot of discovery@k: minutes on two cores. key=value goes to the test-time training. Everything
# is below runs/test_time; the same command again does what is missing.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

SEEDS=3
BUDGET=1024
JOBS=$(env -u OMP_NUM_THREADS nproc)
DRY_RUN=false
OVERRIDES=()
while (($#)); do
  case $1 in
    --seeds | --budget | --jobs)
      [[ ${2:-} =~ ^[1-9][0-9]*$ ]] || { echo "error: $1 needs a whole number of at least 1, not '${2:-}'" >&2; exit 2; }
      case $1 in --seeds) SEEDS=$2 ;; --budget) BUDGET=$2 ;; --jobs) JOBS=$2 ;; esac
      shift
      ;;
    --dry-run) DRY_RUN=true ;;
    -h | --help) sed -n '2,/^$/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
    [!-=]*=*) OVERRIDES+=("$1") ;;
    *) echo "error: unknown argument $1 (allowed: --seeds N, --budget K, --jobs J, --dry-run, key=value)" >&2; exit 2 ;;
  esac
  shift
done

OUT=runs/test_time
QUESTIONS=(q_000 q_005 q_007 q_034 q_204) # what hard_questions.py draws
PYTHON=(bash experiments/lib/python.sh)
export PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false OMP_NUM_THREADS=1
unset SLURM_JOB_ID # it would be in the names of the multi-turn logs, and another job could not go on with them

run() { # run NAME COMMAND...: in the background when fewer than JOBS are at work; the last line of its output is shown
  local name=$1
  shift
  if [[ $DRY_RUN == true ]]; then
    printf '%q ' "$@"
    echo
    return
  fi
  while (($(jobs -rp | wc -l) >= JOBS)); do wait -n || exit 1; done
  {
    "$@" >"$OUT/logs/$name.log" 2>&1 || { echo "error: $* failed; its output is in $OUT/logs/$name.log" >&2; exit 1; }
    tail -n 1 "$OUT/logs/$name.log"
  } &
}

from_preset() { # from_preset METHOD MODULE QUESTION SEED [ARGUMENT ...]
  local name=$1-$3-seed$4
  run "$name" "${PYTHON[@]}" -m "$2" --config-name=ttt_quickstart "--data-dir=$OUT/questions/test/$3" "--seed=$4" \
    "--budget=$BUDGET" "--run-name=$name" "trainer.default_local_dir=$OUT/$1/$name" 'trainer.logger=[file]' "${@:5}"
}

multi_turn() { # multi_turn LABEL MAX_CONTEXT_LEN QUESTION SEED
  local name=$1-$3-seed$4
  run "$name" "${PYTHON[@]}" -m recipes.multiturn_baseline.multiturn "--data-dir=$OUT/questions/test/$3" "--seed=$4" \
    "--run-name=$name" "--output-dir=$OUT/$1" "--max-turns=$BUDGET" "--max-context-len=$2" \
    --model=recipes/embedded/model --engine=hf --device=cpu --dtype=float32 --max-new-tokens=24
}

[[ $DRY_RUN == true ]] || mkdir -p "$OUT/logs"
run questions "${PYTHON[@]}" recipes/embedded/hard_questions.py --output_dir "$OUT/questions"
wait
for seed in $(seq "$SEEDS"); do
  for question in "${QUESTIONS[@]}"; do
    from_preset sdpo recipes.test_time.main "$question" "$seed" --in-process ${OVERRIDES[@]+"${OVERRIDES[@]}"}
    from_preset best_of_k recipes.test_time.best_of_k "$question" "$seed"
    multi_turn multiturn_newest 40 "$question" "$seed" # room for the question and one error: all this model can read
    multi_turn multiturn_all 128 "$question" "$seed" # about 20 errors
  done
done
while (($(jobs -p | wc -l))); do wait -n || exit 1; done

LOGS=()
for seed in $(seq "$SEEDS"); do
  for question in "${QUESTIONS[@]}"; do
    LOGS+=("TTT-SDPO=$OUT/sdpo/sdpo-$question-seed$seed" "best-of-k=$OUT/best_of_k/best_of_k-$question-seed$seed")
    for label in multiturn_newest multiturn_all; do
      LOGS+=("${label/multiturn_/multi-turn, }=$OUT/$label/multiturn-$label-$question-seed$seed-local.jsonl")
    done
  done
done
REPORT=("${PYTHON[@]}" -m verl.trainer.main_report --discovery "${LOGS[@]}" --output "$OUT/discovery.png")
if [[ $DRY_RUN == true ]]; then
  printf '%q ' "${REPORT[@]}"
  echo
else
  "${REPORT[@]}"
fi
