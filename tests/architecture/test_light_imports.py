"""What an import really pulls in, in a fresh interpreter."""

import subprocess
import sys

import pytest

HEAVY = {"ray", "vllm", "transformers", "hydra", "omegaconf", "pyarrow", "datasets"}
TRL = {"trl", "peft", "accelerate"}


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("verl.algorithms.projection", HEAVY | {"triton"}),
        ("verl.config", HEAVY | {"torch"}),
        ("verl.sandbox", HEAVY | {"torch", "numpy"}),
        ("verl.self_distillation.reprompt", HEAVY | {"torch"}),
        ("verl.trainer.main_ppo", HEAVY - {"hydra", "omegaconf"} | {"torch"}),
        ("verl.trainer.main_eval", HEAVY - {"hydra", "omegaconf"} | {"torch"}),
        ("verl.trainer.main_generation", HEAVY - {"hydra", "omegaconf"} | {"torch"}),
        ("verl", HEAVY | {"torch"}),
        ("sdpo_trainer", HEAVY | TRL | {"torch"}),
        ("sdpo_trainer.config", HEAVY | TRL | {"torch"}),
        ("sdpo_trainer.reprompting", HEAVY | TRL | {"torch"}),
        ("sdpo_trainer.utils", HEAVY | TRL | {"torch"}),
        ("sdpo_trainer.distillation", HEAVY | TRL),
        ("sdpo_trainer.teacher", HEAVY | TRL),
    ],
)
def test_import_is_light(module, heavy):
    code = f"import sys, {module}; print(sorted(set({sorted(heavy)}) & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
