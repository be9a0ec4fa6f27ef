"""Whether student and teacher still understand what the teacher is shown: three teacher-forced numbers.

A self-teacher that follows the student can teach only as long as the student can read the teacher's prompts, which it
never trains on (`teacher_anchor_coef` mends that). The score falls last, so these are looked at:

    self_distillation/student_demo_log_prob   mean token log-prob of a demonstration that the prompt shows. The student
                                              falls first; with a frozen teacher that does no harm.
    self_distillation/teacher_demo_log_prob   the teacher's. When it falls, wrong things are taught.
    self_distillation/feedback_effect         mean over failed responses of the least, over their tokens, of
                                              log T(token | prompt with feedback) - log T(token | prompt): clearly
                                              negative as long as the teacher sees from the feedback what was wrong.

All in nats at the rollout's temperature. A demonstration is a success of the step's own batch, asked for again on a
prompt that shows it and nothing else; feedback counts where it was all that the teacher was shown, since a shown
solution would speak against a failed response too.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from verl.config import ActorRolloutRefConfig, PPOConfig
from verl.config.forwards import log_prob_limits
from verl.protocol import Row, plan_mini_batch
from verl.self_distillation.reprompt import Encode, Reprompt
from verl.single_controller import WorkerGroup
from verl.trainer.demonstrations import MAX_PROMPTS, demonstration_rows
from verl.trainer.listeners import BaseListener, Step
from verl.types import Sample


class TeacherChecks(BaseListener):
    """Adds the three numbers to every `demo_log_prob_freq`-th step, with the weights that it ended with.

    Args:
        config: of the run.
        actor: the training ranks.
        encode: chat to token ids, with the generation prompt.
    """

    def __init__(self, config: PPOConfig, actor: WorkerGroup, encode: Encode) -> None:
        self.roles = config.actor_rollout_ref
        self.frequency = self.roles.actor.self_distillation.demo_log_prob_freq
        self.actor = actor
        self.encode = encode

    def after(self, step: Step) -> None:
        if step.reprompts is None or not self.frequency or step.number % self.frequency:
            return
        with step.timer("teacher_checks"):
            step.metrics |= teacher_checks(step.samples, step.rows, step.reprompts, self.roles, self.actor, self.encode)


def teacher_checks(
    samples: Sequence[Sample],
    rows: Sequence[Row],
    reprompts: Sequence[Reprompt],
    roles: ActorRolloutRefConfig,
    actor: WorkerGroup,
    encode: Encode,
) -> dict[str, float]:
    """The metrics of the module's head; one for which the batch has no example is left out.

    Args:
        samples: of a step.
        rows: one for each sample, in order.
        reprompts: likewise.
        roles: templates, token budgets.
        actor: the training ranks.
        encode: chat to token ids.
    """
    settings = roles.actor.self_distillation
    shown = demonstration_rows(samples, settings, encode)
    failed = _corrected_rows(samples, rows, reprompts, settings.success_reward_threshold)
    # One call for all forwards of the teacher: rows of the three kinds under indices of their own.
    base = len(samples)
    corrected = [_asked(row, row.teacher_prompt_ids, base + row.index) for row in failed]
    plain = [_asked(row, row.prompt_ids, 2 * base + row.index) for row in failed]
    limits = log_prob_limits(roles, roles.ref)
    teacher: dict[int, list[float]] = {}
    for part in actor.teacher_log_probs(
        plan_mini_batch([*shown, *corrected, *plain], actor.world_size, limits, limits)
    ):
        teacher |= part
    metrics: dict[str, float] = {}
    if shown:
        student: dict[int, list[float]] = {}
        asked = [row.as_anchor() for row in shown]
        for part in actor.compute_log_probs(plan_mini_batch(asked, actor.world_size, limits), "actor"):
            student |= part
        for name, log_probs in (("student", student), ("teacher", teacher)):
            means = [fmean(_written(row, log_probs[row.index])) for row in shown]
            metrics[f"self_distillation/{name}_demo_log_prob"] = fmean(means)
    if failed:
        lows = []
        for with_feedback, without in zip(corrected, plain, strict=True):
            pairs = zip(teacher[with_feedback.index], teacher[without.index], strict=True)
            lows.append(min(_written(with_feedback, [told - untold for told, untold in pairs])))
        metrics["self_distillation/feedback_effect"] = fmean(lows)
    return metrics


def _corrected_rows(
    samples: Sequence[Sample], rows: Sequence[Row], reprompts: Sequence[Reprompt], threshold: float
) -> list[Row]:
    """Rows of failed responses whose teacher sees feedback and no demonstration: `MAX_PROMPTS` from all over the
    batch."""
    failed = [
        row
        for sample, row, reprompt in zip(samples, rows, reprompts, strict=True)
        if sample.reward.score < threshold
        and row.is_taught
        and any(row.response_mask)
        and reprompt.sections.feedback is not None
        and reprompt.sections.demonstration is None
    ]
    return failed[:: max(1, -(-len(failed) // MAX_PROMPTS))]


def _asked(row: Row, teacher_prompt_ids: list[int], index: int) -> Row:
    """What a forward needs of a row, and no more: numbers for a loss must be in all rows of a pack or in none."""
    return Row(row.prompt_ids, row.response_ids, row.response_mask, teacher_prompt_ids=teacher_prompt_ids, index=index)


def _written(row: Row, values: Sequence[float]) -> list[float]:
    """The values of tokens that the policy wrote."""
    return [value for value, bit in zip(values, row.response_mask, strict=True) if bit]
