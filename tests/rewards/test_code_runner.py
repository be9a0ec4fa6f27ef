"""How many tests are run, and what time counts, with a sandbox that only pretends."""

import time

import pytest

from verl.config.sandbox import SandboxConfig
from verl.rewards import check_isolation, code_runner, table
from verl.rewards.code_runner import run_tests
from verl.rewards.code_tests import Case, Tests
from verl.sandbox import Outcome


class PretendSandbox:
    """Times out or answers as the input says."""

    def __init__(self):
        self.jobs = []
        self.num_workers = 2

    def run(self, job):
        self.jobs.append(job)
        time.sleep(0.01)
        return Outcome(status="timeout" if job.stdin == "loop" else "ok", stdout=job.stdin)


@pytest.fixture
def sandbox(monkeypatch):
    pretended = PretendSandbox()
    monkeypatch.setattr(code_runner, "shared_sandbox", lambda: pretended)
    return pretended


def task(inputs, time_limit=1.0):
    return Tests("stdin", [Case(n, text, text) for n, text in enumerate(inputs, 1)], time_limit=time_limit)


@pytest.mark.parametrize("num_workers", [1, 8])
def test_time_outs_use_up_a_budget_whatever_the_parallelism(sandbox, num_workers):
    sandbox.num_workers = num_workers
    inputs = ["a", "loop", "b", "loop", "loop", "loop"] + ["c"] * 50
    results = run_tests("", task(inputs, time_limit=9.0))
    verdicts = [result.verdict for result in results]
    assert verdicts[:6] == ["passed", "timeout", "passed", "timeout", "timeout", "timeout"]
    assert verdicts[6:] == ["not run"] * 50
    assert len(sandbox.jobs) < len(inputs)


def test_short_limits_afford_more_time_outs(sandbox):
    verdicts = [result.verdict for result in run_tests("", task(["loop"] * 20))]
    assert verdicts == ["timeout"] * 15 + ["not run"] * 5


def test_the_sandbox_gets_the_limit_plus_grace_and_no_answer(sandbox):
    tests = Tests("stdin", [Case(1, "in", "secret", "secret")], time_limit=3.0)
    assert run_tests("source", tests)[0].verdict == "wrong"
    assert sandbox.jobs[0].limits.cpu_seconds == 4.0
    assert "secret" not in repr(sandbox.jobs)


def test_only_so_many_tests(sandbox):
    assert [result.number for result in run_tests("", task("abcd"), max_test_cases=2)] == [1, 2]


def test_isolation_is_asked_for_programs_only(monkeypatch):
    monkeypatch.setattr(table, "isolation_problem", lambda config: f"no walls for {config.memory_bytes} bytes")
    config = SandboxConfig(memory_bytes=7)
    assert check_isolation({"sciknoweval", "taco"}, False, config) == ["no walls for 7 bytes"]
    assert check_isolation({"sciknoweval", "taco"}, True, config) == []
    assert check_isolation({"sciknoweval"}, False, config) == []


def test_another_configuration_makes_another_sandbox():
    code_runner.configure(SandboxConfig(num_workers=1))
    first = code_runner.shared_sandbox()
    code_runner.configure(SandboxConfig(num_workers=1))
    assert code_runner.shared_sandbox() is first
    code_runner.configure(SandboxConfig())
    assert code_runner.shared_sandbox() is not first
    code_runner.close()
