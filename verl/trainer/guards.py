"""Guards that end a run whose numbers are beyond use, and say why: more steps would only cost time, or spoil weights.

They are listeners: the step's metrics are logged before a guard ends the run, and its checkpoint is not saved any more.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from verl.config.root import TrainerConfig
from verl.single_controller import WorkerGroup
from verl.trainer.listeners import BaseListener, Listener, Step
from verl.trainer.sampling import Batch
from verl.types import Sample
from verl.workers.finite import NonFinite
from verl.workers.update import Outcome, UpdateResult

logger = logging.getLogger(__name__)

GAP = "training/rollout_log_prob_gap"
MAX_STEPS_ABOVE_GAP = 2
SHOWN = 8
"""Samples that a message names."""


def make_guards(
    config: TrainerConfig, actor: WorkerGroup, run_folder: Path, dump: Callable[[Path, int, Batch], None]
) -> list[Listener]:
    """The guards of a run. `dump` writes the batch of a step as a recording of its own."""
    guards: list[Listener] = [NonFiniteGuard(config.max_nonfinite_updates, actor, run_folder / "nonfinite", dump)]
    if config.max_rollout_log_prob_gap is not None:
        guards.append(GapGuard(config.max_rollout_log_prob_gap))
    return guards


class RunStopped(RuntimeError):
    """A guard ended the run: what was wrong, how often, and the probable causes."""


class NonFiniteLimit:
    """Counts skipped updates, warns of them, and ends the run after too many in a row.

    Args:
        limit: `trainer.max_nonfinite_updates`; None: never.
    """

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self.in_a_row = 0

    def is_touched_by(self, metrics: Mapping[str, float]) -> bool:
        """Whether a step skipped an update, so that it has to be looked at; a step that only learned ends the row."""
        if metrics.get("actor/skipped_steps"):
            return True
        if "actor/grad_norm" in metrics:
            self.in_a_row = 0
        return False

    def check(
        self,
        step: int,
        ranks: Sequence[Sequence[UpdateResult]],
        name: Callable[[int], str] = "row {}".format,
        where: str = "",
    ) -> None:
        """Look at the updates of a step.

        Args:
            ranks: of each rank the results of the step's updates, in order.
            name: of a row by its index.
            where: the dump of the step, for messages.

        Raises:
            RunStopped: after `limit` skipped updates in a row; those in which nothing counts are passed over.
        """
        for number, results in enumerate(zip(*ranks, strict=True), 1):
            outcome = results[0].outcome
            if outcome is Outcome.DONE:
                self.in_a_row = 0
            if outcome is not Outcome.NOT_FINITE:
                continue
            self.in_a_row += 1
            found = describe([finding for result in results for finding in result.non_finite], name)
            text = f"Step {step}, update {number} of {len(ranks[0])}: {found}"
            logger.warning("%s. The update was skipped on all ranks, no weight was changed.%s", text, where)
            if self.limit is not None and self.in_a_row >= self.limit:
                raise RunStopped(
                    f"{self.in_a_row} updates in a row were not finite (trainer.max_nonfinite_updates={self.limit})."
                    f" The last: {text}.{where} Probable causes: a learning rate that is too high"
                    " (actor_rollout_ref.actor.optim.lr) or a loss that is not clipped; overflow in bf16 (compare with"
                    " actor_rollout_ref.actor.fsdp_config.compute_dtype=fp32); an engine that computes something else"
                    f" than the trainer (look at {GAP}). Go on from the last checkpoint with other settings."
                )


def describe(findings: Sequence[NonFinite], name: Callable[[int], str]) -> str:
    """What was not finite, and in which samples."""
    if not findings:
        return "the gradient was not finite, with finite numbers in every sample"
    texts: list[str] = []
    for what, count in Counter(finding.what for finding in findings).items():
        indices = sorted({finding.index for finding in findings if finding.what == what})
        shown = ", ".join(name(index) for index in indices[:SHOWN])
        more = f" and {len(indices) - SHOWN} more" if len(indices) > SHOWN else ""
        texts.append(f"{what} not finite in {count} sample(s): {shown}{more}")
    return "; ".join(texts)


class NonFiniteGuard(BaseListener):
    """Names the samples of skipped updates, dumps their step for a replay, and ends the run after too many.

    Args:
        limit: `trainer.max_nonfinite_updates`.
        actor: the training ranks, which know the samples.
        folder: dumps go to `<folder>/step_<number>`.
        dump: writes a batch as a recording of one step.
    """

    def __init__(
        self, limit: int | None, actor: WorkerGroup, folder: Path, dump: Callable[[Path, int, Batch], None]
    ) -> None:
        self.limit = NonFiniteLimit(limit)
        self.actor = actor
        self.folder = folder
        self.dump = dump

    def after(self, step: Step) -> None:
        if not self.limit.is_touched_by(step.metrics):
            return
        folder = self.folder / f"step_{step.number}"
        try:
            self.dump(folder, step.number, Batch(step.samples, step.reprompts))
            where = f" The batch is in {folder} (train on it again: trainer.replay={folder})."
        except OSError as error:  # the disk may be full, and that is not what this step is about
            where = f" The batch could not be written to {folder} ({error})."
        self.limit.check(step.number, self.actor.update_results(), lambda index: _name(step.samples[index]), where)


def _name(sample: Sample) -> str:
    rollout = sample.rollout
    return f"row {rollout.request_id} (uid {sample.uid}, prompt {sample.prompt.index})"


class GapGuard(BaseListener):
    """Ends a run whose engines and trainer disagree about the probabilities of what was written.

    Responses that are behind the weights differ by what was learnt since, so for each update that they are behind the
    limit is allowed once more.

    Args:
        limit: `trainer.max_rollout_log_prob_gap`, nats.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.seen: list[float] = []

    def after(self, step: Step) -> None:
        staleness = step.metrics.get("training/rollout_staleness", 0.0)
        gap, allowed = step.metrics.get(GAP), self.limit * (1 + staleness)
        self.seen = [*self.seen, gap] if gap is not None and gap > allowed else []
        if len(self.seen) < MAX_STEPS_ABOVE_GAP:
            return
        shown = ", ".join(f"{value:.3g}" for value in self.seen)
        stale = f" times 1 + {staleness:g} updates that the responses are behind the weights" if staleness else ""
        raise RunStopped(
            f"Engines and trainer disagree: {GAP} (mean absolute difference of the responses' log-probs) was {shown}"
            f" nats in steps {step.number - len(self.seen) + 1} to {step.number}, more than"
            f" trainer.max_rollout_log_prob_gap={self.limit:g}{stale}. Probable causes: the engine samples from another"
            " distribution than the trainer computes (actor_rollout_ref.rollout.temperature, top_p, top_k; keep top_p=1"
            " and top_k=-1 in training); another precision (actor_rollout_ref.rollout.dtype against"
            " actor.fsdp_config.compute_dtype, quantisation in engine_kwargs); weights of the engine that went wrong"
            " after they were verified; a prompt that the engine saw otherwise than the trainer (chat template, special"
            " tokens); or updates that are too large (actor.optim.lr). If the difference is meant, raise the limit or"
            " set it to null."
        )
