"""discovery@k against hand-written numbers and against the definition, counted out."""

from itertools import combinations

import numpy as np
import pytest
from attempt_logs import write_log

from verl.evaluation.discovery import discover, unbiased_curve
from verl.types import InputError


def test_sequential_runs_by_hand(tmp_path):
    """q_1 is solved at 2 and (seed 1) at 4; q_2 never within 5: seeds first, then questions."""
    log = write_log(tmp_path / "a", "sdpo", {("q_1", 0): "01", ("q_1", 1): "0001", ("q_2", 0): "00000"})
    found = discover("SDPO", [log])
    assert found.mean.tolist() == [0.0, 0.25, 0.25, 0.5, 0.5]
    assert found.questions == {"q_1", "q_2"}
    # attempts: (2 + 4) / 2 = 3 for q_1, 5 (censored) for q_2
    assert found.mean_attempts(5)[0] == pytest.approx(4.0)
    assert found.mean_attempts(3)[0] == pytest.approx(((2 + 3) / 2 + 3) / 2)
    assert found.mean_attempts(1)[0] == 1.0


def test_a_step_s_attempts_after_the_first_right_one_change_nothing(tmp_path):
    log = write_log(tmp_path / "a", "sdpo", {("q", 0): "0110"})
    assert discover("SDPO", [log]).mean.tolist() == [0.0, 1.0, 1.0, 1.0]


def test_the_curve_ends_where_something_is_unknown(tmp_path):
    unsolved_early = write_log(tmp_path / "a", "multiturn", {("q_1", 0): "001", ("q_2", 0): "00", ("q_3", 0): "0000"})
    assert discover("x", [unsolved_early]).budget == 2
    solved_early = write_log(tmp_path / "b", "multiturn", {("q_1", 0): "1", ("q_2", 0): "0000"})
    assert discover("x", [solved_early]).mean.tolist() == [0.5] * 4
    all_solved = write_log(tmp_path / "c", "multiturn", {("q_1", 0): "1", ("q_2", 0): "01"})
    assert discover("x", [all_solved]).mean.tolist() == [0.5, 1.0]
    independent = write_log(tmp_path / "d", "best_of_k", {("q_1", 0): "11", ("q_2", 0): "000"}, stops_when_solved=False)
    assert discover("x", [independent]).budget == 2


def test_best_of_k_by_hand(tmp_path):
    """4 attempts, 1 right: k of 4 hold it with probability k / 4. 2 right of 4: 1/2, 5/6, 1, 1."""
    one = write_log(tmp_path / "a", "best_of_k", {("q", 0): "1000"}, stops_when_solved=False)
    assert discover("x", [one]).mean == pytest.approx([0.25, 0.5, 0.75, 1.0])
    two = write_log(tmp_path / "b", "best_of_k", {("q", 0): "0101"}, stops_when_solved=False)
    assert discover("x", [two]).mean == pytest.approx([1 / 2, 5 / 6, 1.0, 1.0])
    assert discover("x", [two]).mean_attempts(4)[0] == pytest.approx(1 + 1 / 2 + 1 / 6)


def test_best_of_k_that_stopped_counts_as_it_came(tmp_path):
    """Stopped at the first right one: k / n would say that the third attempt might as well have been the first."""
    log = write_log(tmp_path / "a", "best_of_k", {("q", 0): "001"})
    assert discover("x", [log]).mean.tolist() == [0.0, 0.0, 1.0]


def test_independent_attempts_are_all_choices_counted_out():
    for num_attempts in range(1, 8):
        for num_solved in range(num_attempts + 1):
            marks = [1] * num_solved + [0] * (num_attempts - num_solved)
            expected = [np.mean([any(choice) for choice in combinations(marks, k)]) for k in range(1, num_attempts + 1)]
            assert unbiased_curve(num_attempts, num_solved, num_attempts) == pytest.approx(expected, abs=1e-12)


def test_many_attempts_stay_exact():
    """C(2943, k) / C(2944, k) = 1 - k / 2944, where the binomials themselves have 880 digits."""
    curve = unbiased_curve(2944, 1, 2944)
    assert np.abs(curve - np.arange(1, 2945) / 2944).max() < 1e-12
    assert unbiased_curve(2944, 0, 2944).max() == 0.0


def test_stopping_is_unbiased_where_the_estimator_for_fixed_numbers_is_not():
    """Every outcome of 3 attempts with p = 1/4, weighed by its probability: P(T <= k) must come out."""
    p, sums = 0.25, np.zeros((2, 3))
    for first in (1, 2, 3, None):
        probability = (1 - p) ** 3 if first is None else (1 - p) ** (first - 1) * p
        made = 3 if first is None else first
        as_it_came = np.array([float(first is not None and first <= k) for k in (1, 2, 3)])
        pretended = np.ones(3)
        pretended[:made] = unbiased_curve(made, int(first is not None), made)
        sums += probability * np.stack([as_it_came, pretended])
    truth = [1 - (1 - p) ** k for k in (1, 2, 3)]
    assert sums[0] == pytest.approx(truth)
    assert sums[1][0] > truth[0] + 0.05


def test_intervals(tmp_path):
    """Seeds of each question solve always, never, or one of two at once: what can vary, varies, and only that."""
    log = write_log(
        tmp_path / "a",
        "multiturn",
        {("q_1", 0): "1", ("q_1", 1): "1", ("q_2", 0): "1", ("q_2", 1): "000", ("q_3", 0): "000", ("q_3", 1): "000"},
    )
    seeds = discover("x", [log], resample_questions=False)
    # q_2 is 0, 1/2 or 1 with probabilities 1/4, 1/2, 1/4: the mean is 1/3, 1/2 or 2/3
    assert seeds.at(1) == pytest.approx((0.5, 1 / 3, 2 / 3))
    assert set(np.round(seeds.draws[:, 0] * 6).astype(int)) == {2, 3, 4}
    share = np.mean(np.isclose(seeds.draws[:, 0], 1 / 3))
    assert 0.2 < share < 0.3
    both = discover("x", [log])
    mean, low, high = both.at(1)
    assert mean == pytest.approx(0.5) and low < 1 / 3 and high > 2 / 3
    assert 0.0 in both.draws[:, 0] and 1.0 in both.draws[:, 0]
    again = discover("x", [log])
    assert np.array_equal(again.draws, both.draws)
    low_band, high_band = both.band
    assert (low_band[0], high_band[0]) == pytest.approx((low, high))
    assert both.mean_attempts(3) == pytest.approx((2.0, 3 - 2 * high, 3 - 2 * low))


def test_logs_of_several_files_are_one_method_but_no_run_counts_twice(tmp_path):
    one = write_log(tmp_path / "a", "sdpo", {("q", 0): "1"})
    other = write_log(tmp_path / "b", "sdpo", {("q", 1): "00"})
    assert discover("x", [one, other]).mean.tolist() == [0.5, 0.5]
    with pytest.raises(InputError, match=r"Question q with seed 0 is in .*a and in .*a: one run"):
        discover("x", [one, one])
    with pytest.raises(InputError, match="no attempt"):
        discover("x", [write_log(tmp_path / "c", "sdpo", {})])
