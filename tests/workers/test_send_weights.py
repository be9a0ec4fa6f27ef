"""The trainer's side of a sync: what overlaps, what does not, and what an error leaves behind."""

import threading

import pytest
import torch

from verl.weights import Bucket, digest
from verl.workers.send_weights import send


def bucket(number):
    return Bucket([f"w{number}"], [torch.full((2,), float(number))])


class Inbox:
    def __init__(self):
        self.names = []

    def send_all(self, payload):
        self.names += payload.names
        return [None]


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
            return [None]

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
