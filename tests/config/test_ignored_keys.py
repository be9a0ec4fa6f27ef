"""Keys of verl without effect: one note each, or a refusal where silence would change the result."""

import pytest

from verl.config import ConfigError, PPOConfig, known_keys
from verl.config.ignored import take_ignored
from verl.config.verl_keys import IGNORED

ACTOR, ROLLOUT = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"
HARMLESS = [
    "data.return_raw_chat=True",
    "data.trust_remote_code=True",
    "data.dataloader_num_workers=8",
    f"{ACTOR}.use_remove_padding=True",
    "actor_rollout_ref.model.use_fused_kernels=False",
    "actor_rollout_ref.model.use_liger=False",
    "actor_rollout_ref.model.enable_activation_offload=False",
    f"{ACTOR}.fsdp_config.optimizer_offload=False",
    f"{ACTOR}.fsdp_config.offload_policy=False",
    f"{ACTOR}.checkpoint.load_contents=[model]",
    "actor_rollout_ref.ref.ulysses_sequence_parallel_size=2",
    f"{ROLLOUT}.mode=async",
    f"{ROLLOUT}.multi_stage_wake_up=True",
    f"{ROLLOUT}.enable_chunked_prefill=True",
    f"{ROLLOUT}.load_format=dummy",
    f"{ROLLOUT}.agent.num_workers=8",
    f"{ROLLOUT}.seed=0",
    f"{ROLLOUT}.full_determinism=False",
    "algorithm.lam=1.0",
    "algorithm.filter_groups.enable=False",
    "algorithm.rollout_correction.rollout_rs=null",
    "reward_model.use_reward_loop=False",
    "reward_model.reward_manager=naive",
    "critic.model.path=Qwen/Qwen3-8B",
    "trainer.critic_warmup=0",
]
REFUSED = [
    f"{ACTOR}.fsdp_config.ulysses_sequence_parallel_size=2",
    "algorithm.filter_groups.enable=True",
    "algorithm.rollout_correction.rollout_rs=token",
    "algorithm.kl_ctrl.type=adaptive",
    "reward_model.enable=True",
    "reward_model.reward_manager=dapo",
    f"{ROLLOUT}.multi_turn.enable=True",
    f"{ROLLOUT}.repetition_penalty=1.1",
    f"{ACTOR}.ppo_micro_batch_size=4",
    "data.gen_batch_size=64",
    "actor_rollout_ref.model.custom_chat_template=x",
    "critic.enable=True",
]


def test_each_harmless_key_gets_one_note_that_says_why(runs):
    (run,) = runs("sdpo", *HARMLESS)
    assert len(run.notes) == len(HARMLESS)
    for override in HARMLESS:
        key = override.partition("=")[0]
        (note,) = [note for note in run.notes if note.startswith(key)]
        assert "has no effect here: " in note


def test_presets_themselves_cause_no_note(runs):
    for preset in ("sdpo", "baseline_grpo", "quickstart"):
        assert runs(preset)[0].notes == []


def test_values_that_would_change_the_result_are_refused_together(runs):
    with pytest.raises(ConfigError) as error:
        runs("sdpo", *REFUSED)
    assert len(error.value.problems) == len(REFUSED)
    for override in REFUSED:
        assert any(override in problem for problem in error.value.problems), override


def test_a_group_gets_a_single_note():
    rest, notes, problems = take_ignored({"critic": {"optim": {"lr": 1.0}, "ppo_epochs": 1}, "data": {"seed": 1}})
    assert rest == {"data": {"seed": 1}} and problems == []
    assert notes == ["critic.optim.lr=1.0, critic.ppo_epochs=1 has no effect here: there is no critic."]


def test_no_key_is_both_ours_and_ignored():
    assert not IGNORED.keys() & known_keys(PPOConfig).keys()
