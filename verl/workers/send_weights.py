"""The trainer's side of a sync: gathering, hashing and shipping, each going on while the others do.

Buckets are shipped by one thread of its own, in order. The caller's thread meanwhile hashes the same bucket (hashing
and copying let go of Python's lock) and gathers the next one. So the engine, whose loader is the slowest of all, waits
for the first bucket only.

    consumes: an iterator of buckets
    produces: digests of what was sent
    waits for: the receivers, when they have no room for another bucket; all of them before it returns
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from verl.single_controller.group import Receiver
from verl.weights.buckets import Bucket, digest


def send(parts: Iterable[Bucket], receivers: Sequence[Receiver]) -> list[str]:
    """Send every bucket to all receivers; returns the digests, in order.

    At most two buckets exist here at a time: one on its way, one being gathered. The first error of a receiver is
    raised, but only when `parts` is exhausted: gathering is a collective, and the other ranks take part to the end.
    """
    digests: list[str] = []
    under_way: Future[None] | None = None
    with ThreadPoolExecutor(1, "send-weights") as sender:
        for bucket in parts:
            if under_way is not None and under_way.exception() is not None:  # waits
                continue
            under_way = sender.submit(_send, bucket, receivers)
            digests.append(digest(bucket))
    if under_way is not None:
        under_way.result()
    return digests


def _send(bucket: Bucket, receivers: Sequence[Receiver]) -> None:
    for receiver in receivers:
        receiver.send_all(bucket)
