"""All engines as one writer of responses, which goes on when some of them fail.

Each engine gets a part of the requests and streams its responses. One that dies, that finishes nothing for
`engine_timeout`, or whose answer cannot be right (`rollout_checks`), is ended and replaced (`engines`). What it has
delivered before is kept, what it has not goes to the engines that serve, at once; if none is left, it waits until the
restarted ones have the current weights. So every request is answered exactly once.

A response written by another engine is the one that the first would have written: a request carries its own seed. Only
rounding may differ, since other requests are in its batch.

The restarted engine's weights come from the trainer (`resync`, given by the Publisher). While the trainer is busy with
an update it has no weights of this version to give: then the batch cannot be finished (`EnginesNeedWeights`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby

from verl.config import RolloutConfig
from verl.protocol import balance
from verl.rollout.base import NO_WEIGHTS
from verl.single_controller import Stream, WorkerError, WorkerGroup, WorkerLate
from verl.types import Request, Rollout
from verl.workers.engine_health import Event
from verl.workers.engine_sync import EngineSync
from verl.workers.engines import Engines
from verl.workers.rollout_checks import problem_of

LEAST_PATIENCE = 1800.0
"""Seconds without a finished response, where `engine_timeout` is not set."""
SECONDS_PER_TOKEN = 2.0
"""An engine slower than this is taken for one that hangs, where `engine_timeout` is not set."""


class EnginesNeedWeights(RuntimeError):
    """No engine serves, and none can be given weights now: what was asked for must be asked again after a sync."""


@dataclass
class _Share:
    """What one engine is to write."""

    patience: float
    """Seconds it may go without finishing a response."""
    unanswered: dict[int, Request] = field(default_factory=dict)
    """By id of the request."""
    streams: list[Stream] = field(default_factory=list)
    """One after the other; a second one when it has taken over what another engine left."""
    deadline: float = 0.0
    """On the monotonic clock."""

    def add(self, stream: Stream, requests: Sequence[Request]) -> None:
        self.streams.append(stream)
        self.unanswered |= {request.request_id: request for request in requests}
        self.be_patient()

    def be_patient(self) -> None:
        self.deadline = time.monotonic() + self.patience


class RolloutPool:
    """See the module.

    Args:
        group: the started workers (`RolloutWorker`), one for each engine.
        config: `engine_timeout`, `max_engine_restarts` and `weight_sync.timeout` are kept here.
        vocab_size: number of token ids of the model; None when it is not known.
    """

    def __init__(self, group: WorkerGroup, config: RolloutConfig | None = None, vocab_size: int | None = None) -> None:
        self.group = group
        self.config = config or RolloutConfig()
        self.vocab_size = vocab_size
        self.engines = Engines(group, self.config.max_engine_restarts)
        self.sync = EngineSync(self.engines, self.config.weight_sync.timeout)
        self.resync: Callable[[], object] | None = None
        """Gives the current weights to every engine that does not serve them; set by who has them."""
        self._is_trainer_busy = False
        self._num_reissued = 0

    @property
    def weight_version(self) -> int:
        """Of the weights that write responses now."""
        return self.sync.version

    def generate(self, requests: Sequence[Request]) -> Iterator[list[Rollout]]:
        """Write a response to every request, on all engines at once; finished ones come as they end, in any order.

        Adjacent requests with the same prompt go to the same engine, which then reads the prompt only once.

        Raises:
            EnginesNeedWeights: every engine has failed, or has no weights, and `resync` is not possible now.
            WorkerError: an engine failed and no restart is left.
        """
        if len({request.request_id for request in requests}) != len(requests):
            raise ValueError("Two requests have the same request_id; it must be unique within one call of generate.")
        shares: dict[int, _Share] = {}
        unassigned = list(requests)
        while unassigned or any(share.unanswered for share in shares.values()):
            if unassigned:
                self._assign(unassigned, shares)
                unassigned = []
            self._wait(shares)
            for rank, share in list(shares.items()):
                try:
                    yield from self._arrived(rank, share)
                except WorkerError as error:
                    del shares[rank]
                    unassigned += share.unanswered.values()
                    self._num_reissued += len(share.unanswered)
                    self.engines.fail(rank, error)

    @contextmanager
    def trainer_is_busy(self) -> Iterator[None]:
        """Inside, the trainer has no weights to give: engines that fail stay without until the next sync."""
        self._is_trainer_busy = True
        try:
            yield
        finally:
            self._is_trainer_busy = False

    def sleep(self) -> None:
        """Have all engines give their GPUs' memory back: they serve again after the next sync."""
        serving = self.engines.fleet.serving
        for rank in serving:
            self.engines.fleet.tell(rank, Event.SLEPT)
        for rank, answer in self.engines.ask(serving, "sleep", timeout=self.config.weight_sync.timeout).items():
            if isinstance(answer, WorkerError):
                self.engines.fail(rank, answer)

    def take_metrics(self) -> dict[str, float]:
        """`rollout/engine_restarts` of the run so far; `rollout/reissued_requests` since this was last called."""
        num_reissued, self._num_reissued = self._num_reissued, 0
        return {
            "rollout/engine_restarts": float(self.engines.fleet.num_restarts),
            "rollout/reissued_requests": float(num_reissued),
        }

    def shutdown(self) -> None:
        self.group.shutdown()

    def _assign(self, requests: list[Request], shares: dict[int, _Share]) -> None:
        """Give requests to the engines that serve; if none does, have them brought back first."""
        fleet = self.engines.fleet
        if not fleet.serving:
            if self.resync is None or self._is_trainer_busy or self.weight_version == NO_WEIGHTS:
                raise EnginesNeedWeights(
                    "No rollout engine has weights, and none can be given them now: publish weights first."
                )
            self.resync()
        requests = sorted(requests, key=lambda request: request.request_id)  # siblings together again
        longest = max(request.sampling.max_tokens for request in requests)
        patience = self.config.engine_timeout or max(LEAST_PATIENCE, SECONDS_PER_TOKEN * longest)
        for rank, part in zip(fleet.serving, assign(requests, len(fleet.serving)), strict=True):
            if part:
                share = shares.setdefault(rank, _Share(patience))
                share.add(self.group.stream_on(rank, "generate", part), part)

    def _wait(self, shares: dict[int, _Share]) -> None:
        """Wait until something has arrived, or until an engine is overdue."""
        deadline = min(share.deadline for share in shares.values() if share.unanswered)
        streams = [stream for share in shares.values() for stream in share.streams if not stream.is_done]
        self.group.wait_any(streams, max(0.0, deadline - time.monotonic()))

    def _arrived(self, rank: int, share: _Share) -> Iterator[list[Rollout]]:
        """Responses that an engine has finished. Raises the WorkerError for which it cannot be used any more."""
        for stream in share.streams:
            for rollouts in stream.take():
                problem = problem_of(rollouts, share.unanswered, self.weight_version, self.vocab_size)
                if problem:
                    raise self.group.blame(rank, f"the engine gave {problem}.")
                for rollout in rollouts:
                    del share.unanswered[rollout.request_id]
                share.be_patient()
                yield rollouts
            if stream.failure:
                raise stream.failure
        if not share.unanswered:
            return
        if all(stream.is_done for stream in share.streams):
            raise self.group.blame(rank, f"the engine left {len(share.unanswered)} requests without a response.")
        if time.monotonic() > share.deadline:
            raise self.group.blame(rank, f"the engine finished no response for {share.patience:g} s.", WorkerLate)


def assign(requests: Sequence[Request], num_engines: int) -> list[list[Request]]:
    """One list of requests for each engine: whole groups of a prompt, spread by the most tokens they may cost."""
    groups = [list(group) for _, group in groupby(requests, key=lambda request: request.prompt_ids)]
    costs = [sum(len(request.prompt_ids) + request.sampling.max_tokens for request in group) for group in groups]
    return [[request for index in part for request in groups[index]] for part in balance(costs, num_engines)]
