#!/usr/bin/env bash
# From a JSON file of programming questions (data/load_dataset.py) to what test-time training reads.
#
#   bash data/prepare_data_splits.sh datasets/lcb_v6.json
#
# Splits the tests, makes parquet files, and one folder per question (q_00, q_01, ...). A file lcb_easy.json beside the
# input is split as well, if there is one. Where to write (default, for datasets/lcb_v6.json):
#   MY_DATA_SPLITS_DIR   all questions             datasets/lcb_v6
#   MY_DATA_SINGLES_DIR  one folder per question   datasets/lcb_v6_questions
#   MY_DATA_EASY_DIR     the easy questions        datasets/lcb_easy

set -euo pipefail

if (($# != 1)) || [[ $1 == -* ]]; then
  sed -n '2,/^$/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
  [[ ${1:-} == -h || ${1:-} == --help ]] && exit 0
  exit 1
fi

INPUT=$1
FOLDER=$(dirname "$INPUT")
SPLITS_DIR=${MY_DATA_SPLITS_DIR:-${INPUT%.*}}
SINGLES_DIR=${MY_DATA_SINGLES_DIR:-${INPUT%.*}_questions}
EASY_DIR=${MY_DATA_EASY_DIR:-$FOLDER/lcb_easy}
TOOLS=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
PYTHON=${PYTHON:-python}

"$PYTHON" "$TOOLS/split_tests.py" --json_path "$INPUT" --output_dir "$SPLITS_DIR"
"$PYTHON" "$TOOLS/preprocess.py" --data_source "$SPLITS_DIR"
"$PYTHON" "$TOOLS/split_questions.py" --data_dir "$SPLITS_DIR" --output_dir "$SINGLES_DIR"

if [[ -f $FOLDER/lcb_easy.json ]]; then
  "$PYTHON" "$TOOLS/split_tests.py" --json_path "$FOLDER/lcb_easy.json" --output_dir "$EASY_DIR"
  "$PYTHON" "$TOOLS/preprocess.py" --data_source "$EASY_DIR"
fi
