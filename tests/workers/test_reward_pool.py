"""Scoring through worker groups: same rewards in process and in Ray."""

import pytest

from verl.config.root import CustomRewardConfig
from verl.single_controller import LocalWorkerGroup, WorkerError
from verl.types import Reward
from verl.workers.reward import RewardPool, RewardWorker, ScoreItem

SCORER = """
import os, signal, time

def grade(data_source, solution_str, ground_truth, extra_info=None, bonus=0.0):
    if solution_str == "crash":
        raise ZeroDivisionError("no answer")
    if solution_str == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep((extra_info or {}).get("seconds", 0.0))
    correct = solution_str == ground_truth
    feedback = "" if correct else "wrong"
    return {"score": correct + bonus, "acc": float(correct), "feedback": feedback, "pred": solution_str}
"""


@pytest.fixture(params=["local", "ray"])
def make_pool(request, tmp_path):
    if request.param == "ray":
        request.getfixturevalue("ray_runtime")
        from verl.single_controller.ray_group import RayWorkerGroup as group_cls
    else:
        group_cls = LocalWorkerGroup
    path = tmp_path / "scorer.py"
    path.write_text(SCORER)
    pools = []

    def make(custom=None, num_ranks=2):
        custom = custom or CustomRewardConfig(str(path), "grade", {"bonus": 0.5})
        pools.append(RewardPool(group_cls("reward", RewardWorker, (custom,), num_ranks=num_ranks)))
        return pools[-1]

    yield make
    for pool in pools:
        pool.shutdown()


def test_custom_scorer_with_errors_counted(make_pool):
    pool = make_pool()
    pool.submit([ScoreItem(7, "any", "A", "A"), ScoreItem(3, "any", "B", "A")])
    pool.submit([ScoreItem(5, "any", "crash", "A")])
    rewards = dict(pool.results())
    assert rewards[7] == Reward(1.5, 1.0, "", {"pred": "A"})
    assert rewards[3] == Reward(0.5, 0.0, "wrong", {"pred": "B"})
    assert (rewards[5].score, rewards[5].acc, rewards[5].feedback) == (0.0, 0.0, "")
    assert "ZeroDivisionError: no answer" in rewards[5].error
    assert sorted(rewards) == [3, 5, 7]
    assert pool.num_errors == 1
    assert list(pool.results()) == []


def test_scorers_of_the_package_are_chosen_by_data_source(make_pool):
    pool = make_pool(CustomRewardConfig(), num_ranks=1)
    pool.submit([ScoreItem(0, "sciknoweval", "<answer>C</answer>", "C"), ScoreItem(1, "nowhere", "x", "x")])
    rewards = dict(pool.results())
    assert rewards[0].score == 1.0
    assert "'nowhere' is not a known data_source" in rewards[1].error


def test_missing_scorer_ends_the_start(make_pool):
    pool = make_pool(CustomRewardConfig("/absent/scorer.py"), num_ranks=1)
    with pytest.raises(WorkerError, match=r"reward rank 0 .*/absent/scorer\.py"):
        pool.group.ready()


@pytest.mark.parametrize("make_pool", ["ray"], indirect=True)
def test_results_come_as_they_are_finished(make_pool):
    pool = make_pool()
    pool.group.ready()
    pool.submit([ScoreItem(0, "any", "A", "A", {"seconds": 0.8}), ScoreItem(1, "any", "A", "A")])
    assert [request_id for request_id, _ in pool.results()] == [1, 0]


@pytest.mark.parametrize("make_pool", ["ray"], indirect=True)
def test_dead_worker_is_reported(make_pool):
    pool = make_pool(num_ranks=1)
    pool.submit([ScoreItem(0, "any", "die", "A")])
    with pytest.raises(WorkerError, match=r"reward rank 0 on .* failed: WorkerDied"):
        dict(pool.results())
