"""The rollout role as Ray actors: buckets through shared memory, responses as streams."""

import pytest
from pool_case import PROBE, requests, send
from tiny_models import make_model, true_log_probs, weights_of

from verl.single_controller.ray_group import RayWorkerGroup
from verl.workers.rollout import RolloutPool, RolloutWorker


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hf", "vllm"])
def test_two_engines_in_processes_of_their_own(spec_for, name, ray_runtime):
    model = make_model(1, is_tied=True)
    env = {"OMP_NUM_THREADS": "1"}
    pool = RolloutPool(RayWorkerGroup("rollout", RolloutWorker, [spec_for(name, True)], num_ranks=2, env=env))
    first, second = send(pool, weights_of(model), version=3)
    assert first.digests == second.digests and first.num_tensors == 25
    assert pool.verify(pool.probe(PROBE), true_log_probs(model, PROBE[:1], PROBE[1:]), 1e-3) < 1e-4
    rollouts = [rollout for part in pool.generate(requests(20, n=4)) for rollout in part]
    assert sorted(rollout.request_id for rollout in rollouts) == list(range(20))
    assert {rollout.weight_version for rollout in rollouts} == {3}
    pool.shutdown()
