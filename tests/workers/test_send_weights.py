"""The trainer's side of a sync: what overlaps, what does not, and what an error leaves behind."""

import threading
from datetime import timedelta

import pytest
import torch

from verl.single_controller import WorkerDied, WorkerError
from verl.weights import Bucket, Elsewhere, Invitation, SharedBucket, SharedReader, SharedSlots, digest
from verl.workers.far_engines import FarEngines
from verl.workers.send_weights import Sent, WeightSender


def make_sender():
    return WeightSender(64, FarEngines("127.0.0.1", torch.device("cpu")))


def send(parts, receiver):
    return make_sender().send(parts, receiver)


def bucket(number):
    return Bucket([f"w{number}"], [torch.full((2,), float(number))])


class Inbox:
    ranks = (0, 1)

    def __init__(self):
        self.names = {0: [], 1: []}

    def send_each(self, payload, ranks, timeout=None):
        for rank in ranks:
            self.names[rank] += payload.names
        return dict.fromkeys(ranks, frozenset())


def test_buckets_arrive_in_order_and_digests_are_theirs():
    inbox = Inbox()
    assert send((bucket(i) for i in range(5)), inbox) == Sent([digest(bucket(i)) for i in range(5)], {})
    assert inbox.names == {rank: [f"w{i}" for i in range(5)] for rank in (0, 1)}
    assert send([], inbox) == Sent([], {})


def test_the_next_bucket_is_gathered_while_one_is_on_its_way_and_no_further():
    gathered, is_gathered, may_arrive = [], threading.Event(), threading.Event()

    class Slow(Inbox):
        def send_each(self, payload, ranks, timeout=None):
            if payload.names == ["w0"]:
                assert is_gathered.wait(10)  # the second one is made before the first has arrived
                assert gathered == [0, 1]
                assert not may_arrive.is_set()
            return super().send_each(payload, ranks)

    def parts():
        for number in range(3):
            gathered.append(number)
            if number == 1:
                is_gathered.set()
            if number == 2:
                may_arrive.set()
            yield bucket(number)

    send(parts(), Slow())
    assert gathered == [0, 1, 2]


def test_an_engine_that_fails_is_left_behind_and_the_others_get_everything():
    class OneBreaks(Inbox):
        def send_each(self, payload, ranks, timeout=None):
            assert timeout == 3.0
            answers = super().send_each(payload, ranks)
            return answers | {1: died} if 1 in ranks and payload.names == ["w1"] else answers

    died, inbox = WorkerDied("engine", 1, "here", "killed"), OneBreaks()
    sent = make_sender().send((bucket(i) for i in range(4)), inbox, timeout=3.0)
    assert sent == Sent([digest(bucket(i)) for i in range(4)], {1: died})
    assert inbox.names == {0: ["w0", "w1", "w2", "w3"], 1: ["w0", "w1"]}


def test_when_all_engines_have_failed_gathering_goes_on_to_the_end():
    gathered, received = [], []

    class Broken(Inbox):
        def send_each(self, payload, ranks, timeout=None):
            received.append((payload.names[0], list(ranks)))
            return {rank: WorkerError("engine", rank, "here", "broken") for rank in ranks}

    sent = send((gathered.append(i) or bucket(i) for i in range(4)), Broken())
    assert gathered == [0, 1, 2, 3] and received == [("w0", [0, 1])]
    assert [error.cause for error in sent.failures.values()] == ["broken"] * 2


def test_a_mistake_in_sending_is_raised_after_the_last_gathering():
    gathered = []

    class Wrong(Inbox):
        def send_each(self, payload, ranks, timeout=None):
            raise RuntimeError("does not pickle")

    with pytest.raises(RuntimeError, match="does not pickle"):
        send((gathered.append(i) or bucket(i) for i in range(4)), Wrong())
    assert gathered == [0, 1, 2, 3]


def test_an_engine_that_can_neither_see_the_memory_nor_join_a_group_gets_the_buckets_themselves(monkeypatch):
    class OneBlind:
        """Rank 1 is on another machine, and cannot reach this one either."""

        ranks = (0, 1)

        def __init__(self):
            self.received, self.reader = [], SharedReader()

        def send_each(self, payload, ranks, timeout=None):
            self.received += [(rank, type(payload)) for rank in ranks]
            if isinstance(payload, Invitation):
                return {1: Elsewhere(None)}
            if isinstance(payload, SharedBucket):
                assert digest(self.reader.open(payload)) in expected
                return {0: frozenset()} | ({1: Elsewhere(None)} if 1 in ranks else {})
            assert digest(payload) in expected
            return dict.fromkeys(ranks, frozenset())

    monkeypatch.setattr("verl.weights.broadcast.PATIENCE", timedelta(seconds=1))  # until nobody has come
    expected = [digest(bucket(i)) for i in range(3)]
    engines = OneBlind()
    assert send([bucket(i) for i in range(3)], engines).digests == expected
    assert engines.received[:2] == [(0, SharedBucket), (1, SharedBucket)]
    assert [kind for rank, kind in engines.received if rank == 0] == [SharedBucket] * 3
    assert [kind for rank, kind in engines.received if rank == 1] == [SharedBucket, Invitation, Bucket, Bucket, Bucket]


def test_without_shared_memory_buckets_are_sent_themselves(monkeypatch):
    monkeypatch.setattr(SharedSlots, "are_supported", lambda: False)
    inbox = Inbox()
    assert send([bucket(i) for i in range(3)], inbox).digests == [digest(bucket(i)) for i in range(3)]
    assert inbox.names[0] == inbox.names[1] == ["w0", "w1", "w2"]


def test_what_an_engine_keeps_is_never_overwritten_and_the_rest_is_used_again():
    class Keeping:
        """Keeps one tensor of bucket 1, to the end of the sync."""

        ranks = (0,)

        def __init__(self):
            self.reader, self.kept, self.seen = SharedReader(), None, []

        def send_each(self, payload, ranks, timeout=None):
            received = self.reader.open(payload)
            self.seen.append((payload.slot, received.tensors[0].tolist()))
            if received.names == ["w1"]:
                self.kept = received.tensors[0][1:]
            del received
            return {0: self.reader.held()}

    sender, engine = make_sender(), Keeping()
    sender.send((bucket(i) for i in range(50)), engine)
    assert engine.kept.tolist() == [1.0]
    assert [values for _, values in engine.seen] == [[float(i)] * 2 for i in range(50)]
    slots = [slot for slot, _ in engine.seen]
    assert slots.count(slots[1]) == 1
    assert len(set(slots)) == 3  # the kept one, and two in turns: one on its way, one being filled
    engine.kept, engine.seen = None, []
    sender.send((bucket(i) for i in range(50)), engine)
    assert {slot for slot, _ in engine.seen} <= set(slots)  # the next sync takes no new memory
