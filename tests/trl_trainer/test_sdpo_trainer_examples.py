"""The examples, run as a user runs them; and what they do with real data sets, on rows of these sets' own columns."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "recipes" / "sdpo_trainer" / "examples"
EMBEDDED = ROOT / "recipes" / "embedded" / "model"
RESULT = re.compile(r"^3 steps: reward [\d.]+ -> [\d.]+, loss ([\d.]+) -> ([\d.]+), (\d+)% of the answers", re.M)


def smoke(name, tmp_path):
    """Share of answers with a target, in per cent; the rest of what is said is checked."""
    command = [sys.executable, str(EXAMPLES / f"{name}.py"), "--smoke", "--output_dir", str(tmp_path / "out")]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-5000:]
    found = RESULT.search(done.stdout)
    assert found, done.stdout[-2000:]
    assert 0 < float(found[2]) < float(found[1])
    return int(found[3])


def largest_change(folder):
    """Of a parameter of the embedded model; `folder` must be loadable without us."""
    before, after = (AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32) for path in (EMBEDDED, folder))
    pairs = zip(before.named_parameters(), after.named_parameters(), strict=True)
    return max((new - old).abs().max().item() for (_, old), (_, new) in pairs)


def test_numbers_alone_teach_where_a_sibling_succeeded(tmp_path):
    assert 0 < smoke("basic_sdpo", tmp_path) < 100
    assert largest_change(tmp_path / "out") > 1e-3


def test_feedback_teaches_every_answer(tmp_path):
    assert smoke("sdpo_rich_feedback", tmp_path) == 100
    assert largest_change(tmp_path / "out") > 1e-3


def test_lora_saves_the_student_adapter_alone(tmp_path):
    assert smoke("sdpo_lora", tmp_path) == 100
    saved = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert [name for name in saved if "sdpo_teacher" in name] == []
    assert max(value.abs().max().item() for name, value in saved.items() if "lora_B" in name) > 1e-3


def test_unsloth_example_says_that_unsloth_is_missing(tmp_path):
    code = f"""
import runpy, sys
sys.modules["unsloth"] = None  # an import of it fails
sys.argv = ["sdpo_with_unsloth.py", *{{arguments}}]
sys.path.insert(0, {str(EXAMPLES)!r})
runpy.run_path({str(EXAMPLES / "sdpo_with_unsloth.py")!r}, run_name="__main__")
"""
    for arguments, status in ((["--smoke"], 0), ([], 1)):
        command = [sys.executable, "-c", code.format(arguments=arguments)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == status, done.stderr
        assert "Unsloth is not installed, so nothing was trained: pip install unsloth" in done.stdout + done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def examples():
    """A function that imports an example; `common` and its like are gone from the import system afterwards."""
    before = set(sys.modules)
    sys.path.insert(0, str(EXAMPLES))
    yield lambda name: __import__(name)
    sys.path.remove(str(EXAMPLES))
    for name in ("common", "basic_sdpo", "sdpo_rich_feedback", "sdpo_lora", "sdpo_with_unsloth"):
        if name not in before:
            sys.modules.pop(name, None)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_imports_the_embedded_task_only_where_smoke_needs_it(path):
    def imported(tree):
        for node in ast.iter_child_nodes(tree):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                yield node.module or ""
            elif not isinstance(node, ast.FunctionDef):
                yield from imported(node)

    found = list(imported(ast.parse(path.read_text(encoding="utf-8"))))
    assert found
    assert [name for name in found if name.split(".")[0] in ("recipes", "data", "tests")] == []


def test_gsm8k_rows_become_questions_that_the_reward_can_score(examples, monkeypatch, tmp_path):
    common = examples("common")
    stored = Dataset.from_list([{"question": "What is 2 + 3?", "answer": "2 + 3 = <<2+3=5>>5\n#### 5"}])
    asked = []
    monkeypatch.setattr(common, "load_dataset", lambda *names, **options: asked.append((names, options)) or stored)
    monkeypatch.setattr(sys, "argv", ["basic_sdpo.py"])
    (row,) = common.questions(common.read_arguments("", model="Qwen/Qwen3-0.6B"))
    assert asked == [(("openai/gsm8k", "main"), {"split": "train"})]
    assert row["prompt"][0]["role"] == "user" and row["prompt"][0]["content"].startswith("What is 2 + 3?\n\n")
    assert (row["answer"], row["data_source"]) == ("5", "gsm8k")
    texts = [[{"role": "assistant", "content": text}] for text in (r"So \boxed{5}.", r"So \boxed{6}.", "5")]
    columns = {name: [row[name]] * 3 for name in ("answer", "data_source")}
    assert examples("basic_sdpo").is_right(texts, **columns) == [1.0, 0.0, 0.0]
    checker = examples("sdpo_lora").Checker()
    assert checker(texts, **columns) == [1.0, 0.0, 0.0]
    assert checker.last_feedback[:2] == [None, None] and "wrong format" in checker.last_feedback[2]


def test_failing_programs_are_told_why(examples, monkeypatch):
    rich = examples("sdpo_rich_feedback")
    stored = {
        "source_file": "", "task_id": 1, "code": "", "prompt": "Write a function for the area of a circle.",
        "test_imports": ["import math"], "test_list": ["assert area(1) == math.pi", "assert area(0) == 0"],
    }  # fmt: skip
    monkeypatch.setattr(rich, "load_dataset", lambda *names, **options: Dataset.from_list([stored]))
    (row,) = rich.programming_questions()
    assert "assert area(1) == math.pi" in row["prompt"][0]["content"]
    assert "area(0)" not in row["prompt"][0]["content"]
    assert json.loads(row["answer"])["inputs"][1] == "import math\nassert area(0) == 0"
    programs = [
        "import math\ndef area(r): return math.pi * r * r",
        "def area(r): return 0",
        "def area(r): return r / 0",
    ]
    texts = [f"```python\n{program}\n```" for program in programs] + ["pi r squared"]
    columns = {name: [row[name]] * 4 for name in ("answer", "data_source")}
    results = rich.graded([[{"role": "assistant", "content": text}] for text in texts], **columns)
    assert [result["score"] for result in results] == [1.0, 0.0, 0.0, 0.0]
    assert [result["tests_passed"] for result in results] == [1.0, 0.5, 0.0, 0.0]
    right, wrong, broken, no_program = (result["feedback"] for result in results)
    assert right == ""
    assert "AssertionError" in wrong and "assert area(1) == math.pi" in wrong
    assert "ZeroDivisionError" in broken and "Line 1 in area" in broken
    assert "```python" in no_program
