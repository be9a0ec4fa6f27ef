"""What published launchers type: it composes, and it arrives."""

import pytest

ACTOR, ROLLOUT = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"
DISTILLATION = f"{ACTOR}.self_distillation"
BOTH = {
    "data.train_batch_size": [32],
    "trainer.group_name": ["GRPO-generalization", "SDPO-rich-feedback", "SDPO-local"],
    "actor_rollout_ref.model.path": ["Qwen/Qwen3-8B", "allenai/Olmo-3-7B-Instruct", "Qwen/Qwen2.5-7B-Instruct"],
    f"{ROLLOUT}.n": [8],
    f"{ROLLOUT}.val_kwargs.n": [16, 4],
    "algorithm.rollout_correction.rollout_is": ["token"],
    f"{ACTOR}.optim.lr": [1e-5, 1e-6],
    f"{ACTOR}.optim.lr_warmup_steps": [10, 0, -1],
    f"{ACTOR}.ppo_mini_batch_size": [1, 8, 32],
}
SDPO_ONLY = {
    f"{DISTILLATION}.alpha": [0.5, 1.0],
    f"{DISTILLATION}.distillation_topk": [100, 20],
    f"{DISTILLATION}.dont_reprompt_on_self_success": [True],
    f"{DISTILLATION}.include_environment_feedback": [False],
}


@pytest.mark.parametrize("round", [0, 1, 2])
@pytest.mark.parametrize(("preset", "keys"), [("sdpo", BOTH | SDPO_ONLY), ("baseline_grpo", BOTH)])
def test_overrides_arrive(one, read, preset, keys, round):
    """Every value of every key, several keys at a time."""
    given = {key: values[round % len(values)] for key, values in keys.items()}
    config = one(preset, *(f"{key}={value}" for key, value in given.items()))
    assert {key: read(config, key) for key in given} == given


def test_old_name_of_the_teacher_rate_is_accepted_with_a_note(runs):
    (run,) = runs("sdpo", f"{DISTILLATION}.ema_update_rate=0.01")
    assert run.config.actor_rollout_ref.actor.self_distillation.teacher_update_rate == 0.01
    assert len(run.notes) == 1 and "deprecated" in run.notes[0] and "teacher_update_rate" in run.notes[0]


def test_overrides_may_stand_before_and_after_flags(environment):
    from verl.config import PPOConfig
    from verl.trainer.compose import compose

    argv = ["data.seed=3", "--config-name", "sdpo", "trainer.seed=4"]
    (run,) = compose(PPOConfig, "ppo_trainer", argv, lambda config: [])
    assert (run.config.data.seed, run.config.trainer.seed) == (3, 4)


@pytest.mark.parametrize("plus", ["", "+", "++"])
def test_hydra_prefixes_do_not_matter(one, plus):
    config = one("sdpo", f"{plus}{ROLLOUT}.engine_kwargs.vllm.swap_space=2")
    assert config.actor_rollout_ref.rollout.engine_kwargs.vllm == {"swap_space": 2}


def test_target_of_typed_nodes_passes(one):
    assert one("sdpo", f"{DISTILLATION}._target_=verl.workers.config.SelfDistillationConfig", "data.seed=1")


def test_sweep_gives_every_run_its_own_folder(runs):
    sweep = runs("sdpo", "-m", "trainer.seed=1,2")
    assert [run.config.trainer.seed for run in sweep] == [1, 2]
    assert [run.config.trainer.default_local_dir for run in sweep] == ["checkpoints/trial/0", "checkpoints/trial/1"]


def test_sweep_over_names_keeps_the_folders_as_named(runs):
    sweep = runs("sdpo", "-m", "trainer.experiment_name=a,b")
    assert [run.config.trainer.default_local_dir for run in sweep] == ["checkpoints/a", "checkpoints/b"]


def test_own_folder_of_presets_with_a_group(tmp_path, environment):
    from verl.config import PPOConfig
    from verl.trainer.compose import compose

    (tmp_path / "size").mkdir()
    (tmp_path / "size" / "small.yaml").write_text("# @package _global_\ndata:\n  train_batch_size: 64\n")
    (tmp_path / "mine.yaml").write_text("defaults: [sdpo, _self_]\ntrainer:\n  seed: 7\n")
    argv = ["--config-dir", str(tmp_path), "--config-name", "mine", "+size=small"]
    (run,) = compose(PPOConfig, "ppo_trainer", argv, lambda config: [])
    assert (run.config.trainer.seed, run.config.data.train_batch_size) == (7, 64)
    assert run.config.actor_rollout_ref.actor.policy_loss.loss_mode == "sdpo"
