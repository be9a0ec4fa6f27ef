"""Programming tasks: the program in a response is run on the task's tests, and failing ones become feedback.

The pieces: `code_extraction` finds the program, `code_tests` reads the ground truth, `code_runner` runs and judges in
the sandbox, `code_comparison` knows what equal means, `code_feedback` writes what the teacher reads. That includes the
expected output of up to two failing tests. It is no answer to copy, since a program is asked for; to keep some tests
unseen, train on half of them (`data/split_tests.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from verl.rewards.code_extraction import extract_code
from verl.rewards.code_feedback import UNREADABLE_TESTS_FEEDBACK, CaseResult, format_test_feedback
from verl.rewards.code_runner import MAX_LISTED, configure, listed, run_tests
from verl.rewards.code_tests import TestsError, read_tests
from verl.rewards.verdict import is_truncated

__all__ = ["compute_score", "compute_sparse_score", "configure", "extract_code", "format_test_feedback", "run_tests"]


def compute_sparse_score(
    solution_str: str, ground_truth: str | Mapping[str, Any], extra_info: dict[str, Any] | None = None
) -> dict[str, Any]:
    """`compute_score` with all or nothing for the score: what the table of scorers calls."""
    return compute_score(solution_str, ground_truth, extra_info, sparse_rewards=True)


def compute_score(
    solution: str,
    ground_truth: str | Mapping[str, Any],
    extra_info: dict[str, Any] | None = None,
    sparse_rewards: bool = False,
    max_test_cases: int | None = None,
) -> dict[str, Any]:
    """Score the program in a response.

    Args:
        solution: the response.
        ground_truth: the tests (`verl.rewards.code_tests`).
        extra_info: `truncated` is true for a response that reached its maximum length; `split`.
        sparse_rewards: the score is 1 if all tests pass, else 0; so it always is on the `test` split. Otherwise it is
            the share of tests passed.
        max_test_cases: run only so many tests, from the first on.

    Returns:
        score; acc (share of tests passed); pred (the answers as a printed list, its last 5,000 characters); 0 or 1
        each: incorrect_format (no program), error_in_test_cases, timed_out, truncated, truncated_and_missing_answer;
        feedback ("" when all passed). A ground truth without readable tests scores 0, and its feedback says so.

    Raises:
        Only what the sandbox itself raises when it cannot be started; nothing a response does raises.
    """
    was_cut = is_truncated(extra_info)
    code = extract_code(solution)
    try:
        tests = read_tests(ground_truth)
    except TestsError:
        results, feedback = [], UNREADABLE_TESTS_FEEDBACK
    else:
        no_program = [CaseResult("format", listed("Incorrect format"))]
        results = no_program if code is None else run_tests(code, tests, max_test_cases)
        feedback = format_test_feedback(results, was_cut)
    num_passed = sum(result.verdict == "passed" for result in results)
    acc = num_passed / len(results) if results else 0.0
    is_sparse = sparse_rewards or (extra_info or {}).get("split") == "test"
    return {
        "score": float(acc == 1.0) if is_sparse else acc,
        "acc": acc,
        "pred": _pred(results),
        "incorrect_format": int(code is None),
        "error_in_test_cases": int(any(result.verdict == "error" for result in results)),
        "timed_out": int(any(result.verdict == "timeout" for result in results)),
        "truncated": int(was_cut),
        "truncated_and_missing_answer": int(was_cut and code is None),
        "feedback": _printable(feedback),
    }


def _pred(results: Sequence[CaseResult]) -> str:
    """The end of the printed list of answers."""
    return _printable(f"[{', '.join(result.listed for result in results)}]"[-MAX_LISTED:])


def _printable(text: str) -> str:
    """Text that can be written as UTF-8: a program may print half of a surrogate pair."""
    return text.encode("utf-8", "replace").decode("utf-8")
