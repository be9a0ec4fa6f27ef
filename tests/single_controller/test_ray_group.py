"""What only processes can show: deaths, hangs, environments, logs, places."""

import os
import signal
import socket
import time
from pathlib import Path

import pytest
from leftovers import wait_until_gone

from verl.single_controller import WorkerDied, WorkerError, WorkerLate

pytestmark = pytest.mark.usefixtures("ray_runtime")
HOST = socket.gethostname()
SECONDS = 10.0
"""Until the processes of an ended worker are gone."""


def test_failure_ends_ranks_that_wait_for_ever(make_toys):
    group = make_toys()
    pids = group.pid()
    start = time.monotonic()
    with pytest.raises(WorkerError, match=r"toy rank 1 .* KeyError"):
        group.fail_on(1, waits=True)
    assert time.monotonic() - start < 10
    wait_until_gone(pids, SECONDS)


def test_death_is_told_with_process_log_and_last_words(make_toys, tmp_path):
    group = make_toys()
    pids = group.pid()
    with pytest.raises(WorkerDied) as caught:
        group.die_on(1)  # rank 0 raises "peer closed the connection", which is not the cause
    text = str(caught.value)
    assert text.startswith(f"toy rank 1 on {HOST} failed: WorkerDied: process {pids[1]} died")
    assert f"Its log is {tmp_path / 'toy-1.log'}\n  | process {pids[1]} on {HOST}\n  | last words" in text
    wait_until_gone(pids, SECONDS)


def test_death_while_idle_is_noticed_by_the_next_call(make_toys):
    group = make_toys()
    os.kill(group.pid()[0], signal.SIGKILL)
    with pytest.raises(WorkerDied, match="toy rank 0"):
        group.fail_on(5, waits=True)


def test_replace_ends_a_rank_that_hangs_in_native_code(make_toys, tmp_path):
    group = make_toys()
    pids = group.pid()
    hanging, queued = group.start_on(1, "hang"), group.start_on(1, "add", 1)
    group.wait_any([hanging], timeout=0.5)
    assert not hanging.is_done
    group.replace(1)
    wait_until_gone(pids[1:], SECONDS)
    assert [type(lost.outcome()) for lost in (hanging, queued)] == [WorkerDied, WorkerDied]
    zero, one = group.pid()
    assert zero == pids[0]
    assert one != pids[1]


def test_replace_ends_a_rank_that_is_stopped(make_toys):
    group = make_toys()
    pids = group.pid()
    os.kill(pids[1], signal.SIGSTOP)
    lost = group.start_on(1, "add", 1)
    group.replace(1)
    wait_until_gone(pids[1:], SECONDS)
    assert isinstance(lost.outcome(), WorkerDied)
    assert group.add(1) == [1, 1]


def test_processes_of_a_replaced_worker_end_with_it(make_toys):
    group = make_toys()
    kept, ended = group.start_process()
    hanging = group.start_on(1, "hang")
    group.replace(1)
    assert isinstance(hanging.outcome(), WorkerDied)
    wait_until_gone([ended], SECONDS)
    assert Path(f"/proc/{kept}").exists()


def test_replace_mends_a_group_whose_rank_died(make_toys):
    group = make_toys()
    died = group.start_on(0, "die_on", 0).outcome()
    assert isinstance(died, WorkerDied)
    group.replace(0)
    assert group.add(3) == [3, 3]


def test_a_death_in_a_stream_keeps_what_came_before_and_the_other_streams(make_toys, tmp_path):
    group = make_toys()
    dying, queued, good = (
        group.stream_on(0, "count_and_die", 2),
        group.stream_on(0, "count", 1),
        group.stream_on(1, "count", 3),
    )
    items = {dying: [], queued: [], good: []}
    while not all(stream.is_done for stream in items):
        group.wait_any([stream for stream in items if not stream.is_done])
        for stream, found in items.items():
            found += stream.take()
    assert list(items.values()) == [[(0, 0), (0, 1)], [], [(1, 0), (1, 1), (1, 2)]]
    assert isinstance(dying.failure, WorkerDied) and isinstance(queued.failure, WorkerDied)
    assert good.failure is None
    assert f"Its log is {tmp_path / 'toy-0.log'}" in str(dying.failure)
    group.replace(0)
    assert group.add(2) == [2, 2]


def test_a_stream_that_hangs_is_waited_for_no_longer_than_asked_and_ends_with_its_rank(make_toys):
    group = make_toys()
    stream = group.stream_on(1, "count_and_hang", 1)
    taken = []
    while not taken:
        group.wait_any([stream])
        taken = stream.take()
    group.wait_any([stream], timeout=0.2)
    assert stream.take() == [] and not stream.is_done
    group.replace(1)
    while not stream.is_done:
        group.wait_any([stream])
        assert stream.take() == []
    assert isinstance(stream.failure, WorkerDied)


def test_a_receiver_that_hangs_or_died_is_named_and_the_others_are_served(make_toys):
    sender, target = make_toys(1, role="sender"), make_toys(3)
    receiver = target.receiver("add")
    died = target.start_on(0, "die_on", 0)
    assert isinstance(died.outcome(), WorkerDied)
    target.start_on(2, "hang")
    (outcomes,) = sender.send_each_to(receiver, 4, timeout=2.0)
    assert isinstance(outcomes[0], WorkerDied) and outcomes[0].rank == 0
    assert outcomes[1] == 4
    assert str(outcomes[2]).startswith(f"toy rank 2 on {HOST} failed: add gave no answer within 2.0 s.")
    assert isinstance(outcomes[2], WorkerLate)
    target.replace(0), target.replace(2)
    assert target.add(1) == [1, 5, 1]
    assert isinstance(sender.send_each_to(receiver, 0)[0][0], WorkerDied)  # it knows only the old one
    assert sender.send_each_to(target.receiver("add"), 1) == [{0: 2, 1: 6, 2: 2}]


def test_shutdown_leaves_no_process(make_toys):
    group = make_toys()
    pids = group.pid()
    group.shutdown()
    wait_until_gone(pids, SECONDS)


def test_environment_and_light_processes(make_toys):
    group = make_toys(1, env={"TOY_SETTING": "7"})
    assert group.environment("TOY_SETTING") == [{"TOY_SETTING": "7"}]
    assert group.modules("torch", "transformers") == [[]]


def test_missing_import_of_a_worker_is_its_failure(make_toys, tmp_path, monkeypatch):
    import sys

    (tmp_path / "fleeting.py").write_text("from toy_worker import Toy\nclass Fleeting(Toy): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    from fleeting import Fleeting

    (tmp_path / "fleeting.py").unlink()
    from verl.single_controller.ray_group import RayWorkerGroup

    group = RayWorkerGroup("toy", Fleeting)
    with pytest.raises(WorkerError, match=r"toy rank 0 .* failed: ModuleNotFoundError: No module named 'fleeting'"):
        group.ready()
    del sys.modules["fleeting"]


def test_ray_listens_on_loopback_only():
    import ray

    assert ray.util.get_node_ip_address() == "127.0.0.1"
