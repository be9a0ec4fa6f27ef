#!/usr/bin/env bash
# Which teacher holds? Live, frozen, EMA .05, EMA .05 with the self-anchor, and trust region, on the model and the task of
# recipes/embedded, 100 steps each: 5 teachers x 3 seeds, then one table and one plot of them all.
#
#   bash experiments/ablation/run_teachers.sh [options] [key=value ...]
#
# Environment: SEEDS (default "1 2 3"); OUTPUT, the plot (default checkpoints/teachers.png); N_GPUS_PER_NODE (default: the
# visible GPUs; without GPU, ranks on the CPU). A run that is there already is resumed, or left alone. What came out is
# in docs/stability.md.

set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../lib/submit.sh"
read_options local '' "$@"

DATA=$CLUSTER_DATA_DIR/home_api
SEEDS=${SEEDS:-1 2 3}
OUTPUT=${OUTPUT:-checkpoints/teachers.png}
EMA=$DISTILLATION.teacher_regularization=ema
RATE=$DISTILLATION.teacher_update_rate
LABELLED=()

teacher() { # teacher LABEL SHORT key=value...: its runs, one for each seed
  local seed name
  for seed in $SEEDS; do
    name=$(run_name "$DATA" "TEACHER-$2" "seed$seed")
    add_training "$name" quickstart "$DATA" "vars.data=$DATA" "trainer.default_local_dir=checkpoints/$name" \
      trainer.total_training_steps=100 trainer.test_freq=20 "trainer.seed=$seed" \
      "$DISTILLATION.demo_log_prob_freq=5" "${@:3}"
    LABELLED+=("$1=checkpoints/$name")
  done
}

make_if_missing "$DATA"
teacher "live (EMA 1)" live "$EMA" "$RATE=1.0"
teacher "frozen (EMA 0)" frozen "$EMA" "$RATE=0.0"
teacher "EMA .05" ema "$EMA" "$RATE=0.05"
teacher "EMA .05, self-anchor .3" anchor "$EMA" "$RATE=0.05" "$DISTILLATION.teacher_anchor_coef=0.3"
teacher "trust region .3" trust "$DISTILLATION.teacher_regularization=trust-region" "$RATE=0.3"
run_jobs

REPORT=(-m verl.trainer.main_report --compare "${LABELLED[@]}" --output "$OUTPUT")
if [[ $MODE == local && $DRY_RUN == false ]]; then
  bash experiments/lib/python.sh "${REPORT[@]}"
else
  printf 'When all of them are finished:\n(cd %s && %s)\n' "$(quote "$ROOT")" "$(quote bash experiments/lib/python.sh "${REPORT[@]}")"
fi
