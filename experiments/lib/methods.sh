# shellcheck shell=bash
# The two methods of the published studies: name and overrides that all runs of a method have. What a study chooses
# besides (warm-up, top-k, mini-batch, feedback, validation) it says itself; the last value of a key counts.

COMMON=(data.train_batch_size=32 actor_rollout_ref.rollout.n=8 algorithm.rollout_correction.rollout_is=token)
ACTOR=actor_rollout_ref.actor
# shellcheck disable=SC2034 # launchers use it
DISTILLATION=$ACTOR.self_distillation

add_sdpo() { # add_sdpo LABEL STUDY DATA MODEL LR ALPHA key=value...: a run; LABEL begins its name, STUDY ends its group
  local name
  name=$(run_name "$3" "$1-train32" "alpha$6" rollout8 "lr$5" drossTrue "$4")
  add_training "$name" sdpo "$3" "${COMMON[@]}" "trainer.group_name=SDPO-$2" "actor_rollout_ref.model.path=$4" \
    "$ACTOR.optim.lr=$5" "$DISTILLATION.alpha=$6" "$DISTILLATION.dont_reprompt_on_self_success=True" "${@:7}"
}

add_grpo() { # add_grpo LABEL STUDY DATA MODEL LR MINI_BATCH key=value...: likewise
  local name
  name=$(run_name "$3" "$1-mbs-$6" train32 rollout8 "lr$5" "model$4")
  add_training "$name" baseline_grpo "$3" "${COMMON[@]}" "trainer.group_name=GRPO-$2" "actor_rollout_ref.model.path=$4" \
    "$ACTOR.optim.lr=$5" "$ACTOR.ppo_mini_batch_size=$6" "${@:7}"
}
