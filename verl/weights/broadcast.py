"""Buckets to engines on other machines: one broadcast from the trainer's rank 0 to all of them, over NCCL, or gloo.

Trainer and engines are different torch.distributed worlds (vLLM's, FSDP's), so their group is one of its own, beside
them: rank 0 opens a store, invites, and all meet there once. It lasts over syncs, until a member is replaced.

A member that fails breaks the group for all. It is not mended: whoever notices leaves it, which the others notice, and
the rest of the sync goes another way (`verl.workers.send_weights`). So every wait here has an end.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch.distributed import Store, TCPStore  # pyright: ignore[reportPrivateImportUsage]

from verl.weights.buckets import Bucket
from verl.weights.shared_memory import SharedBucket, bucket_in

logger = logging.getLogger(__name__)

PATIENCE = timedelta(seconds=120)
"""For one bucket, and for all members to meet: they are told when to, and then it takes milliseconds."""
BLOCKING = "TORCH_NCCL_BLOCKING_WAIT"
Backend = Literal["gloo", "nccl"]


@dataclass(frozen=True)
class Invitation:
    """To meet the trainer's rank 0 in a new group."""

    key: str
    """Names the group; never used twice."""
    host: str
    port: int
    backend: Backend
    places: Mapping[int, int]
    """By rank of the engine, from 1; rank 0 of the trainer is 0."""


@dataclass(frozen=True)
class Announcement:
    """A bucket that is broadcast at this moment."""

    key: str
    bucket: SharedBucket
    """Its names and layout; its memory is on another machine."""
    num_bytes: int


@dataclass(frozen=True)
class Elsewhere:
    """An engine's answer to a bucket that it cannot reach."""

    group: str | None
    """Key of the group that it is in."""


class Group:
    """One process's part in a group. Errors of torch, whatever is wrong, are RuntimeErrors.

    Args:
        store: where the members meet.
        place: number of this member; 0 sends.
        size: number of members.
        device: where tensors must be to travel.
    """

    def __init__(self, key: str, store: Store, place: int, size: int, device: torch.device) -> None:
        self.key = key
        self.place = place
        self.size = size
        self.device = device
        self._store = store
        self._group: Any = _nccl(store, place, size) if device.type == "cuda" else _gloo(store, place, size)

    def broadcast(self, memory: torch.Tensor) -> torch.Tensor:
        """Send these bytes (place 0), or fill `memory` with those that are sent. uint8 [num_bytes], in host memory."""
        with torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext():
            travelling = memory.to(self.device)
            options = dist.BroadcastOptions()
            options.rootRank = 0
            self._group.broadcast([travelling], options).wait()
            return memory if self.place == 0 else travelling.cpu()

    def leave(self) -> None:
        """End it: others that wait for this member get an error. A second call does nothing."""
        group, self._group = self._group, None
        if group is not None:
            group.abort()


class Member:
    """An engine's side.

    Args:
        rank: of the engine.
        device: its own.
    """

    def __init__(self, rank: int, device: torch.device) -> None:
        self._rank = rank
        self._device = device
        self._group: Group | None = None

    @property
    def where(self) -> Elsewhere:
        """What a sender must know whose memory is out of reach."""
        return Elsewhere(self._group.key if self._group else None)

    def join(self, invitation: Invitation) -> Elsewhere:
        """Meet the others. `group` of the answer is still another one if that failed."""
        self.leave()
        places = invitation.places
        try:
            store = TCPStore(invitation.host, invitation.port, len(places) + 1, is_master=False, timeout=PATIENCE)
            device = self._device if invitation.backend == "nccl" else torch.device("cpu")
            self._group = Group(invitation.key, store, places[self._rank], len(places) + 1, device)
        except RuntimeError as error:
            logger.warning("The group for weights could not be joined: %s", error)
        return self.where

    def receive(self, announced: Announcement) -> Bucket | None:
        """Take part in a broadcast; None, and the group is left, if that fails."""
        if self._group is None or self._group.key != announced.key:
            return None
        try:
            memory = self._group.broadcast(torch.empty(announced.num_bytes, dtype=torch.uint8))
        except RuntimeError as error:
            logger.warning("A bucket of weights was not received: %s", error)
            self.leave()
            return None
        return bucket_in(memory, announced.bucket)

    def leave(self) -> None:
        """Be in no group."""
        if self._group is not None:
            self._group.leave()
        self._group = None


def _gloo(store: Store, place: int, size: int) -> Any:
    """All members connect to each other at once."""
    return dist.ProcessGroupGloo(store, place, size, PATIENCE)


def _nccl(store: Store, place: int, size: int) -> Any:
    """Members connect with the first broadcast.

    With the variable set when it is made, this group's waits raise when they last too long; without it NCCL's watchdog
    would end the process, and with it the training rank, because an engine is gone.
    """
    nccl: Any = dist.ProcessGroupNCCL  # only in builds for CUDA
    options = nccl.Options()
    options._timeout = PATIENCE
    before = os.environ.get(BLOCKING)
    os.environ[BLOCKING] = "1"
    try:
        return nccl(store, place, size, options)
    finally:
        if before is None:
            del os.environ[BLOCKING]
        else:
            os.environ[BLOCKING] = before
