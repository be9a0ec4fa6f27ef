"""What the driver finds out about tokenizer, model and scorer before any worker is started.

The workers would find it out too, but later, one by one, after Ray and the engines have started, and partly not at all:
a model that knows no end of sequence trains on responses that are all cut.
"""

from __future__ import annotations

import logging
import re
from typing import Any

from verl.config import PPOConfig
from verl.models.loading import load_config
from verl.rewards import load_custom
from verl.rollout.base import engine_spec, stop_token_ids
from verl.types import InputError

logger = logging.getLogger(__name__)


def check_chat_template(tokenizer: Any, path: str | None, kwargs: dict[str, Any]) -> None:
    """Prompts are messages, so there must be a template; arguments that it never mentions are told.

    Raises InputError when there is none.
    """
    template = getattr(tokenizer, "chat_template", None)
    if not template:
        raise InputError(
            f"model.path={path}: its tokenizer has no chat template, and prompts are messages. Take the tokenizer of an"
            " instruction-tuned model with model.tokenizer_path=<folder or hub name>, or put a chat_template.jinja into"
            " the folder."
        )
    text = template if isinstance(template, str) else " ".join(map(str, template.values()))
    for name, value in kwargs.items():
        is_moot = (name, value) == ("enable_thinking", False)  # of presets: a model that cannot think obeys anyway
        if not is_moot and not re.search(rf"\b{re.escape(name)}\b", text):
            logger.warning(
                "data.apply_chat_template_kwargs.%s has no effect: the chat template of %s never mentions it",
                name,
                path,
            )


def check_model(config: PPOConfig, tokenizer: Any) -> None:
    """Raises InputError when the model cannot be read, cannot take the tokenizer's tokens, or knows no end."""
    model = config.actor_rollout_ref.model
    text_config = load_config(str(model.path), model.trust_remote_code).get_text_config()
    num_tokens, vocab_size = len(tokenizer), getattr(text_config, "vocab_size", None)
    if vocab_size is not None and num_tokens > vocab_size:
        raise InputError(
            f"model.tokenizer_path={model.tokenizer_path or model.path}: the tokenizer has {num_tokens} tokens, the"
            f" model {model.path} only {vocab_size} (vocab_size): it is the tokenizer of another model, or tokens were"
            " added without resizing the embeddings."
        )
    check_heads(config)
    spec = engine_spec(config.actor_rollout_ref, config.data, "cpu", config.trainer.seed)
    if not stop_token_ids(spec):
        raise InputError(
            f"model.path={model.path}: neither model nor tokenizer names an end-of-sequence token, so no response would"
            " ever end. Set eos_token_id in generation_config.json, or eos_token in tokenizer_config.json."
        )


def check_heads(config: PPOConfig) -> None:
    """Raises InputError when the heads of policy or teacher cannot be spread over the ranks of a forward."""
    roles = config.actor_rollout_ref
    size = roles.actor.ulysses_sequence_parallel_size
    for path in {roles.model.path, roles.ref.model.path} - {None} if size > 1 else ():
        text_config = load_config(str(path), roles.model.trust_remote_code).get_text_config()
        if text_config.num_attention_heads % size:
            raise InputError(
                f"actor_rollout_ref.actor.ulysses_sequence_parallel_size={size}: must divide the"
                f" {text_config.num_attention_heads} attention heads of {path}. Take a divisor of them."
            )


def check_scorer(config: PPOConfig) -> None:
    """Raises InputError when the user's scorer cannot be loaded, or cannot be called as it will be."""
    custom = config.custom_reward_function
    if custom.path:
        load_custom(custom.path, custom.name, custom.reward_kwargs)
