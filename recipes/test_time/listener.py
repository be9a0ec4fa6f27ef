"""Writes every attempt of a run to its log, and ends the run when one is right or the budget is spent.

The log and the checkpoints tell one story: a run that resumes drops the attempts that came after its checkpoint and
makes them again, so the numbers go on and no attempt is in the log twice.
"""

from __future__ import annotations

import logging
import time

from recipes.test_time.judge import Judge
from verl.evaluation.attempt_writer import AttemptWriter
from verl.evaluation.attempts import Attempt
from verl.trainer.listeners import BaseListener, Step

logger = logging.getLogger("verl.recipes.test_time")


class LogAttempts(BaseListener):
    """See the module.

    Args:
        log: of this run alone.
        judge: says what solves the question.
        question_id: in the log.
        seed: of the run.
        budget: attempts in all; the last step may make more, which are not looked at.
    """

    def __init__(self, log: AttemptWriter, judge: Judge, question_id: str, seed: int, budget: int) -> None:
        self.log = log
        self.judge = judge
        self.run = (question_id, seed)
        self.budget = budget

    def before_first(self, step: Step) -> None:
        before = self.log.num_attempts(*self.run)
        self.log.keep(lambda attempt: attempt.extras["step"] <= step.number)
        if dropped := before - self.log.num_attempts(*self.run):
            logger.warning("%d attempts came after step %d, which is resumed from: made again", dropped, step.number)

    def after(self, step: Step) -> None:
        question_id, seed = self.run
        first = self.log.num_attempts(question_id, seed) + 1
        samples = step.samples[: self.budget + 1 - first]
        solved = self.judge.solved(samples)
        now = time.time()
        self.log.append(
            [
                Attempt(
                    question_id,
                    seed,
                    attempt=number,
                    reward=sample.reward.score,
                    solved=is_solved,
                    timestamp=now,
                    extras={
                        "step": step.number,
                        "response": sample.response_text,
                        "acc": sample.reward.acc,
                        "feedback": sample.reward.feedback,
                    },
                )
                for number, (sample, is_solved) in enumerate(zip(samples, solved, strict=True), first)
            ]
        )
        num_attempts = self.log.num_attempts(question_id, seed)
        step.metrics |= {"test_time/attempts": num_attempts, "test_time/solved": sum(solved)}
        if any(solved):
            step.stop(f"attempt {first + solved.index(True)} solved {question_id}")
        elif num_attempts >= self.budget:
            step.stop(f"{question_id} is not solved in {num_attempts} attempts, the budget")
