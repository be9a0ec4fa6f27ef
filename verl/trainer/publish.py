"""New weights to the engines, and the proof that they arrived, after every update.

Three checks, each of which has caught what the others miss: the version every engine reports, a digest of the bytes it
received, and the log-probs of a fixed sequence under trainer and engine. Engines that have to be restarted on the way,
or were restarted since the last sync, get the same weights in a second round, with the same checks
(`verl.workers.engine_sync`): when `publish` returns, all of them serve.
"""

from __future__ import annotations

from verl.config import PPOConfig
from verl.rollout.base import EngineSpec
from verl.single_controller import WorkerGroup
from verl.weights import gap_threshold, probe_token_ids
from verl.workers.rollout_pool import RolloutPool


class Publisher:
    """Sends the actor's weights to the pool, also when the pool asks for them (`RolloutPool.resync`).

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
        self.config = config.actor_rollout_ref.rollout.weight_sync
        self.actor = actor
        self.rollouts = rollouts
        self.threshold = gap_threshold(spec.dtype, self.config.max_log_prob_gap)
        self.probe = probe_token_ids(vocab_size, self.config.probe_tokens, spec.max_model_len)
        rollouts.resync = lambda: self._send(rollouts.weight_version)

    def publish(self, version: int) -> dict[str, float]:
        """Give all engines that do not serve `version` the actor's weights, and verify each of them.

        Returns:
            `rollout/probe_log_prob_gap` (mean absolute difference, nats, of the worst engine), `rollout/weight_bytes`,
            and what the engines had to be helped with since the last call (`RolloutPool.take_metrics`).

        Raises:
            WeightSyncError: an engine has other weights than the trainer, in the first sync or after a restart.
            WorkerError: an engine failed and no restart is left.
        """
        return self._send(version) | self.rollouts.take_metrics()

    def _send(self, version: int) -> dict[str, float]:
        sync, gaps, num_bytes = self.rollouts.sync, [0.0], 0
        while True:
            sync.begin(version)
            sent = self.actor.publish_weights(version, sync.receiver, self.config.bucket_bytes, self.config.timeout)
            trainer_log_probs = self.actor.start("probe_log_probs", self.probe)  # while the engines still load
            reports = sync.finish(sent, self.probe)
            gaps.append(sync.verify(reports, trainer_log_probs.result(), self.threshold))
            num_bytes = max([num_bytes, *(report.num_bytes for report in reports.values())])
            if sync.is_complete:
                break
        return {"rollout/probe_log_prob_gap": max(gaps), "rollout/weight_bytes": float(num_bytes)}
