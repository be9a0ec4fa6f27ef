"""Which key limits which call, and what a run says about its memory."""

from verl.config.survival import TimeoutConfig
from verl.single_controller import Deadline
from verl.single_controller.dispatch import rule_of
from verl.trainer.deadlines import KEYS, deadlines
from verl.trainer.process_memory import process_memory_metrics
from verl.workers.actor import ActorWorker
from verl.workers.reward import RewardWorker
from verl.workers.rollout import RolloutWorker

OTHER_LIMITS = {
    RolloutWorker: {
        "generate": "a stream; `rollout.engine_timeout` for each response",
        "sleep": "`rollout.weight_sync.timeout`",
        "begin_sync": "`rollout.weight_sync.timeout`",
        "receive_bucket": "`rollout.weight_sync.timeout`, kept by the training rank that sends",
        "finish_sync": "`rollout.weight_sync.timeout`",
    },
    RewardWorker: {"score": "`reward_model.timeout`, kept by the pool, which replaces the worker"},
}
"""Methods without a key of `trainer.timeout`, and what limits them instead."""


def test_keys_limit_methods_that_exist_and_every_key_limits_one():
    for method in KEYS.keys() - {"ready", "replace"}:
        rule_of(ActorWorker, method)  # raises for what is no method of the role
    assert set(KEYS.values()) == set(TimeoutConfig.__dataclass_fields__)


def test_whatever_the_driver_waits_for_has_a_limit():
    for worker_cls in (ActorWorker, RolloutWorker, RewardWorker):
        offered = {name for name in dir(worker_cls) if hasattr(getattr(worker_cls, name), "__dispatch__")}
        without_key = offered - KEYS.keys()
        assert without_key == OTHER_LIMITS.get(worker_cls, {}).keys(), worker_cls.__name__


def test_null_is_no_limit():
    found = deadlines(TimeoutConfig(update=60.0, save=None))
    assert found["update_policy"] == Deadline(60.0, "trainer.timeout.update")
    assert found["ready"] == found["setup"] == Deadline(3600.0, "trainer.timeout.setup")
    assert "save_checkpoint" not in found


def test_the_driver_knows_its_memory():
    before = process_memory_metrics([])
    assert list(before) == ["perf/driver_memory_gb"]
    ballast = bytearray(b"x" * (200 * 2**20))
    grown = process_memory_metrics([])["perf/driver_memory_gb"] - before["perf/driver_memory_gb"]
    assert grown > 0.15
    del ballast
