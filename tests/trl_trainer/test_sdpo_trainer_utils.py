"""The order of imports that Unsloth needs, in fresh interpreters with stand-ins for the packages it patches."""

import os
import subprocess
import sys

import pytest

UNSLOTH = """
import transformers, peft

class FastLanguageModel: ...
class UnslothGRPOTrainer: ...

def PatchFastRL(algorithm, model):
    import trl
    trl.GRPOTrainer = UnslothGRPOTrainer
"""
CHECK = """
import warnings
from sdpo_trainer.utils import check_unsloth_import_order
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    print(check_unsloth_import_order())
print(*(str(warning.message) for warning in told))
"""


@pytest.fixture
def ask(tmp_path):
    """`ask(program, has_unsloth)`: what the check answers after a program's imports, and what it warns of."""

    def of(program, has_unsloth=True):
        (tmp_path / "trl.py").write_text("class GRPOTrainer: ...\n")
        for name in ("transformers", "peft", "lazy_trl"):  # the last stands for a TRL that has not loaded its trainer
            (tmp_path / f"{name}.py").write_text("")
        if has_unsloth:
            (tmp_path / "unsloth.py").write_text(UNSLOTH)
        paths = [str(tmp_path), *filter(None, sys.path)]
        done = subprocess.run(
            [sys.executable, "-c", f"import sys; {program}{CHECK}"],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        )
        answer, _, warned = done.stdout.partition("\n")
        return answer, warned.strip()

    return of


@pytest.mark.parametrize(
    "program",
    [
        "",
        "import unsloth",
        "import unsloth, lazy_trl as trl; sys.modules['trl'] = trl",
        "from unsloth import *; PatchFastRL('GRPO', FastLanguageModel); import trl",
        "import trl; from unsloth import *; PatchFastRL('GRPO', FastLanguageModel)",
    ],
)
def test_all_is_well(ask, program):
    assert ask(program) == ("True", "")


def test_without_unsloth_nothing_is_said(ask):
    assert ask("import trl, transformers", has_unsloth=False) == ("True", "")


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("import trl", "was not imported before trl:"),
        ("import transformers, peft", "was not imported before transformers, peft:"),
        ("import trl, unsloth", "trl.GRPOTrainer is still trl.GRPOTrainer:"),
        ("import unsloth, trl", "trl.GRPOTrainer is still trl.GRPOTrainer:"),
    ],
)
def test_the_two_lines_to_move_are_named(ask, program, words):
    answer, warned = ask(program)
    assert answer == "False" and words in warned
    assert warned.endswith(
        '\n    from unsloth import FastLanguageModel, PatchFastRL\n    PatchFastRL("GRPO", FastLanguageModel)'
    )
