"""What an algorithm is: it says what it needs, and turns one micro-batch into a loss.

The worker shows it two distributions over the response tokens (student, teacher) and the per-token numbers of the
batch; the driver reads the `needs_*` properties and starts nothing else. Algorithms know neither ranks nor models.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor

from verl.algorithms.aggregation import aggregate
from verl.config.actor import ActorConfig
from verl.config.root import AlgorithmConfig
from verl.protocol import Metrics, Totals


@dataclass(frozen=True)
class Support:
    """What of a distribution a loss compares. The default is the sampled token alone."""

    topk: int | None = None
    """The student's so many most likely tokens (at most V)."""
    needs_all: bool = False
    """The whole vocabulary."""
    needs_entropy: bool = False
    """Entropy and most likely token of every position, for diagnostics."""
    needs_entropy_grad: bool = False
    """Entropy with its gradient, for the entropy bonus."""


@dataclass(frozen=True)
class TokenDistribution:
    """One model's view of the response tokens: log-probs over the full vocabulary, temperature applied, in nats."""

    log_probs: Tensor
    """[B, T] of the sampled token."""
    entropy: Tensor | None = None
    """[B, T]"""
    argmax_ids: Tensor | None = None
    """[B, T] most likely token."""
    topk_ids: Tensor | None = None
    """[B, T, K] the student's most likely tokens, best first."""
    topk_log_probs: Tensor | None = None
    """[B, T, K] at `topk_ids`; they sum to less than 1."""
    all_log_probs: Tensor | None = None
    """[B, T, V]"""


@dataclass(frozen=True)
class LossInputs:
    """One micro-batch. Rows are padded on the right; `response_mask` says which tokens the policy wrote."""

    student: TokenDistribution
    response_mask: Tensor
    """[B, T], 0 or 1."""
    self_distillation_mask: Tensor
    """[B] float, 1 where the row has a target."""
    totals: Totals
    """Counts over the whole mini-batch, all ranks."""
    teacher: TokenDistribution | None = None
    """Meaningful in rows with a target only; None when the micro-batch has no such row."""
    old_log_probs: Tensor | None = None
    """[B, T]; None: this is the first update after the rollout, and the student's own detached values serve."""
    rollout_log_probs: Tensor | None = None
    """[B, T] of the engine that wrote the response."""
    advantages: Tensor | None = None
    """[B, T]"""
    ref_log_probs: Tensor | None = None
    """[B, T] of the frozen reference."""

    @property
    def taught_mask(self) -> Tensor:
        """[B, T]: response tokens of rows that have a target."""
        return self.response_mask * self.self_distillation_mask[:, None]

    def aggregate_response(self, losses: Tensor, actor: ActorConfig) -> Tensor:
        """Reduce [B, T] over all response tokens, as `loss_agg_mode` says."""
        divisor = actor.loss_scale_factor or self.totals.max_response_length
        return aggregate(losses, self.response_mask, actor.loss_agg_mode, self.totals.response, divisor)

    def aggregate_taught(self, losses: Tensor, actor: ActorConfig) -> Tensor:
        """Reduce [B, T] over the response tokens of rows that have a target, as `loss_agg_mode` says."""
        divisor = actor.loss_scale_factor or self.totals.max_response_length
        return aggregate(losses, self.taught_mask, actor.loss_agg_mode, self.totals.taught, divisor)


class Algorithm(ABC):
    """One way to learn from rollouts. A new one is one file and one row in `verl.registry.ALGORITHMS`."""

    needs_teacher: bool = False
    """Whether rows need a teacher prompt and the worker a teacher."""
    needs_advantages: bool = False
    """Whether scores have to be turned into advantages."""
    needs_untaught_rows: bool = True
    """Whether rows without a target take part in the loss; if not, their student forward is a waste."""
    needs_old_log_probs: bool = True
    """Whether the loss depends on them when several updates follow one rollout."""

    def __init__(self, actor: ActorConfig, algorithm: AlgorithmConfig) -> None:
        self.actor = actor
        self.algorithm = algorithm

    @property
    def support(self) -> Support:
        """What `loss` reads of student and teacher."""
        return Support(needs_entropy=True, needs_entropy_grad=self.actor.entropy_coeff != 0)

    @abstractmethod
    def loss(self, inputs: LossInputs) -> tuple[Tensor, Metrics]:
        """A scalar whose sum over micro-batches and ranks is the mini-batch's loss, and metrics as sums and counts."""
