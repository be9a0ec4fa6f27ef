"""mean@N, best@N, worst@N, maj@N against hand numbers and a slow plain definition."""

import statistics
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verl.trainer.validation_metrics import Judged, bootstrap_metrics, error_shares, subset_sizes, validation_metrics
from verl.types import Reward


def make(uid, acc, source="src", **extras):
    return Judged(source, uid, Reward(acc * 2, acc, "", extras))


def test_failed_scorers_show_by_source():
    samples = [make("0", 1.0, "a"), make("0", 0.0, "a"), make("1", 0.0, "b")]
    samples[1] = replace(samples[1], reward=Reward(0.0, 0.0, error="Traceback"))
    assert error_shares(samples) == {"val-aux/a/reward_error": 0.5, "val-aux/b/reward_error": 0.0}


def slow(values, preds):
    """The definition, one prompt, one draw and one response at a time."""
    parts = {}
    for row, answers in zip(values, preds, strict=True):
        n = len(row)
        parts.setdefault(f"mean@{n}", []).append(statistics.fmean(row))
        parts.setdefault(f"std@{n}", []).append(statistics.pstdev(row))
        for count in subset_sizes(n):
            results = {"best": [], "worst": [], "maj": []}
            for draw in np.random.default_rng(42).integers(0, n, (1000, count)).tolist():
                drawn = [row[i] for i in draw]
                said = [answers[i] for i in draw]
                results["best"].append(max(drawn))
                results["worst"].append(min(drawn))
                winner = max(said, key=said.count)  # the first of the most frequent
                results["maj"].append(drawn[said.index(winner)])
            for name, outcomes in results.items():
                parts.setdefault(f"{name}@{count}/mean", []).append(statistics.fmean(outcomes))
                parts.setdefault(f"{name}@{count}/std", []).append(statistics.pstdev(outcomes))
    return {name: statistics.fmean(found) for name, found in parts.items()}


@settings(max_examples=5)
@given(seed=st.integers(0, 10**6), n=st.sampled_from([2, 3, 8]))
def test_equals_the_slow_definition(seed, n):
    rng = np.random.default_rng(seed)
    values, preds = rng.random((3, n)).tolist(), rng.integers(0, 3, (3, n)).tolist()
    assert bootstrap_metrics(values, preds) == pytest.approx(slow(values, preds))


def test_subset_sizes():
    assert [subset_sizes(n) for n in (2, 4, 6, 8, 9)] == [[2], [2, 4], [2, 4, 6], [2, 4, 8], [2, 4, 8, 9]]


def test_best_and_worst_are_near_their_exact_expectation():
    # 2 of 8 right: a draw of N holds a right one with probability 1 - (6/8)^N, and only right ones with (2/8)^N.
    found = bootstrap_metrics([[1, 1, 0, 0, 0, 0, 0, 0]] * 3, None)
    assert found["mean@8"] == 0.25
    assert found["best@4/mean"] == pytest.approx(1 - 0.75**4, abs=0.04)
    assert found["best@8/mean"] == pytest.approx(1 - 0.75**8, abs=0.04)
    assert found["worst@2/mean"] == pytest.approx(0.25**2, abs=0.03)
    assert "maj@8/mean" not in found


def test_majority_counts_answers_not_scores():
    # "b" wins with 4 or more of 6 draws (.0087), and half of the ties with 3 of 6 (.0536).
    found = bootstrap_metrics([[0, 0, 0, 0, 0, 1]], [["a"] * 5 + ["b"]])
    assert found["maj@6/mean"] == pytest.approx(0.0355, abs=0.015)


def test_names_core_and_aux():
    samples = [make(uid, acc, pred=pred, wrong_format=False)
               for uid, acc, pred in [("0", 1.0, "x"), ("0", 0.0, "y"), ("1", 1.0, "z"), ("1", 1.0, "z")]]  # fmt: skip
    found = validation_metrics(samples)
    core = {name for name in found if name.startswith("val-core/")}
    assert core == {f"val-core/src/acc/{what}" for what in ("mean@2", "best@2/mean", "maj@2/mean")}
    assert found["val-core/src/acc/mean@2"] == 0.75
    assert found["val-aux/src/acc/std@2"] == 0.25  # (0.5 + 0) / 2
    assert found["val-aux/src/reward/mean@2"] == 1.5
    assert found["val-aux/src/wrong_format/mean@2"] == 0.0
    assert all(name.startswith(("val-core/src/acc/", "val-aux/src/")) for name in found)


def test_one_response_has_a_mean_only():
    found = validation_metrics([make("0", 1.0), make("1", 0.0)])
    assert found == {"val-core/src/acc/mean@1": 0.5, "val-aux/src/reward/mean@1": 1.0}


def test_sources_are_kept_apart():
    found = validation_metrics([make("0", 1.0, "math"), make("1", 0.0, "code")])
    assert (found["val-core/math/acc/mean@1"], found["val-core/code/acc/mean@1"]) == (1.0, 0.0)


def test_a_prompt_with_a_missing_value_leaves_that_variable_only():
    found = validation_metrics(
        [make("0", 1.0, speed=3.0), make("0", 0.0), make("1", 1.0, speed=5), make("1", 1.0, speed=7)]
    )
    assert found["val-aux/src/speed/mean@2"] == 6.0
    assert found["val-core/src/acc/mean@2"] == 0.75


@settings(max_examples=10)
@given(seed=st.integers(0, 10**6))
def test_order_of_prompts_does_not_matter(seed):
    rng = np.random.default_rng(seed)
    values, preds = rng.random((70, 4)), rng.integers(0, 3, (70, 4))
    order = rng.permutation(70)
    plain = bootstrap_metrics(values.tolist(), preds.tolist())
    assert bootstrap_metrics(values[order].tolist(), preds[order].tolist()) == pytest.approx(plain)


def test_256_prompts_of_8_are_fast():
    rng = np.random.default_rng(0)
    values, preds = rng.random((256, 8)).tolist(), rng.integers(0, 5, (256, 8)).tolist()
    times = []
    for _ in range(3):
        begin = time.process_time()
        bootstrap_metrics(values, preds)
        times.append(time.process_time() - begin)
    assert min(times) < 0.3
