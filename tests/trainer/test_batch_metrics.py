"""Numbers of a training batch against hand numbers."""

import math
import os
import time
from dataclasses import replace

import numpy as np
import pytest

from verl.config import DataConfig
from verl.protocol import Row, plan_mini_batch
from verl.trainer.batch_metrics import (
    Timer,
    batch_metrics,
    host_memory_used,
    perf_metrics,
    rank_load,
    repeated_share,
    repetition_metrics,
    rollout_gap_metrics,
    score_metrics,
    seqlen_metrics,
    staleness_metrics,
)
from verl.types import Prompt, Reward, Rollout, Sample


def make(score, num_prompt, num_response, finish="stop", error=""):
    prompt_ids, response_ids = [1] * num_prompt, [2] * num_response
    rollout = Rollout(0, prompt_ids, response_ids, [-0.1] * num_response, [1] * num_response, finish, 0)
    return Sample("0", Prompt(0, [], prompt_ids, "s", ""), rollout, "", Reward(score, score, error=error))


SAMPLES = [make(1.0, 4, 3), make(0.0, 8, 5, "length"), make(0.0, 2, 0, error="Traceback ..."), make(0.5, 2, 4)]


def test_scores_lengths_and_errors():
    found = batch_metrics(SAMPLES, [], DataConfig(max_prompt_length=8))
    assert found == {
        "critic/score/mean": 0.375, "critic/score/max": 1.0, "critic/score/min": 0.0,
        "critic/rewards/mean": 0.375, "critic/rewards/max": 1.0, "critic/rewards/min": 0.0,
        "response_length/mean": 3.0, "response_length/max": 5.0, "response_length/min": 0.0,
        "response_length/clip_ratio": 0.25, "response/aborted_ratio": 0.25,
        "response/duplicate_ratio": 0.0, "response/repeated_ngram_ratio": 0.25,
        "prompt_length/mean": 4.0, "prompt_length/max": 8.0, "prompt_length/min": 2.0, "prompt_length/clip_ratio": 0.25,
        "reward/num_errors": 1.0, "reward/error_ratio": 0.25,
    }  # fmt: skip


def test_rewards_may_differ_from_scores():
    found = score_metrics(SAMPLES[:2], rewards=[0.5, -1.5])
    assert (found["critic/score/mean"], found["critic/rewards/mean"]) == (0.5, -0.5)


def test_advantages_and_gap_look_at_written_tokens_only():
    half, quarter = math.log(0.5), math.log(0.25)
    row = Row([1], [2, 3, 4], [1, 0, 1], [half, 0.0, half], [2.0, 99.0, -1.0], [quarter, -9.0, half])
    found = batch_metrics([], [row, Row([1], [2], [1])], DataConfig())
    assert found == pytest.approx({
        "critic/advantages/mean": 0.5, "critic/advantages/max": 2.0, "critic/advantages/min": -1.0,
        "training/rollout_probs_diff_mean": 0.125, "training/rollout_probs_diff_max": 0.25,
        "training/rollout_log_prob_gap": math.log(2) / 2,
    })  # fmt: skip


def test_garbage_log_probs_show_in_the_gap():
    row = Row([1], [2, 3], [1, 1], rollout_log_probs=[900.0, -1.0], old_log_probs=[-1.0, -1.0])
    assert rollout_gap_metrics([row])["training/rollout_probs_diff_mean"] == math.inf
    assert math.isnan(
        rollout_gap_metrics([replace(row, rollout_log_probs=[math.nan, 0.0])])["training/rollout_log_prob_gap"]
    )


def say(uid, *ids):
    return Sample(uid, SAMPLES[0].prompt, replace(SAMPLES[0].rollout, response_ids=list(ids)), "", SAMPLES[0].reward)


def test_repetition_within_a_response():
    loop = say("a", 1, 2, 1, 2, 1, 2, 1, 2)  # 1212 2121 1212 2121 1212: 2 of 5 are new
    plain = say("a", *range(9))
    swapped = say("b", 1, 2, 3, 4, 4, 3, 2, 1)  # the same tokens in another order are another n-gram
    short = say("b", 7, 7, 7)
    assert repetition_metrics([loop])["response/repeated_ngram_ratio"] == pytest.approx(0.6)
    assert repetition_metrics([plain, swapped])["response/repeated_ngram_ratio"] == 0
    assert repetition_metrics([loop, plain, swapped, short])["response/repeated_ngram_ratio"] == pytest.approx(0.2)
    assert repetition_metrics([short]) == {"response/duplicate_ratio": 0.0}


def test_repeated_share_counts_as_a_set_of_tuples_does():
    ids = np.random.default_rng(0).integers(0, 4, 3000)
    grams = list(zip(*(ids[shift : len(ids) - 3 + shift] for shift in range(4)), strict=True))
    assert len(set(grams)) > 200
    assert repeated_share(ids.astype(np.uint64)) == pytest.approx(1 - len(set(grams)) / len(grams))


def test_duplicates_are_counted_within_a_group():
    samples = [
        say("a", 1, 2),
        say("a", 1, 2),
        say("a", 1, 2),
        say("a", 3),
        say("b", 1, 2),
        say("b"),
        say("b"),
        say("b", 4),
    ]
    assert repetition_metrics(samples)["response/duplicate_ratio"] == 0.375  # 2 of a, 1 of b


def test_no_gap_without_both_log_probs():
    assert rollout_gap_metrics([Row([1], [2], [1], rollout_log_probs=[-1.0])]) == {}


def test_seqlen_before_and_after_balancing():
    rows = [Row([1] * size, [], [], index=i) for i, size in enumerate([8, 7, 2, 1])]
    loads = [rank_load([part]) for part in plan_mini_batch(rows, 2)]
    assert seqlen_metrics([row.num_tokens for row in rows], loads) == {
        "global_seqlen/min": 3.0, "global_seqlen/max": 15.0, "global_seqlen/minmax_diff": 12.0,
        "global_seqlen/balanced_min": 9.0, "global_seqlen/balanced_max": 9.0, "global_seqlen/mean": 9.0,
    }  # fmt: skip


def test_throughput_is_per_rank():
    found = perf_metrics(600, 200, {"step": 2.0, "gen": 0.5, "update_actor": 1.2}, num_ranks=3)
    assert 0 < found.pop("perf/cpu_memory_used_gb") * 1024**3 < 2**50
    assert found == {
        "perf/total_num_tokens": 600.0, "perf/time_per_step": 2.0, "perf/throughput": 100.0,
        "timing_per_token_ms/gen": 2.5, "timing_per_token_ms/update_actor": 2.0,
    }  # fmt: skip


def test_memory_is_below_what_the_machine_has():
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 100_000_000 < host_memory_used() <= total


def test_timer_nests_and_adds_up():
    timer = Timer()
    with timer("step"):
        for _ in range(2):
            with timer("gen"):
                time.sleep(0.01)
    with pytest.raises(KeyError), timer("failed"):
        raise KeyError
    found = timer.metrics()
    assert 0.02 <= found["timing_s/gen"] <= found["timing_s/step"] < 1.0 and "timing_s/failed" in found


def test_staleness_counts_updates_since_the_weights_that_wrote():
    samples = [replace(SAMPLES[0], rollout=replace(SAMPLES[0].rollout, weight_version=v)) for v in (4, 4, 3, 1)]
    assert staleness_metrics(samples, 5) == {"training/rollout_staleness": 1.0}
    assert staleness_metrics(samples[:2], 5) == {"training/rollout_staleness": 0.0}
