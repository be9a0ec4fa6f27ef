"""Where a step's batch comes from: engines and reward workers that write it, or a recording that has it.

The loop asks for a schedule of batches and hands out new weights; it does not know which of the two answers.
"""

from __future__ import annotations

from typing import Protocol

from verl.config import PPOConfig
from verl.config.checks import has_teacher
from verl.self_distillation.reprompt import Reprompt, write_reprompts
from verl.trainer.publish import Publisher
from verl.trainer.replay import Recorder
from verl.trainer.roles import Roles
from verl.trainer.run_data import RunData
from verl.trainer.sampling import Batch, derive_seed, sample_and_score
from verl.trainer.schedule import OneStepOff, OnPolicy, Schedule
from verl.types import Sample, Sampling


class Source(Protocol):
    """Gives the loop its batches."""

    @property
    def last_step(self) -> int:
        """The step after which there is nothing more to train on."""
        ...

    def publish(self, version: int) -> dict[str, float]:
        """Hand out the actor's weights. Returns metrics of that."""
        ...

    def make_schedule(self) -> Schedule[Batch]:
        """The batches of the coming steps."""
        ...


class Writing:
    """Engines write, reward workers score.

    Args:
        config: of the run.
        data: its prompts.
        roles: the started workers.
        step: the last step that is done already; what `trainer.record` names begins after it.
    """

    def __init__(self, config: PPOConfig, data: RunData, roles: Roles, step: int) -> None:
        self.config = config
        self.data = data
        self.roles = roles
        self.has_teacher = has_teacher(config)
        self.publisher = Publisher(config, roles.actor, roles.rollouts, roles.spec, data.vocab_size)
        self.recorder = Recorder.begin(config, data, step) if config.trainer.record else None

    @property
    def last_step(self) -> int:
        return self.data.total_steps

    def publish(self, version: int) -> dict[str, float]:
        return self.publisher.publish(version)

    def make_schedule(self) -> Schedule[Batch]:
        """What `trainer.rollout_schedule` names."""
        if self.config.trainer.rollout_schedule == "on_policy":
            return OnPolicy(self.draw_in_turn if self.roles.spec.sleeps else self.draw)
        return OneStepOff(self.draw, abandon=self.roles.stop_rollouts, draw_ahead=self.draw_ahead)

    def draw(self, number: int) -> Batch:
        """The batch of step `number`, recorded if that is asked for."""
        batch = self.sample(number)
        if self.recorder is not None:
            self.recorder.write(number, batch)
        return batch

    def draw_in_turn(self, number: int) -> Batch:
        """`draw`; then the engines leave their GPUs to the update."""
        batch = self.draw(number)
        self.roles.rollouts.sleep()
        return batch

    def draw_ahead(self, number: int) -> Batch:
        """`draw` while the weights are being changed. Raises EnginesNeedWeights when no engine is left."""
        with self.roles.rollouts.trainer_is_busy():
            return self.draw(number)

    def sample(self, number: int) -> Batch:
        """Write and score `rollout.n` responses to each of the next prompts; reprompt each group once it is scored."""
        rollout, seed = self.config.actor_rollout_ref.rollout, self.config.trainer.seed
        settings = self.config.actor_rollout_ref.actor.self_distillation
        written: dict[int, Reprompt] = {}

        def reprompt(group: list[Sample]) -> None:
            made = write_reprompts(group, settings, self.data.encode, derive_seed(seed, number, "reprompt"))
            written.update(zip((sample.rollout.request_id for sample in group), made, strict=True))

        samples = sample_and_score(
            prompts=self.data.next_prompts(),
            n=rollout.n,
            sampling=Sampling(rollout.temperature, rollout.top_p, rollout.top_k, self.config.data.max_response_length),
            seed=derive_seed(seed, number),
            rollouts=self.roles.rollouts,
            rewards=self.roles.rewards,
            decode=self.data.decode,
            on_group=reprompt if self.has_teacher else None,
        )
        reprompts = [written[sample.rollout.request_id] for sample in samples] if written else None
        return Batch(samples, reprompts)
