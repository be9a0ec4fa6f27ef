# shellcheck shell=bash
# The questions of LiveCodeBench v6 for test-time training, by their index, and how many there are to a study.

HARD="1 3 10 43 46 59 69 74 86 91 92 95 100 103 111 120 125 127 129" # 19; the base model solves less than half of the time
VERY_HARD="3 10 46 74 91 92 95 103 125"

question_folders() { # one a line; QUESTIONS is hard (default), very_hard, or indices
  local index indices=${QUESTIONS:-hard}
  case $indices in
    hard) indices=$HARD ;;
    very_hard) indices=$VERY_HARD ;;
  esac
  for index in $indices; do
    [[ $index =~ ^[0-9]+$ ]] || refuse "QUESTIONS holds '$index' (allowed: hard, very_hard, or indices such as '3 10 46')"
    printf '%s/lcb_v6_questions/q_%02d\n' "$CLUSTER_DATA_DIR" "$((10#$index))"
  done
}
