"""A reinforcement-learning run: everything that stands around the loop (`verl.trainer.rl_trainer`).

Consumes a validated `PPOConfig` and produces a run folder. Starts the roles, finds the checkpoint to go on from, makes
the listeners, and does all of it again after the loss of a worker, as often as `trainer.max_restarts` allows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast

from verl.config import PPOConfig
from verl.trainer.assemble import updates_per_batch
from verl.trainer.checkpointing import RunCheckpoints
from verl.trainer.collapse import CollapseGuard
from verl.trainer.guards import make_guards
from verl.trainer.listeners import CheckpointTime, Listener, RolloutDump, SaveCheckpoints, Track, Validation
from verl.trainer.phases import Phases
from verl.trainer.replay import Replay, dump_batch
from verl.trainer.restart import OwnCheckpoints, Restart, RestartPolicy, with_restarts
from verl.trainer.rl_trainer import RLTrainer
from verl.trainer.roles import ActorRole, Roles, ray_actor, ray_roles
from verl.trainer.run import Run, recorded_run
from verl.trainer.run_data import RunData, load_run_data
from verl.trainer.teacher_checks import TeacherChecks
from verl.trainer.watchdog import watchdog
from verl.trainer.writing import Writing

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
        RunCheckpoints(
            run.folder,
            config.trainer,
            roles.actor,
            data.sampler,
            config.actor_rollout_ref.actor.checkpoint,
            data.identity,
        ) as checkpoints,
        watchdog(config.trainer.watchdog_seconds, roles.groups, phases, logs, run.record_failure),
    ):
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
