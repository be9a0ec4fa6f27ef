"""The program in the README, as it stands there, learns from feedback, and clearly less without it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TELLS = 'each["feedback"]'
OUTPUT = '"runs/trl"'


def program():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (found,) = [block for block in re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S) if "SDPOTrainer(" in block]
    return found


def held_out(code, tmp_path):
    """Held-out mean@8 before and after, as the program prints them, run from the root of the repository."""
    assert code.count(OUTPUT) == 1
    code = code.replace(OUTPUT, repr(str(tmp_path)))
    done = subprocess.run([sys.executable, "-"], input=code, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-5000:]
    printed = dict(re.findall(r"^held-out mean@8 (before|after): ([\d.]+)$", done.stdout, re.M))
    return float(printed["before"]), float(printed["after"])


def test_program_is_short():
    code = program()
    assert len(code.splitlines()) <= 25
    assert max(map(len, code.splitlines())) <= 120
    compile(code, "README.md", "exec")


@pytest.mark.slow
def test_feedback_teaches(tmp_path):
    code = program()
    assert code.count(TELLS) == 1
    before, told = held_out(code, tmp_path)
    assert before < 0.25
    assert told > 0.6
    before_untold, untold = held_out(code.replace(TELLS, "None"), tmp_path)
    assert before_untold == before  # the same model and the same dice; only the texts differ
    assert untold <= told - 0.2
