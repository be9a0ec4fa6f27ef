"""What a run reads: tokenizer, training and validation prompts, and the order in which prompts come."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from verl.config import PPOConfig
from verl.dataset import DataIdentity, StatefulSampler, encode_messages, fingerprint, load_dataset
from verl.models.loading import load_tokenizer
from verl.rewards import check_ground_truths, check_isolation, check_sources
from verl.trainer.start_checks import check_chat_template, check_model, check_scorer
from verl.types import InputError, Message, Prompt


@dataclass
class RunData:
    """Prompts, tokenizer and sampler of one run."""

    tokenizer: Any
    template_kwargs: dict[str, Any]
    train: list[Prompt]
    validation: list[Prompt]
    sampler: StatefulSampler
    total_steps: int
    vocab_size: int
    identity: DataIdentity
    """Of the training prompts: a checkpoint goes on only with the same ones."""

    def next_prompts(self) -> list[Prompt]:
        """The prompts of the next step; the same ones until `advance`."""
        return [self.train[index] for index in self.sampler.peek_batch()]

    def advance(self) -> None:
        """The prompts of the next step are being trained on: go on behind them."""
        self.sampler.next_batch()

    def encode(self, messages: list[Message]) -> list[int]:
        """Token ids of a chat with the generation prompt: one way for student and teacher."""
        return encode_messages(self.tokenizer, messages, self.template_kwargs)

    def decode(self, token_ids: list[int]) -> str:
        """Text of token ids without special tokens."""
        return self.tokenizer.decode(token_ids, skip_special_tokens=True)


def load_run_data(config: PPOConfig) -> RunData:
    """Read tokenizer and data sets and lay out the run.

    Raises InputError when a data set has fewer prompts than one step needs or a row that nobody can score here, or when
    tokenizer, model or scorer cannot be used (`start_checks`).
    """
    data, model, trainer = config.data, config.actor_rollout_ref.model, config.trainer
    check_scorer(config)
    tokenizer = load_tokenizer(str(model.tokenizer_path or model.path), model.trust_remote_code)
    check_chat_template(tokenizer, model.tokenizer_path or model.path, data.apply_chat_template_kwargs)
    check_model(config, tokenizer)
    train = load_dataset(data.train_files or [], tokenizer, data, data.train_max_samples)
    if len(train) < data.train_batch_size:
        raise InputError(
            f"data.train_files={data.train_files} hold {len(train)} usable prompts, fewer than"
            f" data.train_batch_size={data.train_batch_size}. Lower the batch size, or raise data.max_prompt_length if"
            " prompts were filtered."
        )
    validation = load_dataset(data.val_files, tokenizer, data, data.val_max_samples) if data.val_files else []
    sources = {prompt.data_source for prompt in [*train, *validation]}
    has_custom = config.custom_reward_function.path is not None
    if problems := check_sources(sources, has_custom) or check_isolation(sources, has_custom, config.sandbox):
        raise InputError("\n".join(problems))
    if not has_custom:
        check_ground_truths([*train, *validation])
    seed = data.seed if data.seed is not None else trainer.seed
    sampler = StatefulSampler(len(train), data.train_batch_size, data.shuffle, seed)
    total_steps = trainer.total_training_steps or trainer.total_epochs * (len(train) // data.train_batch_size)
    return RunData(
        tokenizer=tokenizer,
        template_kwargs=data.apply_chat_template_kwargs,
        train=list(train),
        validation=list(validation),
        sampler=sampler,
        total_steps=total_steps,
        vocab_size=len(tokenizer),
        identity=DataIdentity.of(fingerprint(train), data.train_files or []),
    )
