"""Mistakes about recordings are told before anything starts."""

import pytest

from verl.config import ConfigError, SFTConfig, build
from verl.config.checks import sft_problems
from verl.config.files import missing_files


@pytest.mark.parametrize("other", ["trainer.record=there", "trainer.val_only=true"])
def test_a_replay_neither_records_nor_validates(runs, other):
    with pytest.raises(ConfigError, match=f"{other.split('=')[0]}=.* a replay has no"):
        runs("quickstart", "trainer.replay=here", other)


def test_a_recording_must_be_there(one, tmp_path):
    assert f"trainer.replay={tmp_path}/gone: there is no such folder" in missing_files(
        one("quickstart", f"trainer.replay={tmp_path}/gone")
    )


def test_fine_tuning_has_nothing_to_record():
    config = build(SFTConfig, {"trainer": {"record": "there"}})
    assert "trainer.record=there: fine-tuning has no rollouts" in sft_problems(config)


def test_guards_can_be_switched_off(one):
    found = one("quickstart", "trainer.max_nonfinite_updates=null", "trainer.max_rollout_log_prob_gap=null").trainer
    assert found.max_nonfinite_updates is None and found.max_rollout_log_prob_gap is None
    default = one("quickstart").trainer
    assert (default.max_nonfinite_updates, default.max_rollout_log_prob_gap) == (3, 0.5)
