"""The reinforcement-learning loop: one step on one page.

    take a batch (sampled, scored, reprompted) -> assemble -> update -> publish -> listeners

Waits for the roles (Ray workers) once per phase. What an algorithm needs (a teacher, advantages, old log-probs) it
declares itself; nothing here asks for its name. Where batches come from, engines or a recording, and whether the next
one is written during the update, is the source's business. `verl.trainer.train` starts what is needed around it.
"""

from __future__ import annotations

from contextlib import closing

from verl.config import PPOConfig
from verl.protocol import Row, mean_metrics
from verl.registry import ALGORITHMS
from verl.self_distillation.reprompt import count_reprompts
from verl.trainer.assemble import cut_updates, make_rows
from verl.trainer.batch_metrics import (
    Timer,
    batch_metrics,
    perf_metrics,
    rank_load,
    seqlen_metrics,
    staleness_metrics,
)
from verl.trainer.fill_rows import RowFiller
from verl.trainer.listeners import Listener, Step
from verl.trainer.phases import Phases
from verl.trainer.process_memory import process_memory_metrics
from verl.trainer.roles import ActorRole
from verl.trainer.run_data import RunData
from verl.trainer.sampling import Batch, derive_seed
from verl.trainer.schedule import Schedule
from verl.trainer.weigh_rows import weigh_rows
from verl.trainer.writing import Source


class RLTrainer:
    """Drives the training ranks through the steps of one run.

    Args:
        config: the resolved configuration.
        data: prompts, sampler and tokenizer of the run.
        roles: started workers; the trainer does not care whether they are Ray's or in this process.
        source: gives the batches, and takes the weights.
        step: the last step that is done already.
        phases: is told what the trainer is doing.
        num_restarts: how often roles were lost before these.
    """

    def __init__(
        self,
        config: PPOConfig,
        data: RunData,
        roles: ActorRole,
        source: Source,
        step: int = 0,
        phases: Phases | None = None,
        num_restarts: int = 0,
    ) -> None:
        self.phases = phases or Phases()
        self.num_restarts = num_restarts
        self.config = config
        self.data = data
        self.roles = roles
        self.source = source
        self.step = step
        actor = config.actor_rollout_ref.actor
        self.algorithm = ALGORITHMS.load(actor.policy_loss.loss_mode)(actor, config.algorithm)
        self.filler = RowFiller(config, self.algorithm, roles.actor)
        self.listeners: list[Listener] = []

    def fit(self) -> str:
        """Train to the last step, or until a listener wishes to stop, telling the listeners.

        Returns why the run stopped before its last step; empty when it did not.
        """
        step = Step(self.step, timer=Timer(self.phases), is_last=self.step >= self.source.last_step)
        with self.phases("first weights"):
            step.metrics |= self.source.publish(version=self.step)
        for listener in self.listeners:
            with self.phases(type(listener).__name__):
                listener.before_first(step)
        with closing(self.source.make_schedule()) as schedule:
            while not step.is_last and not self.config.trainer.val_only:
                self.step += 1
                step = self.train_step(self.step, schedule)
                for listener in self.listeners:
                    with self.phases(type(listener).__name__):
                        listener.after(step)
        return step.stop_reason

    def train_step(self, number: int, schedule: Schedule[Batch]) -> Step:
        """One step: everything from prompts to published weights."""
        timer = Timer(self.phases)
        with timer("step"):
            with timer("gen"):
                batch = schedule.take(number)
            samples = batch.samples
            self.data.advance()
            if number < self.source.last_step:
                schedule.begin_next(number + 1)
            with timer("reprompt"):
                rows, reprompt_metrics = self.make_rows(batch)
            with timer("old_log_prob"):
                rows = self.filler.add_log_probs(rows)
            if self.algorithm.needs_advantages:
                with timer("adv"):
                    rows, advantage_metrics = self.filler.add_advantages(rows, samples)
                reprompt_metrics |= advantage_metrics
            with timer("update_actor"):
                update_metrics = self.update(rows, number)
            with timer("gen"):
                schedule.settle()
            with timer("update_weights"):
                sync_metrics = self.source.publish(version=number)
        metrics = batch_metrics(samples, rows, self.config.data) | reprompt_metrics | update_metrics | sync_metrics
        metrics |= staleness_metrics(samples, number)
        metrics |= {"training/global_step": number, "training/epoch": self.data.sampler.epoch}
        metrics |= {"training/restarts": self.num_restarts} | process_memory_metrics(self.roles.groups)
        num_response_tokens = sum(len(row.response_ids) for row in rows)
        num_tokens = sum(row.num_tokens for row in rows)
        metrics |= perf_metrics(num_tokens, num_response_tokens, timer.seconds, self.roles.actor.world_size)
        is_last = number == self.source.last_step
        return Step(number, metrics, timer, samples, rows, batch.reprompts, is_last)

    def make_rows(self, batch: Batch) -> tuple[list[Row], dict[str, float]]:
        """Rows of the batch with the teacher's prompts, and metrics of these."""
        if batch.reprompts is None:
            return make_rows(batch.samples, None), {}
        settings = self.config.actor_rollout_ref.actor.self_distillation
        reprompts = count_reprompts(batch.samples, batch.reprompts, settings)
        rows = make_rows(batch.samples, reprompts.teacher_prompt_ids)
        rows, weight_metrics = weigh_rows(rows, batch.samples, settings)
        return rows, reprompts.metrics | weight_metrics

    def update(self, rows: list[Row], number: int) -> dict[str, float]:
        """All optimizer steps of this rollout batch, and the teacher's. Returns metrics of these."""
        config = self.config
        updates = cut_updates(
            rows,
            config.actor_rollout_ref,
            self.algorithm,
            self.roles.actor.world_size,
            config.trainer.balance_batch,
            derive_seed(config.trainer.seed, number, "update"),
        )
        actor = config.actor_rollout_ref.actor
        parts = updates[:: actor.ulysses_sequence_parallel_size]  # ranks that run forwards together have the same
        loads = [rank_load(part) / actor.ppo_epochs for part in parts]
        lengths = seqlen_metrics([row.num_tokens for row in rows], loads)
        return mean_metrics(self.roles.actor.update_policy(updates)) | lengths
