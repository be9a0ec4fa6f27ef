"""Scoring through worker groups: same rewards in process and in Ray; scorers that raise, hang and die."""

import os
import signal

import pytest

from verl.config import SandboxConfig
from verl.config.root import CustomRewardConfig, RewardConfig
from verl.single_controller import Deadline, DeadlineExceeded, LocalWorkerGroup, WorkerError, dispatch
from verl.types import Reward
from verl.workers.reward import RewardErrors, RewardPool, RewardWorker, ScoreItem

SCORER = """
import ctypes, os, sys, time

def grade(data_source, solution_str, ground_truth, extra_info=None, bonus=0.0):
    if solution_str == "crash":
        raise ZeroDivisionError("no answer")
    if solution_str == "exit":
        sys.exit("enough")
    if solution_str == "die":
        os._exit(0)
    if solution_str == "segfault":
        ctypes.string_at(0)
    if solution_str == "hang":
        10 ** 10**10  # native code, which no signal and no thread interrupts
    if solution_str == "pid":
        return {"score": 0.0, "pid": os.getpid()}
    if solution_str == "policy":
        return {"score": 0.0, "told": extra_info["feedback_may_reveal_answer"]}
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
    groups = []

    def make(custom=None, num_ranks=2, **settings):
        custom, config = custom or CustomRewardConfig(str(path), "grade", {"bonus": 0.5}), RewardConfig(**settings)
        group = group_cls("reward", RewardWorker, (custom, config, SandboxConfig()), num_ranks=num_ranks)
        groups.append(group)
        return RewardPool(group, config)

    yield make
    for group in groups:
        group.shutdown()


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
    with pytest.raises(WorkerError, match=r"reward rank 0 .*/absent/scorer\.py"):
        make_pool(CustomRewardConfig("/absent/scorer.py"), num_ranks=1)


class CountingWorker(RewardWorker):
    """Notes what each call was given and got done."""

    def __init__(self, *args):
        super().__init__(*args)
        self.calls = []

    @dispatch()
    def score(self, items):
        scored = super().score(items)
        self.calls.append((len(items), len(scored.rewards)))
        return scored


@pytest.mark.parametrize("seconds", [0.0, 0.06])
def test_quick_responses_share_a_call_and_slow_ones_do_not(tmp_path, seconds):
    path = tmp_path / "scorer.py"
    path.write_text(SCORER)
    custom = CustomRewardConfig(str(path), "grade")
    group = LocalWorkerGroup("reward", CountingWorker, (custom, RewardConfig(), SandboxConfig()))
    pool = RewardPool(group, RewardConfig())
    pool.submit([ScoreItem(i, "any", "A", "A", {"seconds": seconds}) for i in range(20)])
    assert sorted(request_id for request_id, _ in pool.results()) == list(range(20))
    calls = group.workers[0].calls
    if seconds:
        assert calls == [(1, 1)] * 20
    else:
        assert calls[0] == (1, 1) and len(calls) < 20
    assert sum(done for _, done in calls) == 20


def test_what_a_call_has_no_time_for_is_given_back(tmp_path):
    path = tmp_path / "scorer.py"
    path.write_text(SCORER)
    worker = RewardWorker(CustomRewardConfig(str(path), "grade"), RewardConfig(), SandboxConfig())
    scored = worker.score([ScoreItem(i, "any", "A", "A", {"seconds": 0.03}) for i in range(9)])
    assert 1 <= len(scored.rewards) < 9
    assert scored.seconds >= 0.03 * len(scored.rewards)


@pytest.mark.parametrize("policy", [False, True])
def test_scorers_are_told_whether_feedback_may_reveal_the_answer(make_pool, policy):
    pool = make_pool(num_ranks=1, feedback_may_reveal_answer=policy)
    pool.submit([ScoreItem(0, "any", "policy", "A", {"truncated": True, "feedback_may_reveal_answer": not policy})])
    assert dict(pool.results())[0].extras == {"told": policy}


def test_too_many_errors_stop_the_run_with_the_reason(make_pool):
    pool = make_pool(max_error_share=0.25)
    pool.submit([ScoreItem(i, "any", "A" if i < 6 else "crash", "A") for i in range(8)])
    assert len(dict(pool.results())) == 8  # a quarter is not more than a quarter
    pool.submit([ScoreItem(i, "any", "A" if i < 5 else "exit", "A") for i in range(8)])
    with pytest.raises(RewardErrors) as caught:
        dict(pool.results())
    text = str(caught.value)
    assert text.startswith(
        "3 of a batch's 8 responses could not be scored, more than reward_model.max_error_share=0.25"
    )
    assert "3 of them like this:\nTraceback" in text
    assert text.endswith("SystemExit: enough")


@pytest.mark.parametrize("make_pool", ["ray"], indirect=True)
def test_results_come_as_they_are_finished(make_pool):
    pool = make_pool()
    pool.submit([ScoreItem(0, "any", "A", "A", {"seconds": 0.8}), ScoreItem(1, "any", "A", "A")])
    assert [request_id for request_id, _ in pool.results()] == [1, 0]


@pytest.mark.parametrize("make_pool", ["ray"], indirect=True)
def test_hanging_and_dying_scorers_cost_their_own_response_only(make_pool):
    pool = make_pool(timeout=3.0)
    bad = {0: "hang", 1: "die", 5: "crash", 6: "segfault"}
    items = [ScoreItem(i, "any", bad.get(i, "A"), "A") for i in range(12)]
    pool.submit(items[:4])
    pool.submit(items[4:])
    rewards = dict(pool.results())
    assert sorted(rewards) == list(range(12))
    assert {i for i, reward in rewards.items() if reward.error} == bad.keys()
    assert all(reward == Reward(1.5, 1.0, "", {"pred": "A"}) for i, reward in rewards.items() if i not in bad)
    assert [rewards[i].score for i in bad] == [0.0] * 4
    assert (
        "TimeoutError: the scorer of data_source 'any' gave no result within reward_model.timeout=3 s"
        in rewards[0].error
    )
    assert all("WorkerDied: process" in rewards[i].error for i in (1, 6))
    assert pool.num_errors == 4


@pytest.mark.parametrize("make_pool", ["ray"], indirect=True)
def test_a_worker_killed_from_outside_costs_no_response(make_pool):
    pool = make_pool(num_ranks=1, max_error_share=0.0)
    pool.submit([ScoreItem(0, "any", "pid", "")])
    (pid,) = (reward.extras["pid"] for _, reward in pool.results())
    pool.submit([ScoreItem(i, "any", "A", "A", {"seconds": 0.5}) for i in range(2)])
    os.kill(pid, signal.SIGKILL)
    assert dict(pool.results()) == dict.fromkeys(range(2), Reward(1.5, 1.0, "", {"pred": "A"}))


@pytest.mark.parametrize("make_pool", ["ray"], indirect=True)
def test_workers_killed_while_idle_cost_no_response(make_pool):
    pool = make_pool(num_ranks=2, max_error_share=0.0)
    for standing in pool.group.standing():
        os.kill(standing.pid, signal.SIGKILL)
    for num_items in (1, 4):  # of the first batch the second worker is given nothing: it stays dead
        pool.submit([ScoreItem(i, "any", "A", "A") for i in range(num_items)])
        assert dict(pool.results()) == dict.fromkeys(range(num_items), Reward(1.5, 1.0, "", {"pred": "A"}))
    assert pool.num_errors == 0


@pytest.fixture
def make_slow_starting(ray_runtime, tmp_path):
    """`make(**limits)`: a pool whose new workers do not start while `make.barrier` is there."""
    from verl.single_controller.ray_group import RayWorkerGroup

    path, barrier = tmp_path / "scorer.py", tmp_path / "barrier"
    path.write_text(f"{SCORER}\nwhile os.path.exists({str(barrier)!r}):\n    time.sleep(0.02)\n")
    config = RewardConfig(timeout=1.0, max_error_share=1.0)
    groups = []

    def make(**deadlines):
        arguments = (CustomRewardConfig(str(path), "grade"), config, SandboxConfig())
        groups.append(RayWorkerGroup("reward", RewardWorker, arguments, num_ranks=2, deadlines=deadlines))
        pool = RewardPool(groups[-1], config)
        barrier.touch()
        return pool

    make.barrier = barrier
    yield make
    barrier.unlink(missing_ok=True)
    for group in groups:
        group.shutdown()


def test_a_worker_that_starts_again_is_not_waited_for_without_need(make_slow_starting):
    pool = make_slow_starting()
    for solution in ("hang", "A", "A"):  # the first ends worker 0, the others have worker 1
        pool.submit([ScoreItem(0, "any", solution, "A")])
        ((_, reward),) = pool.results()
        assert bool(reward.error) is (solution == "hang")
    make_slow_starting.barrier.unlink()
    pool.submit([ScoreItem(i, "any", "pid", "", {"seconds": 0.1}) for i in range(8)])
    assert not any(reward.error for _, reward in pool.results())


def test_a_worker_that_does_not_start_again_in_time_ends_the_group(make_slow_starting):
    pool = make_slow_starting(replace=Deadline(1.0, "trainer.timeout.setup"))
    pool.submit([ScoreItem(i, "any", "hang", "A") for i in range(4)])
    with pytest.raises(DeadlineExceeded, match=r"replace gave no result within 1 s \(trainer\.timeout\.setup\)"):
        list(pool.results())


@pytest.mark.parametrize("make_pool", ["ray"], indirect=True)
def test_a_new_worker_serves_the_next_batch(make_pool):
    pool = make_pool(num_ranks=1, max_error_share=1.0)
    pids = []
    for _ in range(2):
        pool.submit([ScoreItem(0, "any", "pid", ""), ScoreItem(1, "any", "die", ""), ScoreItem(2, "any", "pid", "")])
        rewards = dict(pool.results())
        pids += [rewards[0].extras["pid"], rewards[2].extras["pid"]]
    first, second, third, fourth = pids
    assert first not in (second, third, fourth)
    assert fourth not in (first, second, third)


@pytest.mark.parametrize("make_pool", ["ray"], indirect=True)
def test_waiting_for_others_is_not_charged(make_pool):
    """Eight responses of 0.3 s on one worker: each is within its own 2 s, all together are not."""
    pool = make_pool(num_ranks=1, timeout=2.0)
    pool.submit([ScoreItem(i, "any", "A", "A", {"seconds": 0.3}) for i in range(8)])
    assert [reward.error for _, reward in pool.results()] == [""] * 8


@pytest.mark.parametrize("make_pool", ["ray"], indirect=True)
def test_where_it_hung_is_in_the_log(make_pool, tmp_path):
    from verl.single_controller.ray_group import RayWorkerGroup

    config = RewardConfig(timeout=1.0, max_error_share=1.0)
    custom = CustomRewardConfig(str(tmp_path / "scorer.py"), "grade")
    group = RayWorkerGroup("reward", RewardWorker, (custom, config, SandboxConfig()), log_dir=tmp_path)
    pool = RewardPool(group, config)
    pool.submit([ScoreItem(0, "any", "hang", "A")])
    assert "has been ended and replaced" in dict(pool.results())[0].error
    group.shutdown()
    assert 'scorer.py", line' in (tmp_path / "reward-0.log").read_text()
