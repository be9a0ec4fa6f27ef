"""Buckets through memory that trainer and engines of one machine both see: one copy, into pages that exist already.

Handing a bucket to Ray copies it into fresh pages, each of which the kernel must first clear and map; that took longer
than the engine's loading. Here the sender keeps its memory over all syncs, in slots of one bucket, and sends only where
things lie. A receiver maps a slot once and reads the tensors in place.

The memory is anonymous (`memfd_create`): it has no file and no size limit of /dev/shm, and the kernel frees it when the
last process that maps it is gone, however it ended. A receiver opens it as /proc/<pid>/fd/<fd>; the slot's random name,
which the kernel shows there, proves that it is not another process's file on another machine.

A slot is written again only when no engine refers to its tensors any more: loaders may keep tensors until a layer is
complete. Each receiver therefore answers a bucket with the slots that it still holds.
"""

from __future__ import annotations

import mmap
import os
import secrets
import sys
import warnings
import weakref
from dataclasses import dataclass
from math import prod

import numpy as np
import torch

from verl.weights.buckets import Bucket, as_bytes

ALIGNMENT = 64
"""Bytes. Tensors begin at multiples of it: every type may be viewed there, and copies run at full speed."""


@dataclass(frozen=True)
class SharedBucket:
    """Where the tensors of a bucket lie. Small: it is what travels instead of them."""

    names: list[str]
    layout: list[tuple[int, torch.dtype, tuple[int, ...]]]
    """Offset in bytes, type and shape of each tensor."""
    slot: str
    """Name of the memory; never used twice."""
    path: str
    """Where another process of this machine opens it."""

    @property
    def num_bytes(self) -> int:
        """From the slot's begin to the end of the last tensor."""
        return max([0, *(offset + prod(shape) * dtype.itemsize for offset, dtype, shape in self.layout)])


class _Slot:
    """Memory for one bucket; pages that were never written cost nothing."""

    def __init__(self, num_bytes: int) -> None:
        name = f"verl-weights-{secrets.token_hex(8)}"
        self.file = os.memfd_create(name)
        weakref.finalize(self, os.close, self.file)
        os.ftruncate(self.file, num_bytes)
        self.name = f"/memfd:{name}"
        self.num_bytes = num_bytes
        self.memory = torch.frombuffer(mmap.mmap(self.file, num_bytes), dtype=torch.uint8)


class SharedSlots:
    """The sender's side.

    Args:
        slot_bytes: room of a slot; a larger bucket gets a slot of its size.
    """

    def __init__(self, slot_bytes: int) -> None:
        self._slot_bytes = slot_bytes
        self._slots: list[_Slot] = []
        self._held: set[str] = set()

    @staticmethod
    def are_supported() -> bool:
        """Whether this system has such memory (Linux)."""
        return sys.platform == "linux"

    @property
    def num_bytes(self) -> int:
        """Room of all slots."""
        return sum(slot.num_bytes for slot in self._slots)

    def place(self, bucket: Bucket) -> SharedBucket:
        """Copy a bucket into a free slot, or into a new one. The slot is not free again before `release` says so."""
        offsets, needed = _offsets([tensor.nbytes for tensor in bucket.tensors])
        fitting = [slot for slot in self._slots if slot.name not in self._held and slot.num_bytes >= needed]
        slot = min(fitting, key=lambda slot: slot.num_bytes, default=None)
        if slot is None:
            slot = _Slot(max(needed, self._slot_bytes))
            self._slots.append(slot)
        self._held.add(slot.name)
        layout = [
            (offset, tensor.dtype, tuple(tensor.shape)) for offset, tensor in zip(offsets, bucket.tensors, strict=True)
        ]
        shared = SharedBucket(bucket.names, layout, slot.name, f"/proc/{os.getpid()}/fd/{slot.file}")
        for target, tensor in zip(_views(slot.memory, shared), bucket.tensors, strict=True):
            np.copyto(as_bytes(target), as_bytes(tensor))  # one thread: the engines need the other cores
        return shared

    def memory(self, shared: SharedBucket) -> torch.Tensor:
        """The bytes of a bucket that was placed here. uint8 [num_bytes]"""
        slot = next(slot for slot in self._slots if slot.name == shared.slot)
        return slot.memory[: shared.num_bytes]

    def release(self, held: set[str]) -> None:
        """Every slot is free except those that a receiver holds or that are still to be received."""
        self._held = held


class SharedReader:
    """A receiver's side. It keeps the mappings it made: slots are used again."""

    def __init__(self) -> None:
        self._mappings: dict[str, mmap.mmap] = {}
        self._in_use: dict[str, weakref.ref[np.ndarray]] = {}

    def open(self, shared: SharedBucket) -> Bucket | None:
        """The bucket, read-only and in place; None when its memory cannot be reached from here."""
        mapping = self._mappings.get(shared.slot) or _map(shared)
        if mapping is None:
            return None
        self._mappings[shared.slot] = mapping
        array = np.frombuffer(mapping, dtype=np.uint8)  # lives exactly as long as some tensor of this bucket
        self._in_use[shared.slot] = weakref.ref(array)
        with warnings.catch_warnings():  # read-only memory, which torch cannot express
            warnings.filterwarnings("ignore", message=".*not writable.*")
            memory = torch.from_numpy(array)
        return bucket_in(memory, shared)

    def held(self) -> frozenset[str]:
        """Slots whose tensors are still referred to in this process."""
        return frozenset(slot for slot, array in self._in_use.items() if array() is not None)


def bucket_in(memory: torch.Tensor, shared: SharedBucket) -> Bucket:
    """The bucket whose bytes these are, in place. memory: uint8 [num_bytes or more]"""
    return Bucket(shared.names, _views(memory, shared))


def _map(shared: SharedBucket) -> mmap.mmap | None:
    try:
        file = os.open(shared.path, os.O_RDONLY)
    except OSError:  # another machine, another container, or another user's process
        return None
    try:
        if os.readlink(f"/proc/self/fd/{file}") != f"{shared.slot} (deleted)":  # how the kernel shows such memory
            return None
        return mmap.mmap(file, 0, prot=mmap.PROT_READ)
    finally:
        os.close(file)


def _offsets(sizes: list[int]) -> tuple[list[int], int]:
    """Where tensors of these sizes begin, and the room for all of them (at least one unit: no mapping is empty)."""
    offsets, end = [], 0
    for size in sizes:
        offsets.append(end)
        end += -(-size // ALIGNMENT) * ALIGNMENT
    return offsets, max(end, ALIGNMENT)


def _views(memory: torch.Tensor, shared: SharedBucket) -> list[torch.Tensor]:
    return [
        memory[offset : offset + prod(shape) * dtype.itemsize].view(dtype).reshape(shape)
        for offset, dtype, shape in shared.layout
    ]
