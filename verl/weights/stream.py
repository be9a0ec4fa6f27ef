"""From buckets that are pushed in to an iterator that is pulled: how a sync enters an engine's loader.

The trainer pushes one bucket per call; an engine's loader wants one iterable over all weights and keeps state while it
reads. So the loader runs in a thread of its own and a queue with room for one bucket stands between: when the loader is
slow, `put` waits, the trainer waits, and no more than a few buckets are ever in memory.

    consumes: buckets, by `put`, then `finish`
    produces: one call of `load` with an iterator over (name, tensor)
    waits for: the loader, in `put` (when it lags) and in `finish`
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from queue import Queue
from threading import Thread

import torch

from verl.weights.buckets import Bucket

_END = None


class WeightStream:
    """One sync. `load` is called in the stream's thread; its error is raised in `put` or `finish`."""

    def __init__(self, load: Callable[[Iterator[tuple[str, torch.Tensor]]], None]) -> None:
        self._load = load
        self._queue: Queue[Bucket | None] = Queue(maxsize=1)
        self._error: BaseException | None = None
        self._is_ended = False
        self._thread = Thread(target=self._run, name="weight-stream", daemon=True)
        self._thread.start()

    def put(self, bucket: Bucket) -> None:
        """Hand over a bucket; returns when there is room for it."""
        if self._error is not None:
            raise self._error
        self._queue.put(bucket)

    def finish(self) -> None:
        """Say that all weights were sent, and wait until they are loaded."""
        self._queue.put(_END)
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        pairs = self._pairs()
        try:
            self._load(pairs)
        except BaseException as error:  # whatever it is belongs to the thread that called put
            self._error = error
        for _ in self._rest():  # a loader that gave up must not leave the sender waiting
            pass

    def _pairs(self) -> Iterator[tuple[str, torch.Tensor]]:
        for bucket in self._rest():
            yield from zip(bucket.names, bucket.tensors, strict=True)

    def _rest(self) -> Iterator[Bucket]:
        """Buckets up to the end; nothing once the end was seen."""
        while not self._is_ended:
            bucket = self._queue.get()
            if bucket is None:
                self._is_ended = True
            else:
                yield bucket
