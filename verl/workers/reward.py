"""The reward role: workers that score responses as they end, off the driver's thread, and the pool that feeds them.

Scorers are the part of a run that strangers write and hostile text drives, so they raise, hang and die. A hanging one
cannot be ended from within its process: a thread cannot be killed, and native code does not look at signals. So the
pool ends and replaces that worker alone. The response gets score 0 and the reason; those that wait do not notice.
A worker that died may have been killed from outside, though, and before it even began. So the response is tried once
more, on the worker that is started in place of the dead one, and charged when that one dies too.

A call costs a worker more than a quick verdict does, so a worker is given as many responses as it scores in
`CALL_SECONDS`: one of those that run programs, dozens of those that are compared with a word. When a call with several
fails, nobody knows which of them it was; they are scored again one by one, and so is everything after them.
"""

from __future__ import annotations

import faulthandler
import math
import os
import re
import sys
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from verl import rewards
from verl.config import SandboxConfig
from verl.config.root import CustomRewardConfig, RewardConfig
from verl.rewards import code_runner
from verl.single_controller import Pending, Worker, WorkerDied, WorkerError, WorkerGroup, dispatch
from verl.types import Reward

CALL_SECONDS = 0.05
"""A worker begins no further response of a call after this time."""
MOST_IN_A_CALL = 64


@dataclass(frozen=True)
class ScoreItem:
    """A response to be scored."""

    request_id: int
    data_source: str
    solution_str: str
    """The response as text."""
    ground_truth: Any
    extra_info: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Scored:
    """What a worker got done in one call."""

    rewards: list[Reward]
    """Of the first items, at least one of them."""
    seconds: float


class RewardErrors(RuntimeError):
    """Too many responses of one batch could not be scored, so the batch would teach nothing but the scorer's faults."""


def _share(sandbox: SandboxConfig, num_processes: int) -> SandboxConfig:
    """This process's part of the cores, where the number of programs at the same time is not set."""
    num_workers = sandbox.num_workers or max(1, len(os.sched_getaffinity(0)) // num_processes)
    return replace(sandbox, num_workers=num_workers)


class RewardWorker(Worker):
    """Scores responses in its own process.

    Args:
        custom: the user's scorer; without a path, `verl.rewards` chooses one by `data_source`.
        config: what scorers may tell, and how long they may take.
        sandbox: for programs that are graded in this process; it is made when the first one comes.
    """

    def __init__(self, custom: CustomRewardConfig, config: RewardConfig, sandbox: SandboxConfig) -> None:
        code_runner.configure(_share(sandbox, config.num_workers))
        self._config = config
        self._compute_score: Callable[..., Any] = rewards.compute_score
        if custom.path:
            self._compute_score = rewards.load_custom(custom.path, custom.name, custom.reward_kwargs)

    @dispatch()
    def score(self, items: Sequence[ScoreItem]) -> Scored:
        """Score the first of the responses, and further ones until `CALL_SECONDS` have passed.

        A scorer's exception gives score 0 and its traceback in `Reward.error`. A scorer that is overdue leaves a note
        of where it is in this process's log.
        """
        begin = time.monotonic()
        folder = os.getcwd()
        done: list[Reward] = []
        faulthandler.dump_traceback_later(self._config.timeout, file=sys.__stderr__ or sys.stderr)
        try:
            while len(done) < len(items) and (not done or time.monotonic() - begin < CALL_SECONDS):
                done.append(self._score_one(items[len(done)]))
        finally:
            faulthandler.cancel_dump_traceback_later()
            os.chdir(folder)  # a scorer may go elsewhere; the files that this process names are from here
        return Scored(done, time.monotonic() - begin)

    def _score_one(self, item: ScoreItem) -> Reward:
        policy = {rewards.MAY_REVEAL_ANSWER: self._config.feedback_may_reveal_answer}
        try:
            return rewards.score_to_reward(
                self._compute_score(
                    data_source=item.data_source,
                    solution_str=item.solution_str,
                    ground_truth=item.ground_truth,
                    extra_info=item.extra_info | policy,
                )
            )
        except (Exception, SystemExit):
            return _failed(traceback.format_exc())

    def close(self) -> None:
        code_runner.close()


@dataclass(frozen=True)
class _Running:
    """The responses that a worker is busy with."""

    items: list[ScoreItem]
    pending: Pending
    deadline: float
    """On the monotonic clock."""
    is_second_try: bool
    """Whether the worker was started because the one before it died when it had this response."""


@dataclass(frozen=True)
class _Starting:
    """A new worker in place of an ended one."""

    pending: Pending
    deadline: float
    """On the monotonic clock."""


class RewardPool:
    """All reward workers, as one.

    Workers in the driver's own process (`LocalWorkerGroup`) cannot be ended: with them there is no timeout.

    Args:
        group: the workers (`RewardWorker`); waits until they are ready.
        config: `timeout` and `max_error_share` are kept here. A new worker that takes longer to start than the group's
            deadline for `replace` ends the group.
    """

    def __init__(self, group: WorkerGroup, config: RewardConfig) -> None:
        group.ready()
        self.group = group
        self.config = config
        self.num_errors = 0
        """Responses whose scorer failed, since the pool was made."""
        self._waiting: deque[ScoreItem] = deque()
        self._seconds_each = CALL_SECONDS
        """What a response took in the last call."""
        self._is_careful = False
        """One response in a call: set for good when a call with several has failed."""
        self._running: dict[int, _Running] = {}
        self._starting: dict[int, _Starting] = {}
        """By rank."""
        self._second_tries: dict[int, ScoreItem] = {}
        """By rank: what the new worker there is to score first."""
        self._finished: deque[tuple[int, Reward]] = deque()
        self._num_submitted = 0
        """Of this batch: since `results` last came to its end."""
        self._errors: list[str] = []
        """Of this batch."""

    def submit(self, items: Sequence[ScoreItem]) -> None:
        """Begin to score; does not wait."""
        self._waiting += items
        self._num_submitted += len(items)
        self._advance()

    def finished(self) -> list[tuple[int, Reward]]:
        """(request id, reward) of what is finished and not yet given out; does not wait."""
        self._advance()
        found = list(self._finished)
        self._finished.clear()
        return found

    def results(self) -> Iterator[tuple[int, Reward]]:
        """(request id, reward) of everything submitted and not yet given out, as it is finished.

        Raises:
            RewardErrors: more than `max_error_share` of what was submitted since the last end could not be scored.
            WorkerError: a worker cannot be started anew, or not in time.
        """
        while True:
            found = self.finished()
            self._check_errors()
            yield from found
            if not (self._running or self._waiting or self._second_tries):
                self._num_submitted, self._errors = 0, []
                return
            under_way = [*self._running.values(), *self._starting.values()]
            seconds = max(0.0, min(each.deadline for each in under_way) - time.monotonic())
            self.group.wait_any([each.pending for each in under_way], seconds if math.isfinite(seconds) else None)

    def shutdown(self) -> None:
        self.group.shutdown()

    def _advance(self) -> None:
        """Take what is done, end what is overdue, and give idle workers what waits."""
        for rank, running in list(self._running.items()):
            if running.pending.is_done:
                del self._running[rank]
                self._take(rank, running)
            elif time.monotonic() > running.deadline:
                del self._running[rank]
                self._start_anew(rank)
                self._blame(running.items, self._overdue(rank, running.items[0]))
        for rank, starting in list(self._starting.items()):
            if starting.pending.is_done or time.monotonic() > starting.deadline:
                starting.pending.result()  # raises if it failed, or is late
                del self._starting[rank]
        for rank in range(self.group.world_size):
            if rank in self._running or rank in self._starting:
                continue
            if rank in self._second_tries:
                self._give(rank, [self._second_tries.pop(rank)], is_second_try=True)
            elif self._waiting:
                self._give(rank, [self._waiting.popleft() for _ in range(self._num_in_a_call())])

    def _give(self, rank: int, items: list[ScoreItem], is_second_try: bool = False) -> None:
        pending = self.group.start_on(rank, "score", items)
        self._running[rank] = _Running(items, pending, time.monotonic() + self.config.timeout, is_second_try)

    def _start_anew(self, rank: int) -> None:
        """End a worker, if it still lives, and begin to start another one."""
        pending, limit = self.group.replace(rank), self.group.deadlines.get("replace")
        self._starting[rank] = _Starting(pending, time.monotonic() + (limit.seconds if limit else math.inf))

    def _num_in_a_call(self) -> int:
        """As many as fit into the time of a call, but no more than each worker's share of what waits."""
        if self._is_careful:
            return 1
        share = math.ceil(len(self._waiting) / self.group.world_size)
        return max(1, min(int(CALL_SECONDS / self._seconds_each), MOST_IN_A_CALL, share))

    def _take(self, rank: int, running: _Running) -> None:
        outcome: Scored | WorkerError = running.pending.outcome()
        if isinstance(outcome, WorkerDied):
            self._start_anew(rank)
            if len(running.items) == 1 and not running.is_second_try:
                self._second_tries[rank] = running.items[0]
                return
        if isinstance(outcome, WorkerError):
            self._blame(running.items, str(outcome))
            return
        num_done = len(outcome.rewards)
        self._seconds_each = max(outcome.seconds / num_done, CALL_SECONDS / MOST_IN_A_CALL)
        for item, reward in zip(running.items, outcome.rewards, strict=False):
            self._finish(item, reward)
        self._waiting.extendleft(reversed(running.items[num_done:]))

    def _blame(self, items: Sequence[ScoreItem], error: str) -> None:
        """Charge a failed call to its response; of several, find out which of them it was."""
        if len(items) == 1:
            self._finish(items[0], _failed(error))
            return
        self._is_careful = True
        self._waiting.extendleft(reversed(items))

    def _finish(self, item: ScoreItem, reward: Reward) -> None:
        if reward.error:
            self.num_errors += 1
            self._errors.append(reward.error)
        self._finished.append((item.request_id, reward))

    def _overdue(self, rank: int, item: ScoreItem) -> str:
        return (
            f"TimeoutError: the scorer of data_source {item.data_source!r} gave no result within "
            f"reward_model.timeout={self.config.timeout:g} s. Its worker ({self.group.role} rank {rank}), whose log "
            "shows where it was, has been ended and replaced."
        )

    def _check_errors(self) -> None:
        num_errors, share = len(self._errors), self.config.max_error_share
        if num_errors <= share * self._num_submitted:
            return
        kinds = Counter(map(_kind, self._errors))
        (kind, count), *_ = kinds.most_common(1)
        example = next(error for error in self._errors if _kind(error) == kind)
        raise RewardErrors(
            f"{num_errors} of a batch's {self._num_submitted} responses could not be scored, more than "
            f"reward_model.max_error_share={share:g} allows. {count} of them like this:\n{example.rstrip()}"
        )


def _failed(error: str) -> Reward:
    """What stands in for a verdict."""
    return Reward(score=0.0, acc=0.0, error=error)


def _kind(error: str) -> str:
    """What errors of one kind share: the last line of a traceback, the first one of a description, numbers apart."""
    lines = error.strip().splitlines()
    return re.sub(r"\d+", "#", lines[-1] if error.startswith("Traceback") else lines[0])
