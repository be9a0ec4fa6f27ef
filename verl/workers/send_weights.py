"""The trainer's side of a sync: gathering, copying, hashing and shipping, each going on while the others do.

Buckets are announced by one thread of its own, in order, and wait there for the engines. The caller's thread meanwhile
gathers the next one, copies it to shared memory and hashes the one on its way (copying and hashing let go of Python's
lock). So the engine, whose loader is the slowest of all, waits for the first bucket only. One that fails, or takes too
long, is left behind: the others get their weights all the same.

How a bucket travels is decided here alone (`_send`), by what the engine answers: it reads the shared memory; if it
cannot, being on another machine, it takes part in a broadcast (`far_engines`); and if that fails it gets the bucket
itself, through Ray.

    consumes: an iterator of buckets
    produces: digests of what was sent, and who failed to take it
    waits for: the receivers, when they have no room for another bucket; all of them before it returns
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from verl.single_controller.errors import WorkerError
from verl.single_controller.group import Receiver
from verl.weights import Bucket, Elsewhere, SharedBucket, SharedSlots, digest
from verl.workers.far_engines import Answers, FarEngines


@dataclass(frozen=True)
class Sent:
    """What became of a set of weights."""

    digests: list[str]
    """Of all buckets, in order; fewer when every engine has failed."""
    failures: dict[int, WorkerError]
    """By rank of the engine: those that have not taken all buckets."""


class WeightSender:
    """Sends one sync after another through the same shared memory.

    Args:
        bucket_bytes: usual size of a bucket.
        far: engines on other machines.
    """

    def __init__(self, bucket_bytes: int, far: FarEngines) -> None:
        self._slots = SharedSlots(bucket_bytes)
        self._far = far

    def send(self, parts: Iterable[Bucket], receiver: Receiver, timeout: float | None = None) -> Sent:
        """Send every bucket to all engines of `receiver`, which have finished the sync before.

        At most two buckets exist here at a time: one on its way, one being gathered. `parts` is exhausted whatever
        happens: gathering is a collective, and the other ranks take part to the end.

        Args:
            timeout: seconds an engine may take for one bucket.
        """
        digests: list[str] = []
        failures: dict[int, WorkerError] = {}
        under_way: Future[set[str]] | None = None
        self._slots.release(set())
        self._far.begin()
        with ThreadPoolExecutor(1, "send-weights") as sender:
            for bucket in parts:
                if under_way is not None and under_way.done() and under_way.exception() is not None:
                    continue
                if len(failures) == len(receiver.ranks):  # nobody is left to be sent anything
                    continue
                shared = self._slots.place(bucket) if SharedSlots.are_supported() else None
                if under_way is not None:
                    if under_way.exception() is not None:  # waits
                        continue
                    self._slots.release(under_way.result() | ({shared.slot} if shared else set()))
                under_way = sender.submit(self._send, bucket, shared, receiver, failures, timeout)
                digests.append(digest(bucket))
        if under_way is not None:
            under_way.result()
        return Sent(digests, failures)

    def close(self) -> None:
        """Leave the group with engines on other machines."""
        self._far.leave()

    def _send(
        self,
        bucket: Bucket,
        shared: SharedBucket | None,
        receiver: Receiver,
        failures: dict[int, WorkerError],
        timeout: float | None,
    ) -> set[str]:
        """Send one bucket to those that have not failed; returns the slots that some engine still reads."""
        left = [rank for rank in receiver.ranks if rank not in failures]
        if not left:
            return set()
        near = [rank for rank in left if rank not in self._far]
        answers: Answers = receiver.send_each(shared or bucket, near, timeout) if near else {}
        self._far.learn(answers)
        if shared is not None and (far := [rank for rank in left if rank in self._far]):
            answers |= self._far.send(shared, self._slots.memory(shared), receiver, far, timeout)
            if missed := [rank for rank in far if isinstance(answers[rank], Elsewhere)]:
                answers |= receiver.send_each(bucket, missed, timeout)
        held: set[str] = set()
        for rank, answer in answers.items():
            if isinstance(answer, WorkerError):
                failures[rank] = answer
            else:
                held.update(answer or ())
        return held
