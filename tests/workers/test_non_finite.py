"""What is not finite moves nothing, on one rank or on two, and the samples are named."""

from pathlib import Path

import pytest
import torch
from rank_processes import run_ranks
from spoilt_case import PLACE, SHARED, SPOILT, run_healthy, run_poisoned_weights, run_spoilt
from training_case import TAUGHT, save_tiny

from verl.workers.finite import NonFinite
from verl.workers.update import Outcome


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("spoilt")
    save_tiny(folder / "tied", True)
    return folder


@pytest.fixture(scope="module")
def one_rank(folder):
    """Results of one rank, as a list of one."""
    results = {name: run_spoilt(name, folder) for name in SPOILT}
    results |= {of: run_poisoned_weights(of, folder) for of in ("student", "teacher")}
    return [results | {"healthy": run_healthy(folder)}]


@pytest.fixture(scope="module")
def two_ranks(folder):
    """Results of both ranks."""
    run_ranks(Path(__file__).with_name("spoilt_ranks.py"), folder)
    return [torch.load(folder / f"spoilt{rank}.pt", weights_only=False) for rank in (0, 1)]


@pytest.fixture(params=["one_rank", "two_ranks"])
def ranks(request):
    return request.getfixturevalue(request.param)


def assert_equal(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("name", SPOILT)
def test_a_spoilt_update_leaves_no_trace(name, ranks):
    for rank in ranks:
        assert_equal(rank[name]["after"], rank[name]["before"])
        assert_equal(rank[name]["next"], rank["healthy"]["next"])
        assert [result.outcome for result in rank[name]["results"]] == [Outcome.NOT_FINITE]
    metrics = ranks[0][name]["metrics"]
    size = float(len(ranks))
    assert metrics["actor/skipped_steps"] == (size, size)
    assert metrics["self_distillation/skipped_steps"] == (size, size)
    assert metrics["self_distillation/teacher_updates"] == (size, size)  # that of the healthy update before
    assert "actor/pg_loss" not in metrics and "actor/lr" not in metrics


@pytest.mark.parametrize("name", SPOILT)
def test_the_sample_is_named(name, ranks):
    found = [finding for rank in ranks for result in rank[name]["results"] for finding in result.non_finite]
    what = SPOILT[name][1]
    assert found == ([NonFinite(PLACE, what)] if what else [])


@pytest.mark.parametrize("name", SHARED)
def test_ranks_that_share_forwards_and_copy_weights_skip_together(name, two_ranks):
    for rank in two_ranks:
        found = rank[f"{name}, shared"]
        assert_equal(found["after"], found["before"])
        assert [result.outcome for result in found["results"]] == [Outcome.NOT_FINITE]
    found = [f for rank in two_ranks for result in rank[f"{name}, shared"]["results"] for f in result.non_finite]
    assert found == ([NonFinite(PLACE, SPOILT[name][1])] if SPOILT[name][1] else [])


def test_nan_where_the_policy_wrote_nothing_is_harmless(ranks):
    for rank in ranks:
        assert [result.outcome for result in rank["healthy"]["results"]] == [Outcome.DONE]


@pytest.mark.parametrize(
    ("of", "what"), [("student", "the student's log-probs"), ("teacher", "the teacher's hidden states")]
)
def test_spoilt_weights_name_every_sample_they_touch(of, what, ranks):
    assert_touched(of, what, [rank[of] for rank in ranks])
    if len(ranks) == 2:
        assert_touched(of, what, [rank[f"{of}, shared"] for rank in ranks])


def assert_touched(of, what, ranks):
    for rank in ranks:
        assert_equal(rank["after"], rank["before"])
    touched = [row.index for row in TAUGHT if of == "student" or row.is_taught]
    for number in (0, 1):
        found = [finding for rank in ranks for finding in rank["results"][number].non_finite]
        assert sorted(finding.index for finding in found) == touched
        assert {finding.what for finding in found} == {what}
