"""`SDPOTrainer`: TRL's GRPOTrainer with self-distillation (SDPO, arXiv 2601.20802) in place of, or beside, its loss.

TRL generates, scores, steps and saves. What is added: the feedback of rewards (`rewards`), the teacher's prompts of a
scored batch (`rollouts`), the loss of a micro-batch from one forward (`step`, `forward`), the teacher (`kinds`), and
its part of a checkpoint (`checkpoints`). Selection, templates, loss and averages are those of `verl`.

`GRPOTrainer` is looked up when the name `SDPOTrainer` is first used, so that a library which replaces it (Unsloth's
`PatchFastRL`) is in time if it is called before.
"""

from __future__ import annotations

import copy
import importlib
import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn
from transformers import TrainerCallback

from sdpo_trainer.arguments import own_arguments, teacher_period
from sdpo_trainer.checkpoints import TeacherCheckpoints
from sdpo_trainer.config import SDPOConfig
from sdpo_trainer.forward import AfterBackbone, add_backbone_exit, check_model
from sdpo_trainer.kinds import make_teacher
from sdpo_trainer.rewards import join_feedback, wrap_rewards
from sdpo_trainer.rollouts import PromptEncoder, Texts, teacher_tensors, write_prompts
from sdpo_trainer.sharded import is_sharded
from sdpo_trainer.step import Batch, Distillation, MicroBatch, count, learnt_tokens, totals
from sdpo_trainer.watch import IdleWatch
from verl.algorithms.head import Head, HiddenTerm
from verl.protocol import Metrics, Totals, add_metrics, mean_metrics

if TYPE_CHECKING:
    from trl.trainer.grpo_config import GRPOConfig

logger = logging.getLogger(__name__)
STATIC_FEEDBACK = "privileged_context"
"""Column of the data set that stands in where no reward function gives feedback, as in TRL's trainer."""
_METRIC_NAMES = {"sdpo/loss": "actor/pg_loss", "sdpo/kl_mean": "self_distillation/divergence"}
"""Names of the published package for metrics of the core; 0 in a step in which nothing is learnt."""


@dataclass
class _Scored:
    """A rank's rollout batch as it was scored; rewards are those of all ranks."""

    texts: Texts
    gives_feedback: bool
    static_feedback: list[str | None]
    rewards: Tensor
    """[all ranks' rows, reward functions]"""


@dataclass
class _Window:
    """The micro-batches of one optimizer step. They are prepared together, since they share the loss's divisor."""

    generation_batches: list[Any]
    first_step: int = 0
    inputs: list[Batch] = field(default_factory=list)
    counted: Totals | None = None
    metrics: list[Metrics] = field(default_factory=list)


class _TeacherUpdates(TrainerCallback):
    """Moves the teacher after the last optimizer step on a rollout batch; not after a step that was skipped."""

    def __init__(self, trainer: SDPOMixin) -> None:
        self.trainer = trainer

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.trainer.ema_callback is not None and not self.trainer.accelerator.optimizer_step_was_skipped:
            self.trainer.ema_callback.step(state.global_step)


class SDPOMixin(TeacherCheckpoints):
    """What `SDPOTrainer` adds to `GRPOTrainer`.

    Args:
        model: a transformers model, a PEFT model, or the name of a model.
        args: TRL's `GRPOConfig`; not changed. `beta` is 0 while SDPO is enabled: the teacher regularises.
        sdpo_config: None is `SDPOConfig()`.
        processing_class: the tokenizer; not changed.
        reward_funcs: one or several; what they may return, see `sdpo_trainer.rewards`.
        train_dataset: with a column `prompt`, as for GRPOTrainer.
        eval_dataset: the same.
        **kwargs: for GRPOTrainer (`peft_config`, `callbacks`, `optimizers`, ...).
    """

    _tag_names = ["trl", "sdpo"]  # noqa: RUF012
    _name = "SDPO"
    _paper: dict[str, str] = {}  # noqa: RUF012

    def __init__(
        self,
        model: Any,
        args: GRPOConfig | None = None,
        sdpo_config: SDPOConfig | None = None,
        processing_class: Any = None,
        reward_funcs: Any = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        **kwargs: Any,
    ) -> None:
        config = SDPOConfig() if sdpo_config is None else sdpo_config
        if not isinstance(config, SDPOConfig):
            raise TypeError(
                f"sdpo_config is a {type(config).__module__}.{type(config).__name__}; pass sdpo_trainer.SDPOConfig(...)"
                " (SDPOConfig.from_trl splits one of TRL's)"
            )
        self.sdpo_config = config
        self._distils = config.enabled and config.distillation_weight > 0
        super().__init__(
            model=model,
            args=own_arguments(args, config if config.enabled else None),
            processing_class=copy.deepcopy(processing_class),  # TRL sets its pad token
            reward_funcs=wrap_rewards(reward_funcs, config.on_reward_error),
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            **kwargs,
        )
        self.ema_callback = None
        if self._distils:
            self._set_up_distillation()

    def _set_up_distillation(self) -> None:
        config, args = self.sdpo_config, self.args
        if self._is_vlm:
            raise ValueError(f"{type(self.processing_class).__name__} is of images and text; SDPOTrainer works on text")
        lm: Any = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        if not any(hasattr(parameter, "ds_id") for parameter in lm.parameters()):
            check_model(lm)
        if config.distillation_weight == 1 and self.aux_loss_enabled:
            logger.warning(
                "router_aux_loss_coef=%g has no effect while distillation_weight is 1: the experts are not balanced.",
                self.router_aux_loss_coef,
            )
        self._teacher = make_teacher(config, self.model, teacher_period(args, config), self.accelerator)
        self.ref_model, self.ema_callback = self._teacher.ref_model, self._teacher.callback
        add_backbone_exit(lm)
        self._max_length = getattr(lm.config.get_text_config(), "max_position_embeddings", None)
        self._distillation = Distillation(config, self.temperature)
        self._watch = IdleWatch(config.diagnostics_warning_interval, config.diagnostics_flat_tolerance)
        self._window = _Window([])
        self._leave: AfterBackbone | None = None
        self.add_callback(_TeacherUpdates(self))

    # ---- A rollout batch ----

    def _set_signature_columns_if_needed(self) -> None:
        """The columns that `remove_unused_columns=True` leaves."""
        super()._set_signature_columns_if_needed()
        if STATIC_FEEDBACK not in self._signature_columns:
            self._signature_columns.append(STATIC_FEEDBACK)

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> Tensor:
        rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        if self._distils:
            tellers = [function for function in self.reward_funcs if hasattr(function, "gives_feedback")]
            told = [function.feedback for function in tellers]
            self._scored = _Scored(
                Texts(
                    prompts=list(prompts),
                    completions=self._tokenizer.batch_decode(completion_ids_list, skip_special_tokens=True),
                    feedback=join_feedback(told) if told else [None] * len(prompts),
                ),
                gives_feedback=any(function.gives_feedback for function in tellers),
                static_feedback=[text if isinstance(text := row.get(STATIC_FEEDBACK), str) else None for row in inputs],
                rewards=rewards,
            )
        return rewards

    def _generate_and_score_completions(self, inputs: Any) -> Batch:
        batch: Batch = super()._generate_and_score_completions(inputs)
        return batch | self._teacher_inputs(batch) if self._distils else batch

    def _teacher_inputs(self, batch: Batch) -> Batch:
        """The teacher's prompts of this rank's rows, chosen and written over those of all ranks."""
        mode = "train" if self.model.training else "eval"
        group_size = self.num_generations if mode == "train" else self.num_generations_eval
        scored, config = self._scored, self.sdpo_config.core()
        by_function = scored.rewards * self.reward_weights.to(scored.rewards.device)
        total = by_function.nansum(dim=1)  # as TRL adds them
        total[scored.rewards.isnan().all(dim=1)] = math.nan
        rewards = total.tolist()
        texts = self._texts_of_all(scored)
        arguments = {"chat_template": self.chat_template, "tools": self.tools or None, **self.chat_template_kwargs}
        encode = PromptEncoder(
            self.processing_class,
            not isinstance(texts.prompts[0], str),
            arguments | self.sdpo_config.apply_chat_template_kwargs,
        )
        reprompts = write_prompts(texts, rewards, group_size, config, encode, seed=self.state.global_step)
        num_own = len(batch["completion_ids"])
        first = self.accelerator.process_index * num_own
        pad_id = self._tokenizer.pad_token_id
        own_prompts = reprompts.teacher_prompt_ids[first : first + num_own]
        added = teacher_tensors(own_prompts, batch, pad_id, self._max_length)

        mask = reprompts.self_distillation_mask
        metrics = reprompts.metrics | {"sdpo/teacher_coverage": sum(mask) / len(mask)}
        metrics["self_distillation/over_length_fraction"] = self._over_length_fraction(batch | added)
        for name, value in metrics.items():
            self._metrics[mode][name].append(value)
        if mode == "train":
            groups = [rewards[start : start + group_size] for start in range(0, len(rewards), group_size)]
            self._watch.see(groups, self.sdpo_config.success_reward_threshold, int(sum(mask)))
        return added

    def _texts_of_all(self, scored: _Scored) -> Texts:
        """The texts of all ranks. The static column stands in for feedback where no function on any rank gave any."""
        own = scored.texts
        if not any(gather_object([scored.gives_feedback])):
            own = replace(own, feedback=scored.static_feedback)
        return Texts(gather_object(own.prompts), gather_object(own.completions), gather_object(own.feedback))

    def _over_length_fraction(self, batch: Batch) -> float:
        """Share of the tokens of rows with a target that lie beyond the model's length behind the teacher's prompt."""
        written = (batch["completion_mask"] * batch["self_distillation_mask"][:, None]).sum()
        kept = learnt_tokens({name: value for name, value in batch.items() if name != "tool_mask"}).sum()
        all_written, all_kept = self.accelerator.gather(torch.stack([written, kept])[None]).sum(0).tolist()
        return (all_written - all_kept) / max(all_written, 1)

    # ---- An optimizer step ----

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device) -> Any:
        """The generation batches behind the micro-batches of the next optimizer step."""
        batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if self._distils:
            if self._step == 0:  # after a resume TRL would count its generations from 0
                self._step = self.state.global_step * self.args.gradient_accumulation_steps
            self._window = _Window(list(batches))
        return batches, num_items

    def _prepare_inputs(self, generation_batch: Any) -> Batch:
        if not (self._distils and self.model.training):
            return super()._prepare_inputs(generation_batch)
        window = self._window
        if not window.inputs:
            # Not in get_batch_samples: a resumed run has its random numbers back only after it.
            window.first_step = self._step
            for number, each in enumerate(window.generation_batches):
                self._step = window.first_step + number
                window.inputs.append(super()._prepare_inputs(each))
            self._step = window.first_step
            window.counted = self._count(window.inputs)
        return window.inputs[self._step - window.first_step]

    def _count(self, batches: Sequence[Batch]) -> Totals:
        """What the loss of these micro-batches on all ranks is divided by; one collective."""
        own = torch.tensor([count([learnt_tokens(batch) for batch in batches])], device=self.accelerator.device)
        num_tokens, num_rows = self.accelerator.gather(own).sum(0).tolist()
        return totals(num_tokens, num_rows, self.max_completion_length)

    def compute_loss(
        self, model: nn.Module, inputs: Batch, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """This micro-batch's share: (1 - w) GRPO + w SDPO from one forward, w the `distillation_weight`."""
        if not self._distils:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        if return_outputs:
            raise ValueError("SDPOTrainer makes no logits, so return_outputs=True cannot be had")
        weight = self.sdpo_config.distillation_weight
        counted = self._window.counted if self.model.training else self._count([inputs])
        assert counted is not None  # made with the inputs
        part = MicroBatch.of(inputs, only_learnt_rows=weight == 1)
        terms = self._teacher_terms(model, part) if counted.taught.num_tokens else []

        def leave(hidden: Tensor, head: Head) -> tuple[Tensor, Metrics]:
            return self._distillation.loss(part, part.states(hidden), head, terms, counted)

        if weight == 1:
            with self.accelerator.autocast():
                loss, metrics = model(**part.student_inputs, after_backbone=leave)
        else:
            with self._leaving_by(leave):
                policy_loss = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
            loss, metrics = self._left
        loss = loss * self.accelerator.num_processes  # a sum over ranks, whose gradients are averaged
        self._log_loss(metrics)
        return loss if weight == 1 else (1 - weight) * policy_loss + weight * loss

    @contextmanager
    def _leaving_by(self, leave: AfterBackbone) -> Iterator[None]:
        self._leave = leave
        try:
            yield
        finally:
            self._leave = None

    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: Tensor, attention_mask: Tensor, logits_to_keep: int, *args: Any, **kwargs: Any
    ) -> Any:
        """For the GRPO loss; while `compute_loss` waits for both losses, one forward serves them."""
        if self._distils and self._leave is not None:
            labels = input_ids.masked_fill(attention_mask == 0, -100)
            labels[:, :-logits_to_keep] = -100
            router = {"output_router_logits": True} if kwargs.get("compute_aux_loss") else {}
            sequences = {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}
            with self.accelerator.autocast():
                output, self._left = model(**sequences, **router, fused_lm_head=True, after_backbone=self._leave)
            log_probs, entropies = (value[:, -logits_to_keep:] for value in (output.log_probs, output.entropy))
            return log_probs, entropies, getattr(output, "aux_loss", None)
        return super()._get_per_token_logps_and_entropies(
            model, input_ids, attention_mask, logits_to_keep, *args, **kwargs
        )

    @torch.no_grad()
    def _teacher_terms(self, model: nn.Module, part: MicroBatch) -> list[HiddenTerm]:
        """The teacher's view of the learnt tokens, as summands of its logits."""
        rate = self.sdpo_config.teacher_update_rate
        was_training = model.training
        model.eval()  # the teacher may share the student's modules, and reads without dropout
        try:
            with self._teacher.running(model) as teacher:
                hidden, head = self._states(teacher, part)
            if self.sdpo_config.teacher_mode != "trust_region":
                return [HiddenTerm(1.0, hidden, head)]
            return [HiddenTerm(1 - rate, hidden, head), HiddenTerm(rate, *self._states(model, part))]
        finally:
            model.train(was_training)

    def _states(self, model: nn.Module, part: MicroBatch) -> tuple[Tensor, Head]:
        """A model's hidden states [M, H] of the learnt tokens behind the teacher's prompts, and its head."""

        def leave(hidden: Tensor, head: Head) -> tuple[Tensor, Head]:
            weight = head.weight.detach()  # gathered weights are freed after the forward
            return part.states(hidden), replace(head, weight=weight.clone() if is_sharded(self.accelerator) else weight)

        with self.accelerator.autocast():
            hidden, head = model(**part.teacher_inputs, after_backbone=leave)
        return hidden.to(head.weight.dtype), head  # mixed precision makes float32 of what a forward returns

    def _log_loss(self, metrics: Metrics) -> None:
        """Add up the parts of an optimizer step, and log with its last one; in evaluation every batch is one."""
        mode = "train" if self.model.training else "eval"
        parts = [metrics]
        if mode == "train":
            self._window.metrics.append(metrics)
            parts = self._window.metrics
            if len(parts) < len(self._window.generation_batches):
                return
        found = mean_metrics(add_metrics(gather_object([add_metrics(parts)])))
        log = {name: value for name, value in found.items() if not name.startswith("actor/")}
        log |= {name: found.get(core_name, 0.0) for name, core_name in _METRIC_NAMES.items()}
        if self.sdpo_config.distillation_weight == 1 and "actor/entropy" in found:
            log["entropy"] = found["actor/entropy"]  # TRL logs it with the loss that is not computed
        for name, value in log.items():
            self._metrics[mode][name].append(value)


def _make_trainer() -> type:
    base = importlib.import_module("trl").GRPOTrainer
    made = type("SDPOTrainer", (SDPOMixin, base), {"__doc__": SDPOMixin.__doc__, "__module__": __name__})
    globals()["SDPOTrainer"] = made
    return made


def __getattr__(name: str) -> Any:
    if name == "SDPOTrainer":
        return _make_trainer()
    raise AttributeError(f"module {__name__} has no attribute {name}")
