"""Deterministic mode holds with vLLM too: the run that was killed and resumed is the uninterrupted one, to the bit."""

import signal

import pytest
from faults import Fault
from harness import assert_same

SETTINGS = (
    "actor_rollout_ref.rollout.name=vllm",
    "trainer.n_gpus_per_node=1",
    "trainer.total_training_steps=3",
)


@pytest.mark.slow
def test_killed_run_equals_uninterrupted_run(make_run, reference):
    run = make_run(SETTINGS)
    assert run.start(Fault("driver", "generate", 3)).code == -signal.SIGKILL  # behind the validation of step 2
    run.finish()
    assert_same(run, reference(SETTINGS))
