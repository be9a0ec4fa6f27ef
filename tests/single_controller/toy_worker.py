"""A worker for the contract tests: importable by name, so that Ray's processes find it as they find a real one."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator

from verl.single_controller import Arguments, Receiver, Results, Worker, WorkerError, dispatch


class Toy(Worker):
    def __init__(self, start: int = 0, fails_on: int | None = None, fails_if: str = "") -> None:
        if fails_if and os.path.exists(fails_if):
            raise ValueError("spoilt")
        if self.rank_info.rank == fails_on:
            raise ValueError(f"no start with {start}")
        self.total = start

    @dispatch()
    def add(self, number: int, factor: int = 1) -> int:
        self.total += number * factor
        return self.total

    @dispatch(results=Results.RANK_ZERO)
    def rank_of(self) -> tuple[int, int]:
        return self.rank_info.rank, self.rank_info.world_size

    @dispatch(Arguments.SPLIT)
    def double(self, number: int, of: str) -> tuple[int, str, int]:
        return self.rank_info.rank, of, 2 * number

    @dispatch(Arguments.SPLIT, streams=True)
    def count(self, limit: int, fails_at: int | None = None) -> Iterator[tuple[int, int]]:
        for number in range(limit):
            if number == fails_at:
                raise RuntimeError("lost count")
            yield self.rank_info.rank, number

    @dispatch(Arguments.SPLIT, streams=True)
    def count_and_die(self, limit: int) -> Iterator[tuple[int, int]]:
        yield from self.count(limit)
        time.sleep(0.5)  # so that the items are on their way
        os.kill(os.getpid(), signal.SIGKILL)

    @dispatch(Arguments.SPLIT, streams=True)
    def count_and_hang(self, limit: int) -> Iterator[tuple[int, int]]:
        yield from self.count(limit)
        threading.Event().wait()

    @dispatch()
    def fail_on(self, rank: int, waits: bool = False) -> None:
        if self.rank_info.rank == rank:
            print("about to fail", flush=True)
            raise KeyError("what a mistake")
        if waits:
            threading.Event().wait()  # as in a collective whose peer never comes

    @dispatch()
    def die_on(self, rank: int, waits: bool = True) -> None:
        if self.rank_info.rank == rank:
            print("last words", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        if waits:
            time.sleep(0.2)
            raise ConnectionError("peer closed the connection")  # what a collective says then

    @dispatch()
    def start_process(self) -> int:
        return subprocess.Popen(["sleep", "1000"]).pid

    @dispatch()
    def hang(self) -> None:
        10**10**10  # native code that neither signals nor threads interrupt

    @dispatch()
    def send_to(self, receiver: Receiver, payload: int) -> None:
        """Raises what a rank failed with, as its own failure."""
        for outcome in receiver.send_each(payload).values():
            if isinstance(outcome, WorkerError):
                raise outcome

    @dispatch()
    def send_each_to(self, receiver: Receiver, payload: int, timeout: float | None = None) -> dict[int, object]:
        return receiver.send_each(payload, timeout=timeout)

    @dispatch()
    def environment(self, *names: str) -> dict[str, str | None]:
        return {name: os.environ.get(name) for name in names}

    @dispatch()
    def pid(self) -> int:
        return os.getpid()

    @dispatch()
    def modules(self, *names: str) -> list[str]:
        import sys

        return [name for name in names if name in sys.modules]

    @dispatch()
    def nodes(self) -> str:
        import ray

        return ray.get_runtime_context().get_node_id()

    @dispatch()
    def local_ranks(self) -> int:
        return self.rank_info.local_rank

    def close(self) -> None:
        self.total = -1
