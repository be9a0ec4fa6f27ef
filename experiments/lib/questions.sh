# shellcheck shell=bash
# The questions of LiveCodeBench v6 for test-time training, by their index, and how many there are to a study.

HARD="1 3 10 43 46 59 69 74 86 91 92 95 100 103 111 120 125 127 129" # 19; the base model solves less than half of the time
VERY_HARD="3 10 46 74 91 92 95 103 125"

question_folders() { # one a line; QUESTIONS is hard (default), very_hard, or indices
  local index folder indices=${QUESTIONS:-hard}
  case $indices in
    hard) indices=$HARD ;;
    very_hard) indices=$VERY_HARD ;;
  esac
  for index in $indices; do
    [[ $index =~ ^[0-9]+$ ]] || refuse "QUESTIONS holds '$index' (allowed: hard, very_hard, or indices such as '3 10 46')"
    index=$((10#$index)) folder=$CLUSTER_DATA_DIR/lcb_v6_questions
    if [[ -d $folder/q_$index ]]; then echo "$folder/q_$index"; else printf '%s/q_%02d\n' "$folder" "$index"; fi
  done
}

one_engine() { # for programs that hold a single engine and no trainer: sets ENGINE_GPUS to what it can use of its node
  local gpus
  if [[ $MODE == submit && ${CLUSTER_NODES:-1} != 1 ]]; then
    refuse "CLUSTER_NODES=$CLUSTER_NODES: this run is one engine on one node, the others would idle (CLUSTER_NODES=1)"
  fi
  gpus=$(gpus_per_node)
  for ((ENGINE_GPUS = 1; 2 * ENGINE_GPUS <= gpus; ENGINE_GPUS *= 2)); do :; done # a power of two divides the heads
}

test_time_runs() { # test_time_runs NAME MODULE: one run of recipes/test_time for each question
  local data folders name model=${MODEL_PATH:-Qwen/Qwen3-8B} seed=${SEED:-0}
  folders=$(question_folders)
  shared_overrides
  for data in $folders; do
    name=$(run_name "$data" "$1" "seed$seed" "$model")
    add_job "$name" "$data" bash experiments/lib/python.sh -m "$2" --data-dir "$data" --run-name "$name" --seed "$seed" \
      actor_rollout_ref.model.path="$model" "${SHARED[@]}"
  done
  run_jobs
}
