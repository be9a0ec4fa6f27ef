"""Deterministic mode holds with vLLM too: the run that was killed and resumed is the uninterrupted one, to the bit."""

import signal

import pytest
from faults import Fault
from harness import VLLM, assert_same


@pytest.mark.slow
def test_killed_run_equals_uninterrupted_run(make_run, reference):
    run = make_run(VLLM)
    assert run.start(Fault("driver", "generate", 3)).code == -signal.SIGKILL  # behind the validation of step 2
    run.finish()
    assert_same(run, reference(VLLM))
