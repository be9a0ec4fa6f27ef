"""New weights to the engines, and the proof that they arrived, after every update.

Three checks, each of which has caught what the others miss: the version every engine reports, a digest of the bytes it
received, and the log-probs of a fixed sequence under trainer and engine. A mismatch ends the run.
"""

from __future__ import annotations

from verl.config import PPOConfig
from verl.rollout.base import EngineSpec
from verl.single_controller import WorkerGroup
from verl.weights import gap_threshold, probe_token_ids
from verl.workers.rollout import RolloutPool


class Publisher:
    """Sends the actor's weights to the pool.

    Args:
        config: of the run.
        actor: the training ranks; rank 0 sends.
        rollouts: the engines.
        spec: what the engines were started with.
        vocab_size: token ids of the probe are below it.
    """

    def __init__(
        self, config: PPOConfig, actor: WorkerGroup, rollouts: RolloutPool, spec: EngineSpec, vocab_size: int
    ) -> None:
        sync = config.actor_rollout_ref.rollout.weight_sync
        self.actor = actor
        self.rollouts = rollouts
        self.bucket_bytes = sync.bucket_bytes
        self.threshold = gap_threshold(spec.dtype, sync.max_log_prob_gap)
        self.probe = probe_token_ids(vocab_size, sync.probe_tokens, spec.max_model_len)

    def publish(self, version: int) -> dict[str, float]:
        """Sync all engines to the actor's weights and verify each of them.

        Returns:
            `rollout/probe_log_prob_gap` (mean absolute difference, nats, of the worst engine) and
            `rollout/weight_bytes`.

        Raises:
            WeightSyncError: an engine has other weights than the trainer.
        """
        self.rollouts.begin_sync(version)
        sent = self.actor.publish_weights(version, [self.rollouts.receiver], self.bucket_bytes)
        trainer_log_probs = self.actor.start("probe_log_probs", self.probe)  # while the engines still load
        reports = self.rollouts.finish_sync(sent, self.probe)
        engine_log_probs = [report.log_probs for report in reports]
        gap = self.rollouts.verify(engine_log_probs, trainer_log_probs.result(), self.threshold)
        return {"rollout/probe_log_prob_gap": gap, "rollout/weight_bytes": float(reports[0].num_bytes)}
