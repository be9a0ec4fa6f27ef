"""The trainer's side of a sync: what overlaps, what does not, and what an error leaves behind."""

import threading

import pytest
import torch

from verl.weights import Bucket, SharedBucket, SharedReader, SharedSlots, digest
from verl.workers.send_weights import WeightSender


def send(parts, receivers):
    return WeightSender(bucket_bytes=64).send(parts, receivers)


def bucket(number):
    return Bucket([f"w{number}"], [torch.full((2,), float(number))])


class Inbox:
    def __init__(self):
        self.names = []

    def send_all(self, payload, ranks=None):
        self.names += payload.names
        return [frozenset()]


def test_buckets_arrive_in_order_and_digests_are_theirs():
    inboxes = [Inbox(), Inbox()]
    assert send((bucket(i) for i in range(5)), inboxes) == [digest(bucket(i)) for i in range(5)]
    assert [inbox.names for inbox in inboxes] == [[f"w{i}" for i in range(5)]] * 2
    assert send([], inboxes) == []


def test_the_next_bucket_is_gathered_while_one_is_on_its_way_and_no_further():
    gathered, is_gathered, may_arrive = [], threading.Event(), threading.Event()

    class Slow:
        def send_all(self, payload):
            if payload.names == ["w0"]:
                assert is_gathered.wait(10)  # the second one is made before the first has arrived
                assert gathered == [0, 1]
                assert not may_arrive.is_set()
            return [frozenset()]

    def parts():
        for number in range(3):
            gathered.append(number)
            if number == 1:
                is_gathered.set()
            if number == 2:
                may_arrive.set()
            yield bucket(number)

    send(parts(), [Slow()])
    assert gathered == [0, 1, 2]


def test_an_error_of_a_receiver_is_raised_after_the_last_gathering():
    gathered, received = [], []

    class Broken:
        def send_all(self, payload):
            received.append(payload.names[0])
            raise RuntimeError("engine is gone")

    with pytest.raises(RuntimeError, match="engine is gone"):
        send((gathered.append(i) or bucket(i) for i in range(4)), [Broken()])
    assert gathered == [0, 1, 2, 3] and received == ["w0"]


def test_an_engine_that_does_not_see_the_memory_gets_the_buckets_themselves():
    class OneBlind:
        """Rank 1 is on another machine."""

        def __init__(self):
            self.received, self.reader = [], SharedReader()

        def send_all(self, payload, ranks=None):
            chosen = [0, 1] if ranks is None else ranks
            self.received += [(rank, type(payload)) for rank in chosen]
            if isinstance(payload, SharedBucket):
                assert digest(self.reader.open(payload)) in expected
                return [frozenset(), None]
            assert digest(payload) in expected
            return [frozenset() for _ in chosen]

    expected = [digest(bucket(i)) for i in range(3)]
    engines = OneBlind()
    assert send([bucket(i) for i in range(3)], [engines]) == expected
    assert engines.received == [(0, SharedBucket), (1, SharedBucket), (1, Bucket)] * 3


def test_without_shared_memory_buckets_are_sent_themselves(monkeypatch):
    monkeypatch.setattr(SharedSlots, "are_supported", lambda: False)
    inbox = Inbox()
    assert send([bucket(i) for i in range(3)], [inbox]) == [digest(bucket(i)) for i in range(3)]
    assert inbox.names == ["w0", "w1", "w2"]


def test_what_an_engine_keeps_is_never_overwritten_and_the_rest_is_used_again():
    class Keeping:
        """Keeps one tensor of bucket 1, to the end of the sync."""

        def __init__(self):
            self.reader, self.kept, self.seen = SharedReader(), None, []

        def send_all(self, payload, ranks=None):
            received = self.reader.open(payload)
            self.seen.append((payload.slot, received.tensors[0].tolist()))
            if received.names == ["w1"]:
                self.kept = received.tensors[0][1:]
            del received
            return [self.reader.held()]

    sender, engine = WeightSender(bucket_bytes=64), Keeping()
    sender.send((bucket(i) for i in range(50)), [engine])
    assert engine.kept.tolist() == [1.0]
    assert [values for _, values in engine.seen] == [[float(i)] * 2 for i in range(50)]
    slots = [slot for slot, _ in engine.seen]
    assert slots.count(slots[1]) == 1
    assert len(set(slots)) == 3  # the kept one, and two in turns: one on its way, one being filled
    engine.kept, engine.seen = None, []
    sender.send((bucket(i) for i in range(50)), [engine])
    assert {slot for slot, _ in engine.seen} <= set(slots)  # the next sync takes no new memory
