"""A worker is killed, or stopped so that it hangs. What serves is replaced; a training rank ends or restarts the run.

Stopped processes are as good as a hanging network: they are there, and never answer.
"""

import json
import re

import pytest
from fault_table import note
from faults import Fault
from harness import VLLM, assert_same

pytestmark = pytest.mark.slow

HF = ("actor_rollout_ref.rollout.name=hf", "trainer.n_gpus_per_node=2", "trainer.total_training_steps=3")
ONE_RESTART = "trainer.max_restarts=1"
SECONDS = 30
"""Until a stopped worker counts as hanging: far more than any call of these runs takes."""

UPDATE = Fault("actor-1", "actor.update_policy", 2)
RANKS = {
    "update": UPDATE,
    "weight sync": Fault("actor-0", "actor.publish_weights", 2),
    "save": Fault("actor-1", "actor.save_checkpoint", 2),
}


def test_dead_rank_ends_the_run(make_run, reference):
    run = make_run(HF)
    ended = run.start(UPDATE)
    assert ended.code == 1, ended.output
    assert re.search(r"actor rank 1 on \S+ failed: WorkerDied: process \d+ died", ended.output), ended.output
    status = json.loads((run.folder / "status.json").read_text())
    assert status["status"] == "failed" and status["reason"].startswith("actor rank 1 on ")
    run.finish()
    assert_same(run, reference(HF))
    note("training rank 1: update", "ends with the message; started again, goes on", run.seconds_to_recover())


@pytest.mark.parametrize("phase", RANKS)
def test_dead_rank_with_restarts(phase, make_run, reference):
    fault, run = RANKS[phase], make_run((*HF, ONE_RESTART))
    ended = run.start(fault)
    assert ended.code == 0, ended.output
    # the checkpoint of step 1 may still be in writing
    assert re.search(r"Restart 1 goes on from step [01]\.", ended.output), ended.output
    assert_same(run, reference(HF))
    note(f"training rank {fault.victim[-1]}: {phase}, `max_restarts=1`", "restarts by itself", run.seconds_to_recover())


def test_hanging_rank_with_restarts(make_run, reference):
    run = make_run((*HF, ONE_RESTART, f"trainer.timeout.update={SECONDS}"))
    ended = run.start(Fault("actor-1", "actor.update_policy", 2, "STOP"))
    assert ended.code == 0, ended.output
    assert "stopped by a signal (SIGSTOP)" in ended.output
    cause = json.loads((run.folder / "status.json").read_text())["last_restart"]["cause"]
    assert cause.startswith("actor rank 1 on ")
    assert_same(run, reference(HF))
    note(
        f"training rank 1 hangs (SIGSTOP): update, `timeout.update={SECONDS}`, `max_restarts=1`",
        "restarts by itself",
        run.seconds_to_recover(),
    )


def test_reward_worker_is_replaced(make_run, reference):
    run = make_run(HF)
    ended = run.start(Fault("reward-0", "reward.score", 2))
    assert ended.code == 0, ended.output
    assert_same(run, reference(HF))
    note("reward worker: scoring", "goes on with a new worker", run.seconds_to_recover())


ENGINE = {
    "idle": Fault("rollout-0", "actor.update_policy", 2),
    "generating": Fault("rollout-0", "generate", 2),
    "weight sync begins": Fault("rollout-0", "rollout.begin_sync", 2),
    "weights on their way": Fault("rollout-0", "actor.publish_weights", 2),
    "validating": Fault("rollout-0", "validation", 2),
}


@pytest.mark.parametrize("phase", ENGINE)
def test_engine_is_replaced(phase, make_run, reference):
    run = make_run(VLLM)
    ended = run.start(ENGINE[phase])
    assert ended.code == 0, ended.output
    assert run.metrics()[-1]["rollout/engine_restarts"] == 1
    if phase in ("generating", "validating"):
        assert max(line["rollout/reissued_requests"] for line in run.metrics()) > 0
    assert_same(run, reference(VLLM))
    note(f"vLLM engine: {phase}", "goes on with a new engine", run.seconds_to_recover())


def test_hanging_engine_is_replaced(make_run, reference):
    run = make_run((*VLLM, f"actor_rollout_ref.rollout.engine_timeout={SECONDS}"))
    ended = run.start(Fault("rollout-0", "generate", 2, "STOP"))
    assert ended.code == 0, ended.output
    assert run.metrics()[-1]["rollout/engine_restarts"] == 1
    assert_same(run, reference(VLLM))
    note(
        f"vLLM engine hangs (SIGSTOP): generating, `engine_timeout={SECONDS}`",
        "goes on with a new engine",
        run.seconds_to_recover(),
    )
