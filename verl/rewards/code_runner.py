"""Run a program on the tests of a task, each in its own sandbox, and judge what comes back.

Only here do expected answers and programs meet, and they meet on this side: the sandbox gets the input alone. One
sandbox serves the whole process; it is made when the first program is run.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from verl.config.sandbox import SandboxConfig
from verl.rewards.code_comparison import same_output, same_value
from verl.rewards.code_feedback import CaseResult
from verl.rewards.code_tests import Case, Tests, as_json
from verl.sandbox import ErrorReport, Job, Limits, Outcome, Sandbox

GRACE_SECONDS = 1.0
"""Added to a task's time limit: limits were set for other machines, and starting is not the program's time."""
WALL_FACTOR = 2.0
"""The limit is one of processor time, so that a busy machine makes no false time-outs. A program that waits instead of
calculating is stopped after this many times as long."""
TIME_OUT_BUDGET = 30.0
"""Seconds of time-outs after which the remaining tests are not run: a program that never ends would otherwise hold its
worker for minutes."""
MIN_TIME_OUTS = 4
MAX_LISTED = 5000
"""Characters kept of an answer: hundreds of tests may each print megabytes."""

_lock = threading.Lock()
_config = SandboxConfig()
_sandbox: Sandbox | None = None


def configure(config: SandboxConfig) -> None:
    """Set what the sandbox of this process is made with; closes one that was made with something else."""
    global _config
    with _lock:
        if config != _config:
            _close()
            _config = config


def shared_sandbox() -> Sandbox:
    """The sandbox of this process. Raises SandboxError where programs cannot be isolated."""
    global _sandbox
    with _lock:
        if _sandbox is None:
            _sandbox = Sandbox(_config)
        return _sandbox


def close() -> None:
    """End the sandbox of this process, if there is one."""
    with _lock:
        _close()


def _close() -> None:
    global _sandbox
    if _sandbox is not None:
        _sandbox.close()
        _sandbox = None


def run_tests(code: str, tests: Tests, max_test_cases: int | None = None) -> list[CaseResult]:
    """Run a program on each test.

    Args:
        code: the program; lines are counted from its first one.
        tests: of the task.
        max_test_cases: only so many of them, from the first on.

    Returns:
        One result for each test, in order. Tests that come after too many time-outs are `not run`; which ones these are
        depends on the program alone, not on how many tests run at once.
    """
    sandbox = shared_sandbox()
    cases = tests.cases[:max_test_cases]
    seconds = tests.time_limit + GRACE_SECONDS
    max_time_outs = max(MIN_TIME_OUTS, int(TIME_OUT_BUDGET / seconds))
    num_time_outs = 0

    def run(case: Case) -> CaseResult:
        nonlocal num_time_outs
        if num_time_outs >= max_time_outs:
            return _not_run(case)
        result = judge(case, tests, sandbox.run(_job(code, case, tests, seconds)))
        if result.verdict == "timeout":
            with _lock:
                num_time_outs += 1
        return result

    # Tests start in order, so whatever was skipped comes after the last time-out that counts.
    with ThreadPoolExecutor(sandbox.num_workers) as pool:
        results = list(pool.map(run, cases))
    time_outs = [index for index, result in enumerate(results) if result.verdict == "timeout"]
    num_kept = len(results) if len(time_outs) < max_time_outs else time_outs[max_time_outs - 1] + 1
    return results[:num_kept] + [_not_run(case) for case in cases[num_kept:]]


def judge(case: Case, tests: Tests, outcome: Outcome) -> CaseResult:
    """Compare what a program did with what was expected."""
    shown = {"number": case.number, "input": case.input, "expected": case.expected_text}
    if outcome.status == "timeout":
        return CaseResult("timeout", listed("Time out"), **shown)
    if outcome.status != "ok":
        error = outcome.error or ErrorReport("Error", "the program was ended")
        return CaseResult("error", listed(f"Error: {error.type}: {error.message}"), **shown, error=error)
    if tests.kind == "code":
        return CaseResult("passed", listed("All tests pass"), **shown)
    if tests.kind == "stdin":
        value = actual = outcome.stdout.strip()
        is_right = same_output(actual, case.expected)
    else:
        value, actual = outcome.value, as_json(outcome.value)
        is_right = same_value(value, case.expected)
    verdict = "passed" if is_right else "wrong"
    return CaseResult(verdict, listed(value), **shown, actual=actual[:MAX_LISTED], debug=outcome.debug)


def listed(value: Any) -> str:
    """The end of a value as Python writes it."""
    try:
        return repr(value)[-MAX_LISTED:]
    except (RecursionError, ValueError):  # too deep, or an integer of thousands of digits
        return "..."


def _not_run(case: Case) -> CaseResult:
    return CaseResult("not run", listed("Not run"), case.number, case.input, expected=case.expected_text)


def _job(code: str, case: Case, tests: Tests, seconds: float) -> Job:
    limits = Limits.of(_config, wall_seconds=WALL_FACTOR * seconds, cpu_seconds=seconds)
    if tests.kind == "stdin":
        return Job(source=code, mode="stdin", stdin=case.input, limits=limits)
    if tests.kind == "code":
        return Job(source=code, mode="code", test_code=case.input, limits=limits)
    arguments = case.arguments or []
    return Job(source=code, mode="functional", function=tests.function, arguments=arguments, limits=limits)
