"""Weights from a real training rank to engines in other processes that do not see its memory: a broadcast over gloo."""

from datetime import timedelta

import pytest
import torch
from far_worker import FarWorker
from training_case import TAUGHT, VOCAB, make_config, part, save_tiny

from verl.config import PPOConfig, RolloutConfig
from verl.config.rollout import WeightSyncConfig
from verl.config.root import AlgorithmConfig, TrainerConfig
from verl.rollout.base import EngineSpec
from verl.single_controller import LocalWorkerGroup
from verl.trainer.publish import Publisher
from verl.weights import Announcement, SharedBucket
from verl.weights.broadcast import Group, Invitation, Member
from verl.workers.actor import ActorWorker
from verl.workers.rollout_pool import RolloutPool

BUCKET = 4096


@pytest.fixture
def publisher_to(tmp_path, ray_runtime):
    """A function that makes a publisher with two engines, of which some are far; with the path that names a victim."""
    from verl.single_controller.ray_group import RayWorkerGroup

    path, groups = save_tiny(tmp_path, is_tied=True), []

    def make(far):
        sync = WeightSyncConfig(bucket_bytes=BUCKET)
        rollout = RolloutConfig(name="hf", weight_sync=sync)
        roles = make_config(path)
        config = PPOConfig(actor_rollout_ref=type(roles)(**(vars(roles) | {"rollout": rollout})))
        trainer = TrainerConfig(device="cpu", n_gpus_per_node=1)
        actor = LocalWorkerGroup("actor", ActorWorker, (config.actor_rollout_ref, AlgorithmConfig(), trainer, 4))
        spec = EngineSpec(path, rollout, max_model_len=64)
        arguments = (spec, far, str(tmp_path / "victim"))
        engines = RayWorkerGroup("rollout", FarWorker, arguments, num_ranks=2, log_dir=tmp_path)
        groups.extend([actor, engines])
        actor.setup()
        return Publisher(config, actor, RolloutPool(engines, rollout, VOCAB), spec, VOCAB), tmp_path / "victim"

    yield make
    for group in groups:
        group.shutdown()


def learn(publisher):
    (worker,) = publisher.actor.workers
    worker.update_policy([part(TAUGHT, worker, 2)])


@pytest.mark.slow
def test_far_engines_meet_once_and_are_broadcast_to_until_one_is_lost(publisher_to, caplog):
    publisher, victim = publisher_to({0, 1})
    engines = publisher.rollouts.group
    caplog.set_level("INFO", "verl.workers.far_engines")
    for version in (0, 1):
        metrics = publisher.publish(version)
        assert metrics["rollout/probe_log_prob_gap"] < 1e-5
        received = engines.take_received()
        count = received[0].count("Announcement")
        assert count > 5  # of many buckets
        begin = ["SharedBucket", *(["Invitation"] if version == 0 else [])]
        assert received == [[*begin, *["Announcement"] * count]] * 2
        learn(publisher)
    assert "Weights go to 2 engine(s) on other machines over gloo." in caplog.text

    victim.write_text("1")
    metrics = publisher.publish(2)
    assert metrics["rollout/probe_log_prob_gap"] < 1e-5 and metrics["rollout/engine_restarts"] == 1
    assert "goes to engines on other machines through Ray" in caplog.text
    survivor, restarted = engines.take_received()
    # The second broadcast reached the survivor, or it did not; the rest came otherwise.
    assert survivor[:3] == ["SharedBucket", "Announcement", "Announcement"]
    assert survivor[3:] in (["Bucket"] * (count - 2), ["Bucket"] * (count - 1))
    assert restarted == ["SharedBucket", "Invitation", *["Announcement"] * count]
    learn(publisher)
    assert publisher.publish(3)["rollout/probe_log_prob_gap"] < 1e-5
    assert engines.take_received() == [["SharedBucket", "Invitation", *["Announcement"] * count]] * 2


@pytest.mark.slow
def test_an_engine_that_sees_the_memory_reads_it_and_the_other_is_broadcast_to(publisher_to):
    publisher, _ = publisher_to({1})
    assert publisher.publish(0)["rollout/probe_log_prob_gap"] < 1e-5
    near, far = publisher.rollouts.group.take_received()
    assert near == ["SharedBucket"] * len(near)
    assert far == ["SharedBucket", "Invitation", *["Announcement"] * len(near)]


def test_an_invitation_that_leads_nowhere_is_no_group_and_brings_no_bucket(monkeypatch):
    monkeypatch.setattr("verl.weights.broadcast.PATIENCE", timedelta(seconds=1))
    member = Member(3, torch.device("cpu"))
    assert member.join(Invitation("k", "127.0.0.1", 1, "gloo", {3: 1})).group is None  # nobody listens there
    shared = SharedBucket(["w"], [(0, torch.float32, (1,))], "slot", "/nowhere")
    assert member.receive(Announcement("k", shared, 4)) is None


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_nccl_carries_what_gloo_carries():
    """Two members in two processes on two GPUs."""
    store = torch.distributed.TCPStore("127.0.0.1", 0, 2, is_master=True, wait_for_workers=False)
    context = torch.multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    process = context.Process(target=receive_on_second_gpu, args=(store.port, queue))
    process.start()
    group = Group("k", store, 0, 2, torch.device("cuda", 0))
    sent = torch.arange(4096, dtype=torch.int64).view(torch.uint8)
    group.broadcast(sent)
    assert bytes(queue.get()) == sent.numpy().tobytes()
    process.join()
    group.leave()


def receive_on_second_gpu(port, queue):
    store = torch.distributed.TCPStore("127.0.0.1", port, 2, is_master=False)
    group = Group("k", store, 1, 2, torch.device("cuda", 1))
    queue.put(group.broadcast(torch.empty(4096 * 8, dtype=torch.uint8)).numpy().tobytes())
    group.leave()
