"""What an algorithm is: it says what it needs, and turns one micro-batch into a loss.

The worker shows it two distributions over the response tokens (student, teacher) and the per-token numbers of the
batch; the driver reads the `needs_*` properties and starts nothing else. Algorithms know neither ranks nor models.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor

from verl.algorithms.aggregation import token_weights, weighted_sum
from verl.config.actor import ActorConfig
from verl.config.root import AlgorithmConfig
from verl.protocol import MaskTotals, Metrics, Totals


@dataclass(frozen=True)
class Support:
    """What of two distributions a loss compares. The default is the sampled token alone."""

    topk: int | None = None
    """The student's so many most likely tokens (at most V)."""
    divergence: tuple[float, bool] | None = None
    """(alpha, normalize): `divergence` of the two over the whole vocabulary."""
    needs_entropy: bool = False
    """Entropies, and whether both find the same token most likely, for diagnostics."""
    needs_entropy_grad: bool = False
    """The student's entropy with its gradient, for the entropy bonus."""


@dataclass(frozen=True)
class TokenDistribution:
    """One model's view of the response tokens: log-probs over the full vocabulary, temperature applied, in nats."""

    log_probs: Tensor
    """[B, T] of the sampled token."""
    entropy: Tensor | None = None
    """[B, T]"""
    topk_log_probs: Tensor | None = None
    """[B, T, K] at the student's most likely tokens, in no order; they sum to less than 1."""


@dataclass(frozen=True)
class LossInputs:
    """Response tokens to be learnt, as rows by tokens.

    An algorithm that `couples_tokens` sees whole micro-batches: rows padded on the right, `response_mask` says which
    tokens the policy wrote. Any other sees them tile by tile, one token in a row (T = 1), so that the logits of a tile
    can be forgotten before those of the next are made.
    """

    student: TokenDistribution
    """With gradient."""
    response_mask: Tensor
    """[B, T], 0 or 1."""
    self_distillation_mask: Tensor
    """[B] float, 1 where the row has a target."""
    totals: Totals
    """Counts over the whole mini-batch, all ranks."""
    teacher: TokenDistribution | None = None
    """Meaningful in rows with a target only; None when there is no such row."""
    divergence: Tensor | None = None
    """[B, T] as `Support.divergence` asks, with gradient; meaningful where `teacher` is."""
    agreement: Tensor | None = None
    """[B, T] 1 where student and teacher find the same token most likely."""
    old_log_probs: Tensor | None = None
    """[B, T]; None: this is the first update after the rollout, and the student's own detached values serve."""
    rollout_log_probs: Tensor | None = None
    """[B, T] of the engine that wrote the response."""
    advantages: Tensor | None = None
    """[B, T]"""
    ref_log_probs: Tensor | None = None
    """[B, T] of the frozen reference."""
    response_weights: Tensor | None = None
    """[B, T] what a token's loss counts when all response tokens do; None: rows are whole, the masks say it."""
    taught_weights: Tensor | None = None
    """[B, T] the same when only tokens of rows that have a target count."""
    distillation_weights: Tensor | None = None
    """[B, T] `Row.distillation_weight` of a token's row; None: 1 for all."""
    routed_mask: Tensor | None = None
    """[B, T] 1 in rows that are `Row.is_routed`; None: there are none."""
    anchor_mask: Tensor | None = None
    """[B, T] response tokens of self-anchors, which neither of the other masks has; None: there are none."""
    anchor_weights: Tensor | None = None
    """[B, T] what a token's loss counts when only those do."""

    @property
    def taught_mask(self) -> Tensor:
        """[B, T]: response tokens of rows that have a target."""
        return self.response_mask * self.self_distillation_mask[:, None]

    def aggregate_response(self, losses: Tensor, actor: ActorConfig) -> Tensor:
        """Reduce [B, T] over all response tokens, as `loss_agg_mode` says."""
        if self.response_weights is not None:
            return weighted_sum(losses, self.response_weights)
        return weighted_sum(losses, configured_weights(self.response_mask, self.totals, self.totals.response, actor))

    def aggregate_taught(self, losses: Tensor, actor: ActorConfig) -> Tensor:
        """Reduce [B, T] over the response tokens of rows that have a target, as `loss_agg_mode` says."""
        if self.taught_weights is not None:
            return weighted_sum(losses, self.taught_weights)
        return weighted_sum(losses, configured_weights(self.taught_mask, self.totals, self.totals.taught, actor))

    def aggregate_anchored(self, losses: Tensor, actor: ActorConfig) -> Tensor:
        """Reduce [B, T] over the response tokens of self-anchors, as `loss_agg_mode` says."""
        if self.anchor_mask is None:
            return losses.new_zeros(())
        if self.anchor_weights is not None:
            return weighted_sum(losses, self.anchor_weights)
        return weighted_sum(losses, configured_weights(self.anchor_mask, self.totals, self.totals.anchored, actor))


def configured_weights(mask: Tensor, totals: Totals, counted: MaskTotals, actor: ActorConfig) -> Tensor:
    """`token_weights` of a mask [B, T] of whole rows, as the configuration says; `counted`: the totals of that mask."""
    divisor = actor.loss_scale_factor or totals.max_response_length
    return token_weights(mask, actor.loss_agg_mode, counted, divisor)


@dataclass(frozen=True)
class ResponseTokens:
    """The response tokens of a micro-batch, rows one after another without padding ("flat"): M tokens of B rows."""

    ids: Tensor
    """[M] long."""
    mask: Tensor
    """[M] float: 1 where the policy wrote the token."""
    lengths: tuple[int, ...]
    """Response tokens of each row: B numbers that add up to M."""
    is_taught: tuple[bool, ...]
    """Whether the row has a target: B values."""
    is_anchor: tuple[bool, ...] = ()
    """Whether the row, one with a target, is a self-anchor: B values; empty: none is."""
    old_log_probs: Tensor | None = None
    """[M], as what follows; see `LossInputs`."""
    rollout_log_probs: Tensor | None = None
    advantages: Tensor | None = None
    ref_log_probs: Tensor | None = None
    distillation_weights: Tensor | None = None
    routed_mask: Tensor | None = None


class Algorithm(ABC):
    """One way to learn from rollouts. A new one is one file and one row in `verl.registry.ALGORITHMS`."""

    needs_teacher: bool = False
    """Whether rows need a teacher prompt and the worker a teacher."""
    needs_advantages: bool = False
    """Whether scores have to be turned into advantages."""
    needs_untaught_rows: bool = True
    """Whether rows without a target take part in the loss; if not, their student forward is a waste."""
    anchored_fraction: float = 0.0
    """Share of the rows with a target that the student also runs on the teacher's prompt (`Row.as_anchor`)."""
    needs_old_log_probs: bool = True
    """Whether the loss depends on them when several updates follow one rollout."""

    @property
    def needs_reference(self) -> bool:
        """Whether the log-probs of a frozen reference have to come with the rows."""
        return self.actor.use_kl_loss or self.algorithm.use_kl_in_reward

    @property
    def couples_tokens(self) -> bool:
        """Whether a token's loss depends on other tokens of its row; the head is then multiplied once more."""
        return self.algorithm.rollout_correction.rollout_is == "sequence"

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
