"""A rank that hangs: the call ends at its deadline, tells where the rank is, and leaves no process behind."""

import os
import signal
import threading

import pytest
from leftovers import wait_until_gone

from verl.single_controller import Deadline, DeadlineExceeded, WorkerDied
from verl.single_controller.ray_team import GRACE


def within(**seconds):
    """Deadlines of these methods."""
    return {method: Deadline(limit, f"trainer.timeout.{method}") for method, limit in seconds.items()}


def test_a_call_past_its_deadline_tells_in_which_function_the_rank_waits(make_toys):
    group = make_toys(deadlines=within(fail_on=2))
    pids = group.pid()
    with pytest.raises(DeadlineExceeded) as caught:
        group.fail_on(5, waits=True)
    text = str(caught.value)
    assert text.startswith("toy rank 0 on ")
    assert "fail_on gave no result within 2 s (trainer.timeout.fail_on). Still awaited: rank(s) 0, 1 of 2" in text
    for rank, pid in enumerate(pids):
        assert f"toy rank {rank}, process {pid} on " in text
    assert text.count('toy_worker.py", line') >= 2 and text.count("in fail_on") == 2
    wait_until_gone(pids)


def test_a_rank_that_hangs_in_native_code_answers_too(make_toys):
    group = make_toys()
    pids = group.pid()
    with pytest.raises(DeadlineExceeded, match=r"(?s)gave no result within 2 s.*running, .*in hang") as caught:
        group.start("hang").result(timeout=2)
    assert caught.value.role == "toy"
    wait_until_gone(pids)


def test_a_stopped_rank_is_the_one_named_and_is_ended(make_toys):
    group = make_toys(deadlines=within(add=2))
    pids = group.pid()
    os.kill(pids[1], signal.SIGSTOP)
    with pytest.raises(DeadlineExceeded) as caught:
        group.add(1)
    assert caught.value.rank == 1
    assert "Still awaited: rank(s) 1 of 2" in caught.value.cause
    assert "stopped by a signal (SIGSTOP)" in caught.value.details
    wait_until_gone(pids)


def test_news_of_a_death_that_come_late_still_explain_what_the_others_raised(make_toys):
    """As of a lost machine: its peers say at once that the connection is gone, and Ray says why much later."""
    group = make_toys()
    pid = group.pid()[1]
    os.kill(pid, signal.SIGSTOP)
    late = threading.Timer(GRACE + 2, os.kill, (pid, signal.SIGKILL))
    late.start()
    with pytest.raises(WorkerDied, match=rf"^toy rank 1 on \S+ failed: WorkerDied: process {pid} died"):
        group.die_on(5)
    late.join()


def test_a_stopped_rank_is_ended_at_shutdown_and_by_replace(make_toys):
    group = make_toys()
    pids = group.pid()
    os.kill(pids[0], signal.SIGSTOP)
    group.replace(0)
    new = group.pid()[0]
    wait_until_gone(pids[:1])
    os.kill(new, signal.SIGSTOP)
    group.shutdown()
    wait_until_gone([new, pids[1]])


def test_outcome_gives_the_deadline_and_leaves_the_group(make_toys):
    group = make_toys(deadlines=within(fail_on=1))
    late = group.start_on(1, "fail_on", 5, True).outcome()
    assert isinstance(late, DeadlineExceeded) and late.rank == 1
    group.replace(1)
    assert group.add(3) == [3, 3]


def test_whoever_waits_for_an_aborted_group_gets_its_error(make_toys):
    group = make_toys()
    pids = group.pid()
    seen = []

    def wait():
        try:
            group.fail_on(5, waits=True)
        except Exception as error:
            seen.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    while "fail_on" not in str(group.standing()[0]):
        pass
    why = RuntimeError("nothing moves")
    group.abort(why)
    waiting.join()
    assert seen == [why]
    with pytest.raises(RuntimeError, match="nothing moves"):
        group.replace(0)
    wait_until_gone(pids)


def test_the_dead_are_told_from_the_living(make_toys):
    group = make_toys()
    pids = group.pid()
    os.kill(pids[1], signal.SIGKILL)
    assert isinstance(group.start_on(1, "add", 1).outcome(), WorkerDied)
    living, dead = group.standing()
    assert living.report.can_answer and "main_loop" in living.report.text
    assert (dead.pid, dead.report.text, dead.report.can_answer) == (pids[1], "dead", False)


def test_memory_of_the_workers_here_is_known(make_toys):
    group = make_toys()
    arrived = group.num_arrived
    group.add(1)
    assert group.num_arrived > arrived
    sizes = group.resident_bytes()
    assert len(sizes) == 2 and all(10 * 2**20 < size < 2 * 2**30 for size in sizes)
