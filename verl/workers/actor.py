"""The training role: one FSDP2 rank of the policy, with its optimizer and, beside it, its teacher.

The driver calls the same method on every rank; each does its part and meets the others in collectives. Everything
the ranks must agree on (how a batch is cut, what the loss is divided by) has been decided by the driver.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from itertools import islice
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor

from verl.algorithms.head import Head, HiddenTerm
from verl.algorithms.projection import TokenScores, score, student_log_probs
from verl.checkpoint import Commit
from verl.config.root import ActorRolloutRefConfig, AlgorithmConfig, TrainerConfig
from verl.config.slots import engines_sleep
from verl.models.device import DTYPES
from verl.models.full_weights import export_huggingface, full_head, full_weights
from verl.models.loading import FullModel, build_modules, load_tokenizer, read_weights
from verl.models.optimizer import make_adamw
from verl.models.policy_model import PolicyModel
from verl.models.sharding import shard
from verl.protocol import Metrics, MiniBatch, Row, add_metrics
from verl.registry import ALGORITHMS
from verl.single_controller.dispatch import Arguments, Results, dispatch
from verl.single_controller.group import Receiver
from verl.single_controller.worker import Worker
from verl.weights import buckets
from verl.workers.checkpoint_writer import CheckpointWriter
from verl.workers.far_engines import FarEngines
from verl.workers.process_group import Place, join, leave
from verl.workers.ref import RefWorker
from verl.workers.send_weights import Sent, WeightSender
from verl.workers.training_state import load_training_state, num_bytes, training_state
from verl.workers.update import Learner, Outcome, UpdateResult, response_tokens

logger = logging.getLogger(__name__)


class ActorWorker(Worker):
    """One rank of the policy.

    Args:
        config: model, optimizer, sharding, loss, teacher.
        algorithm: `algorithm.*`.
        trainer: device, ranks on a machine, seed.
        total_optimizer_steps: of the whole run; the end of the learning-rate schedule.
    """

    def __init__(
        self,
        config: ActorRolloutRefConfig,
        algorithm: AlgorithmConfig,
        trainer: TrainerConfig,
        total_optimizer_steps: int,
    ) -> None:
        self.config = config
        self.algorithm_config = algorithm
        self.trainer = trainer
        self.total_optimizer_steps = total_optimizer_steps
        self._learner: Learner | None = None
        self._ref: RefWorker | None = None  # the teacher, or without one the reference; saved with each checkpoint
        self._reference: RefWorker | None = None  # frozen: `_ref` itself where that stands still
        self._sender: WeightSender | None = None
        self._writer: CheckpointWriter | None = None
        self._results: list[UpdateResult] = []

    @property
    def learner(self) -> Learner:
        """The student and what moves it. Raises RuntimeError before `setup`."""
        if self._learner is None:
            raise RuntimeError("The actor has no model yet: call setup() first.")
        return self._learner

    @property
    def writer(self) -> CheckpointWriter:
        """Of checkpoints. Made with the first one, by all ranks at once; before that nothing is being written."""
        if self._writer is None:
            self._writer = CheckpointWriter()
        return self._writer

    @property
    def model(self) -> PolicyModel:
        """The student."""
        return self.learner.model

    @property
    def place(self) -> Place:
        """Where this rank computes, and with whom."""
        return self.learner.place

    @dispatch()
    def setup(self) -> None:
        """Join the other ranks; load, shard and prepare the models. A collective, as all methods here."""
        config, model, actor = self.config, self.config.model, self.config.actor
        if model.path is None:
            raise ValueError("actor_rollout_ref.model.path is not set; name the folder or hub id of the policy.")
        place = join(self.rank_info, self.trainer, config)
        torch.manual_seed(self.trainer.seed)
        dtype = DTYPES[actor.fsdp_config.model_dtype]
        state = read_weights(model, model.path, dtype) if place.rank == 0 else {}
        policy = shard(
            FullModel(build_modules(model, model.path, dtype, place.attention), state),
            place.mesh,
            place.device,
            place.compute_dtype,
            actor.fsdp_config.param_offload,
            actor.fsdp_config.reshard_after_forward,
        )
        algorithm = ALGORITHMS.load(actor.policy_loss.loss_mode)(actor, self.algorithm_config)
        if algorithm.needs_teacher or algorithm.needs_reference:
            self._ref = self._reference = RefWorker(config, place, policy, algorithm.needs_teacher, state)
        if algorithm.needs_reference and self._ref is not None and not self._ref.is_frozen:
            self._reference = RefWorker(config, place, policy, False, state)
        self._learner = Learner(
            place=place,
            model=policy,
            optimizer=make_adamw(policy.parameters(), actor.optim),
            algorithm=algorithm,
            actor=actor,
            temperature=config.rollout.temperature,
            total_steps=self.total_optimizer_steps,
            teacher=self._ref if algorithm.needs_teacher else None,
        )

    def close(self) -> None:
        """Leave the group; a worker that was never set up has none."""
        if self._writer is not None:
            self._writer.close()
        if self._sender is not None:
            self._sender.close()
        if self._learner is not None:
            leave(self._learner.place)

    @dispatch(Arguments.SPLIT, Results.RANK_ZERO)
    def update_policy(self, mini_batches: list[MiniBatch]) -> Metrics:
        """Learn from one rollout batch: an optimizer step for each mini-batch, then one update of the teacher.

        Args:
            mini_batches: this rank's parts, the same number on every rank.

        Returns:
            Metrics over all mini-batches and ranks. A mini-batch in which nothing counts, or that is not finite,
            changes nothing (see `update_results`); if that is true of all of them the teacher stays as it is.
        """
        teacher = self.learner.teacher
        with teacher.prepared() if teacher is not None else nullcontext():
            self._results = results = [self.learner.step(batch) for batch in mini_batches]
        parts = [result.metrics for result in results]
        num_skipped = sum(result.outcome is Outcome.NOT_FINITE for result in results)
        parts.append({"actor/skipped_steps": (float(num_skipped), 1.0)})
        if teacher is not None:
            if any(result.outcome is Outcome.DONE for result in results):
                teacher.update()
            parts.append(
                {
                    "self_distillation/skipped_steps": (float(num_skipped), 1.0),
                    "self_distillation/teacher_updates": (float(teacher.num_updates), 1.0),
                    "self_distillation/teacher_distance": (teacher.distance(), 1.0),
                }
            )
        self._leave_room()
        return self._over_ranks(add_metrics(parts))

    @dispatch()
    def update_results(self) -> list[UpdateResult]:
        """What became of each mini-batch of the last `update_policy`, with this rank's samples that were not finite."""
        return self._results

    @dispatch(Arguments.SPLIT)
    def compute_log_probs(self, batch: MiniBatch, of: Literal["actor", "ref"]) -> dict[int, list[float]]:
        """Log-probs of the response tokens of this rank's rows at the rollout temperature, in nats, by `Row.index`.

        Raises:
            ValueError: `of` is "ref" and there is no reference.
        """
        reference = self._reference
        if of == "ref" and (reference is None or not self.learner.algorithm.needs_reference):
            raise ValueError(
                "There is no reference model: neither use_kl_loss, use_kl_in_reward nor the algorithm asked for one."
            )
        temperature = self.config.rollout.temperature
        found: dict[int, list[float]] = {}
        with self.learner.gathered() if of == "actor" or reference is None else reference.evaluating() as model:
            for rows in batch.micro_batches:
                own = self.place.own(rows)
                ids = response_tokens(own, self.place.device).ids

                def log_probs(hidden: Tensor, head: Head, ids: Tensor = ids) -> Tensor:
                    return student_log_probs(hidden, head, ids, temperature)

                values = iter(model.evaluate(self.place.pack(rows), log_probs).tolist())
                found |= {row.index: list(islice(values, len(row.response_ids))) for row in own}
        return found

    @dispatch(Arguments.SPLIT)
    def compute_entropies(self, batch: MiniBatch) -> dict[int, tuple[list[float], list[float]]]:
        """The policy's log-probs of this rank's response tokens, and its entropies where it wrote them, from one
        forward: both at the rollout temperature, in nats, by `Row.index`."""
        temperature = self.config.rollout.temperature
        found: dict[int, tuple[list[float], list[float]]] = {}
        with self.learner.gathered() as model:
            for rows in batch.micro_batches:
                own = self.place.own(rows)
                tokens = response_tokens(own, self.place.device)

                def read(hidden: Tensor, head: Head, ids: Tensor = tokens.ids) -> TokenScores:
                    return score([HiddenTerm(1.0, hidden, head)], ids, temperature, needs_entropy=True)

                scores = model.evaluate(self.place.pack(rows), read)
                assert scores.entropy is not None
                parts = (values.split(tokens.lengths) for values in (scores.log_probs, scores.entropy))
                for row, log_probs, entropies in zip(own, *parts, strict=True):
                    found[row.index] = (log_probs.tolist(), entropies.tolist())
        return found

    @dispatch(Arguments.SPLIT)
    def teacher_match(self, batch: MiniBatch) -> dict[int, tuple[bool, float]]:
        """How well the teacher, given its own prompt, predicts the responses of taught rows, by `Row.index`.

        Returns:
            Whether every token the policy wrote is the teacher's most likely one, and the mean log-prob of those tokens
            (nats; at the rollout temperature, like the loss).
        """
        found: dict[int, tuple[bool, float]] = {}
        for row, is_best, log_probs in self._teacher_scores(batch.teacher_packs):
            bits = torch.tensor(row.response_mask, device=log_probs.device)
            mean = (log_probs * bits).sum() / bits.sum().clamp(min=1)
            found[row.index] = (bool((is_best | (bits == 0)).all()), mean.item())
        return found

    @dispatch(Arguments.SPLIT)
    def teacher_log_probs(self, batch: MiniBatch) -> dict[int, list[float]]:
        """Log-probs (nats, at the rollout temperature) of taught rows' responses under the teacher, given its own
        prompts, by `Row.index`."""
        return {row.index: log_probs.tolist() for row, _, log_probs in self._teacher_scores(batch.teacher_packs)}

    def _teacher_scores(self, packs: list[list[Row]]) -> Iterator[tuple[Row, Tensor, Tensor]]:
        """Each row of the packs with [response tokens] whether the teacher finds none more likely, and log-probs."""
        teacher = self.learner.teacher
        if teacher is None:
            raise ValueError(f"loss_mode={self.config.actor.policy_loss.loss_mode} has no teacher.")
        device = self.place.device
        live_head = full_head(self.model, device, self.place.compute_dtype)
        with teacher.prepared():
            own, live = teacher.states(packs), teacher.live_states(packs)
            for rows in filter(None, map(self.place.own, packs)):
                tokens = response_tokens(rows, device)
                scores = score(teacher.terms(rows, own, live, live_head), tokens.ids, self.config.rollout.temperature)
                parts = (values.split(tokens.lengths) for values in (scores.is_most_likely, scores.log_probs))
                yield from zip(rows, *parts, strict=True)

    @dispatch(results=Results.RANK_ZERO)
    def publish_weights(
        self, version: int, receiver: Receiver, bucket_bytes: int, timeout: float | None = None
    ) -> Sent:
        """Send all weights to engines, gathered one by one, in buckets; an engine may take `timeout` s for each.

        Weights travel under their Hugging Face names in the type of the forward, adapters merged, a tied head twice.
        """
        weights = full_weights(self.model, self.config.model, self.place.device, self.place.compute_dtype)
        if self.place.rank > 0:
            for _ in weights:  # gathering is a collective
                pass
            self._leave_room()
            return Sent([], {})
        if self._sender is None:
            self._sender = WeightSender(bucket_bytes, FarEngines(self.rank_info.master_addr, self.place.device))
        sent = self._sender.send(buckets(weights, bucket_bytes), receiver, timeout)
        self._leave_room()
        logger.info("Weights %d sent in %d buckets.", version, len(sent.digests))
        return sent

    @dispatch(results=Results.RANK_ZERO)
    def probe_log_probs(self, token_ids: Sequence[int]) -> list[float]:
        """log p(token[i] | tokens before it) for i = 1..n-1 at temperature 1, in nats: syncs are checked against it.

        One thread: engines on the same machine are still loading, and threads that meet after every operation crawl
        once there are more of them than cores (each wait may cost the scheduler's slice, some milliseconds).
        """
        ids = list(token_ids)
        row = Row(prompt_ids=ids[:1], response_ids=ids[1:], response_mask=[1] * (len(ids) - 1))
        targets = response_tokens(self.place.own([row]), self.place.device).ids
        num_threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return self.model.evaluate(
                self.place.pack([row]), lambda hidden, head: student_log_probs(hidden, head, targets, 1.0)
            ).tolist()
        finally:
            torch.set_num_threads(num_threads)

    @dispatch()
    def save_checkpoint(self, path: str, commit: Commit | None = None, in_background: bool = False) -> None:
        """Write weights, optimizer, schedule, random state (`<path>/policy`) and the teacher (`<path>/teacher`).

        Args:
            path: the folder.
            commit: what makes a checkpoint of it when all ranks have written.
            in_background: wait only for a copy of the state in host memory; `checkpoint_is_written` tells the rest.
        """
        self.writer.save(path, training_state(self.learner, self._ref), commit, in_background)

    @dispatch()
    def checkpoint_is_written(self, wait: bool = False) -> bool:
        """Whether this rank's part of the last checkpoint is done. Raises CheckpointError if writing it failed."""
        return self._writer is None or self._writer.is_done(wait)

    @dispatch()
    def checkpoint_bytes(self, with_export: bool = False) -> int:
        """Bytes of this rank's part of a checkpoint, and of its part of the Hugging Face export beside it."""
        states = training_state(self.learner, self._ref)
        return num_bytes(states) + (num_bytes(dict(self.model.named_parameters())) if with_export else 0)

    @dispatch()
    def load_checkpoint(self, path: str) -> None:
        """Continue from `save_checkpoint`, whatever the number of ranks was then."""
        load_training_state(path, self.learner, self._ref, self.config.model.path)

    @dispatch()
    def export_huggingface(self, path: str) -> None:
        """Write a folder that `from_pretrained` loads: weights (adapters merged), configuration, tokenizer."""
        model = self.config.model
        dtype = DTYPES[self.config.actor.fsdp_config.model_dtype]
        export_huggingface(self.model, model, self.place.device, dtype, path, self.place.rank == 0)
        if self.place.rank == 0:
            load_tokenizer(str(model.tokenizer_path or model.path), model.trust_remote_code).save_pretrained(path)
        dist.barrier()

    def _leave_room(self) -> None:
        """Where engines sleep during the update, give memory that torch keeps for later back to the GPU: they wake."""
        if engines_sleep(self.config, self.trainer, self.place.device.type == "cuda"):
            torch.cuda.empty_cache()

    def _over_ranks(self, metrics: Metrics) -> Metrics:
        parts: list[Metrics] = [{}] * self.place.world_size
        dist.all_gather_object(parts, metrics)
        return add_metrics(parts)
