"""The turns at one question: what is shown, what comes back, what it is worth."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from recipes.multiturn_baseline.prompts import TEMPLATES, Attempt, fit_context
from recipes.multiturn_baseline.settings import Settings
from recipes.test_time.base_model import BaseModel
from recipes.test_time.judge import Judge, score_item
from recipes.test_time.question import question_id
from verl.evaluation import attempts as log_format
from verl.trainer.sampling import derive_seed
from verl.types import Message, Prompt, Request, Sample, Sampling


class Conversation:
    """The turns at one question.

    Args:
        settings: of the run.
        rows: prompts of the question's folder by split.
        model: writes and scores.
        encode: chat to token ids, with the generation prompt.
        decode: token ids to text without special tokens.
    """

    def __init__(
        self,
        settings: Settings,
        rows: dict[str, Prompt],
        model: BaseModel,
        encode: Callable[[list[Message]], list[int]],
        decode: Callable[[list[int]], str],
    ) -> None:
        self.settings = settings
        self.row = rows[settings.split]
        self.model = model
        self.encode = encode
        self.decode = decode
        self.judge = Judge(rows["test"], model.rewards)
        self.template = TEMPLATES[settings.template]
        self.attempts: list[Attempt] = []
        self.num_dropped = 0

    def resume(self, turns: Sequence[log_format.Attempt]) -> None:
        """Take over the turns of a log."""
        for turn in turns:
            self.attempts.append(Attempt(turn.extras["response"], turn.extras["metrics"]["feedback"]))
            self.num_dropped = turn.extras["num_dropped"]

    def next_turn(self) -> log_format.Attempt:
        """Ask once more, with what the attempts before taught."""
        begin, settings = time.time(), self.settings
        turn = len(self.attempts) + 1
        context = fit_context(
            self.row.messages,
            self.attempts,
            self.template,
            self.encode,
            settings.max_context_len,
            self.num_dropped,
        )
        self.num_dropped = context.num_dropped
        sampling = Sampling(settings.temperature, settings.top_p, settings.top_k, settings.max_new_tokens)
        seed = derive_seed(settings.seed, "multi-turn", turn)
        (rollout,) = self.model.write([Request(turn, context.token_ids, sampling, seed)])
        text, is_truncated = self.decode(rollout.response_ids), rollout.finish_reason == "length"
        (reward,) = self.model.score([score_item(turn, self.row, text, is_truncated)])
        (is_solved,) = self.judge.solved([Sample("0", self.row, rollout, text, reward)])
        self.attempts.append(Attempt(text, reward.feedback))
        metrics = {"score": reward.score, "acc": reward.acc, "feedback": reward.feedback, "error": reward.error}
        return log_format.Attempt(
            question_id(settings.data_dir),
            settings.seed,
            attempt=turn,
            reward=reward.acc if settings.dense_reward else reward.score,
            solved=is_solved,
            timestamp=time.time(),
            extras={
                "run_name": settings.run_name,
                "split": settings.split,
                "turn": turn,
                "prompt": context.messages,
                "response": text,
                "prompt_tokens": len(context.token_ids),
                "response_tokens": len(rollout.response_ids),
                "num_dropped": context.num_dropped,
                "duration_sec": time.time() - begin,
                "metrics": reward.extras | metrics,
            },
        )
