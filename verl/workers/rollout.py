"""The rollout role: a worker around one engine. The driver uses all of them through `rollout_pool`.

A set of weights comes in three calls, so that an engine loads one bucket while the next is on its way: `begin_sync`,
`receive_bucket` for each (called by the trainer's rank 0), `finish_sync`. `engine_sync` is the driver's side of it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch

from verl.registry import ENGINES
from verl.rollout.base import Engine, EngineSpec
from verl.single_controller import Arguments, Worker, dispatch
from verl.types import Request, Rollout
from verl.weights import (
    Announcement,
    Bucket,
    Elsewhere,
    Invitation,
    Member,
    SharedBucket,
    SharedReader,
    WeightStream,
    digest,
)


@dataclass(frozen=True)
class SyncReport:
    """What one engine received."""

    version: int
    digests: list[str]
    """Of each bucket, in order."""
    num_bytes: int
    seconds: float
    """From `begin_sync` until everything was loaded."""
    log_probs: list[float] = field(default_factory=list)
    """Of the probe, under the new weights; empty if none was asked for."""
    probe_seconds: float = 0.0


class RolloutWorker(Worker):
    """One engine in one process."""

    def __init__(self, spec: EngineSpec) -> None:
        self._engine: Engine = ENGINES.load(spec.rollout.name)(spec)
        self._sync: _Sync | None = None
        self._reader = SharedReader()
        self._member = Member(self.rank_info.rank, torch.device(spec.device))

    @dispatch(Arguments.SPLIT, streams=True)
    def generate(self, requests: Sequence[Request]) -> Iterator[list[Rollout]]:
        """Write this engine's responses; those that end are yielded at once."""
        yield from self._engine.generate(requests)

    @dispatch()
    def sleep(self) -> None:
        """Give the GPU's memory back until the next sync."""
        self._engine.sleep()

    @dispatch()
    def begin_sync(self, version: int) -> None:
        """Make ready for buckets. What follows replaces all weights; nothing is served until `finish_sync`.

        An engine that sleeps wakes in two stages: here it takes the memory of its weights again, and that of its
        key-value cache in `finish_sync`, when the trainer has sent everything and needs its own memory no more.
        """
        if self._sync is not None:
            raise RuntimeError(f"Weight sync {version} begins, but {self._sync.version} was not finished.")
        self._engine.wake("weights")
        self._sync = _Sync(version, self._engine)

    @dispatch()
    def receive_bucket(self, part: Bucket | SharedBucket | Announcement | Invitation) -> frozenset[str] | Elsewhere:
        """Take a bucket, in whatever form it comes; or join a group for those to come in.

        Waits while the engine still loads the one before.

        Returns:
            The slots of shared memory that the engine still reads. `Elsewhere` when it cannot see this bucket's memory,
            or was not reached by the broadcast, and the bucket must be sent otherwise; and always to an invitation.
        """
        sync = self._current_sync()
        if isinstance(part, Invitation):
            return self._member.join(part)
        if isinstance(part, Announcement):
            bucket = self._member.receive(part)
        else:
            bucket = self._reader.open(part) if isinstance(part, SharedBucket) else part
        if bucket is None:
            return self._member.where
        sync.receive(bucket)
        return self._reader.held()

    @dispatch()
    def finish_sync(self, token_ids: Sequence[int] = ()) -> SyncReport:
        """Wait until the engine has loaded everything, and let it score `token_ids` (at once: a call costs time)."""
        sync, self._sync = self._current_sync(), None
        report = sync.finish()
        self._engine.wake("kv_cache")
        if not token_ids:
            return report
        start = time.perf_counter()
        log_probs = self._engine.log_probs(token_ids)
        return replace(report, log_probs=log_probs, probe_seconds=time.perf_counter() - start)

    def close(self) -> None:
        self._member.leave()
        self._engine.close()

    def _current_sync(self) -> _Sync:
        if self._sync is None:
            raise RuntimeError("No weight sync is under way: call begin_sync first.")
        return self._sync


class _Sync:
    """One set of weights on its way into an engine."""

    def __init__(self, version: int, engine: Engine) -> None:
        self.version = version
        self._start = time.perf_counter()
        self._stream = WeightStream(lambda weights: engine.load_weights(weights, version))
        self._digests: list[str] = []
        self._num_bytes = 0

    def receive(self, bucket: Bucket) -> None:
        self._stream.put(bucket)
        self._digests.append(digest(bucket))  # while the engine loads it: `finish_sync` is when it must be known
        self._num_bytes += bucket.num_bytes

    def finish(self) -> SyncReport:
        self._stream.finish()
        seconds = time.perf_counter() - self._start
        return SyncReport(self.version, self._digests, self._num_bytes, seconds)
