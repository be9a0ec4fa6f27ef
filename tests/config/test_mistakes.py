"""Mistakes: all told at once, with the way out."""

import pytest

from verl.config import ConfigError, PPOConfig, SelfDistillationConfig
from verl.config.checks import ppo_advice
from verl.config.files import missing_files
from verl.trainer.compose import compose

ACTOR, ROLLOUT, REF = "actor_rollout_ref.actor", "actor_rollout_ref.rollout", "actor_rollout_ref.ref"
DISTILLATION = f"{ACTOR}.self_distillation"


@pytest.fixture
def problems(runs):
    """`problems(preset, *overrides)`: what is wrong, one sentence each."""

    def of(preset, *overrides):
        with pytest.raises(ConfigError) as error:
            runs(preset, *overrides)
        return error.value.problems

    return of


def test_misspelt_key_is_answered_with_the_right_spelling(problems):
    (problem,) = problems("sdpo", f"{ACTOR}.self_distilation.alpha=1")
    assert problem.startswith(f"{ACTOR}.self_distilation.alpha: unknown key")
    assert f"{DISTILLATION}.alpha" in problem


def test_everything_wrong_is_told_at_once(problems):
    found = problems(
        "sdpo",
        "data.trian_files=x",
        f"{DISTILLATION}.alpha=2",
        f"{ACTOR}.policy_loss.loss_mode=spdo",
        "data.train_batch_size=33",
        "trainer.device=tpu",
        f"{ACTOR}.ulysses_sequence_parallel_size=3",
    )
    assert len(found) == 6, found
    for key in ("trian_files", "alpha=2", "'sdpo'", "ppo_mini_batch_size=32", "trainer.device=tpu", "ulysses"):
        assert any(key in problem for problem in found), key


def test_a_wrong_value_does_not_cause_a_second_sentence(problems):
    (problem,) = problems("sdpo", "data.train_batch_size=-1")
    assert problem == "data.train_batch_size=-1: must be at least 1"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        (["data.train_batch_size=48"], ["48 prompts of a step / 32 prompts of an update = 1.5", "16, 24, 48"]),
        (["data.train_batch_size=8"], ["8 prompts of a step / 32 prompts of an update = 0.25"]),
        ([f"{ACTOR}.use_kl_loss=True"], ["use_kl_loss=True", "teacher", f"{DISTILLATION}.kl_anchor_coef"]),
        (
            [f"{ACTOR}.policy_loss.high_entropy_fraction=0.2"],
            ["high_entropy_fraction=0.2", "loss_mode=sdpo has none", "loss_mode=vanilla", "grpo_lambda"],
        ),
        (
            [f"{DISTILLATION}.correct_samples=grpo", f"{ROLLOUT}.n=1"],
            ["n=1", "compares the responses to one prompt"],
        ),
        ([f"{DISTILLATION}.credit=token"], ["alpha=0.5", "credit=token", "alpha=1.0"]),
        ([f"{DISTILLATION}.advantage_clip=5"], ["advantage_clip=5.0", "set credit to token"]),
        (["algorithm.use_kl_in_reward=True"], ["use_kl_in_reward=True", "teacher"]),
        (["algorithm.adv_estimator=gae"], ["grpo, reinforce_plus_plus, rloo", "critic"]),
        ([f"{ROLLOUT}.max_model_len=9000"], ["9000", "2048", "8192", "10240"]),
        ([f"{ROLLOUT}.calculate_log_probs=False"], ["rollout_is=token", "calculate_log_probs=True"]),
        ([f"{ROLLOUT}.tensor_model_parallel_size=3"], ["3", "4 GPUs"]),
        (["trainer.nnodes=2", "trainer.n_gpus_per_node=1"], ["2 GPUs does not span machines", "1 GPUs of each"]),
        (["actor_rollout_ref.hybrid_engine=False"], ["hybrid_engine=False", "rollout.nnodes=0 shares"]),
        ([f"{ROLLOUT}.nnodes=1"], ["hybrid_engine=True", "gives engines their own", "set it to False"]),
        ([f"{ROLLOUT}.n_gpus_per_node=2"], ["is used with", "nnodes only"]),
        (["data.train_files=null"], ["data.train_files=<file.parquet>"]),
        (["actor_rollout_ref.model.path=null"], ["<folder or hub name>"]),
        (["trainer.val_only=True", "data.val_files=null"], ["val_only"]),
        ([f"{ROLLOUT}.n=1", f"{DISTILLATION}.include_environment_feedback=False"], ["neither"]),
        ([f"{ROLLOUT}.n=1", f"{DISTILLATION}.grpo_lambda=0.5"], ["at least 2"]),
        ([f"{ACTOR}.use_dynamic_bsz=True", f"{ACTOR}.ppo_max_token_len_per_gpu=10000"], ["10000", "10240"]),
        ([f"{REF}.log_prob_use_dynamic_bsz=True", f"{REF}.log_prob_max_token_len_per_gpu=16384"], ["16384", "18432"]),
        ([f"{ROLLOUT}.log_prob_use_dynamic_bsz=True", f"{ROLLOUT}.log_prob_max_token_len_per_gpu=99"], ["99", "10240"]),
        ([f"{ACTOR}.ppo_mini_batch_size=1", f"{ROLLOUT}.n=2"], ["1 prompts x 2 responses", "4 ranks"]),
        ([f"{ACTOR}.fsdp_config.fsdp_size=3"], ["fsdp_size=3", "4 ranks", "-1 (all), 1, 2, 4"]),
        ([f"{ACTOR}.fsdp_config.fsdp_size=0"], ["fsdp_size=0", "at least 1, or -1"]),
        ([f"{ACTOR}.ulysses_sequence_parallel_size=3"], ["size=3", "4 ranks", "1, 2, 4"]),
        (
            [f"{ACTOR}.ulysses_sequence_parallel_size=2", "actor_rollout_ref.model.use_remove_padding=False"],
            ["size=2", "packed", "use_remove_padding=True"],
        ),
        (
            [
                f"{ACTOR}.ulysses_sequence_parallel_size=8",
                "trainer.nnodes=2",
                "actor_rollout_ref.model.path=recipes/embedded/model",
                "data.max_prompt_length=32",
                "data.max_response_length=32",
                f"{DISTILLATION}.max_reprompt_len=32",
            ],
            ["size=8", "4 attention heads of recipes/embedded/model", "1, 2, 4"],
        ),
        (
            [
                f"{ACTOR}.use_dynamic_bsz=True",
                f"{ACTOR}.ppo_max_token_len_per_gpu=5000",
                f"{ACTOR}.ulysses_sequence_parallel_size=2",
                f"{REF}.log_prob_max_token_len_per_gpu=10000",
            ],
            ["ppo_max_token_len_per_gpu=5000: times the 2 ranks of a forward does not hold", "10240"],
        ),
        (["trainer.resume_mode=resume_path"], ["resume_from_path"]),
        (
            ["trainer.rollout_schedule=one_step_off", "algorithm.rollout_correction.rollout_is=null"],
            ["rollout_schedule=one_step_off", "algorithm.rollout_correction.rollout_is=token"],
        ),
        (["trainer.rollout_schedule=async"], ["on_policy", "one_step_off"]),
        (["actor_rollout_ref.model.lora_rank=8", "actor_rollout_ref.ref.model.path=o/m"], ["LoRA"]),
        ([f"{DISTILLATION}.ema_update_rate=.1", f"{DISTILLATION}.teacher_update_rate=.2"], ["teacher_update_rate=.2"]),
        ([f"{DISTILLATION}.full_logit_distillation=False"], ["alpha=1.0"]),
        (
            [f"{DISTILLATION}.teacher_anchor_coef=0.3", f"{DISTILLATION}.credit=token", f"{DISTILLATION}.alpha=1"],
            ["teacher_anchor_coef=0.3", "credit=logit"],
        ),
        ([f"{DISTILLATION}.teacher_anchor_fraction=0"], ["at most 1 and greater than 0"]),
        ([f"{DISTILLATION}.is_coef=1.5"], ["is_coef=1.5", "between 0 and 1"]),
        ([f"{DISTILLATION}.thinking_tag=think"], ["thinking_tag=think", "<think>", "null"]),
        ([f"{DISTILLATION}.thinking_tag='</think>'"], ["thinking_tag=</think>", "opening tag"]),
        (
            [f"{DISTILLATION}.demonstration_choice=none", f"{DISTILLATION}.include_environment_feedback=False"],
            ["demonstration_choice=none", "nothing at all"],
        ),
        (  # an anchor is learnt on the teacher's prompt, which is longer
            [
                f"{DISTILLATION}.teacher_anchor_coef=0.3",
                f"{ACTOR}.use_dynamic_bsz=True",
                f"{ACTOR}.ppo_max_token_len_per_gpu=12000",
            ],
            ["12000", "18432"],
        ),
        (["trainer.stop_on_collapse.mode=up"], ["max, min"]),
    ],
)
def test_rule(problems, override, words):
    (problem,) = problems("sdpo", *override)
    for word in words:
        assert word in problem


def test_default_mini_batch_against_a_small_batch(problems):
    found = problems("ppo_trainer", "data.train_files=x", "data.train_batch_size=32", f"{ROLLOUT}.n=4")
    assert any("32 prompts of a step / 256 prompts of an update" in problem for problem in found)


def test_missing_variables_are_named_with_the_keys_that_replace_them(problems, monkeypatch):
    monkeypatch.delenv("TASK")
    monkeypatch.delenv("EXPERIMENT")
    task, experiment = problems("sdpo")
    assert "TASK is not set" in task and "vars.task=..." in task and "data.train_files" in task
    assert "EXPERIMENT is not set" in experiment and "trainer.experiment_name=..." in experiment


def test_keys_replace_the_variables(one, monkeypatch):
    monkeypatch.delenv("TASK")
    monkeypatch.delenv("EXPERIMENT")
    config = one("sdpo", "data.train_files=a.parquet", "data.val_files=b.parquet", "trainer.experiment_name=mine")
    assert config.trainer.default_local_dir == "checkpoints/mine"


def test_user_falls_back_to_the_login_name(one, monkeypatch):
    monkeypatch.delenv("USER")
    monkeypatch.setenv("LOGNAME", "grace")
    assert one("sdpo").trainer.project_name == "SDPO-grace"


def test_old_and_new_name_in_python():
    with pytest.warns(DeprecationWarning, match="teacher_update_rate"):
        assert SelfDistillationConfig(ema_update_rate=0.01).teacher_update_rate == 0.01
    with pytest.raises(ValueError, match=r"ema_update_rate=0.01.*0.2"):
        SelfDistillationConfig(ema_update_rate=0.01, teacher_update_rate=0.2)


def test_missing_files_and_code(tmp_path, environment):
    (tmp_path / "score.py").write_text("def compute_scores():\n    pass\n")
    argv = [
        "--config-name=sdpo",
        f"data.val_files=[{tmp_path}/no.parquet]",
        f"data.train_files={tmp_path}/score.py",
        f"actor_rollout_ref.model.path={tmp_path}",
        f"custom_reward_function.path={tmp_path}/score.py",
        f"data.custom_cls.path={tmp_path}/none.py",
        "data.custom_cls.name=Mine",
    ]
    with pytest.raises(ConfigError) as error:
        compose(PPOConfig, "ppo_trainer", argv, missing_files)
    values, model, name, code = error.value.problems
    assert "no.parquet: there is no such file" in values
    assert "config.json" in model
    assert "did you mean compute_scores?" in name
    assert "data.custom_cls.path" in code


def test_model_with_too_few_positions(problems, tmp_path):
    sizes = "vocab_size hidden_size num_hidden_layers num_attention_heads intermediate_size"
    fields = ", ".join(f'"{name}": 8' for name in sizes.split())
    (tmp_path / "config.json").write_text(f'{{{fields}, "max_position_embeddings": 4096}}')
    (problem,) = problems("baseline_grpo", f"actor_rollout_ref.model.path={tmp_path}")
    assert "4096 positions" in problem and "10240 tokens" in problem


@pytest.mark.parametrize(
    ("preset", "override", "is_advised"),
    [
        ("sdpo", [], True),
        ("sdpo", [f"{DISTILLATION}.teacher_anchor_coef=0.3"], False),
        ("sdpo", [f"{DISTILLATION}.teacher_update_rate=0.01"], False),
        ("sdpo", [f"{DISTILLATION}.teacher_regularization=trust-region"], False),
        ("sdpo", [f"{DISTILLATION}.grpo_lambda=1"], False),
        ("baseline_grpo", [], False),
    ],
)
def test_a_fast_teacher_without_an_anchor_is_advised_against(one, preset, override, is_advised):
    advice = ppo_advice(one(preset, "trainer.save_last=true", *override))
    assert len(advice) == is_advised
    if is_advised:
        assert f"{DISTILLATION}.teacher_update_rate=0.05" in advice[0] and "teacher_anchor_coef=0.3" in advice[0]


@pytest.mark.parametrize(
    ("override", "is_advised"),
    [
        ([], True),
        (["trainer.save_freq=-1"], True),
        (["trainer.save_freq=20"], False),
        (["trainer.val_only=true"], False),
    ],
)
def test_a_run_that_leaves_no_model_is_advised_against(one, override, is_advised):
    advice = ppo_advice(one("baseline_grpo", *override))
    assert len(advice) == is_advised
    assert all("trainer.save_last=true saves it" in sentence for sentence in advice)
