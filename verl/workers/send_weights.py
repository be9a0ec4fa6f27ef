"""The trainer's side of a sync: gathering, copying, hashing and shipping, each going on while the others do.

Buckets are announced by one thread of its own, in order, and wait there for the engines. The caller's thread meanwhile
gathers the next one, copies it to shared memory and hashes the one on its way (copying and hashing let go of Python's
lock). So the engine, whose loader is the slowest of all, waits for the first bucket only. An engine that does not see
the shared memory, being on another machine, gets the bucket itself.

    consumes: an iterator of buckets
    produces: digests of what was sent
    waits for: the receivers, when they have no room for another bucket; all of them before it returns
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from verl.single_controller.group import Receiver
from verl.weights import Bucket, SharedBucket, SharedSlots, digest


class WeightSender:
    """Sends one sync after another through the same shared memory.

    Args:
        bucket_bytes: usual size of a bucket.
    """

    def __init__(self, bucket_bytes: int) -> None:
        self._slots = SharedSlots(bucket_bytes)

    def send(self, parts: Iterable[Bucket], receivers: Sequence[Receiver]) -> list[str]:
        """Send every bucket to all receivers, which have finished the sync before; returns the digests, in order.

        At most two buckets exist here at a time: one on its way, one being gathered. The first error of a receiver is
        raised, but only when `parts` is exhausted: gathering is a collective, and the other ranks take part to the end.
        """
        digests: list[str] = []
        under_way: Future[set[str]] | None = None
        self._slots.release(set())
        with ThreadPoolExecutor(1, "send-weights") as sender:
            for bucket in parts:
                if under_way is not None and under_way.done() and under_way.exception() is not None:
                    continue
                shared = self._slots.place(bucket) if SharedSlots.are_supported() else None
                if under_way is not None:
                    if under_way.exception() is not None:  # waits
                        continue
                    self._slots.release(under_way.result() | ({shared.slot} if shared else set()))
                under_way = sender.submit(_send, bucket, shared, receivers)
                digests.append(digest(bucket))
        if under_way is not None:
            under_way.result()
        return digests


def _send(bucket: Bucket, shared: SharedBucket | None, receivers: Sequence[Receiver]) -> set[str]:
    """Send one bucket; returns the slots of shared memory that some engine still reads."""
    held: set[str] = set()
    for receiver in receivers:
        if shared is None:
            receiver.send_all(bucket)
            continue
        answers: list[frozenset[str] | None] = receiver.send_all(shared)
        held.update(*filter(None, answers))
        if blind := [rank for rank, answer in enumerate(answers) if answer is None]:
            receiver.send_all(bucket, blind)
    return held
