"""Numbers of one training batch: scores, lengths, errors, engine-trainer gap, time and throughput.

Pure functions from samples, rows and seconds to `dict[str, float]`; metric names are verl's. A function whose input is
missing (no advantages, no engine log-probs) returns nothing rather than zeros.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from verl.config import DataConfig
from verl.protocol import MiniBatch, Row
from verl.trainer.phases import Phases
from verl.types import Sample

NGRAM = 4
FACTORS = tuple(np.uint64(factor) for factor in (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 1))
"""Odd, and else without a pattern: the constants of xxHash, one for each place of an n-gram."""


class Timer:
    """Collects seconds by phase: `with timer("gen"): ...`. Phases may nest; a repeated phase adds up.

    Args:
        phases: is told of them too, for whoever watches the run.
    """

    def __init__(self, phases: Phases | None = None) -> None:
        self.seconds: dict[str, float] = {}
        self._phases = phases or Phases()

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        begin = time.perf_counter()
        try:
            with self._phases(phase):
                yield
        finally:
            self.add(phase, time.perf_counter() - begin)

    def add(self, phase: str, seconds: float) -> None:
        """Count seconds that were measured elsewhere."""
        self.seconds[phase] = self.seconds.get(phase, 0.0) + seconds

    def metrics(self) -> dict[str, float]:
        """`timing_s/<phase>`."""
        return {f"timing_s/{phase}": seconds for phase, seconds in self.seconds.items()}


def batch_metrics(samples: Sequence[Sample], rows: Sequence[Row], data: DataConfig) -> dict[str, float]:
    """Everything about a rollout batch that does not need a clock."""
    return (
        score_metrics(samples)
        | advantage_metrics(rows)
        | length_metrics(samples, data.max_prompt_length)
        | repetition_metrics(samples)
        | error_metrics(samples)
        | rollout_gap_metrics(rows)
    )


def score_metrics(samples: Sequence[Sample], rewards: Sequence[float] | None = None) -> dict[str, float]:
    """`critic/score/*` and `critic/rewards/*`: per response, the scorer's score and the reward the estimator gets.

    Args:
        rewards: one for each response; None: the scores (no KL in the reward).
    """
    scores = [sample.reward.score for sample in samples]
    return _spread("critic/score", scores) | _spread("critic/rewards", scores if rewards is None else rewards)


def advantage_metrics(rows: Sequence[Row]) -> dict[str, float]:
    """`critic/advantages/*` over the tokens that the policy wrote."""
    values = [
        advantage
        for row in rows
        if row.advantages
        for advantage, bit in zip(row.advantages, row.response_mask, strict=True)
        if bit
    ]
    return _spread("critic/advantages", values)


def length_metrics(samples: Sequence[Sample], max_prompt_length: int) -> dict[str, float]:
    """Lengths in tokens; clip_ratio is the share of responses cut by the limit, or of prompts that fill theirs."""
    if not samples:
        return {}
    responses = [len(sample.rollout.response_ids) for sample in samples]
    prompts = [len(sample.rollout.prompt_ids) for sample in samples]
    return (
        _spread("response_length", responses)
        | {
            "response_length/clip_ratio": _share(sample.rollout.finish_reason == "length" for sample in samples),
            "response/aborted_ratio": _share(length == 0 for length in responses),
        }
        | _spread("prompt_length", prompts)
        | {"prompt_length/clip_ratio": _share(length >= max_prompt_length for length in prompts)}
    )


def repetition_metrics(samples: Sequence[Sample]) -> dict[str, float]:
    """What a policy that cheats its reward often begins with: saying one thing again and again.

    `response/repeated_ngram_ratio`: 1 - (different n-grams) / (n-grams) of a response's token ids, n = 4; mean over
    responses of at least 4 tokens. 0: nothing is said twice.

    `response/duplicate_ratio`: 1 - (different responses of a group, summed over groups) / (responses). 0: all siblings
    differ; (n - 1) / n: each group says one thing.
    """
    if not samples:
        return {}
    distinct = {(sample.uid, tuple(sample.rollout.response_ids)) for sample in samples}
    metrics = {"response/duplicate_ratio": 1 - len(distinct) / len(samples)}
    ratios = [
        repeated_share(np.array(sample.rollout.response_ids, np.uint64))
        for sample in samples
        if len(sample.rollout.response_ids) >= NGRAM
    ]
    if ratios:
        metrics["response/repeated_ngram_ratio"] = sum(ratios) / len(ratios)
    return metrics


def repeated_share(ids: NDArray[np.uint64]) -> float:
    """Share of n-grams that were there before in a sequence of at least n = 4 token ids, [T].

    An n-gram stands for itself as a number of 64 bits, a sum of its ids times odd constants (modulo 2^64): two of a
    million different ones agree with a probability of 3e-8.
    """
    count = len(ids) - NGRAM + 1
    codes = sum(
        (ids[shift : shift + count] * factor for shift, factor in enumerate(FACTORS)), np.zeros(count, np.uint64)
    )
    codes.sort()
    return 1 - (1 + int((codes[1:] != codes[:-1]).sum())) / count


def error_metrics(samples: Sequence[Sample]) -> dict[str, float]:
    """`reward/num_errors`, `reward/error_ratio`: responses whose scorer failed and that count as score 0."""
    if not samples:
        return {}
    errors = [bool(sample.reward.error) for sample in samples]
    return {"reward/num_errors": float(sum(errors)), "reward/error_ratio": _share(errors)}


def rollout_gap_metrics(rows: Sequence[Row]) -> dict[str, float]:
    """`training/rollout_probs_diff_{mean,max}`: |p_engine - p_trainer| of the sampled tokens, and
    `training/rollout_log_prob_gap`: the mean of |log p_engine - log p_trainer|, in nats.

    A mean below 0.005 is healthy on policy, above 0.01 it is a sign of a wrong weight sync or precision. With responses
    that are behind the weights (`trainer.rollout_schedule`) it grows with the learning rate.
    """
    pairs = [
        (engine, trainer)
        for row in rows
        if row.rollout_log_probs and row.old_log_probs
        for engine, trainer, bit in zip(row.rollout_log_probs, row.old_log_probs, row.response_mask, strict=True)
        if bit
    ]
    if not pairs:
        return {}
    engines, trainers = np.array(pairs).T
    with np.errstate(all="ignore"):  # a garbage engine may overflow; its nan or inf is the news
        gaps = np.abs(np.exp(engines) - np.exp(trainers))
        log_gap = float(np.abs(engines - trainers).mean())
    name = "training/rollout_probs_diff"
    return {
        f"{name}_mean": float(gaps.mean()),
        f"{name}_max": float(gaps.max()),
        "training/rollout_log_prob_gap": log_gap,
    }


def staleness_metrics(samples: Sequence[Sample], number: int) -> dict[str, float]:
    """`training/rollout_staleness`: updates between the weights that wrote a response and those that step `number`
    starts from (version `number` - 1), mean over responses; 0 on policy."""
    if not samples:
        return {}
    behind = [number - 1 - sample.rollout.weight_version for sample in samples]
    return {"training/rollout_staleness": sum(behind) / len(behind)}


def seqlen_metrics(lengths: Sequence[int], rank_loads: Sequence[float]) -> dict[str, float]:
    """`global_seqlen/*`: tokens per rank, before and after balancing.

    Args:
        lengths: tokens of each row (prompt and response), in batch order.
        rank_loads: tokens that each rank was given to train on once, see `rank_load`. Rows that nobody is taught
            from may be none of them.
    """
    world_size = len(rank_loads)
    bounds = [len(lengths) * rank // world_size for rank in range(world_size + 1)]
    plain = [sum(lengths[begin:end]) for begin, end in pairwise(bounds)]
    return {
        "global_seqlen/min": float(min(plain)),
        "global_seqlen/max": float(max(plain)),
        "global_seqlen/minmax_diff": float(max(plain) - min(plain)),
        "global_seqlen/balanced_min": float(min(rank_loads)),
        "global_seqlen/balanced_max": float(max(rank_loads)),
        "global_seqlen/mean": sum(lengths) / world_size,
    }


def rank_load(mini_batches: Sequence[MiniBatch]) -> int:
    """Tokens of one rank's part of an update."""
    return sum(row.num_tokens for part in mini_batches for micro in part.micro_batches for row in micro)


def perf_metrics(
    num_tokens: int, num_response_tokens: int, timing: Mapping[str, float], num_ranks: int
) -> dict[str, float]:
    """Throughput and time per token.

    Args:
        num_tokens: prompt and response tokens of the batch.
        num_response_tokens: response tokens alone, the unit of `timing_per_token_ms/gen`.
        timing: seconds by phase (`Timer.seconds`), with `step`.
        num_ranks: training ranks; `perf/throughput` is tokens per second and rank.
    """
    seconds = timing["step"]
    metrics = {
        "perf/total_num_tokens": float(num_tokens),
        "perf/time_per_step": seconds,
        "perf/throughput": num_tokens / seconds / num_ranks if seconds else 0.0,
    }
    units = {"gen": num_response_tokens, "old_log_prob": num_tokens, "ref": num_tokens, "update_actor": num_tokens}
    for phase, tokens in units.items():
        if phase in timing and tokens:
            metrics[f"timing_per_token_ms/{phase}"] = 1000 * timing[phase] / tokens
    if (used := host_memory_used()) is not None:
        metrics["perf/cpu_memory_used_gb"] = used / 1024**3
    return metrics


def host_memory_used() -> int | None:
    """Bytes of this machine's memory in use by all processes; None where /proc is not there to ask."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    kib = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
    return (kib["MemTotal"] - kib["MemAvailable"]) * 1024


def _spread(name: str, values: Sequence[float]) -> dict[str, float]:
    if not values:
        return {}
    return {
        f"{name}/mean": sum(values) / len(values),
        f"{name}/max": float(max(values)),
        f"{name}/min": float(min(values)),
    }


def _share(hits: Iterable[bool]) -> float:
    found = list(hits)
    return sum(found) / len(found)
