"""Weights from a real trainer to real engines, and what happens to an engine that ends up with other ones."""

import math

import pytest
import torch
from training_case import TAUGHT, VOCAB, make_config, part, save_tiny

from verl.config import PPOConfig, RolloutConfig
from verl.config.root import AlgorithmConfig, TrainerConfig
from verl.rollout.base import EngineSpec
from verl.single_controller import LocalWorkerGroup, WorkerError
from verl.trainer.publish import Publisher
from verl.types import Request, Sampling
from verl.weights import WeightSyncError
from verl.workers.actor import ActorWorker
from verl.workers.rollout import RolloutWorker
from verl.workers.rollout_pool import RolloutPool

DAMAGED = "model.layers.1.mlp.up_proj.weight"


class DamagingWorker(RolloutWorker):
    """Loads one wrong tensor in the syncs that `damage` tells; what arrives is right."""

    damage = staticmethod(lambda rank, version, start: None)
    starts = 0

    def __init__(self, spec):
        super().__init__(spec)
        DamagingWorker.starts += 1
        self.start = DamagingWorker.starts
        load = self._engine.load_weights

        def load_damaged(weights, version):
            change = type(self).damage(self.rank_info.rank, version, self.start)
            load(((n, change(t) if change and n == DAMAGED else t) for n, t in weights), version)

        self._engine.load_weights = load_damaged


def rolled(tensor):
    return torch.roll(tensor, 1, 0)


def too_long(tensor):
    return torch.cat([tensor, tensor])


@pytest.fixture
def make(tmp_path, monkeypatch):
    """A function that makes a publisher with two engines, damaged as told."""
    path = save_tiny(tmp_path, is_tied=True)

    def make(damage=lambda rank, version, start: None, **rollout):
        monkeypatch.setattr(DamagingWorker, "damage", staticmethod(damage))
        monkeypatch.setattr(DamagingWorker, "starts", 0)
        config = PPOConfig(actor_rollout_ref=make_config(path))
        trainer = TrainerConfig(device="cpu", n_gpus_per_node=1)
        actor = LocalWorkerGroup("actor", ActorWorker, (config.actor_rollout_ref, AlgorithmConfig(), trainer, 4))
        actor.setup()
        spec = EngineSpec(path, RolloutConfig(name="hf", **rollout), max_model_len=64)
        pool = RolloutPool(LocalWorkerGroup("rollout", DamagingWorker, [spec], num_ranks=2), spec.rollout, VOCAB)
        return Publisher(config, actor, pool, spec, VOCAB)

    return make


def learn(publisher):
    (worker,) = publisher.actor.workers
    worker.update_policy([part(TAUGHT, worker, 2)])


def write(pool):
    asked = [Request(i, [3 + i, 4], Sampling(max_tokens=5), seed=i) for i in range(8)]
    return [rollout for part in pool.generate(asked) for rollout in part]


def test_every_sync_is_verified_and_counted(make):
    publisher = make()
    for version in (0, 1):
        metrics = publisher.publish(version)
        assert metrics["rollout/probe_log_prob_gap"] < 1e-5
        assert metrics["rollout/weight_bytes"] > 0
        assert metrics["rollout/engine_restarts"] == metrics["rollout/reissued_requests"] == 0
        assert {rollout.weight_version for rollout in write(publisher.rollouts)} == {version}
        learn(publisher)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_wrong_tensor_in_the_first_sync_ends_the_run(make, rank):
    publisher = make(lambda r, version, start: rolled if r == rank else None)
    with pytest.raises(WeightSyncError, match=f"rollout engine {rank} and the trainer disagree.*not loaded"):
        publisher.publish(0)


def test_weights_that_do_not_fit_the_engine_end_the_run_at_once(make):
    with pytest.raises(WorkerError, match=f"rollout rank 0 .* Weight {DAMAGED} of shape"):
        make(lambda rank, version, start: too_long).publish(0)


@pytest.mark.parametrize("change", [rolled, too_long])
def test_a_wrong_tensor_in_a_later_sync_costs_that_engine_a_restart(make, change, caplog):
    publisher = make(lambda rank, version, start: change if (rank, version, start) == (1, 1, 2) else None)
    publisher.publish(0)
    learn(publisher)
    metrics = publisher.publish(1)
    assert metrics["rollout/probe_log_prob_gap"] < 1e-5
    assert metrics["rollout/engine_restarts"] == 1
    assert "rollout rank 1 on " in caplog.text
    assert DamagingWorker.starts == 3
    assert {rollout.weight_version for rollout in write(publisher.rollouts)} == {1}
    learn(publisher)
    assert publisher.publish(2)["rollout/engine_restarts"] == 1  # so far


def test_an_engine_that_is_wrong_again_after_its_restart_ends_the_run(make):
    publisher = make(lambda rank, version, start: rolled if rank == 1 and version == 1 else None)
    publisher.publish(0)
    learn(publisher)
    with pytest.raises(WeightSyncError, match="rollout engine 1 and the trainer disagree"):
        publisher.publish(1)
    assert DamagingWorker.starts == 3


def test_without_restarts_a_wrong_tensor_is_fatal_in_every_sync(make):
    publisher = make(lambda rank, version, start: rolled if version == 1 else None, max_engine_restarts=0)
    publisher.publish(0)
    learn(publisher)
    with pytest.raises(WeightSyncError, match="rollout engine 0 and the trainer disagree"):
        publisher.publish(1)


def test_weights_that_are_not_finite_are_the_trainers_fault_not_an_engines(make):
    publisher = make()
    publisher.publish(0)
    (worker,) = publisher.actor.workers
    with torch.no_grad():
        for parameter in worker.model.parameters():
            parameter.fill_(math.nan)
    with pytest.raises(WeightSyncError, match="the trainer's weights hold nan or inf"):
        publisher.publish(1)
    assert DamagingWorker.starts == 2


def test_the_pool_gets_weights_for_a_restarted_engine_from_the_publisher(make, monkeypatch):
    """All engines fail in the middle of a batch: it is finished by new ones, with the version that it began with."""
    publisher = make()
    publisher.publish(0)
    learn(publisher)
    publisher.publish(1)
    expected = {rollout.request_id: rollout.response_ids for rollout in write(publisher.rollouts)}
    generate, failed = RolloutWorker.generate, set()

    def fail_once(self, requests):
        if self.rank_info.rank not in failed:
            failed.add(self.rank_info.rank)
            raise OSError("no space for the cache")
        yield from generate(self, requests)

    fail_once.__dispatch__ = generate.__dispatch__
    monkeypatch.setattr(RolloutWorker, "generate", fail_once)
    found = write(publisher.rollouts)
    assert {rollout.request_id: rollout.response_ids for rollout in found} == expected
    assert {rollout.weight_version for rollout in found} == {1}
    learn(publisher)
    metrics = publisher.publish(2)
    assert metrics["rollout/engine_restarts"] == 2 and metrics["rollout/reissued_requests"] == 8


def test_engines_that_slept_wake_for_weights_then_for_their_cache_and_serve_again(make, monkeypatch):
    """The hf engine has nothing to give back; what is asked of an engine, and when, is the same for all."""
    publisher, told = make(), []
    for worker in publisher.rollouts.group.workers:
        for name in ("sleep", "wake", "load_weights", "log_probs"):
            method = getattr(worker._engine, name)

            def tell(*args, name=name, method=method, rank=worker.rank_info.rank):
                told.append((rank, f"wake {args[0]}" if name == "wake" else name))
                return method(*args)

            monkeypatch.setattr(worker._engine, name, tell)
    publisher.publish(0)
    assert len(write(publisher.rollouts)) == 8
    told.clear()
    publisher.rollouts.sleep()
    assert told == [(0, "sleep"), (1, "sleep")]
    assert publisher.rollouts.engines.fleet.serving == []
    learn(publisher)
    told.clear()
    assert publisher.publish(1)["rollout/engine_restarts"] == 0
    for rank in (0, 1):
        of_rank = [name for who, name in told if who == rank]
        assert of_rank == ["wake weights", "load_weights", "wake kv_cache", "log_probs"]
    assert {rollout.weight_version for rollout in write(publisher.rollouts)} == {1}
