"""The presets, value by value, as published."""

import pytest

ACTOR, ROLLOUT = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"
PPO_TRAINER = {
    "max_model_len": None,
    "data.train_batch_size": 1024,
    "data.max_prompt_length": 512,
    "data.max_response_length": 512,
    "data.shuffle": True,
    "data.seed": None,
    "data.apply_chat_template_kwargs": {},
    f"{ACTOR}.ppo_mini_batch_size": 256,
    f"{ACTOR}.ppo_micro_batch_size_per_gpu": None,
    f"{ACTOR}.ppo_max_token_len_per_gpu": 16384,
    f"{ACTOR}.clip_ratio": 0.2,
    f"{ACTOR}.clip_ratio_c": 3.0,
    f"{ACTOR}.use_kl_loss": False,
    f"{ACTOR}.loss_agg_mode": "token-mean",
    f"{ACTOR}.ppo_epochs": 1,
    f"{ACTOR}.entropy_coeff": 0.0,
    f"{ACTOR}.grad_clip": 1.0,
    f"{ACTOR}.policy_loss.loss_mode": "vanilla",
    f"{ACTOR}.optim.lr": 1e-6,
    f"{ACTOR}.optim.betas": (0.9, 0.999),
    f"{ACTOR}.optim.weight_decay": 0.01,
    f"{ACTOR}.optim.lr_scheduler_type": "constant",
    f"{ACTOR}.optim.lr_warmup_steps": -1,
    f"{ACTOR}.self_distillation.teacher_update_rate": 0.05,
    f"{ACTOR}.self_distillation.distillation_topk": 100,
    "actor_rollout_ref.model.path": None,
    "actor_rollout_ref.model.trust_remote_code": False,
    "actor_rollout_ref.model.enable_gradient_checkpointing": True,
    f"{ROLLOUT}.n": 1,
    f"{ROLLOUT}.calculate_log_probs": False,
    f"{ROLLOUT}.gpu_memory_utilization": 0.5,
    f"{ROLLOUT}.temperature": 1.0,
    f"{ROLLOUT}.top_p": 1.0,
    f"{ROLLOUT}.top_k": -1,
    f"{ROLLOUT}.tensor_model_parallel_size": 2,
    f"{ROLLOUT}.max_num_seqs": 1024,
    f"{ROLLOUT}.max_model_len": None,
    f"{ROLLOUT}.val_kwargs.n": 1,
    f"{ROLLOUT}.val_kwargs.temperature": 0.0,
    f"{ROLLOUT}.log_prob_micro_batch_size_per_gpu": None,
    "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu": None,
    "algorithm.adv_estimator": "grpo",
    "algorithm.norm_adv_by_std_in_grpo": True,
    "algorithm.use_kl_in_reward": False,
    "algorithm.rollout_correction.rollout_is": None,
    "algorithm.rollout_correction.rollout_is_threshold": 2.0,
    "algorithm.rollout_correction.bypass_mode": False,
    "custom_reward_function.path": None,
    "custom_reward_function.name": "compute_score",
    "trainer.logger": ["console", "file"],
    "trainer.nnodes": 1,
    "trainer.n_gpus_per_node": 8,
    "trainer.save_freq": -1,
    "trainer.test_freq": -1,
    "trainer.total_epochs": 30,
    "trainer.val_before_train": True,
    "trainer.max_actor_ckpt_to_keep": None,
    "trainer.balance_batch": True,
    "trainer.resume_mode": "auto",
    "trainer.default_local_dir": "checkpoints/verl/trial",
}
USER = {
    "data.train_files": ["datasets/chemistry/train.parquet"],
    "data.val_files": ["datasets/chemistry/test.parquet"],
    "data.train_batch_size": 32,
    "data.max_prompt_length": 2048,
    "data.max_response_length": 8192,
    "data.filter_overlong_prompts": True,
    "data.apply_chat_template_kwargs": {"enable_thinking": False},
    f"{ACTOR}.ppo_micro_batch_size_per_gpu": 1,
    f"{ACTOR}.clip_ratio_high": 0.28,
    "actor_rollout_ref.model.path": "Qwen/Qwen3-8B",
    "actor_rollout_ref.model.trust_remote_code": True,
    f"{ROLLOUT}.name": "vllm",
    f"{ROLLOUT}.n": 8,
    f"{ROLLOUT}.calculate_log_probs": True,
    f"{ROLLOUT}.gpu_memory_utilization": 0.55,
    f"{ROLLOUT}.max_model_len": 10240,
    f"{ROLLOUT}.max_num_batched_tokens": 10240,
    f"{ROLLOUT}.val_kwargs.top_p": 0.95,
    f"{ROLLOUT}.val_kwargs.temperature": 0.6,
    f"{ROLLOUT}.val_kwargs.n": 4,
    f"{ROLLOUT}.val_kwargs.do_sample": True,
    f"{ROLLOUT}.log_prob_micro_batch_size_per_gpu": 1,
    "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu": 1,
    "algorithm.adv_estimator": "grpo",
    "algorithm.norm_adv_by_std_in_grpo": False,
    "algorithm.rollout_correction.rollout_is": "token",
    "algorithm.rollout_correction.rollout_is_threshold": 2.0,
    "trainer.project_name": "SDPO-ada",
    "trainer.group_name": "trial",
    "trainer.experiment_name": "trial",
    "trainer.nnodes": 1,
    "trainer.n_gpus_per_node": 4,
    "trainer.save_freq": 0,
    "trainer.test_freq": 5,
    "trainer.total_epochs": 30,
    "trainer.max_actor_ckpt_to_keep": 1,
    "trainer.default_local_dir": "checkpoints/trial",
}
SDPO = USER | {
    "max_model_len": 18944,
    f"{ACTOR}.ppo_max_token_len_per_gpu": 18944,
    f"{ACTOR}.ppo_mini_batch_size": 32,
    f"{ACTOR}.policy_loss.loss_mode": "sdpo",
    f"{ACTOR}.self_distillation.max_reprompt_len": 10240,
    f"{ACTOR}.self_distillation.is_clip": 2.0,
    f"{ACTOR}.optim.lr": 1e-5,
    "trainer.val_before_train": False,
}
GRPO = USER | {
    "max_model_len": 10240,
    f"{ACTOR}.ppo_max_token_len_per_gpu": 10240,
    f"{ACTOR}.ppo_mini_batch_size": 8,
    f"{ACTOR}.policy_loss.loss_mode": "vanilla",
    f"{ACTOR}.optim.lr": 1e-6,
    "trainer.val_before_train": True,
}
TTT = SDPO | {
    "data.train_batch_size": 1,
    "data.train_max_samples": 1,
    f"{ACTOR}.ppo_mini_batch_size": 1,
    f"{ACTOR}.optim.lr": 1e-6,
    f"{ACTOR}.optim.lr_warmup_steps": 0,
    f"{ACTOR}.self_distillation.alpha": 1.0,
    f"{ACTOR}.self_distillation.distillation_topk": 20,
    f"{ACTOR}.self_distillation.teacher_update_rate": 0.01,
    f"{ACTOR}.self_distillation.advantage_clip": None,  # credit logit has no advantage
    f"{ROLLOUT}.n": 16,
    "vars.budget": 2750,
    "trainer.test_freq": -1,
    "trainer.save_freq": 10,
    "trainer.default_local_dir": "outputs/test_time/trial",
}
RUNNABLE = ("data.train_files=x", "actor_rollout_ref.model.path=o/m", f"{ROLLOUT}.n=2")


@pytest.mark.parametrize(("preset", "expected"), [("sdpo", SDPO), ("baseline_grpo", GRPO), ("ttt", TTT)])
def test_preset(one, read, preset, expected):
    config = one(preset)
    assert {key: read(config, key) for key in expected} == expected


def test_ppo_trainer(one, read):
    config = one("ppo_trainer", *RUNNABLE)
    given = {"actor_rollout_ref.model.path": "o/m", f"{ROLLOUT}.n": 2}
    assert {key: read(config, key) for key in PPO_TRAINER} == PPO_TRAINER | given


def test_quickstart(one, read):
    config = one("quickstart")
    expected = {
        "data.train_batch_size": 32,
        f"{ROLLOUT}.n": 8,
        f"{ACTOR}.ppo_mini_batch_size": 4,
        f"{ACTOR}.optim.lr": 1e-3,
        f"{ACTOR}.optim.lr_warmup_steps": 5,
        f"{ACTOR}.policy_loss.loss_mode": "sdpo",
        f"{ACTOR}.self_distillation.alpha": 0.5,
        f"{ACTOR}.self_distillation.distillation_topk": None,
        f"{ACTOR}.self_distillation.teacher_update_rate": 0.0,
        f"{ROLLOUT}.val_kwargs.n": 8,
        "trainer.logger": ["console", "file"],
    }
    assert {key: read(config, key) for key in expected} == expected


def test_quickstart_finds_the_shipped_model_from_anywhere(one, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    path = one("quickstart").actor_rollout_ref.model.path
    assert path.startswith("/") and path.endswith("recipes/embedded/model")


def test_the_papers_advantage_clip_can_be_had_where_there_is_an_advantage(one, read):
    distillation = f"{ACTOR}.self_distillation"
    config = one("ttt", f"{distillation}.credit=token", f"{distillation}.advantage_clip=5.0")
    assert read(config, f"{distillation}.advantage_clip") == 5.0


def test_an_absolute_task_folder_stays_absolute(one):
    assert one("sdpo", "vars.task=/data/mcq").data.train_files == ["/data/mcq/train.parquet"]
