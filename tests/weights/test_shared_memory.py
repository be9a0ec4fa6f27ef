"""Memory that two processes see: what is in it, whose it is, and when it is gone."""

import os
import pickle
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from verl.weights import Bucket, SharedReader, SharedSlots, digest

SENDER = """
import pickle, sys, time, torch
from verl.weights import Bucket, SharedSlots
slots = SharedSlots(1 << 20)
shared = slots.place(Bucket(["w"], [torch.arange(1 << 18, dtype=torch.float32)]))
sys.stdout.buffer.write(pickle.dumps(shared))
sys.stdout.flush()

time.sleep(60)
"""


def bucket(value=1.0):
    return Bucket(
        ["a", "scalar", "empty", "b"],
        [
            torch.full((3, 5), value),
            torch.tensor(7, dtype=torch.int64),
            torch.zeros(0, 4),
            torch.linspace(0, 1, 9, dtype=torch.bfloat16),
        ],
    )


def test_a_bucket_is_read_where_it_was_written_bit_by_bit():
    slots, reader = SharedSlots(16), SharedReader()
    shared = slots.place(bucket())
    received = reader.open(shared)
    assert received is not None and received.names == bucket().names
    assert digest(received) == digest(bucket())
    assert [offset for offset, _, _ in shared.layout] == [0, 64, 128, 128]  # 60 bytes, 8, 0
    slots.release(set())
    assert slots.place(bucket(2.0)).slot == shared.slot
    assert received.tensors[0][0, 0].item() == 2.0  # the same memory: why the sender must be told who reads it


def test_a_slot_is_held_as_long_as_any_view_of_it_lives():
    slots, reader = SharedSlots(1024), SharedReader()
    shared = slots.place(bucket())
    received = reader.open(shared)
    view = received.tensors[0].t()[1:]
    del received
    assert reader.held() == {shared.slot}
    assert slots.place(bucket()).slot != shared.slot
    assert slots.num_bytes == 2048
    del view
    assert reader.held() == set()


def test_a_larger_bucket_gets_a_slot_of_its_own():
    slots = SharedSlots(128)
    slots.place(Bucket(["w"], [torch.zeros(100)]))
    assert slots.num_bytes == 448  # 400 bytes, in units of 64


@pytest.mark.parametrize("path", ["/proc/1/fd/0", "/nowhere"])
def test_memory_that_is_not_the_senders_is_refused(path):
    assert SharedReader().open(replace(SharedSlots(1024).place(bucket()), path=path)) is None


@pytest.mark.parametrize("other_name", [lambda slot: slot[:-1], lambda slot: slot + "0", lambda slot: slot[::-1]])
def test_memory_of_another_name_is_refused(other_name):
    slots = SharedSlots(1024)  # kept, so that nothing but the name is wrong
    shared = slots.place(bucket())
    assert SharedReader().open(replace(shared, slot=other_name(shared.slot))) is None
    assert SharedReader().open(shared) is not None


def test_memory_of_another_slot_is_refused():
    """What a path may lead to on another machine, where a process of the same number has a file of its own."""
    slots, others = SharedSlots(1024), SharedSlots(1024)
    shared, foreign = slots.place(bucket()), others.place(bucket(2.0))
    assert SharedReader().open(replace(shared, path=foreign.path)) is None
    assert SharedReader().open(foreign) is not None


def test_memory_of_a_killed_sender_is_readable_until_let_go_and_leaves_no_file():
    before = set(os.listdir("/dev/shm"))
    sender = subprocess.Popen([sys.executable, "-c", SENDER], stdout=subprocess.PIPE)
    shared = pickle.load(sender.stdout)
    reader = SharedReader()
    received = reader.open(shared)
    sender.send_signal(signal.SIGKILL)
    sender.wait()
    assert received.tensors[0].sum().item() == torch.arange(1 << 18, dtype=torch.float32).sum().item()
    assert SharedReader().open(shared) is None  # nobody else can reach it any more
    assert shared.slot in Path("/proc/self/maps").read_text()
    del received, reader
    assert shared.slot not in Path("/proc/self/maps").read_text()  # the last mapping: the kernel has it back
    assert not {name for name in set(os.listdir("/dev/shm")) - before if "verl" in name}
