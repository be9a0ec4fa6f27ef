"""Engines that really die, hang or answer nonsense: every request is answered once, by a verified engine, as if nothing
had happened.

Two engines in processes of their own, which are spoilt and replaced from test to test.
"""

import os
import signal

import pytest
from faulty_worker import GARBAGE, FailingStart, FaultyWorker
from pool_case import publish, requests, texts, written
from tiny_models import make_model

from verl.config import RolloutConfig
from verl.config.rollout import WeightSyncConfig
from verl.single_controller import LocalWorkerGroup, WorkerDied, WorkerError
from verl.workers import engines
from verl.workers.engine_health import State
from verl.workers.rollout_pool import EnginesNeedWeights, RolloutPool

ASKED = requests(24, n=4, max_tokens=40)
PATIENT = 10.0
"""Seconds until a silent engine is given up: far more than the others take for everything."""


def config(**changes):
    return RolloutConfig(name="hf", engine_timeout=PATIENT, weight_sync=WeightSyncConfig(timeout=PATIENT), **changes)


@pytest.fixture(scope="module")
def model():
    return make_model(1, is_tied=True)


@pytest.fixture(scope="module")
def undisturbed(spec_for, model):
    pool = RolloutPool(LocalWorkerGroup("rollout", FaultyWorker, [spec_for("hf", True)], num_ranks=2))
    publish(pool, model)
    return texts(written(pool, ASKED))


@pytest.fixture(scope="module")
def group(spec_for, ray_runtime, tmp_path_factory):
    from verl.single_controller.ray_group import RayWorkerGroup

    log_dir = tmp_path_factory.mktemp("logs")
    group = RayWorkerGroup("rollout", FaultyWorker, [spec_for("hf", True)], num_ranks=2, log_dir=log_dir)
    yield group
    group.shutdown()


@pytest.fixture(scope="module")
def pool(group, model):
    pool = RolloutPool(group, config(max_engine_restarts=1000), vocab_size=96)
    pool.resync = lambda: publish(pool, model, pool.weight_version)
    return pool


@pytest.fixture
def healthy(pool, model):
    """The pool with both engines well, at a new version; gives its restarts so far."""
    publish(pool, model, pool.weight_version + 1)
    pool.take_metrics()
    return pool.engines.fleet.num_restarts


def restarts_since(pool, before):
    return pool.engines.fleet.num_restarts - before


def test_killed_while_idle(pool, healthy, undisturbed):
    os.kill(pool.group.pid()[0], signal.SIGKILL)
    assert texts(written(pool, ASKED)) == undisturbed
    assert restarts_since(pool, healthy) == 1
    metrics = pool.take_metrics()
    assert metrics["rollout/reissued_requests"] == 12  # its half
    assert metrics["rollout/engine_restarts"] == pool.engines.fleet.num_restarts
    assert pool.take_metrics()["rollout/reissued_requests"] == 0


@pytest.mark.parametrize(
    "fault",
    ["dies while it writes", "stops early", pytest.param("hangs while it writes", marks=pytest.mark.slow)],
)
def test_what_was_delivered_is_kept_and_the_rest_is_written_by_the_other(pool, healthy, undisturbed, fault):
    pool.group.start_on(1, "spoil", fault).result()
    found = written(pool, ASKED)
    assert texts(found) == undisturbed
    assert {rollout.weight_version for rollout in found.values()} == {pool.weight_version}
    assert restarts_since(pool, healthy) == 1
    assert 1 <= pool.take_metrics()["rollout/reissued_requests"] <= 12
    assert pool.engines.fleet.serving == [0]  # the new one has no weights yet


def test_with_no_engine_left_the_requests_wait_for_restarted_ones(pool, healthy, undisturbed):
    pool.group.spoil("dies while it writes")
    found = written(pool, ASKED)
    assert texts(found) == undisturbed
    assert {rollout.weight_version for rollout in found.values()} == {pool.weight_version}
    assert restarts_since(pool, healthy) == 2
    assert pool.sync.is_complete


def test_while_the_trainer_is_busy_the_batch_is_given_up_and_the_next_sync_mends_the_pool(
    pool, healthy, undisturbed, model
):
    pool.group.spoil("dies while it writes")
    with pool.trainer_is_busy(), pytest.raises(EnginesNeedWeights):
        written(pool, ASKED)
    assert not pool.engines.fleet.serving
    publish(pool, model, pool.weight_version + 1)
    assert pool.sync.is_complete and restarts_since(pool, healthy) == 2
    assert texts(written(pool, ASKED)) == undisturbed


@pytest.mark.parametrize(
    "fault",
    [
        "dies when a sync begins",
        "dies while it receives",
        pytest.param("hangs while it receives", marks=pytest.mark.slow),
        "dies when a sync ends",
        "scores something else",
        "received something else",
    ],
)
def test_a_sync_ends_with_all_engines_verified(pool, healthy, undisturbed, model, fault):
    pool.group.start_on(0, "spoil", fault).result()
    version = pool.weight_version + 1
    assert publish(pool, model, version) < 1e-4
    assert pool.sync.is_complete and pool.weight_version == version
    assert restarts_since(pool, healthy) == 1
    found = written(pool, ASKED)
    assert texts(found) == undisturbed and {rollout.weight_version for rollout in found.values()} == {version}


@pytest.mark.slow
def test_a_stopped_process_is_given_up(pool, healthy, undisturbed):
    os.kill(pool.group.pid()[1], signal.SIGSTOP)
    assert texts(written(pool, ASKED)) == undisturbed
    assert restarts_since(pool, healthy) == 1


def test_without_restarts_left_the_run_ends_with_engine_cause_log_and_advice(group, model, pool, healthy):
    strict = RolloutPool(group, config(max_engine_restarts=1), vocab_size=96)
    strict.resync = lambda: publish(strict, model, strict.weight_version)
    publish(strict, model, pool.weight_version + 1)
    group.start_on(0, "spoil", "dies while it writes").result()
    written(strict, ASKED)
    publish(strict, model, strict.weight_version + 1)
    group.start_on(1, "spoil", "dies while it writes").result()
    with pytest.raises(WorkerDied) as caught:
        written(strict, ASKED)
    message = str(caught.value)
    assert message.startswith("rollout rank 1 on ") and "WorkerDied: process" in message
    assert "Its log is " in message and "rollout-1.log" in message
    assert "actor_rollout_ref.rollout.max_engine_restarts=1 allows no more" in message and "raise it" in message
    group.replace(1).result()  # for the pool of the other tests, which begins each with a sync


LOCAL_FAULTS = ["raises", "stops early", "answers twice", "no responses", *GARBAGE]


@pytest.mark.parametrize("fault", LOCAL_FAULTS)
def test_garbage_is_not_delivered_and_its_engine_is_replaced(spec_for, model, undisturbed, fault, caplog):
    pool = RolloutPool(
        LocalWorkerGroup("rollout", FaultyWorker, [spec_for("hf", True)], num_ranks=2), config(), vocab_size=96
    )
    publish(pool, model, version=3)
    pool.group.workers[1].fault = fault
    found = written(pool, ASKED)
    assert texts(found) == undisturbed and {rollout.weight_version for rollout in found.values()} == {3}
    assert pool.engines.fleet.num_restarts == 1 and pool.engines.fleet.serving == [0]
    assert pool.engines.fleet[1].state is State.RESTARTING
    assert "rollout rank 1 on " in caplog.text and "restart 1 of 3" in caplog.text


@pytest.mark.parametrize(("budget", "advice"), [(0, False), (2, True)])
def test_an_engine_that_always_fails_ends_the_run_when_the_budget_does(spec_for, model, budget, advice):
    class Hopeless(FaultyWorker):
        fault = "raises"

    group = LocalWorkerGroup("rollout", Hopeless, [spec_for("hf", True)])
    pool = RolloutPool(group, config(max_engine_restarts=budget))
    pool.resync = lambda: publish(pool, model, pool.weight_version)
    publish(pool, model)
    with pytest.raises(WorkerError, match=r"rollout rank 0 on .* failed: OSError: no space for the cache") as caught:
        written(pool, ASKED)
    assert pool.engines.fleet.num_restarts == budget
    assert (f"max_engine_restarts={budget} allows no more" in str(caught.value)) == advice


def test_an_engine_that_cannot_be_started_again_uses_the_budget_up(spec_for, model, tmp_path):
    flag = tmp_path / "full"
    pool = RolloutPool(LocalWorkerGroup("rollout", FailingStart, [spec_for("hf", True), flag], num_ranks=2), config())
    pool.resync = lambda: publish(pool, model, pool.weight_version)
    publish(pool, model)
    pool.group.workers[1].fault = "raises"
    flag.write_text("")
    written(pool, ASKED)  # the other one writes everything
    with pytest.raises(WorkerError, match="MemoryError: no room for another engine") as caught:
        publish(pool, model, version=2)
    assert "max_engine_restarts=3 allows no more" in str(caught.value)


@pytest.mark.slow
def test_an_engine_that_hangs_when_it_starts_is_started_once_more(spec_for, ray_runtime, model, tmp_path, monkeypatch):
    from verl.single_controller.ray_group import RayWorkerGroup

    flag = tmp_path / "slow"
    group = RayWorkerGroup("rollout", FailingStart, [spec_for("hf", True), flag])
    pool = RolloutPool(group, config(max_engine_restarts=100))
    pool.resync = lambda: publish(pool, model, pool.weight_version)
    publish(pool, model)
    monkeypatch.setattr(engines, "START_TIMEOUT", PATIENT)
    flag.write_text("hang")
    os.kill(group.pid()[0], signal.SIGKILL)
    written(pool, ASKED)
    assert pool.engines.fleet.num_restarts >= 2 and not flag.exists()
    group.shutdown()


@pytest.mark.slow
def test_vllm_killed_while_it_writes_comes_back_with_the_same_weights(spec_for, ray_runtime, model, tmp_path):
    from verl.single_controller.ray_group import RayWorkerGroup

    env = {"VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    group = RayWorkerGroup("rollout", FaultyWorker, [spec_for("vllm", True)], env=env, log_dir=tmp_path)
    pool = RolloutPool(group, RolloutConfig(), vocab_size=96)
    pool.resync = lambda: publish(pool, model, pool.weight_version)
    publish(pool, model, version=5)
    expected = texts(written(pool, ASKED))
    (before,) = group.pid()
    group.spoil("dies while it writes")
    found = written(pool, ASKED)
    assert texts(found) == expected and {rollout.weight_version for rollout in found.values()} == {5}
    assert group.pid() != [before]
    assert pool.take_metrics()["rollout/engine_restarts"] == 1
    group.shutdown()
