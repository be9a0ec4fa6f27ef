"""Writing responses to files of prompts with the engines of a training run, and nothing else of it.

    prompts -> requests -> engines -> <output>.partial, prompt by prompt -> output

A prompt's responses are kept as soon as all of them are there. After a kill the same command writes only those that are
missing. Every response has a seed of its own, the one that a run's validation would give it, so what a response says
depends neither on what was written before nor on where it stopped (up to rounding: other requests are in its batch).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from verl.config import GenerationConfig
from verl.dataset import ParquetDataset, fingerprint
from verl.models.loading import load_tokenizer
from verl.trainer.engine_roles import EngineRoles, ray_engines
from verl.trainer.interrupts import stoppable
from verl.trainer.publish import Publisher
from verl.trainer.response_files import PartialResponses, Responses, check_columns, write_responses
from verl.trainer.sampling import make_requests
from verl.trainer.start_checks import check_chat_template, check_model
from verl.trainer.validation import validation_seed
from verl.types import Prompt, Rollout, Sampling
from verl.workers.rollout_pool import RolloutPool

logger = logging.getLogger(__name__)


def generate(config: GenerationConfig) -> Path:
    """Write `rollout.n` responses to every prompt. Returns the output file.

    Raises InputError when the prompts cannot be read, or when a file that was begun has other responses.
    """
    run, data, model = config.as_run(), config.data, config.actor_rollout_ref.model
    files, output = data.path or [], Path(str(data.output_path)).expanduser()
    tokenizer = load_tokenizer(str(model.tokenizer_path or model.path), model.trust_remote_code)
    check_chat_template(tokenizer, model.tokenizer_path or model.path, data.apply_chat_template_kwargs)
    check_model(run, tokenizer)
    check_columns(files)
    prompts = ParquetDataset(files, tokenizer, run.data, data.max_samples)
    with stoppable(), PartialResponses(output, _settings(config, prompts)) as kept:
        missing = [prompt for prompt in prompts if prompts.row_numbers[prompt.index] not in kept.done]
        if len(missing) < len(prompts):
            logger.info("%d of %d prompts are answered already (%s)", len(kept.done), len(prompts), kept.path)
        if missing:
            with ray_engines(run, log_folder(config.trainer.default_local_dir, output)) as roles:
                Publisher(run, roles.actor, roles.rollouts, roles.spec, len(tokenizer)).publish(version=0)

                def decode(token_ids: list[int]) -> str:
                    return tokenizer.decode(token_ids, skip_special_tokens=True)

                _write_missing(config, roles, missing, decode, prompts.row_numbers, kept)
    write_responses(output, files, [kept.done[row] for row in prompts.row_numbers])
    kept.path.unlink()
    logger.info("%d prompts x %d responses: %s", len(prompts), config.actor_rollout_ref.rollout.n, output)
    return output


def log_folder(given: str | None, output: Path) -> Path:
    """Where workers log: as configured, or beside the output."""
    return (Path(given) if given else output.with_name(f"{output.name}.logs")).absolute()


def _write_missing(
    config: GenerationConfig,
    roles: EngineRoles,
    prompts: Sequence[Prompt],
    decode: Callable[[list[int]], str],
    row_numbers: Sequence[int],
    kept: PartialResponses,
) -> None:
    """Write the responses to `prompts`, and keep those of each prompt when it has them all."""
    rollout, size = config.actor_rollout_ref.rollout, config.data.batch_size
    seed = validation_seed(config.trainer.seed)
    sampling = Sampling(rollout.temperature, rollout.top_p, rollout.top_k, config.data.max_response_length)
    with Progress(console=Console(stderr=True)) as progress:
        bar = progress.add_task("Responses", total=len(prompts) * rollout.n)
        for start in range(0, len(prompts), size):
            batch = prompts[start : start + size]
            requests = make_requests(batch, rollout.n, sampling, seed)
            groups = _groups(roles.rollouts, requests, rollout.n, lambda count: progress.advance(bar, count))
            for position, group in groups:
                texts = [decode(rollout.response_ids) for rollout in group]
                row = row_numbers[batch[position].index]
                kept.add(Responses(row, texts, [rollout.finish_reason for rollout in group]))


def _groups(
    rollouts: RolloutPool, requests: Sequence[Any], n: int, advance: Callable[[int], None]
) -> Iterator[tuple[int, list[Rollout]]]:
    """(position of the prompt, its n responses in order of requests), as soon as the last of them is there."""
    open_groups: dict[int, dict[int, Rollout]] = {}
    for finished in rollouts.generate(requests):
        advance(len(finished))
        for rollout in finished:
            position = rollout.request_id // n
            group = open_groups.setdefault(position, {})
            group[rollout.request_id] = rollout
            if len(group) == n:
                del open_groups[position]
                yield position, [group[request_id] for request_id in sorted(group)]


def _settings(config: GenerationConfig, prompts: Sequence[Prompt]) -> dict[str, Any]:
    """What the responses depend on: a file that was begun goes on only with the same."""
    rollout = config.actor_rollout_ref.rollout
    return {
        "model": config.actor_rollout_ref.model.path,
        "prompts": fingerprint(prompts),
        "engine": rollout.name,
        "dtype": rollout.dtype,
        "n": rollout.n,
        "temperature": rollout.temperature,
        "top_p": rollout.top_p,
        "top_k": rollout.top_k,
        "max_response_length": config.data.max_response_length,
        "seed": config.trainer.seed,
    }
