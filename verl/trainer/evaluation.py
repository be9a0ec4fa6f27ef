"""Scoring a file of responses with the reward workers of a training run, and what the scores say.

The metrics are those of validation, name by name (`verl.trainer.validation_metrics`), so a file that `main_generation`
wrote for a model and what a run's validation says of it are the same numbers.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from verl.config import EvaluationConfig, PPOConfig
from verl.config.evaluation import EvaluationDataConfig
from verl.dataset.parquet import RawRow, SchemaError, read_text
from verl.rewards import check_ground_truths, check_isolation, check_sources
from verl.tracking.run_folder import write_atomically
from verl.trainer.engine_roles import ray_rewards
from verl.trainer.generation import log_folder
from verl.trainer.interrupts import stoppable
from verl.trainer.response_files import FINISH_REASONS, read_response_rows
from verl.trainer.sampling import reward_item
from verl.trainer.start_checks import check_scorer
from verl.trainer.validation_metrics import Judged, error_shares, validation_metrics
from verl.types import InputError, Prompt, Reward
from verl.workers.reward import RewardPool

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Answered:
    """A prompt with the responses to it."""

    prompt: Prompt
    texts: list[str]
    were_cut: list[bool]
    """By response: whether it reached its maximum length; False where the file does not say."""


def evaluate(config: EvaluationConfig) -> dict[str, float]:
    """Score all responses, print a table and write the metrics. Returns them.

    Raises InputError when the files or the scorer cannot be used.
    """
    run, files, output = config.as_run(), config.data.path or [], output_path(config)
    check_scorer(run)
    answered = list(read_answers(files, config.data))
    if not answered:
        raise InputError(f"data.path={files}: no row is in there, so there is nothing to score.")
    check_scorable([each.prompt for each in answered], run)
    num_responses = sum(len(each.texts) for each in answered)
    logger.info("Scoring %d responses to %d prompts", num_responses, len(answered))
    with stoppable(), ray_rewards(run, log_folder(config.trainer.default_local_dir, output)) as pool:
        judged = judge(answered, pool)
    metrics = validation_metrics(judged) | error_shares(judged)
    record = {"files": files, "num_prompts": len(answered), "num_responses": num_responses, "metrics": metrics}
    write_atomically(output, json.dumps(record, indent=2) + "\n")
    print(metrics_table(metrics, judged))
    print(f"metrics: {output}")
    return metrics


def output_path(config: EvaluationConfig) -> Path:
    """Where the metrics go."""
    if config.data.output_path:
        return Path(config.data.output_path).expanduser()
    first = Path((config.data.path or [""])[0]).expanduser()
    return first.with_name(f"{first.stem}.metrics.json")


def read_answers(files: Sequence[str], data: EvaluationDataConfig) -> Iterator[Answered]:
    """The rows of files of responses. Raises SchemaError for a row that is none."""
    columns = [data.response_key, data.data_source_key, data.reward_model_key]
    for number, row in enumerate(read_response_rows(files, columns, ["extra_info", FINISH_REASONS])):
        texts = row.values[data.response_key]
        texts = [texts] if isinstance(texts, str) else texts
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
            raise row.problem(data.response_key, texts, "a list of texts, at least one")
        yield Answered(_prompt(row, number, data), texts, _were_cut(row, len(texts)))


def _prompt(row: RawRow, number: int, data: EvaluationDataConfig) -> Prompt:
    """What a scorer wants to know of a row; the prompt itself is not asked for."""
    reward_model, extra_info = row.values[data.reward_model_key], row.values.get("extra_info")
    if not isinstance(reward_model, Mapping) or "ground_truth" not in reward_model:
        raise row.problem(data.reward_model_key, reward_model, "a struct with ground_truth")
    if not isinstance(extra_info, dict | None):
        raise row.problem("extra_info", extra_info, "a struct or null")
    return Prompt(
        index=number,
        messages=[],
        token_ids=[],
        data_source=read_text(row, data.data_source_key),
        ground_truth=reward_model["ground_truth"],
        extra_info=extra_info or {},
    )


def _were_cut(row: RawRow, count: int) -> list[bool]:
    reasons = row.values.get(FINISH_REASONS) or ["stop"] * count
    if len(reasons) != count:
        raise SchemaError(f"{row}: {len(reasons)} {FINISH_REASONS} do not belong to {count} responses.")
    return [reason == "length" for reason in reasons]


def check_scorable(prompts: Sequence[Prompt], run: PPOConfig) -> None:
    """Raises InputError when a data source has no scorer, or a row nothing to compare with."""
    sources, has_custom = {prompt.data_source for prompt in prompts}, run.custom_reward_function.path is not None
    if problems := check_sources(sources, has_custom) or check_isolation(sources, has_custom, run.sandbox):
        raise InputError("\n".join(problems))
    if not has_custom:
        check_ground_truths(prompts)


def judge(answered: Sequence[Answered], pool: RewardPool) -> list[Judged]:
    """Score all responses, with a bar. In order of prompts and, of each, of responses."""
    prompts = [each.prompt for each in answered for _ in each.texts]
    written = [pair for each in answered for pair in zip(each.texts, each.were_cut, strict=True)]
    rewards: dict[int, Reward] = {}
    with Progress(console=Console(stderr=True)) as progress:
        bar = progress.add_task("Scores", total=len(prompts))
        pool.submit(
            [
                reward_item(prompt, number, text, was_cut)
                for number, (prompt, (text, was_cut)) in enumerate(zip(prompts, written, strict=True))
            ]
        )
        for number, reward in pool.results():
            rewards[number] = reward
            progress.advance(bar)
    return [Judged(prompt.data_source, str(prompt.index), rewards[number]) for number, prompt in enumerate(prompts)]


def metrics_table(metrics: Mapping[str, float], judged: Sequence[Judged]) -> str:
    """Accuracy of each data source at its largest N, as markdown; ± is the spread over the bootstrap draws."""
    head = ["data source", "prompts", "N", "mean@N", "std@N", "best@N", "worst@N", "maj@N", "scorer errors"]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for source in dict.fromkeys(each.data_source for each in judged):
        counts = Counter(each.uid for each in judged if each.data_source == source)
        size = max(counts.values())
        acc = {name.rpartition("/acc/")[2]: value for name, value in metrics.items() if f"/{source}/acc/" in name}
        cells = [source, str(len(counts)), str(size)]
        cells += [f"{acc[name]:.4f}" if name in acc else "-" for name in (f"mean@{size}", f"std@{size}")]
        cells += [_with_spread(acc, f"{what}@{size}") for what in ("best", "worst", "maj")]
        cells.append(f"{metrics[f'val-aux/{source}/reward_error']:.1%}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _with_spread(acc: Mapping[str, float], name: str) -> str:
    if f"{name}/mean" not in acc:
        return "-"
    return f"{acc[f'{name}/mean']:.4f} ± {acc[f'{name}/std']:.4f}"
