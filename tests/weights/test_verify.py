import math

import pytest

from verl.weights import WeightSyncError, compare_digests, compare_log_probs, gap_threshold, probe_token_ids


def test_the_gap_is_the_mean_absolute_difference():
    assert compare_log_probs([-1.0, -2.0, -3.0], [-1.1, -1.8, -3.0], 0.2) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("trainer", "engine", "cause"),
    [
        ([-1.0, -2.0], [-1.0, -2.005], "different precision"),
        ([-1.0, -2.0], [-1.0, -5.0], "some tensors were not loaded"),
        ([-1.0, -2.0], [-3.0, -3.0], "still serves its old weights"),
        ([-1.0, -2.0], [-1.0, math.nan], "damaged on the way"),
        ([math.nan, -2.0], [-1.0, -2.0], "trainer's weights hold nan"),
        ([-1.0, -2.0], [-1.0], "not asked the same"),
    ],
)
def test_errors_name_gap_threshold_engine_and_cause(trainer, engine, cause):
    with pytest.raises(WeightSyncError, match=cause) as caught:
        compare_log_probs(trainer, engine, 1e-3, "rollout engine 3", engine_before=[-3.0, -3.0])
    assert "rollout engine 3" in str(caught.value)
    assert "allowed 0.001" in str(caught.value) or len(trainer) != len(engine)


def test_thresholds_follow_the_engine_s_type_unless_set():
    assert [gap_threshold("float32", None), gap_threshold("bfloat16", None)] == [1e-3, 0.1]
    assert gap_threshold("float32", 0.5) == 0.5


def test_the_probe_is_fixed_and_fits_the_engine():
    assert probe_token_ids(50, 64, 1000) == probe_token_ids(50, 64, 2000)
    assert len(probe_token_ids(50, 64, 1000)) == 64 and len(probe_token_ids(50, 64, 20)) == 19
    assert set(probe_token_ids(5, 200, 1000)) == set(range(5))


def test_digests_must_be_equal_bucket_by_bucket():
    compare_digests(["a", "b"], ["a", "b"])
    with pytest.raises(WeightSyncError, match=r"engine 1 received other bytes .* buckets \[1\] of 3"):
        compare_digests(["a", "b", "c"], ["a", "x", "c"], "engine 1")
    with pytest.raises(WeightSyncError, match="received 1 buckets of weights, 2 were sent"):
        compare_digests(["a", "b"], ["a"])
