"""The settings of the trainer: the table of defaults, three vocabularies, and what is answered to mistakes."""

import dataclasses
import pickle
import subprocess
import sys
import warnings

import pytest
from sdpo_trainer.config import SDPOConfig

from verl.config.self_distillation import FEEDBACK_TEMPLATE, REPROMPT_TEMPLATE, SOLUTION_TEMPLATE

DEFAULTS = {
    "enabled": True,
    "alpha": 0.5,
    "full_logit_distillation": True,
    "distillation_topk": 100,
    "distillation_add_tail": True,
    "is_clip": 2.0,
    "is_coef": None,
    "teacher_mode": "ema",
    "teacher_update_rate": 0.05,
    "teacher_update_every": 1,
    "use_successful_as_teacher": True,
    "success_reward_threshold": 1.0,
    "dont_reprompt_on_self_success": True,
    "remove_thinking_from_demonstration": True,
    "thinking_tag": "<think>",
    "include_environment_feedback": True,
    "environment_feedback_only_without_solution": True,
    "max_reprompt_length": 10240,
    "reprompt_truncation": "right",
    "apply_chat_template_kwargs": {},
    "reprompt_template": REPROMPT_TEMPLATE,
    "solution_template": SOLUTION_TEMPLATE,
    "feedback_template": FEEDBACK_TEMPLATE,
    "distillation_weight": 1.0,
    "rollout_is_threshold": 2.0,
    "logits_chunk_tokens": 1024,
    "on_reward_error": "raise",
    "allow_fresh_teacher": False,
    "lora_ema_exact": False,
}
OTHER_NAMES = [
    ("ema_tau", "teacher_update_rate", 0.2),
    ("ema_update_every", "teacher_update_every", 4),
    ("reprompt_teacher", "use_successful_as_teacher", False),
    ("distillation_alpha", "alpha", 0.25),
    ("distillation_is_clip", "is_clip", None),
    ("teacher_model_kind", "teacher_mode", "trust_region"),
    ("teacher_sync_steps", "teacher_update_every", 3),
    ("max_reprompt_len", "max_reprompt_length", 77),
    ("chat_template_kwargs", "apply_chat_template_kwargs", {"enable_thinking": False}),
]
CHANGED = {
    "enabled": False, "alpha": 1.0, "full_logit_distillation": False, "distillation_topk": 7,
    "distillation_add_tail": False, "is_clip": None, "is_coef": 0.25, "teacher_mode": "lora_ema",
    "teacher_update_rate": 0.5, "teacher_update_every": 2, "use_successful_as_teacher": False,
    "success_reward_threshold": 0.75, "dont_reprompt_on_self_success": False,
    "remove_thinking_from_demonstration": False, "thinking_tag": None, "include_environment_feedback": False,
    "environment_feedback_only_without_solution": False, "max_reprompt_length": 64, "reprompt_truncation": "error",
    "apply_chat_template_kwargs": {"a": 1}, "reprompt_template": "{prompt}|{solution}|{feedback}",
    "solution_template": "S{successful_previous_attempt}", "feedback_template": "F{feedback_raw}",
    "distillation_weight": 0.5, "rollout_is_threshold": None, "logits_chunk_tokens": 16, "on_reward_error": "zero",
    "allow_fresh_teacher": True, "lora_ema_exact": True,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _no_unasked_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_defaults_are_those_of_the_table():
    assert SDPOConfig().to_dict() == DEFAULTS
    assert REPROMPT_TEMPLATE.endswith("Correctly solve the original question.")  # the core's, without a newline


@pytest.mark.parametrize("name", CHANGED)
def test_every_setting_is_stored_under_its_canonical_name(name):
    together = {"alpha": 1.0} if name == "full_logit_distillation" else {}
    config = SDPOConfig(**{name: CHANGED[name]}, **together)
    assert config.to_dict() == DEFAULTS | together | {name: CHANGED[name]}
    assert getattr(config, name) == CHANGED[name]


def test_to_dict_makes_the_configuration_again():
    config = SDPOConfig(**CHANGED)
    assert config.to_dict() == CHANGED
    assert SDPOConfig(**config.to_dict()) == config
    config.to_dict()["apply_chat_template_kwargs"]["a"] = 2
    assert config.apply_chat_template_kwargs == {"a": 1}


def test_a_configuration_is_copied_with_changes_and_pickled():
    config = SDPOConfig(ema_tau=0.2)
    changed = dataclasses.replace(config, alpha=1.0)
    assert (changed.alpha, changed.teacher_update_rate, config.alpha) == (1.0, 0.2, 0.5)
    assert pickle.loads(pickle.dumps(changed)) == changed
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.alpha = 1.0


@pytest.mark.parametrize(("name", "canonical", "value"), OTHER_NAMES)
def test_other_vocabularies(name, canonical, value):
    config = SDPOConfig(**{name: value})
    assert config.to_dict() == DEFAULTS | {canonical: value}
    assert SDPOConfig(**{name: value, canonical: value}) == config
    other = {"teacher_mode": "ema", "apply_chat_template_kwargs": {"x": 1}}.get(canonical, 1)
    other = True if canonical == "use_successful_as_teacher" else other
    for keys in ({name: value, canonical: other}, {canonical: other, name: value}):
        with pytest.raises(ValueError) as error:
            SDPOConfig(**keys)
        assert f"{name}={value!r}" in str(error.value) and f"{canonical}={other!r}" in str(error.value)


@pytest.mark.parametrize(
    ("word", "mode"),
    [("fixed", "frozen"), ("base", "frozen"), ("live", "copy"), ("refreshed", "copy"), ("frozen", "frozen")],
)
def test_synonyms_of_teachers(word, mode):
    assert SDPOConfig(teacher_mode=word).teacher_mode == mode
    assert SDPOConfig(teacher_model_kind=word, teacher_mode=mode).teacher_mode == mode


def test_the_mode_of_trl_is_two_settings():
    def of(**keys):
        config = SDPOConfig(**keys)
        return config.full_logit_distillation, config.distillation_topk

    assert of(distillation_mode="sampled_token", alpha=1) == (False, 100)
    assert of(distillation_mode="full_logits") == (True, None)
    assert of(distillation_mode="topk_logits") == (True, 100)
    assert of(distillation_mode="topk_logits", distillation_topk=5) == (True, 5)
    with pytest.raises(ValueError, match=r"distillation_mode='full_logits' and distillation_topk=5"):
        of(distillation_mode="full_logits", distillation_topk=5)
    with pytest.raises(ValueError, match=r"alpha=0.5.*alpha=1.0"):
        of(distillation_mode="sampled_token")
    with pytest.raises(ValueError, match=r"full_logit_distillation=True and distillation_mode='sampled_token'"):
        of(full_logit_distillation=True, distillation_mode="sampled_token", alpha=1)
    with pytest.raises(ValueError, match=r"distillation_mode='top'.*sampled_token, full_logits, topk_logits"):
        of(distillation_mode="top")


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("alphas", "alpha"),
        ("teacher_mod", "teacher_mode"),
        ("ema_rate", "ema_tau"),
        ("max_reprompt", "max_reprompt_len"),
    ],
)
def test_an_unknown_keyword_is_answered_with_the_nearest(name, nearest):
    with pytest.raises(TypeError, match=f"'{name}'.*'{nearest}'"):
        SDPOConfig(**{name: 1})
    with pytest.raises(TypeError, match=r"temperature.*GRPOConfig"):
        SDPOConfig(temperature=0.7)


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"alpha": 1.5}, r"alpha=1\.5: must be between 0 and 1"),
        ({"alpha": -0.1}, r"alpha=-0\.1"),
        ({"alpha": "0.5"}, r"alpha='0\.5': must be a number, not a text"),
        ({"alpha": float("nan")}, r"alpha=nan: must be a finite number"),
        ({"alpha": True}, r"alpha=True: must be a number"),
        ({"alpha": None}, r"alpha=None: must be a number"),
        ({"distillation_alpha": 2}, r"alpha=2 \(given as distillation_alpha\): must be between"),
        ({"full_logit_distillation": False}, r"alpha=0\.5.*full_logit_distillation"),
        ({"full_logit_distillation": 0}, r"full_logit_distillation=0: must be True or False"),
        ({"distillation_topk": 0}, r"distillation_topk=0: must be at least 1 or None"),
        ({"distillation_topk": -3}, r"distillation_topk=-3"),
        ({"distillation_topk": 2.5}, r"distillation_topk=2\.5: must be a whole number"),
        ({"is_clip": 0}, r"is_clip=0: must be greater than 0 or None"),
        ({"is_coef": 1.1}, r"is_coef=1\.1: must be between 0 and 1"),
        ({"teacher_mode": "emma"}, r"teacher_mode='emma'.*ema, lora_ema, frozen, copy, trust_region.*fixed"),
        ({"teacher_mode": None}, r"teacher_mode=None"),
        ({"ema_tau": 5}, r"teacher_update_rate=5 \(given as ema_tau\)"),
        ({"teacher_update_every": 0}, r"teacher_update_every=0"),
        ({"teacher_update_every": True}, r"teacher_update_every=True"),
        ({"success_reward_threshold": "high"}, r"success_reward_threshold='high'"),
        ({"thinking_tag": "think"}, r"thinking_tag=think: must be an opening tag"),
        ({"max_reprompt_len": 0}, r"max_reprompt_length=0 \(given as max_reprompt_len\)"),
        ({"reprompt_truncation": "middle"}, r"reprompt_truncation='middle': must be one of left, right, error"),
        ({"apply_chat_template_kwargs": [1]}, r"apply_chat_template_kwargs=\[1\]: must be a mapping"),
        ({"reprompt_template": "{prompt}"}, r"reprompt_template='{prompt}': lacks {feedback}, {solution}"),
        ({"solution_template": "{x}"}, r"solution_template='{x}'"),
        ({"feedback_template": "null {feedback_raw} {y}"}, r"feedback_template='null .*unknown {y}"),
        ({"feedback_template": 3}, r"feedback_template=3: must be a text"),
        ({"distillation_weight": 1.01}, r"distillation_weight=1\.01"),
        ({"rollout_is_threshold": -1}, r"rollout_is_threshold=-1"),
        ({"logits_chunk_tokens": 0}, r"logits_chunk_tokens=0"),
        ({"on_reward_error": "ignore"}, r"on_reward_error='ignore': must be one of raise, zero"),
        ({"diagnostics_warning_interval": -1}, r"diagnostics_warning_interval=-1"),
    ],
)
def test_wrong_values_name_the_key_the_value_and_what_is_allowed(keys, says):
    with pytest.raises(ValueError, match=says):
        SDPOConfig(**keys)


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"beta": 0.0}, "beta=0.0.*leave it out"),
        ({"max_prompt_length": 512}, "max_prompt_length=512.*data set"),
        ({"use_teacher_server": True}, "use_teacher_server=True.*trainer's process"),
        ({"vllm_model_impl": "vllm"}, "vllm_model_impl='vllm'.*GRPOConfig"),
    ],
)
def test_keys_without_effect_are_never_silent(keys, says):
    with pytest.warns(UserWarning, match=says) as told:
        config = SDPOConfig(**keys)
    assert len(told) == 1 and told[0].filename == __file__
    assert config == SDPOConfig()


def test_diagnostics_of_trl_are_kept():
    with pytest.warns(UserWarning, match="diagnostics_warning_interval=3"):
        config = SDPOConfig(diagnostics_warning_interval=3)
    assert (config.diagnostics_warning_interval, config.diagnostics_flat_tolerance) == (3, 1e-8)
    assert config.to_dict() == DEFAULTS


def test_core_gets_every_setting_it_shares():
    core = SDPOConfig(**CHANGED | {"use_successful_as_teacher": True}).core()
    for name in CHANGED.keys() & {field.name for field in dataclasses.fields(core)} - {"teacher_update_rate"}:
        assert getattr(core, name) == CHANGED[name], name
    assert (core.max_reprompt_len, core.is_coef, core.demonstration_choice) == (64, 0.25, "first")
    default = SDPOConfig(use_successful_as_teacher=False).core()
    assert (default.is_coef, default.demonstration_choice, default.thinking_tag) == (1.0, "none", "<think>")
    assert (default.success_reward_threshold, default.grpo_lambda) == (1.0, 0.0)


TRL = {"output_dir": "out", "report_to": "none", "use_cpu": True, "bf16": False, "per_device_train_batch_size": 4}


def trl_config(**keys):
    warnings.simplefilter("ignore")  # TRL says that this part of it is experimental
    sdpo = pytest.importorskip("trl.experimental.sdpo")
    return sdpo.SDPOConfig(**TRL | {"num_generations": 4, "max_prompt_length": None} | keys)


def test_a_configuration_of_trl_is_split():
    given = trl_config(
        temperature=0.7, gradient_accumulation_steps=3, reward_weights=[1.0, 0.5], learning_rate=3e-5,
        teacher_model_kind="live", distillation_weight=0.5, chat_template_kwargs={"enable_thinking": False},
    )  # fmt: skip
    warnings.simplefilter("error")
    args, config = SDPOConfig.from_trl(given)
    assert type(args).__name__ == "GRPOConfig"
    for name in ("temperature", "learning_rate", "num_generations", "reward_weights", "max_completion_length"):
        assert getattr(args, name) == getattr(given, name), name
    assert (args.steps_per_generation, args.generation_batch_size, args.disable_dropout) == (3, 12, True)
    assert args.chat_template_kwargs == config.apply_chat_template_kwargs == {"enable_thinking": False}
    # TRL's own defaults, which are not ours
    assert (config.full_logit_distillation, config.alpha, config.distillation_add_tail) == (False, 1.0, False)
    assert not config.include_environment_feedback and not config.remove_thinking_from_demonstration
    assert not config.environment_feedback_only_without_solution
    assert (config.success_reward_threshold, config.reprompt_truncation) == (1.0, "left")
    assert config.solution_template.endswith("\n\n")
    assert (config.teacher_mode, config.distillation_weight) == ("copy", 0.5)


def test_a_split_tells_what_does_nothing_here():
    given = trl_config(beta=0.1, max_prompt_length=99, diagnostics_flat_tolerance=0.5)
    with pytest.warns(UserWarning) as told:
        args, config = SDPOConfig.from_trl(given)
    texts = [str(warning.message) for warning in told if issubclass(warning.category, UserWarning)]
    for words in ("beta=0.1", "max_prompt_length=99", "diagnostics_flat_tolerance=0.5"):
        assert sum(words in text for text in texts) == 1, words
    assert (args.beta, config.diagnostics_flat_tolerance) == (0.1, 0.5)


def test_a_split_of_topk():
    def topk(**keys):
        config = SDPOConfig.from_trl(trl_config(**keys))[1]
        return config.full_logit_distillation, config.distillation_topk

    assert topk(distillation_mode="topk_logits") == (True, 100)
    assert topk(distillation_mode="topk_logits", distillation_topk=9) == (True, 9)
    assert topk(distillation_mode="full_logits") == (True, None)


def test_only_a_configuration_of_trl_is_split():
    with pytest.raises(TypeError, match=r"from_trl got a SDPOConfig; .*trl\.experimental\.sdpo\.SDPOConfig"):
        trl_config()
        SDPOConfig.from_trl(SDPOConfig())


def test_trl_is_needed_only_to_split():
    code = """
import sys
sys.modules["trl"] = None  # as if not installed
from sdpo_trainer.config import SDPOConfig
heavy = [name for name in ("torch", "transformers") if name in sys.modules]
assert not heavy, heavy
try:
    SDPOConfig.from_trl(object())
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "pip install -e '.[trl]'" in done.stdout
