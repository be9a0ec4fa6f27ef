"""The rollout role as Ray actors: buckets through shared memory, responses as streams."""

import pytest
from pool_case import PROBE, requests, send, written
from tiny_models import make_model, true_log_probs, weights_of

from verl.single_controller.ray_group import RayWorkerGroup
from verl.workers.rollout import RolloutWorker
from verl.workers.rollout_pool import RolloutPool


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hf", "vllm"])
def test_two_engines_in_processes_of_their_own(spec_for, name, ray_runtime):
    model = make_model(1, is_tied=True)
    env = {"OMP_NUM_THREADS": "1"}
    pool = RolloutPool(RayWorkerGroup("rollout", RolloutWorker, [spec_for(name, True)], num_ranks=2, env=env))
    reports = send(pool, weights_of(model), version=3)
    assert reports[0].digests == reports[1].digests
    assert reports[0].num_bytes == reports[1].num_bytes == sum(t.nbytes for _, t in weights_of(model))
    assert pool.sync.verify(reports, true_log_probs(model, PROBE[:1], PROBE[1:]), 1e-3) < 1e-4
    assert {rollout.weight_version for rollout in written(pool, requests(20, n=4)).values()} == {3}
    pool.shutdown()
