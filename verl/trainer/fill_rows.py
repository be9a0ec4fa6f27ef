"""What the update reads of rows beside their tokens: log-probs, entropies and advantages, where something uses them."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from verl.algorithms.base import Algorithm
from verl.algorithms.high_entropy import keep_high_entropy
from verl.config import PPOConfig
from verl.config.forwards import log_prob_limits
from verl.protocol import MiniBatch, Row, plan_mini_batch
from verl.single_controller import WorkerGroup
from verl.trainer.assemble import add_advantages, updates_per_batch
from verl.types import Sample


class RowFiller:
    """Has the training ranks compute it.

    Args:
        config: of the run.
        algorithm: says what it needs.
        actor: the training ranks.
    """

    def __init__(self, config: PPOConfig, algorithm: Algorithm, actor: WorkerGroup) -> None:
        self.config = config
        self.algorithm = algorithm
        self.actor = actor

    def add_log_probs(self, rows: list[Row]) -> list[Row]:
        """Add old and reference log-probs where something will use them.

        With one optimizer step per rollout batch the update's own detached log-probs are the old ones.
        """
        config = self.config
        if config.actor_rollout_ref.actor.policy_loss.high_entropy_fraction is not None:
            rows = self._add_entropies(rows)
        elif self.uses_old_log_probs:
            old = self._log_probs(rows, "actor")
            rows = [replace(row, old_log_probs=old[row.index]) for row in rows]
        if self.algorithm.needs_reference:
            ref = self._log_probs(rows, "ref")
            rows = [replace(row, ref_log_probs=ref[row.index]) for row in rows]
        return rows

    def _add_entropies(self, rows: list[Row]) -> list[Row]:
        """Add the policy's entropies and, where something will use them, the log-probs of the same forward."""
        found: dict[int, tuple[list[float], list[float]]] = {}
        for part in self.actor.compute_entropies(self._plan_forwards(rows, "actor")):
            found |= part
        keeps = self.uses_old_log_probs
        return [
            replace(row, old_log_probs=old if keeps else [], entropies=entropies)
            for row, (old, entropies) in ((row, found[row.index]) for row in rows)
        ]

    def add_advantages(self, rows: list[Row], samples: list[Sample]) -> tuple[list[Row], dict[str, float]]:
        """Advantages of every token, or of the uncertain ones alone, and metrics of these."""
        rows = add_advantages(rows, samples, self.config)
        fraction = self.config.actor_rollout_ref.actor.policy_loss.high_entropy_fraction
        if fraction is None:
            return rows, {}
        rows, threshold = keep_high_entropy(rows, fraction)
        return rows, {"actor/high_entropy_threshold": threshold}

    @property
    def uses_old_log_probs(self) -> bool:
        """Whether old log-probs differ from what the update computes anyway, and matter."""
        algorithm = self.config.algorithm
        is_off_policy = updates_per_batch(self.config) > 1 and not algorithm.rollout_correction.bypass_mode
        return (is_off_policy and self.algorithm.needs_old_log_probs) or algorithm.use_kl_in_reward

    def _log_probs(self, rows: list[Row], of: Literal["actor", "ref"]) -> dict[int, list[float]]:
        """Log-probs of the response tokens under the policy or the reference, by `Row.index`."""
        found: dict[int, list[float]] = {}
        for part in self.actor.compute_log_probs(self._plan_forwards(rows, of), of):
            found |= part
        return found

    def _plan_forwards(self, rows: list[Row], of: Literal["actor", "ref"]) -> list[MiniBatch]:
        """Each rank's forwards without an update."""
        roles = self.config.actor_rollout_ref
        limits = log_prob_limits(roles, roles.rollout if of == "actor" else roles.ref)
        is_balanced = self.config.trainer.balance_batch
        return plan_mini_batch(rows, self.actor.world_size, limits, is_balanced=is_balanced)
