"""The reinforcement-learning loop: one step on one page.

    take a batch (sampled, scored, reprompted) -> assemble -> update -> publish -> listeners

Consumes a validated `PPOConfig`, waits for the roles (Ray workers) once per phase, produces a run folder. What an
algorithm needs (a teacher, advantages, old log-probs) it declares itself; nothing here asks for its name. Where batches
come from, engines or a recording, and whether the next one is written during the update, is the source's business.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal, cast

from verl.algorithms.high_entropy import keep_high_entropy
from verl.config import PPOConfig
from verl.config.forwards import log_prob_limits
from verl.protocol import MiniBatch, Row, mean_metrics, plan_mini_batch
from verl.registry import ALGORITHMS
from verl.self_distillation.reprompt import count_reprompts
from verl.trainer.assemble import add_advantages, cut_updates, make_rows, updates_per_batch
from verl.trainer.batch_metrics import (
    Timer,
    batch_metrics,
    perf_metrics,
    rank_load,
    seqlen_metrics,
    staleness_metrics,
)
from verl.trainer.checkpointing import RunCheckpoints
from verl.trainer.collapse import CollapseGuard
from verl.trainer.guards import make_guards
from verl.trainer.listeners import CheckpointTime, Listener, RolloutDump, SaveCheckpoints, Step, Track, Validation
from verl.trainer.phases import Phases
from verl.trainer.process_memory import process_memory_metrics
from verl.trainer.replay import Replay, dump_batch
from verl.trainer.restart import OwnCheckpoints, Restart, RestartPolicy, with_restarts
from verl.trainer.roles import ActorRole, Roles, ray_actor, ray_roles
from verl.trainer.run import Run, recorded_run
from verl.trainer.run_data import RunData, load_run_data
from verl.trainer.sampling import Batch, derive_seed
from verl.trainer.schedule import Schedule
from verl.trainer.teacher_checks import TeacherChecks
from verl.trainer.watchdog import watchdog
from verl.trainer.weigh_rows import weigh_rows
from verl.trainer.writing import Source, Writing
from verl.types import Sample

StartRoles = Callable[[PPOConfig, int, Path], AbstractContextManager[ActorRole]]
"""Starts the roles of a run, given its optimizer steps and the folder for logs: `ray_roles` and its likes."""


def train(
    config: PPOConfig,
    more_listeners: Callable[[RLTrainer, Run], Sequence[Listener]] = lambda trainer, run: (),
    start_roles: StartRoles | None = None,
) -> None:
    """Run `main_ppo`'s configuration to its last step, with as many restarts as it allows.

    Args:
        more_listeners: made anew for each start of the roles. They are called before validation, trackers and
            checkpoints, so these see what they add to a step, and take a step that they end the run with as the last.
        start_roles: None for the roles as Ray actors.
    """
    data = load_run_data(config)
    first_batch = data.sampler.state_dict()
    with recorded_run(config) as run:
        own = OwnCheckpoints(run.folder)

        def attempt(restart: Restart | None) -> None:
            data.sampler.load_state_dict(first_batch)
            trainer = own.resumed(config.trainer) if restart else config.trainer
            train_once(replace(config, trainer=trainer), data, run, restart, more_listeners, start_roles)

        with_restarts(RestartPolicy(config.trainer.max_restarts), attempt)


def train_once(
    config: PPOConfig,
    data: RunData,
    run: Run,
    restart: Restart | None,
    more_listeners: Callable[[RLTrainer, Run], Sequence[Listener]],
    start_roles: StartRoles | None,
) -> None:
    """Start all roles and train from the newest checkpoint, or from the start, to the last step."""
    replay = Replay(config, data) if config.trainer.replay else None
    start_roles = start_roles or (ray_actor if replay else ray_roles)
    phases, logs = Phases(), run.folder / "logs"
    with (
        run.tracking(data.total_steps) as tracking,
        start_roles(config, data.total_steps * updates_per_batch(config), logs) as roles,
        watchdog(config.trainer.watchdog_seconds, roles.groups, phases, logs, run.record_failure),
    ):
        checkpoints = RunCheckpoints(
            run.folder,
            config.trainer,
            roles.actor,
            data.sampler,
            config.actor_rollout_ref.actor.checkpoint,
            data.identity,
        )
        step = checkpoints.resume()
        if restart:
            run.note_restart(restart.number, restart.cause, step)
        tracking.start_from(step)
        if replay:
            step = replay.start_from(step)
        source = replay or Writing(config, data, cast(Roles, roles), step)
        trainer = RLTrainer(config, data, roles, source, step, phases, restart.number if restart else 0)
        watched = config.trainer.stop_on_collapse
        trainer.listeners = [
            *([RolloutDump(folder, data)] if (folder := config.trainer.rollout_data_dir) else []),
            *more_listeners(trainer, run),
            *([Validation(trainer, roles)] if data.validation and isinstance(roles, Roles) else []),
            TeacherChecks(config, roles.actor, data.encode),
            CheckpointTime(checkpoints),
            Track(tracking),
            *make_guards(config.trainer, roles.actor, run.folder, partial(dump_batch, config=config, data=data)),
            *([CollapseGuard(watched, run.folder, checkpoints.keep_best)] if watched.metric else []),
            SaveCheckpoints(checkpoints, source.last_step),
        ]
        if reason := trainer.fit():
            run.note_early_end(trainer.step, reason)


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
                rows = self.add_log_probs(rows)
            if self.algorithm.needs_advantages:
                with timer("adv"):
                    rows, advantage_metrics = self.add_advantages(rows, samples)
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

    def add_log_probs(self, rows: list[Row]) -> list[Row]:
        """Add old and reference log-probs where something will use them.

        With one optimizer step per rollout batch the update's own detached log-probs are the old ones.
        """
        config = self.config
        if config.actor_rollout_ref.actor.policy_loss.high_entropy_fraction is not None:
            rows = self.add_entropies(rows)
        elif self.uses_old_log_probs:
            old = self.log_probs(rows, "actor")
            rows = [replace(row, old_log_probs=old[row.index]) for row in rows]
        if self.algorithm.needs_reference:
            ref = self.log_probs(rows, "ref")
            rows = [replace(row, ref_log_probs=ref[row.index]) for row in rows]
        return rows

    def add_entropies(self, rows: list[Row]) -> list[Row]:
        """Add the policy's entropies and, where something will use them, the log-probs of the same forward."""
        found: dict[int, tuple[list[float], list[float]]] = {}
        for part in self.roles.actor.compute_entropies(self.plan_forwards(rows, "actor")):
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

    def log_probs(self, rows: list[Row], of: Literal["actor", "ref"]) -> dict[int, list[float]]:
        """Log-probs of the response tokens under the policy or the reference, by `Row.index`."""
        found: dict[int, list[float]] = {}
        for part in self.roles.actor.compute_log_probs(self.plan_forwards(rows, of), of):
            found |= part
        return found

    def plan_forwards(self, rows: list[Row], of: Literal["actor", "ref"]) -> list[MiniBatch]:
        """Each rank's forwards without an update."""
        roles = self.config.actor_rollout_ref
        limits = log_prob_limits(roles, roles.rollout if of == "actor" else roles.ref)
        is_balanced = self.config.trainer.balance_batch
        return plan_mini_batch(rows, self.roles.actor.world_size, limits, is_balanced=is_balanced)

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
