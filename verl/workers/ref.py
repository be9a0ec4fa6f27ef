"""The second model beside the student: SDPO's teacher, or the frozen reference of a KL term.

It is a role with a file of its own, but by default an object in the actor rank's process, sharded like the student: an
EMA is then an in-place lerp of local shards, without communication, and a trust region mixes two hidden states that
are already in place. Kinds (section 2 of the method, arXiv 2601.20802):

    ema, rate r       weights <- (1 - r) weights + r student, once per policy update (0: frozen, 1: the previous policy)
    trust-region, r   logits = (1 - r) frozen + r live student, both on the teacher's input

With LoRA there is no second model: the base is shared, and only the adapters' values are kept twice and exchanged for
the length of a teacher forward.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from verl.algorithms.head import Head, HiddenTerm
from verl.config.root import ActorRolloutRefConfig
from verl.models.full_weights import full_head
from verl.models.loading import FullModel, build_modules, read_weights
from verl.models.policy_model import PolicyModel
from verl.models.sharding import shard
from verl.protocol import Row
from verl.self_distillation.teacher import ema_update_, squared_distance
from verl.workers.process_group import Place


class RefWorker:
    """The teacher (or reference) of one rank.

    Args:
        config: model paths and the teacher's kind.
        place: device and mesh, shared with the student.
        student: the live policy.
        is_taught: whether this is a teacher that follows the student; otherwise it stays frozen.
        student_state: the weights the student was built from (rank 0), to be used again if the paths agree.
    """

    def __init__(
        self,
        config: ActorRolloutRefConfig,
        place: Place,
        student: PolicyModel,
        is_taught: bool,
        student_state: dict[str, Tensor],
    ) -> None:
        settings = config.actor.self_distillation
        self.rate = settings.teacher_update_rate if is_taught else 0.0
        self.is_trust_region = settings.teacher_regularization == "trust-region" and self.rate > 0
        self.num_updates = 0
        self.place = place
        self.student = student
        self.reshards = config.actor.fsdp_config.reshard_after_forward
        self._head: Head | None = None
        self._adapters: dict[str, Tensor] = {}
        if config.model.lora_rank:
            self.model = student
            self._adapters = {name: value.detach().clone() for name, value in _trainable(student)}
            if (path := config.ref.model.path) not in (None, config.model.path):
                raise ValueError(
                    f"ref.model.path={path}: with LoRA the teacher shares the student's base weights; leave it null or"
                    f" set model.lora_rank=0 (it is {config.model.lora_rank})"
                )
        else:
            self.model = _load(config, place, self._is_averaged, student_state)

    @property
    def is_frozen(self) -> bool:
        """Whether the weights here stand still (a trust region moves by the student's beside them)."""
        return self.is_trust_region or self.rate == 0

    @property
    def _is_averaged(self) -> bool:
        return not self.is_trust_region and 0 < self.rate < 1

    @contextmanager
    def evaluating(self) -> Iterator[PolicyModel]:
        """The model with the teacher's weights in it, to be evaluated until the end. A collective.

        Without `reshard_after_forward` its weights are gathered once for all evaluations.
        """
        with self._exchanged(), nullcontext() if self.reshards else self.model.kept_gathered():
            yield self.model

    @contextmanager
    def prepared(self) -> Iterator[None]:
        """For the length of a policy update, in which the teacher stands still: its head as one plain tensor.

        Without `reshard_after_forward` also all its other weights, unless they are the student's too (LoRA).
        A collective.
        """
        self._head = full_head(self.model, self.place.device, self.place.compute_dtype)
        try:
            with nullcontext() if self.reshards or self._adapters else self.model.kept_gathered():
                yield
        finally:
            self._head = None

    def states(self, packs: Sequence[Sequence[Row]]) -> dict[int, Tensor]:
        """Run the teacher on [teacher prompt | response] of taught rows. A collective.

        Args:
            packs: the rows of each forward; the same number on every rank, and the rows of a pack all taught.

        Returns:
            By `Row.index` the hidden states [response tokens, H] of this rank's rows, far smaller than logits.
        """
        with self.evaluating() as model:
            return self._states(model, packs)

    def live_states(self, packs: Sequence[Sequence[Row]]) -> dict[int, Tensor]:
        """The same of the live student, where a trust region asks for it; empty otherwise. A collective."""
        return self._states(self.student, packs) if self.is_trust_region else {}

    def _states(self, model: PolicyModel, packs: Sequence[Sequence[Row]]) -> dict[int, Tensor]:
        found: dict[int, Tensor] = {}
        for rows in packs:
            hidden = model.evaluate(self.place.pack(rows, for_teacher=True), lambda hidden, _: hidden)
            own = self.place.own(rows)
            parts = hidden.split([len(row.response_ids) for row in own]) if own else ()
            found |= {row.index: part for row, part in zip(own, parts, strict=True)}
        return found

    def terms(
        self, rows: Sequence[Row], own: dict[int, Tensor], live: dict[int, Tensor], live_head: Head
    ) -> list[HiddenTerm]:
        """The summands of the teacher's logits for the taught rows among `rows`; none if there is no taught row.

        Args:
            rows: this rank's of a micro-batch of the student.
            own: `states`.
            live: `live_states`.
            live_head: of the live student.
        """
        assert self._head is not None, "terms() is used within prepared()"
        taught = [row.index for row in rows if row.is_taught]
        if not taught:
            return []
        hidden = torch.cat([own[index] for index in taught])
        if not self.is_trust_region:
            return [HiddenTerm(1.0, hidden, self._head)]
        live_hidden = torch.cat([live[index] for index in taught])
        return [HiddenTerm(1 - self.rate, hidden, self._head), HiddenTerm(self.rate, live_hidden, live_head.detach())]

    def update(self) -> None:
        """Follow the student by one policy update (a frozen teacher and a trust region stay where they are)."""
        if self.is_frozen:
            return
        ema_update_(self._shards(), self._student_shards(), self.rate)
        self.num_updates += 1

    def distance(self) -> float:
        """Euclidean distance of the teacher's weights from the student's. A collective."""
        mine = squared_distance(self._shards(), self._student_shards())
        total = torch.tensor([mine], device=self.place.device)
        dist.all_reduce(total)
        return math.sqrt(total.item() / self.place.num_replicas)

    def state_dict(self) -> dict[str, Any]:
        """Weights (the live tensors: loading fills them in place) and the number of updates."""
        weights = self._adapters or {name: value.detach() for name, value in self.model.named_parameters()}
        return {"weights": weights, "num_updates": self.num_updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the numbers of a loaded `state_dict`; its tensors are already ours."""
        self.num_updates = int(state["num_updates"])

    def _shards(self) -> list[tuple[str, Tensor]]:
        return [(name, _local(value)) for name, value in (self._adapters.items() or _all_tensors(self.model))]

    def _student_shards(self) -> list[tuple[str, Tensor]]:
        source = _trainable(self.student) if self._adapters else _all_tensors(self.student)
        return [(name, _local(value)) for name, value in source]

    @contextmanager
    def _exchanged(self) -> Iterator[None]:
        """With LoRA: the teacher's adapters in the model and the student's in our hands, until the end."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        parameters = dict(_trainable(self.student)) if self._adapters else {}
        for name, mine in self._adapters.items():
            kept = _local(parameters[name]).clone()
            _local(parameters[name]).copy_(_local(mine))
            _local(mine).copy_(kept)


def _load(
    config: ActorRolloutRefConfig, place: Place, is_averaged: bool, student_state: dict[str, Tensor]
) -> PolicyModel:
    """A second sharded model. An average is kept in float32; what only stands still needs no more than the forward."""
    path = config.ref.model.path or config.model.path
    assert path is not None
    dtype = torch.float32 if is_averaged else place.compute_dtype
    state = student_state
    if place.rank == 0 and path != config.model.path:
        state = read_weights(config.model, path, dtype)
    modules = build_modules(config.model, path, dtype, place.attention).requires_grad_(False)
    offload = config.actor.self_distillation.teacher_cpu_offload
    reshards = config.actor.fsdp_config.reshard_after_forward
    return shard(FullModel(modules, state), place.mesh, place.device, place.compute_dtype, offload, reshards)


def _trainable(model: PolicyModel) -> list[tuple[str, Tensor]]:
    return [(name, value) for name, value in model.named_parameters() if value.requires_grad]


def _all_tensors(model: PolicyModel) -> list[tuple[str, Tensor]]:
    return [*model.named_parameters(), *model.named_buffers()]


def _local(tensor: Tensor) -> Tensor:
    tensor = tensor.detach()
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
