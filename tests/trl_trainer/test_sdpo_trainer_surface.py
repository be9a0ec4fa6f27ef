"""The public surface, frozen: users' code breaks when a name, an argument's place or a default changes."""

import importlib
import inspect
import subprocess
import sys
import textwrap
from typing import Any

import pytest
import sdpo_trainer

from verl.config.self_distillation import FEEDBACK_TEMPLATE, REPROMPT_TEMPLATE, SOLUTION_TEMPLATE

NEEDED = inspect.Parameter.empty
STUDENT, TEACHER = "default", "sdpo_teacher"
SIGNATURES = {
    "distillation": {
        "add_tail_bucket": {"topk_log_probs": NEEDED},
        "top_k_kl_divergence": {
            "student_topk_log_probs": NEEDED,
            "teacher_topk_log_probs": NEEDED,
            "alpha": 0.5,
            "add_tail": True,
        },
        "apply_importance_sampling_correction": {
            "per_token_loss": NEEDED,
            "student_log_probs": NEEDED,
            "old_log_probs": NEEDED,
            "is_clip": 2.0,
        },
        "aggregate_loss": {"loss_mat": NEEDED, "response_mask": NEEDED, "self_distillation_mask": None},
        "compute_self_distillation_loss": {
            "student_log_probs": NEEDED,
            "teacher_log_probs": NEEDED,
            "response_mask": NEEDED,
            "student_topk_log_probs": None,
            "teacher_topk_log_probs": None,
            "alpha": 0.5,
            "is_clip": 2.0,
            "add_tail": True,
            "old_log_probs": None,
            "self_distillation_mask": None,
            "rollout_is_weights": None,
        },
    },
    "reprompting": {
        "remove_thinking_tags": {"text": NEEDED},
        "select_demonstration": {
            "idx": NEEDED,
            "uids": NEEDED,
            "rewards": NEEDED,
            "completions": NEEDED,
            "success_threshold": 1.0,
            "exclude_self": True,
            "remove_thinking": False,
        },
        "build_teacher_prompts": {
            "prompts": NEEDED,
            "solutions": NEEDED,
            "feedback_list": NEEDED,
            "feedback_only_without_solution": False,
            "reprompt_template": REPROMPT_TEMPLATE + "\n",
            "solution_template": SOLUTION_TEMPLATE + "\n",
            "feedback_template": FEEDBACK_TEMPLATE + "\n",
        },
        "build_teacher_messages": {"original_messages": NEEDED, "teacher_prompt_texts": NEEDED},
        "compute_self_distillation_mask": {
            "solutions": NEEDED,
            "feedback_list": NEEDED,
            "feedback_only_without_solution": False,
        },
    },
    "teacher": {
        "ema_update": {"teacher": NEEDED, "student": NEEDED, "rate": NEEDED},
        "EMATeacherCallback": {
            "teacher_model": NEEDED,
            "student_model": NEEDED,
            "update_rate": 0.05,
            "num_iterations": 1,
        },
        "EMATeacherCallback.should_update": {"self": NEEDED, "global_step": NEEDED},
        "EMATeacherCallback.step": {"self": NEEDED, "global_step": NEEDED},
        "collect_lora_adapter_pairs": {"model": NEEDED, "student_adapter": STUDENT, "teacher_adapter": TEACHER},
        "init_lora_ema_teacher": {"model": NEEDED, "student_adapter": STUDENT, "teacher_adapter": TEACHER},
        "ema_update_lora_adapters": {
            "model": NEEDED,
            "rate": NEEDED,
            "student_adapter": STUDENT,
            "teacher_adapter": TEACHER,
        },
        "LoraEMATeacherCallback": {
            "model": NEEDED,
            "update_rate": 0.05,
            "num_iterations": 1,
            "student_adapter": STUDENT,
            "teacher_adapter": TEACHER,
        },
        "LoraEMATeacherCallback.should_update": {"self": NEEDED, "global_step": NEEDED},
        "LoraEMATeacherCallback.step": {"self": NEEDED, "global_step": NEEDED},
    },
    "trainer": {
        "SDPOTrainer": {
            "model": NEEDED,
            "args": None,
            "sdpo_config": None,
            "processing_class": None,
            "reward_funcs": None,
            "train_dataset": None,
            "eval_dataset": None,
            "kwargs": NEEDED,
        },
    },
    "utils": {"check_unsloth_import_order": {}},
}
VALUES = {
    "reprompting": {
        "DEFAULT_REPROMPT_TEMPLATE": REPROMPT_TEMPLATE + "\n",
        "DEFAULT_SOLUTION_TEMPLATE": SOLUTION_TEMPLATE + "\n",
        "DEFAULT_FEEDBACK_TEMPLATE": FEEDBACK_TEMPLATE + "\n",
    },
    "teacher": {"LORA_EMA_TEACHER_ADAPTER": TEACHER},
}
HOMES = {
    (module, name.split(".")[0])
    for module, names in (SIGNATURES | {"config": {"SDPOConfig": {}}}).items()
    for name in names
}
HOMES |= {(module, name) for module, names in VALUES.items() for name in names}


def run(code):
    """The last line that a program prints in an interpreter of its own; libraries may have said something before."""
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().rpartition("\n")[2]


BLOCK = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocked())
"""
WITHOUT_TRL = BLOCK.format(blocked={"trl", "ray", "vllm", "peft", "accelerate"})


@pytest.mark.parametrize(
    ("module", "name", "expected"),
    [(module, name, expected) for module, names in SIGNATURES.items() for name, expected in names.items()],
)
def test_signature(module, name, expected):
    found: Any = importlib.import_module(f"sdpo_trainer.{module}")
    for part in name.split("."):
        found = getattr(found, part)
    parameters = inspect.signature(found).parameters
    # A list: the order counts, since arguments may be given by position.
    assert [(key, parameter.default) for key, parameter in parameters.items()] == list(expected.items())


def test_trainer_passes_further_keywords_on():
    kinds = [parameter.kind for parameter in inspect.signature(sdpo_trainer.SDPOTrainer).parameters.values()]
    assert set(kinds[:-1]) == {inspect.Parameter.POSITIONAL_OR_KEYWORD}
    assert kinds[-1] is inspect.Parameter.VAR_KEYWORD


@pytest.mark.parametrize(("module", "name"), sorted(HOMES))
def test_name_is_in_its_module_and_in_the_package(module, name):
    found = getattr(importlib.import_module(f"sdpo_trainer.{module}"), name)
    assert getattr(sdpo_trainer, name) is found
    if name in VALUES.get(module, {}):
        assert found == VALUES[module][name]


def test_package_exports_these_names_and_no_others():
    assert sorted(sdpo_trainer.__all__) == sorted(name for _, name in HOMES)
    assert set(sdpo_trainer.__all__) <= set(dir(sdpo_trainer))
    with pytest.raises(AttributeError, match=r"no attribute SDPOtrainer; it has .*SDPOTrainer"):
        sdpo_trainer.SDPOtrainer  # noqa: B018


@pytest.mark.parametrize("module", ["config", "distillation", "reprompting", "teacher", "utils"])
def test_module_works_without_trl(module):
    names = [name for home, name in HOMES if home == module]
    told = run(f"{WITHOUT_TRL}\nfrom sdpo_trainer.{module} import {', '.join(names)}\nprint('torch' in sys.modules)")
    assert told == str(module in ("distillation", "teacher"))


def test_package_gives_its_names_without_trl():
    names = [name for home, name in sorted(HOMES) if home != "trainer"]
    assert (
        run(f"{WITHOUT_TRL}\nfrom sdpo_trainer import {', '.join(names)}\nprint(SDPOConfig(alpha=0.25).alpha)")
        == "0.25"
    )


def test_trainer_without_trl_says_how_to_install_it():
    code = """
    try:
        from sdpo_trainer import SDPOTrainer
    except ImportError as error:
        print(error)
    """
    assert "pip install -e '.[trl]'" in run(WITHOUT_TRL + textwrap.dedent(code))


def test_base_class_is_what_trl_has_at_first_use():
    """Also when the module itself was imported before; Unsloth patches TRL in this way."""
    told = run(
        """
        import sdpo_trainer.trainer
        import trl

        class Patched(trl.GRPOTrainer):
            pass

        trl.GRPOTrainer = Patched
        from sdpo_trainer import SDPOTrainer
        from sdpo_trainer.trainer import SDPOTrainer as same

        print(issubclass(SDPOTrainer, Patched), SDPOTrainer is same, SDPOTrainer.__name__)
        """
    )
    assert told == "True True SDPOTrainer"


def test_code_for_the_published_package_runs_under_an_alias():
    told = run(
        """
        import importlib, sys
        import sdpo_trainer

        sys.modules["sdpo_rl"] = sdpo_trainer
        for name in ("config", "reprompting", "utils"):
            sys.modules[f"sdpo_rl.{name}"] = importlib.import_module(f"sdpo_trainer.{name}")

        from sdpo_rl import SDPOConfig, select_demonstration
        from sdpo_rl.config import SDPOConfig as same
        from sdpo_rl.reprompting import build_teacher_prompts

        print(SDPOConfig is same, select_demonstration(0, [1, 1], [0.0, 1.0], ["wrong", "right"]))
        """
    )
    assert told == "True right"
