"""Which samples are distilled, and how much that counts: by hand."""

import math

import pytest

from verl.config import SelfDistillationConfig
from verl.protocol import Row
from verl.trainer.weigh_rows import weigh_rows
from verl.types import Prompt, Reward, Rollout, Sample


def make_batch(groups: dict[str, list[float]], untaught=()):
    """Samples of groups by their scores, and their rows; `untaught`: indices of rows without a target."""
    samples, rows = [], []
    for uid, scores in groups.items():
        for score in scores:
            index = len(samples)
            rollout = Rollout(index, [1], [2], [-1.0], [1], "stop", 0)
            samples.append(Sample(uid, Prompt(0, [], [1], "own", ""), rollout, "", Reward(score, score)))
            rows.append(Row([1], [2], [1], teacher_prompt_ids=[] if index in untaught else [3], index=index))
    return rows, samples


GROUPS = {"half": [1.0, 0.0, 0.5, 0.2], "none": [0.0, 0.0], "all": [1.0, 1.0], "quarter": [0.0, 0.0, 0.0, 1.0]}


def weigh(**settings):
    rows, samples = make_batch(GROUPS, untaught=(11,))
    return weigh_rows(rows, samples, SelfDistillationConfig(**settings))


def test_by_default_nothing_is_changed():
    assert weigh() == (make_batch(GROUPS, untaught=(11,))[0], {})


@pytest.mark.parametrize("choice", ["mask", "grpo"])
def test_what_is_right_is_not_distilled(choice):
    rows, metrics = weigh(correct_samples=choice)
    assert [row.index for row in rows if row.is_taught] == [1, 3, 4, 5, 8, 9, 10]
    assert [row.index for row in rows if row.is_routed] == ([0, 2, 6, 7, 11] if choice == "grpo" else [])
    assert metrics == {"self_distillation/correct_left_out_fraction": 4 / 12}


def test_the_pass_rate_weighs_and_groups_without_a_difference_teach_nothing():
    rows, metrics = weigh(pass_rate_weight=True)
    quarter = math.sqrt(3) / 4
    assert [row.index for row in rows if row.is_taught] == [0, 1, 2, 3, 8, 9, 10]
    assert [row.distillation_weight for row in rows if row.is_taught] == pytest.approx([0.5] * 4 + [quarter] * 3)
    assert metrics == {"self_distillation/pass_rate_weight": pytest.approx((4 * 0.5 + 3 * quarter) / 11)}


def test_both_together():
    rows, metrics = weigh(pass_rate_weight=True, correct_samples="mask", success_reward_threshold=0.2)
    assert [row.index for row in rows if row.is_taught] == [1, 8, 9, 10]
    quarter = math.sqrt(3) / 4  # of one group three of four are right now, of the other one of four
    assert [row.distillation_weight for row in rows if row.is_taught] == pytest.approx([quarter] * 4)
    assert metrics["self_distillation/correct_left_out_fraction"] == 5 / 12


def test_no_sample_at_all():
    assert weigh_rows([], [], SelfDistillationConfig(correct_samples="mask", pass_rate_weight=True))[0] == []
