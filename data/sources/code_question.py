"""The form of a programming question: what to hand in, the time limit that the tests really have, and the problem."""

from __future__ import annotations

from data.schema import Question
from data.sources.base import LeftOut
from data.sources.code_tests import StoredTests
from data.utils.code import parse_description
from verl.rewards.code_tests import TestsError, read_tests


def code_question(
    problem: str,
    tests: StoredTests,
    dataset: str,
    description: str = "",
    starter: str = "",
    elo: int | str | None = "-",
) -> Question | LeftOut:
    """A question that is answered with a program; left out when the scorer cannot read its tests.

    Args:
        problem: the whole text of the problem.
        tests: what the program is judged by; they never become part of the prompt.
        dataset: `data_source` of the run.
        description: what the problem is about; by default the part of `problem` before inputs and examples.
        starter: code to begin from, shown as a fenced block after the problem.
        elo: difficulty.
    """
    if starter.strip():
        problem = f"{problem}\n\n{fenced(starter)}"
    text = tests.to_json()
    try:
        read_tests(text)
    except TestsError:
        return LeftOut("tests that the scorer cannot read")
    prompt = f"{_instruction(tests)}\n\n{problem}"
    description = description or parse_description(problem) or problem
    return Question("code", dataset, prompt, description, tests=text, elo=elo)


def fenced(code: str) -> str:
    """Code as a Markdown block."""
    return f"```python\n{code.strip()}\n```"


def _instruction(tests: StoredTests) -> str:
    wanted = {
        "stdin": "a complete Python program that reads standard input and writes to standard output",
        "functional": f"complete Python code that defines `{tests.fn_name}`",
        "code": "complete Python code that defines the function asked for",
    }[tests.testtype]
    seconds = f"{tests.time_limit:g} second{'' if tests.time_limit == 1 else 's'}"
    return (
        "You are an expert programmer. Reason about the problem below first. "
        f"At the end of your answer, give {wanted}, in one block fenced by ```python and ```. "
        f"Each test may run for {seconds}."
    )
