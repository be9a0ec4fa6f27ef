"""What n responses to each held-out prompt say: mean@N, std@N, best@N, worst@N, maj@N for each data source.

mean@n and std@n are of all n responses of a prompt. best, worst and maj at N = 2, 4, 8, ..., n are bootstrap estimates:
N responses are drawn with replacement, 1000 times, and the greatest, the smallest or the majority's value is taken; the
mean and the standard deviation are over the draws. maj takes the value of the first response that gave the most
frequent `pred`; of equally frequent ones, that which was drawn first. Everything is then averaged over prompts. The
draws have a fixed seed and are the same for every prompt, so a number changes only when the responses do.

Names: `val-core/<data_source>/acc/{mean@N, best@N/mean, maj@N/mean}` for the largest N; the rest `val-aux/...`.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from verl.types import Reward, Sample

NUM_DRAWS = 1000
SEED = 42
PROMPTS_AT_ONCE = 64
"""Bounds the memory of the draws: 64 prompts x 1000 draws x 16 responses are 8 MB."""

Floats = NDArray[np.float64]
Table = dict[str, dict[str, list[Any]]]
"""Variable -> prompt -> its n values."""


@dataclass(frozen=True)
class Judged:
    """A response that was scored, whoever wrote it."""

    data_source: str
    uid: str
    """Of the prompt: its responses share it."""
    reward: Reward


def judged(samples: Iterable[Sample]) -> list[Judged]:
    """What these metrics look at in samples."""
    return [Judged(sample.prompt.data_source, sample.uid, sample.reward) for sample in samples]


def validation_metrics(responses: Sequence[Judged]) -> dict[str, float]:
    """All validation metrics of scored responses.

    Variables are `acc`, `reward` (the score) and every other number of the scorer. A prompt for which a variable is
    missing in some response does not enter that variable's metrics.
    """
    by_source: dict[str, list[Judged]] = defaultdict(list)
    for response in responses:
        by_source[response.data_source].append(response)
    metrics: dict[str, float] = {}
    for source, members in by_source.items():
        for variable, values, preds in _variables(members):
            found = bootstrap_metrics(values, preds)
            largest = max(len(prompt) for prompt in values)
            core = {f"mean@{largest}", f"best@{largest}/mean", f"maj@{largest}/mean"} if variable == "acc" else set()
            for name, value in found.items():
                metrics[f"val-{'core' if name in core else 'aux'}/{source}/{variable}/{name}"] = value
    return metrics


def error_shares(responses: Sequence[Judged]) -> dict[str, float]:
    """`val-aux/<data_source>/reward_error`: share of responses that count as wrong because their scorer failed."""
    by_source: dict[str, list[bool]] = defaultdict(list)
    for response in responses:
        by_source[response.data_source].append(bool(response.reward.error))
    return {f"val-aux/{source}/reward_error": sum(found) / len(found) for source, found in by_source.items()}


def _variables(responses: Sequence[Judged]) -> list[tuple[str, list[list[float]], list[list[Any]] | None]]:
    """Each variable of one data source with its values and the preds, both by prompt."""
    table: Table = defaultdict(lambda: defaultdict(list))
    for response in responses:
        reward = response.reward
        for name, value in {**reward.extras, "acc": reward.acc, "reward": reward.score}.items():
            table[name][response.uid].append(value)
    sizes = {uid: len(values) for uid, values in table["acc"].items()}
    preds = table.pop("pred", None)
    if preds is not None and all(pred is None for prompt in preds.values() for pred in prompt):
        preds = None
    variables: list[tuple[str, list[list[float]], list[list[Any]] | None]] = []
    for name, prompts in table.items():
        whole = {
            uid: [float(value) for value in values]
            for uid, values in prompts.items()
            if len(values) == sizes[uid] and all(_is_number(value) for value in values)
        }
        if not whole:
            continue
        has_preds = preds is not None and all(len(preds.get(uid, [])) == sizes[uid] for uid in whole)
        variables.append((name, list(whole.values()), [preds[uid] for uid in whole] if preds and has_preds else None))
    return variables


def _is_number(value: Any) -> bool:
    return isinstance(value, bool | int | float | np.number | np.bool_) and math.isfinite(value)


def bootstrap_metrics(values: Sequence[Sequence[float]], preds: Sequence[Sequence[Any]] | None) -> dict[str, float]:
    """mean@n, std@n, and {best,worst,maj}@N/{mean,std}, averaged over prompts.

    Args:
        values: the values of each prompt's responses; prompts may have different numbers of responses.
        preds: what each response answered, in the same layout; None leaves maj out.
    """
    by_size: dict[int, list[int]] = defaultdict(list)
    for prompt, row in enumerate(values):
        by_size[len(row)].append(prompt)
    parts: dict[str, list[Floats]] = defaultdict(list)
    for size, prompts in sorted(by_size.items()):
        for start in range(0, len(prompts), PROMPTS_AT_ONCE):
            chunk = prompts[start : start + PROMPTS_AT_ONCE]
            codes = _codes([preds[prompt] for prompt in chunk]) if preds is not None else None
            for name, result in _chunk_metrics(np.array([values[p] for p in chunk], float), codes, size).items():
                parts[name].append(result)
    return {name: float(np.concatenate(results).mean()) for name, results in parts.items()}


def _chunk_metrics(values: Floats, codes: NDArray[np.int16] | None, size: int) -> dict[str, Floats]:
    """Metrics of each of P prompts; `values` and `codes` are [P, n]."""
    metrics: dict[str, Floats] = {f"mean@{size}": values.mean(1)}
    if size == 1:
        return metrics
    metrics[f"std@{size}"] = values.std(1)
    for count in subset_sizes(size):
        draws = np.random.default_rng(SEED).integers(0, size, (NUM_DRAWS, count)).T  # [N, 1000]
        drawn = values.T[draws]  # [N, 1000, P]
        results = {"best": drawn.max(0), "worst": drawn.min(0)}  # [1000, P]
        if codes is not None:
            results["maj"] = _majority(drawn, codes.T[draws])
        for name, result in results.items():
            metrics[f"{name}@{count}/mean"] = result.mean(0)
            metrics[f"{name}@{count}/std"] = result.std(0)
    return metrics


def subset_sizes(size: int) -> list[int]:
    """2, 4, 8, ... below n, and n itself."""
    powers = [2**exponent for exponent in range(1, size.bit_length())]
    return [power for power in powers if power < size] + [size]


def _majority(drawn: Floats, codes: NDArray[np.int16]) -> Floats:
    """Value of the first response with the most frequent code, for each draw; all [N, 1000, P] -> [1000, P]."""
    count = len(codes)
    votes = np.zeros(codes.shape, np.int16)
    for i in range(count):
        for j in range(i):
            same = codes[i] == codes[j]
            votes[i] += same
            votes[j] += same
    first = votes.argmax(0)  # of equal votes the first, which is also the first response with that code
    return np.take_along_axis(drawn, first[None], 0)[0]


def _codes(preds: Sequence[Sequence[Any]]) -> NDArray[np.int16]:
    """Answers as small numbers, equal within a prompt iff the answers are; [P, n]."""
    coded: list[list[int]] = []
    for prompt in preds:
        numbers: dict[str, int] = {}
        coded.append([numbers.setdefault(repr(pred), len(numbers)) for pred in prompt])
    return np.array(coded, np.int16)
