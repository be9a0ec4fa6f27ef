"""Which key limits which call, and what a run says about its memory."""

from verl.config.survival import TimeoutConfig
from verl.single_controller import Deadline
from verl.single_controller.dispatch import rule_of
from verl.trainer.deadlines import KEYS, deadlines
from verl.trainer.process_memory import process_memory_metrics
from verl.workers.actor import ActorWorker


def test_keys_limit_methods_that_exist_and_every_key_limits_one():
    for method in KEYS.keys() - {"ready"}:
        rule_of(ActorWorker, method)  # raises for what is no method of the role
    assert set(KEYS.values()) == set(TimeoutConfig.__dataclass_fields__)


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
