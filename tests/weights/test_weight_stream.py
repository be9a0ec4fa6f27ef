import threading
import time

import pytest
import torch

from verl.weights import Bucket, WeightStream


def bucket(number):
    return Bucket([f"w{number}"], [torch.full((2,), float(number))])


def test_the_loader_sees_all_weights_in_order():
    loaded = []
    stream = WeightStream(lambda weights: loaded.extend((name, tensor.tolist()) for name, tensor in weights))
    for number in range(5):
        stream.put(bucket(number))
    stream.finish()
    assert loaded == [(f"w{i}", [float(i)] * 2) for i in range(5)]


def test_a_slow_loader_holds_the_sender_back():
    may_read, taken = threading.Semaphore(0), []

    def load(weights):
        for name, _ in weights:
            taken.append(name)
            may_read.acquire()

    stream, sent = WeightStream(load), []
    sender = threading.Thread(target=lambda: [(stream.put(bucket(i)), sent.append(i)) for i in range(10)])
    sender.start()
    time.sleep(0.2)
    assert (len(taken), len(sent)) == (1, 2)  # one in the loader's hands, one in the queue, the third waits
    may_read.release(10)
    sender.join()
    stream.finish()
    assert len(taken) == 10


def test_a_failing_loader_frees_the_sender_and_is_reported():
    def load(weights):
        next(weights)
        raise ValueError("no such parameter")

    stream = WeightStream(load)
    stream.put(bucket(0))
    with pytest.raises(ValueError, match="no such parameter"):
        for number in range(1, 50):
            stream.put(bucket(number))
            time.sleep(0.001)
    with pytest.raises(ValueError, match="no such parameter"):
        stream.finish()


def test_a_loader_that_stops_reading_does_not_block_the_end():
    stream = WeightStream(lambda weights: next(weights) and None)
    for number in range(5):
        stream.put(bucket(number))
    stream.finish()
