"""The rollout role: a worker around one engine, and the pool through which the driver uses all of them.

The order of a sync, which the driver conducts:

    pool.begin_sync(version)                     engines stop serving and open a stream for weights
    actor.publish_weights(..., pool.receiver)    the trainer's rank 0 pushes buckets to all engines
    pool.finish_sync(sent digests, token_ids)    all loaded, all bytes right; the engines score the probe
    pool.verify(log_probs of the reports, ...)   and compute what the trainer computes
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

from verl.protocol import balance
from verl.registry import ENGINES
from verl.rollout.base import NO_WEIGHTS, Engine, EngineSpec
from verl.single_controller import Arguments, Receiver, Worker, WorkerGroup, dispatch
from verl.types import Request, Rollout
from verl.weights import Bucket, SharedBucket, SharedReader, WeightStream, compare_digests, compare_log_probs, digest


@dataclass(frozen=True)
class SyncReport:
    """What one engine received."""

    version: int
    digests: list[str]
    """Of each bucket, in order."""
    num_tensors: int
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

    @dispatch(Arguments.SPLIT, streams=True)
    def generate(self, requests: Sequence[Request]) -> Iterator[list[Rollout]]:
        """Write this engine's responses; those that end are yielded at once."""
        yield from self._engine.generate(requests)

    @dispatch()
    def begin_sync(self, version: int) -> None:
        """Make ready for buckets. What follows replaces all weights; nothing is served until `finish_sync`."""
        if self._sync is not None:
            raise RuntimeError(f"Weight sync {version} begins, but {self._sync.version} was not finished.")
        self._sync = _Sync(version, self._engine)

    @dispatch()
    def receive_bucket(self, part: Bucket | SharedBucket) -> frozenset[str] | None:
        """Take a bucket. Waits while the engine still loads the one before.

        Returns:
            The slots of shared memory that the engine still reads; None when it cannot see this bucket's memory, and
            the bucket must be sent itself.
        """
        sync = self._current_sync()
        bucket = self._reader.open(part) if isinstance(part, SharedBucket) else part
        if bucket is None:
            return None
        sync.receive(bucket)
        return self._reader.held()

    @dispatch()
    def finish_sync(self, token_ids: Sequence[int] = ()) -> SyncReport:
        """Wait until the engine has loaded everything, and let it score `token_ids` (at once: a call costs time)."""
        sync, self._sync = self._current_sync(), None
        report = sync.finish()
        if not token_ids:
            return report
        start = time.perf_counter()
        log_probs = self._engine.log_probs(token_ids)
        return replace(report, log_probs=log_probs, probe_seconds=time.perf_counter() - start)

    @dispatch()
    def probe(self, token_ids: Sequence[int]) -> list[float]:
        """log p(token[i] | tokens before it) for i = 1..n-1, temperature 1."""
        return self._engine.log_probs(token_ids)

    def close(self) -> None:
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
        self._num_tensors = 0
        self._num_bytes = 0

    def receive(self, bucket: Bucket) -> None:
        self._stream.put(bucket)
        self._digests.append(digest(bucket))  # while the engine loads it: `finish_sync` is when it must be known
        self._num_tensors += len(bucket.names)
        self._num_bytes += bucket.num_bytes

    def finish(self) -> SyncReport:
        self._stream.finish()
        seconds = time.perf_counter() - self._start
        return SyncReport(self.version, self._digests, self._num_tensors, self._num_bytes, seconds)


class RolloutPool:
    """All engines, as one.

    Args:
        group: the started workers (`RolloutWorker`), one for each engine.
    """

    def __init__(self, group: WorkerGroup) -> None:
        self.group = group
        self.weight_version = NO_WEIGHTS
        self._last_probe: list[list[float]] | None = None

    @property
    def receiver(self) -> Receiver:
        """Where the trainer's rank 0 sends buckets."""
        return self.group.receiver("receive_bucket")

    def generate(self, requests: Sequence[Request]) -> Iterator[list[Rollout]]:
        """Write a response to every request, on all engines at once; finished ones come as they end, in any order.

        Adjacent requests with the same prompt go to the same engine, which then reads the prompt only once.
        """
        parts = assign(requests, self.group.world_size)
        missing = {request.request_id for request in requests}
        for rollouts in self.group.generate(parts):
            for rollout in rollouts:
                if rollout.weight_version != self.weight_version:
                    raise RuntimeError(
                        f"A response was written by weights {rollout.weight_version}, the pool holds"
                        f" {self.weight_version}."
                    )
                missing.remove(rollout.request_id)
            yield rollouts
        if missing:
            raise RuntimeError(f"The engines left {len(missing)} of {len(requests)} requests without a response.")

    def begin_sync(self, version: int) -> None:
        """Engines stop serving and wait for buckets."""
        self.weight_version = NO_WEIGHTS
        self.group.begin_sync(version)

    def finish_sync(self, sent: Sequence[str], token_ids: Sequence[int] = ()) -> list[SyncReport]:
        """Wait until all engines have loaded their weights, and have scored `token_ids` with them.

        `sent` are the digests of the buckets the trainer sent. Raises WeightSyncError when an engine received something
        else.
        """
        reports: list[SyncReport] = self.group.finish_sync(list(token_ids))
        for number, report in enumerate(reports):
            compare_digests(sent, report.digests, f"rollout engine {number}")
        self.weight_version = reports[0].version
        return reports

    def verify(self, now: list[list[float]], trainer_log_probs: Sequence[float], threshold: float) -> float:
        """Compare what engines and trainer say about the same sequence after a sync.

        `now` is the engines' part, from `finish_sync` or `probe`. Returns the largest of their mean gaps, in nats.
        Raises WeightSyncError beyond `threshold`.
        """
        before = self._last_probe
        gaps = [
            compare_log_probs(
                trainer_log_probs, values, threshold, f"rollout engine {number}", before[number] if before else None
            )
            for number, values in enumerate(now)
        ]
        self._last_probe = now
        return max(gaps)

    def probe(self, token_ids: Sequence[int]) -> list[list[float]]:
        """Each engine's log-probs of `token_ids[1:]` at temperature 1."""
        return self.group.probe(list(token_ids))

    def shutdown(self) -> None:
        self.group.shutdown()


def assign(requests: Sequence[Request], num_engines: int) -> list[list[Request]]:
    """One list of requests for each engine: whole groups of a prompt, spread by the most tokens they may cost."""
    groups = [list(group) for _, group in groupby(requests, key=lambda request: request.prompt_ids)]
    costs = [sum(len(request.prompt_ids) + request.sampling.max_tokens for request in group) for group in groups]
    return [[request for index in part for request in groups[index]] for part in balance(costs, num_engines)]
