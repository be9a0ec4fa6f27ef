"""The contract of worker groups, kept by Ray actors and by plain objects alike."""

import socket
from contextlib import contextmanager

import pytest
from toy_worker import Toy

from verl.single_controller import LocalWorkerGroup, WorkerError


@pytest.fixture(scope="module", params=["local", "ray"])
def make_group(request):
    """A function that makes groups of Toy workers; they are shut down at the end."""
    if request.param == "ray":
        request.getfixturevalue("ray_runtime")
        from verl.single_controller.ray_group import RayWorkerGroup as group_cls
    else:
        group_cls = LocalWorkerGroup
    made = []

    def make(num_ranks=2, role="toy", **kwargs):
        made.append(group_cls(role, Toy, kwargs=kwargs, num_ranks=num_ranks))
        return made[-1]

    yield make
    for group in made:
        group.shutdown()


@pytest.fixture(scope="module")
def pair(make_group):
    """Two ranks for the tests that leave them in good health."""
    return make_group(start=5)


@contextmanager
def raises_worker_error(begin):
    with pytest.raises(WorkerError) as caught:
        yield caught
    assert str(caught.value).startswith(begin), str(caught.value)


HOST = socket.gethostname()


def test_broadcast_split_and_rank_zero(pair):
    assert pair.add(2, factor=10) == [25, 25]
    assert pair.double([1, 2], "student") == [(0, "student", 2), (1, "student", 4)]
    assert pair.rank_of() == (0, 2)


def test_stream_gives_the_items_of_all_ranks_each_in_order(pair):
    items = list(pair.count([3, 1]))
    assert sorted(items) == [(0, 0), (0, 1), (0, 2), (1, 0)]
    assert [number for rank, number in items if rank == 0] == [0, 1, 2]


def test_started_calls_run_in_order(pair):
    (before, _) = pair.add(0)
    first, second = pair.start("add", 1), pair.start("add", 10)
    assert second.result()[0] == before + 11
    assert first.is_done
    assert [first.result()[0], first.result()[0]] == [before + 1] * 2


def test_one_rank_alone(pair):
    (zero, one) = pair.add(0)
    pendings = [pair.start_on(1, "add", 4), pair.start_on(1, "add", 4)]
    pair.wait_any(pendings)
    assert pendings[0].is_done
    assert [pending.result() for pending in pendings] == [one + 4, one + 8]
    assert pair.add(0) == [zero, one + 8]


def test_outcome_of_a_failure_leaves_the_group_as_it_is(make_group):
    group = make_group(start=5)
    failed, good = group.start_on(1, "fail_on", 1), group.start_on(1, "add", 4)
    assert isinstance(failed.outcome(), WorkerError)
    assert str(failed.outcome()).startswith(f"toy rank 1 on {HOST} failed: KeyError: 'what a mistake'")
    assert good.outcome() == 9
    assert group.add(1) == [6, 10]


def test_replaced_rank_is_new_and_the_others_are_not(make_group):
    group = make_group(start=5)
    assert group.add(1) == [6, 6]
    started = group.replace(1)
    assert group.add(1) == [7, 6]
    assert started.is_done
    assert started.result() is None
    assert group.rank_of() == (0, 2)
    group.ready()


def test_replacement_that_cannot_be_made_says_why(make_group, tmp_path):
    flag = tmp_path / "spoilt"
    group = make_group(fails_if=str(flag))
    group.ready()
    flag.touch()
    with raises_worker_error(f"toy rank 1 on {HOST} failed: ValueError: spoilt"):
        group.replace(1).result()


def test_stream_cannot_be_started_without_reading(pair):
    with pytest.raises(TypeError, match=r"use group\.count"):
        pair.start("count", [1])


def read(group, *streams):
    """All items of streams, by their place; waits for whichever has some."""
    items = [[] for _ in streams]
    while not all(stream.is_done for stream in streams):
        group.wait_any([stream for stream in streams if not stream.is_done])
        for found, stream in zip(items, streams, strict=True):
            found += stream.take()
    return items


def test_streams_of_single_ranks_are_read_side_by_side(pair):
    one, zero = pair.stream_on(1, "count", 3), pair.stream_on(0, "count", 2)
    assert read(pair, one, zero) == [[(1, 0), (1, 1), (1, 2)], [(0, 0), (0, 1)]]
    assert one.failure is None and one.take() == []


def test_a_rank_does_one_stream_after_the_other_and_calls_can_be_waited_for_beside_them(pair):
    streams, call = [pair.stream_on(1, "count", 2), pair.stream_on(1, "count", 1)], pair.start_on(0, "add", 0)
    pair.wait_any([call, *streams])
    assert read(pair, *streams) == [[(1, 0), (1, 1)], [(1, 0)]]
    pair.wait_any([call])
    assert call.is_done


def test_a_stream_of_nothing_ends(pair):
    stream = pair.stream_on(0, "count", 0)
    assert read(pair, stream) == [[]]
    assert stream.failure is None


def test_failure_of_a_stream_on_one_rank_is_told_and_ends_nothing_else(make_group):
    group = make_group(start=5)
    failing, good = group.stream_on(1, "count", 3, fails_at=2), group.stream_on(0, "count", 3)
    assert read(group, failing, good) == [[(1, 0), (1, 1)], [(0, 0), (0, 1), (0, 2)]]
    assert str(failing.failure).startswith(f"toy rank 1 on {HOST} failed: RuntimeError: lost count")
    assert good.failure is None
    assert group.add(1) == [6, 6]


def test_only_streams_are_streamed(pair):
    with pytest.raises(TypeError, match=r"toy.add is not a stream: use group.start_on\(1, 'add', ...\)"):
        pair.stream_on(1, "add", 1)


def test_the_driver_can_blame_a_rank(pair):
    error = pair.blame(1, "it answers nonsense")
    assert str(error).startswith(f"toy rank 1 on {HOST} failed: it answers nonsense")


def test_a_receiver_of_some_ranks_reaches_only_these_and_tells_failures_by_rank(make_group):
    sender, target = make_group(1, role="actor"), make_group(3, role="engine", start=1)
    receiver = target.receiver("add", ranks=[0, 2])
    assert receiver.ranks == (0, 2)
    assert sender.send_each_to(receiver, 6) == [{0: 7, 2: 7}]
    assert sender.send_each_to(receiver, 1) == [{0: 8, 2: 8}]
    assert target.add(0) == [8, 1, 8]
    (outcomes,) = sender.send_each_to(target.receiver("fail_on"), 1)
    assert {rank: outcome for rank, outcome in outcomes.items() if rank != 1} == {0: None, 2: None}
    assert str(outcomes[1]).startswith(f"engine rank 1 on {HOST} failed: KeyError: 'what a mistake'")
    assert target.add(0) == [8, 1, 8]


def test_workers_of_one_group_call_another(make_group):
    sender, target = make_group(1, role="actor"), make_group(2, role="engine", start=1)
    assert sender.send_each_to(target.receiver("add"), 6) == [{0: 7, 1: 7}]


def test_who_passes_on_the_failure_of_a_receiver_is_not_the_one_named(make_group):
    sender, target = make_group(1, role="actor"), make_group(2, role="engine")
    with raises_worker_error(f"engine rank 1 on {HOST} failed: KeyError: 'what a mistake'"):
        sender.send_to(target.receiver("fail_on"), 1)


def test_failure_names_role_rank_host_cause_and_where(make_group):
    group = make_group()
    with raises_worker_error(f"toy rank 1 on {HOST} failed: KeyError: 'what a mistake'\nTraceback") as caught:
        group.fail_on(1)
    assert 'toy_worker.py", line' in str(caught.value)
    assert "in fail_on" in str(caught.value)
    with raises_worker_error("toy rank 1"):  # the group has ended
        group.add(1)


def test_failing_constructor_is_reported(make_group):
    group = make_group(start=3, fails_on=1)
    with raises_worker_error(f"toy rank 1 on {HOST} failed: ValueError: no start with 3\nTraceback"):
        group.ready()


def test_failing_stream_gives_what_came_before(make_group):
    stream = make_group(1).count([3], fails_at=2)
    assert [next(stream), next(stream)] == [(0, 0), (0, 1)]
    with raises_worker_error(f"toy rank 0 on {HOST} failed: RuntimeError: lost count"):
        next(stream)


def test_shut_down_group_takes_no_calls(make_group):
    group = make_group(1)
    group.shutdown()
    group.shutdown()
    with pytest.raises(RuntimeError, match="toy group has been shut down"):
        group.add(1)


def test_local_workers_are_closed_and_errors_chained():
    group = LocalWorkerGroup("toy", Toy)
    with pytest.raises(WorkerError) as caught:
        group.fail_on(0)
    assert isinstance(caught.value.__cause__, KeyError)
    group.shutdown()
    assert group.workers[0].total == -1
