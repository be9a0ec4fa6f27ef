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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from verl.algorithms.projection import HiddenTerm
from verl.config.root import ActorRolloutRefConfig
from verl.models.collate import Sequences, collate
from verl.models.full_weights import head_weight
from verl.models.loading import FullModel, build_modules, read_weights
from verl.models.policy_model import PolicyModel
from verl.models.sharding import shard
from verl.protocol import Row
from verl.self_distillation.teacher import ema_update_, squared_distance
from verl.workers.process_group import Place

Result = TypeVar("Result")


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
        self._head: Tensor | None = None
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
    def _is_averaged(self) -> bool:
        return not self.is_trust_region and 0 < self.rate < 1

    def evaluate(self, sequences: Sequences, fn: Callable[[Tensor, Tensor], Result]) -> Result:
        """`PolicyModel.evaluate` with the teacher's weights. A collective."""
        with self._exchanged():
            return self.model.evaluate(sequences, fn)

    @contextmanager
    def head_gathered(self) -> Iterator[None]:
        """Keep the teacher's head as one plain tensor for the length of an update, gathered once. A collective."""
        self._head = head_weight(self.model, self.place.device, self.place.compute_dtype)
        try:
            yield
        finally:
            self._head = None

    def terms(self, rows: Sequence[Row], num_response_tokens: int) -> Callable[[Tensor], list[HiddenTerm]]:
        """Run the teacher on [teacher prompt | response] of taught rows. A collective, with or without rows.

        Returns:
            A function from the live student's head [V, H] to the summands of the teacher's logits: that head is at
            hand only inside the student's forward, where the loss runs. No rows, no summands.
        """
        assert self._head is not None, "terms() is used within head_gathered()"
        head, rate = self._head, self.rate
        sequences = collate(rows, self.place.device, True, num_response_tokens)
        own = self.evaluate(sequences, lambda hidden, _: hidden)
        if not self.is_trust_region:
            return lambda _: [HiddenTerm(1.0, own, head)] if rows else []
        live = self.student.evaluate(sequences, lambda hidden, _: hidden)
        return lambda live_head: (
            [HiddenTerm(1 - rate, own, head), HiddenTerm(rate, live, live_head.detach())] if rows else []
        )

    def update(self) -> None:
        """Follow the student by one policy update (a frozen teacher and a trust region stay where they are)."""
        if self.is_trust_region or self.rate == 0:
            return
        ema_update_(self._shards(), self._student_shards(), self.rate)
        self.num_updates += 1

    def distance(self) -> float:
        """Euclidean distance of the teacher's weights from the student's. A collective."""
        mine = squared_distance(self._shards(), self._student_shards())
        total = torch.tensor([mine], device=self.place.device)
        dist.all_reduce(total)
        return math.sqrt(total.item())

    def state_dict(self) -> dict[str, object]:
        """Weights (the live tensors: loading fills them in place) and the number of updates."""
        weights = self._adapters or {name: value.detach() for name, value in self.model.named_parameters()}
        return {"weights": weights, "num_updates": self.num_updates}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Take over the numbers of a loaded `state_dict`; its tensors are already ours."""
        self.num_updates = int(state["num_updates"])  # type: ignore[call-overload]

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
    return shard(FullModel(modules, state), place.mesh, place.device, place.compute_dtype, offload)


def _trainable(model: PolicyModel) -> list[tuple[str, Tensor]]:
    return [(name, value) for name, value in model.named_parameters() if value.requires_grad]


def _all_tensors(model: PolicyModel) -> list[tuple[str, Tensor]]:
    return [*model.named_parameters(), *model.named_buffers()]


def _local(tensor: Tensor) -> Tensor:
    tensor = tensor.detach()
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
