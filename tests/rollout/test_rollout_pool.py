"""The rollout role in this process: real engines, syncs that go right and syncs that go wrong."""

import pytest
import torch
from pool_case import PROBE, publish, requests, send, written
from tiny_models import make_model, true_log_probs, weights_of

from verl.single_controller import LocalWorkerGroup, WorkerError
from verl.types import Request, Sampling
from verl.weights import Bucket, SharedReader, SharedSlots, WeightSyncError, buckets, digest
from verl.workers.rollout import RolloutWorker
from verl.workers.rollout_pool import EnginesNeedWeights, RolloutPool, assign
from verl.workers.send_weights import Sent


class SharedEngineWorker(RolloutWorker):
    """Starts no engine of its own."""

    def __init__(self, engine):
        self._engine, self._sync, self._reader = engine, None, SharedReader()

    def close(self):
        pass


@pytest.fixture(params=["hf", "vllm"])
def pool(request, engine_for):
    return RolloutPool(LocalWorkerGroup("rollout", SharedEngineWorker, [engine_for(request.param, True)]))


@pytest.fixture(scope="module")
def model():
    return make_model(1, is_tied=True)


@pytest.fixture(scope="module")
def truth(model):
    return true_log_probs(model, PROBE[:1], PROBE[1:])


def test_a_good_sync_is_reported_and_verified(pool, model, truth):
    reports = send(pool, weights_of(model), version=4)
    (report,) = reports.values()
    assert report.version == pool.weight_version == 4
    assert report.num_bytes == sum(t.nbytes for _, t in weights_of(model))
    assert len(report.digests) > 3  # several buckets, so the loader was fed while it ran
    with pytest.raises(EnginesNeedWeights, match="publish weights first"):  # received, but not proven
        list(pool.generate(requests(1)))
    assert pool.sync.verify(reports, truth, 1e-3) < 1e-4
    assert {rollout.weight_version for rollout in written(pool, requests(6)).values()} == {4}


def test_one_damaged_mlp_weight_is_caught_by_the_probe(pool, model, truth):
    name = "model.layers.1.mlp.up_proj.weight"
    weights = [(n, torch.roll(t, 1, 0) if n == name else t) for n, t in weights_of(model)]
    reports = send(pool, weights)
    with pytest.raises(
        WeightSyncError, match=r"rollout engine 0 and the trainer disagree.*some tensors were not loaded"
    ):
        pool.sync.verify(reports, truth, 1e-3)


def test_bytes_that_change_on_the_way_are_caught_by_the_digest(pool, model):
    def damage(bucket):
        pairs = zip(bucket.names, bucket.tensors, strict=True)
        return Bucket(bucket.names, [t + 1e-7 if n.endswith("1.mlp.up_proj.weight") else t for n, t in pairs])

    with pytest.raises(WeightSyncError, match="received other bytes than were sent"):
        send(pool, weights_of(model), damage=damage)
    with pytest.raises(EnginesNeedWeights):
        list(pool.generate(requests(1)))


def test_a_byte_that_flips_in_shared_memory_is_caught_by_the_digest(pool, model):
    slots, sent = SharedSlots(50_000), []
    pool.sync.begin(1)
    for number, bucket in enumerate(buckets(weights_of(model), 50_000)):
        sent.append(digest(bucket))
        shared = slots.place(bucket)
        if number == 2:
            with open(shared.path, "r+b") as memory:
                memory.seek(shared.layout[-1][0])
                first = memory.read(1)
                memory.seek(-1, 1)
                memory.write(bytes([first[0] ^ 1]))
        held = pool.sync.receiver.send_each(shared)[0]
        slots.release(set(held))
    with pytest.raises(WeightSyncError, match=r"received other bytes than were sent, in buckets \[2\]"):
        pool.sync.finish(Sent(sent, {}))


def test_vllm_without_the_tied_head_is_caught(engine_for, model, truth):
    pool = RolloutPool(LocalWorkerGroup("rollout", SharedEngineWorker, [engine_for("vllm", True)]))
    send(pool, weights_of(make_model(3, is_tied=True)))
    reports = send(pool, [pair for pair in weights_of(model) if pair[0] != "lm_head.weight"])
    with pytest.raises(WeightSyncError, match="tied lm_head left out"):
        pool.sync.verify(reports, truth, 1e-3)


def test_a_sync_that_changes_nothing_is_caught_also_from_the_restarted_engine(pool, model, truth, caplog):
    other = make_model(2, is_tied=True)
    publish(pool, other, version=1)
    pool.sync.verify(send(pool, weights_of(other), version=2), truth, 1e-3)  # it is restarted: not yet fatal
    assert "the engine still serves its old weights" in caplog.text
    assert pool.engines.fleet.num_restarts == 1 and not pool.engines.fleet.serving
    with pytest.raises(WeightSyncError, match="rollout engine 0 and the trainer disagree"):
        pool.sync.verify(send(pool, weights_of(other), version=2), truth, 1e-3)


def test_serving_during_a_sync_and_syncs_out_of_order_are_refused(engine_for, model):
    def fresh():
        return RolloutPool(LocalWorkerGroup("rollout", SharedEngineWorker, [engine_for("hf", True)]))

    for misuse, kind, message in [
        (lambda pool: [pool.sync.begin(1), pool.sync.begin(2)], WorkerError, "sync 2 begins, but 1 was not finished"),
        (lambda pool: list(pool.generate(requests(1))), EnginesNeedWeights, "No rollout engine has weights"),
        (lambda pool: [pool.sync.begin(1), list(pool.generate(requests(1)))], EnginesNeedWeights, "has weights"),
        (lambda pool: [pool.sync.begin(1), pool.sync.finish(Sent([], {}))], WorkerError, "No weights came for"),
        (lambda pool: [pool.sync.begin(1), list(pool.generate(requests(1) * 2))], ValueError, "same request_id"),
    ]:
        with pytest.raises(kind, match=message):
            misuse(fresh())


def test_groups_stay_together_and_load_is_even():
    parts = assign(requests(24, n=4), 3)
    assert [len(part) for part in parts] == [8, 8, 8]
    assert all(len({tuple(r.prompt_ids) for r in part}) == 2 for part in parts)
    long = [Request(100 + i, [1, 2], Sampling(max_tokens=100), 0) for i in range(2)]
    parts = assign([*long, *requests(10)], 2)
    assert [r.request_id for r in parts[0]] == [100, 101]  # as much work as the ten others and more
    assert assign([], 2) == [[], []]


def test_two_engines_answer_everything_once(engine_for, model):
    engines = iter([engine_for("hf", True), engine_for("vllm", True)])

    class NextEngineWorker(SharedEngineWorker):
        def __init__(self):
            super().__init__(next(engines))

    pool = RolloutPool(LocalWorkerGroup("rollout", NextEngineWorker, num_ranks=2))
    reports = send(pool, weights_of(model), version=7)
    assert reports[0].digests == reports[1].digests
    pool.sync.verify(reports, true_log_probs(model, PROBE[:1], PROBE[1:]), 1e-3)
    written(pool, requests(20, n=4))
