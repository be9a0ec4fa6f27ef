"""Supervised fine-tuning: the negative log-likelihood of the response."""

from __future__ import annotations

from torch import Tensor

from verl.algorithms.base import Algorithm, LossInputs, Support
from verl.algorithms.metrics import token_metrics
from verl.protocol import Metrics


class SFT(Algorithm):
    """`loss_mode=sft`: learns every response token, from data instead of rollouts.

    Metric: `train/loss`, nats per token.
    """

    needs_old_log_probs = False

    @property
    def couples_tokens(self) -> bool:
        return False

    @property
    def support(self) -> Support:
        return Support()

    def loss(self, inputs: LossInputs) -> tuple[Tensor, Metrics]:
        losses = -inputs.student.log_probs
        metrics = token_metrics({"train/loss": losses}, inputs.response_mask)
        return inputs.aggregate_response(losses, self.actor), metrics
