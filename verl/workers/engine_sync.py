"""The driver's part of a weight sync: which engines take part, and which of them may serve afterwards.

    sync.begin(version)                                engines that do not serve this version open a stream for weights
    sent = actor.publish_weights(..., sync.receiver)   the trainer's rank 0 pushes buckets to them
    reports = sync.finish(sent, token_ids)             all loaded, all bytes right; the engines score the probe
    sync.verify(reports, log_probs, ...)               and compute what the trainer computes: now they serve
    sync.is_complete                                   if not: once more, for those that were restarted meanwhile

An engine that dies or hangs on the way is replaced, and the others go on. One that took other weights than were sent
is another matter: if no sync of this run has ever been right, trainer and engine do not fit, which is a mistake and
ends the run. Later it is a fault of one engine, which gets a restart and one more chance.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from verl.rollout.base import NO_WEIGHTS
from verl.single_controller import Receiver, WorkerDied, WorkerError, WorkerLate
from verl.weights import WeightSyncError, compare_digests, compare_log_probs
from verl.workers.engine_health import Event, State
from verl.workers.engines import Engines
from verl.workers.rollout import SyncReport
from verl.workers.send_weights import Sent


class EngineSync:
    """See the module.

    Args:
        engines: all of the run.
        timeout: `actor_rollout_ref.rollout.weight_sync.timeout`, seconds for one call of an engine.
    """

    def __init__(self, engines: Engines, timeout: float) -> None:
        self.engines = engines
        self.timeout = timeout
        self.version = NO_WEIGHTS
        """Of the weights that engines hold, or are being given."""
        self._taking_part: list[int] = []
        self._was_ever_right = False
        self._mismatched: set[int] = set()
        """Engines that have had their second chance for this version."""
        self._last_probe: dict[int, list[float]] = {}

    @property
    def is_complete(self) -> bool:
        """Whether every engine serves the weights of the last sync."""
        return self.engines.fleet.is_complete

    @property
    def receiver(self) -> Receiver:
        """Where the trainer's rank 0 sends buckets, of this sync only: a replaced engine is reached by a new one."""
        return self.engines.group.receiver("receive_bucket", self._taking_part)

    def begin(self, version: int) -> None:
        """Every engine that does not serve `version` opens a stream for it; those being restarted are waited for."""
        fleet = self.engines.fleet
        if version != self.version:
            self.version = version
            self._mismatched.clear()
            for rank in fleet.serving:
                fleet.tell(rank, Event.SYNC_BEGAN)
        self._taking_part = []
        while len(fleet.serving) + len(self._taking_part) < self.engines.group.world_size:
            self.engines.wait_until_started()
            asked = [rank for rank in fleet.ranks(State.STALE) if rank not in self._taking_part]
            for rank in asked:
                fleet.tell(rank, Event.SYNC_BEGAN)
            answers = self.engines.ask(asked, "begin_sync", version, timeout=self.timeout)
            self._taking_part += self._replace_failed(answers)
        self._taking_part.sort()

    def finish(self, sent: Sent, token_ids: Sequence[int] = ()) -> dict[int, SyncReport]:
        """Wait until the engines have loaded their weights, and have scored `token_ids` with them.

        Returns:
            What those that received what was sent report, by rank.

        Raises:
            WeightSyncError: an engine received something else, and it is not the first fault of one that was well.
            WorkerError: an engine cannot load these weights at all, or no restart is left.
        """
        self._replace_failed(sent.failures)
        asked = [rank for rank in self._taking_part if rank not in sent.failures]
        answers = self.engines.ask(asked, "finish_sync", list(token_ids), timeout=self.timeout)
        reports: dict[int, SyncReport] = {}
        for rank, report in self._replace_failed(answers).items():
            try:
                _compare(sent, report, self.version, rank)
                reports[rank] = report
            except WeightSyncError as error:
                self._second_chance(rank, error)
        return reports

    def verify(self, reports: Mapping[int, SyncReport], trainer_log_probs: Sequence[float], threshold: float) -> float:
        """Compare what engines and trainer say about the probe; those that agree serve from now on.

        Returns the largest mean gap of these, in nats. Raises WeightSyncError as `finish` does, and whenever the
        trainer's own log-probs are not finite.
        """
        largest = 0.0
        for rank, report in reports.items():
            before, self._last_probe[rank] = self._last_probe.get(rank), report.log_probs
            try:
                gap = compare_log_probs(trainer_log_probs, report.log_probs, threshold, _name(rank), before)
            except WeightSyncError as error:
                if not all(map(math.isfinite, trainer_log_probs)):
                    raise
                self._second_chance(rank, error)
                continue
            self.engines.fleet.tell(rank, Event.VERIFIED)
            largest = max(largest, gap)
        self._was_ever_right = self._was_ever_right or self.is_complete
        return largest

    def _replace_failed(self, answers: Mapping[int, Any | WorkerError]) -> dict[int, Any]:
        """What the engines answered, without those that failed instead: they are replaced."""
        good: dict[int, Any] = {}
        for rank, answer in answers.items():
            if not isinstance(answer, WorkerError):
                good[rank] = answer
            elif not self._was_ever_right and not isinstance(answer, (WorkerDied, WorkerLate)):
                raise answer  # an exception of its loader: these weights do not fit this engine
            else:
                self.engines.fail(rank, answer)
        return good

    def _second_chance(self, rank: int, error: WeightSyncError) -> None:
        """Replace an engine with wrong weights; raises its error if that was tried, or cannot help."""
        if not self._was_ever_right or rank in self._mismatched or not self.engines.fleet.may_restart:
            raise error
        self._mismatched.add(rank)
        self.engines.fail(rank, self.engines.group.blame(rank, f"WeightSyncError: {error}"))


def _name(rank: int) -> str:
    return f"rollout engine {rank}"


def _compare(sent: Sent, report: SyncReport, version: int, rank: int) -> None:
    if report.version != version:
        raise WeightSyncError(f"{_name(rank)} reports weights {report.version} after a sync of weights {version}.")
    compare_digests(sent.digests, report.digests, _name(rank))
