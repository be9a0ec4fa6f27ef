"""The trainer's side of the group in which weights reach engines on other machines (`verl.weights.broadcast`).

consumes: buckets that lie in shared memory
produces: each engine's answer; `Elsewhere` where the bucket did not arrive and must be sent otherwise
waits for: the members to meet, and to take a bucket
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

from verl.single_controller.errors import WorkerError
from verl.single_controller.group import Receiver
from verl.weights import SharedBucket
from verl.weights.broadcast import PATIENCE, Announcement, Elsewhere, Group, Invitation

logger = logging.getLogger(__name__)

Answers = dict[int, Any | WorkerError]
ResultT = TypeVar("ResultT")


class FarEngines:
    """The engines that do not see this process's memory, and its group with them; a new one when one of them is.

    Args:
        host: address under which other machines reach this one.
        device: of this rank: NCCL on a GPU, gloo on a CPU.
    """

    def __init__(self, host: str, device: torch.device) -> None:
        self._host = host
        self._device = device
        self._group: Group | None = None
        self._said: dict[int, Elsewhere] = {}
        """By rank, what engines said of themselves in this sync."""
        self._has_failed = False

    def begin(self) -> None:
        """A sync begins: any engine may be another one, and what failed in the sync before may be tried again."""
        self._said.clear()
        self._has_failed = False

    def __contains__(self, rank: int) -> bool:
        return rank in self._said

    def learn(self, answers: Answers) -> None:
        """Note who said that it is elsewhere."""
        self._said |= {rank: answer for rank, answer in answers.items() if isinstance(answer, Elsewhere)}

    def send(
        self,
        shared: SharedBucket,
        memory: torch.Tensor,
        receiver: Receiver,
        ranks: Sequence[int],
        timeout: float | None,
    ) -> Answers:
        """Broadcast a bucket; returns what each engine answers.

        Args:
            shared: its names and layout.
            memory: its bytes, uint8 [num_bytes].
            ranks: whom to: far engines.
            timeout: seconds an engine may take.
        """
        if not self._has_failed and not self._is_of(ranks):
            self._meet(receiver, ranks, timeout)
        group = self._group
        if self._has_failed or group is None:
            return {rank: self._said[rank] for rank in ranks}
        announced = Announcement(group.key, shared, memory.numel())
        answers, error = _meanwhile(
            lambda: group.broadcast(memory), lambda: receiver.send_each(announced, ranks, timeout), group.leave
        )
        if error or any(isinstance(answer, Elsewhere | WorkerError) for answer in answers.values()):
            self._fail(error or "an engine has failed")
        return answers

    def leave(self) -> None:
        """Be in no group."""
        if self._group is not None:
            self._group.leave()
        self._group = None

    def _is_of(self, ranks: Sequence[int]) -> bool:
        """Whether these engines, and no others, are in the group with this process."""
        group = self._group
        return (
            group is not None and len(ranks) == group.size - 1 and all(self._said[r].group == group.key for r in ranks)
        )

    def _meet(self, receiver: Receiver, ranks: Sequence[int], timeout: float | None) -> None:
        """Make a group with these engines."""
        self.leave()
        size = len(ranks) + 1
        store = TCPStore(self._host, 0, size, is_master=True, wait_for_workers=False, timeout=PATIENCE)
        backend = "nccl" if self._device.type == "cuda" else "gloo"
        places = {rank: place for place, rank in enumerate(ranks, 1)}
        invitation = Invitation(secrets.token_hex(8), self._host, store.port, backend, places)

        def join() -> None:
            self._group = Group(invitation.key, store, 0, size, self._device)

        answers, error = _meanwhile(join, lambda: receiver.send_each(invitation, ranks, timeout))
        self.learn(answers)
        if error or not self._is_of(ranks):
            self._fail(error or "not all engines could join")
        else:
            logger.info("Weights go to %d engine(s) on other machines over %s.", len(ranks), backend)

    def _fail(self, why: str) -> None:
        """Use the group no more in this sync."""
        self._has_failed = True
        self.leave()
        logger.warning("The rest of these weights goes to engines on other machines through Ray: %s", why)


def _meanwhile(
    work: Callable[[], object], ask: Callable[[], ResultT], on_error: Callable[[], None] = lambda: None
) -> tuple[ResultT, str]:
    """`ask` while `work` is done in a thread: its result, and what went wrong with the work, if anything."""

    def guarded() -> str:
        try:
            work()
        except RuntimeError as error:
            on_error()  # at once: whoever waits for this process is told so
            return str(error).splitlines()[0]
        return ""

    with ThreadPoolExecutor(1, "far-engines") as thread:
        under_way = thread.submit(guarded)
        return ask(), under_way.result()
