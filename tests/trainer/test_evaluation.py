"""Scoring a file of responses, in this process, against numbers by hand."""

import json

import pytest

from verl.config import EvaluationConfig, build
from verl.dataset.parquet import SchemaError
from verl.single_controller import LocalWorkerGroup
from verl.trainer.evaluation import check_scorable, judge, metrics_table, output_path, read_answers
from verl.trainer.validation_metrics import error_shares, validation_metrics
from verl.types import InputError
from verl.workers.reward import RewardPool, RewardWorker

SCORER = """
def compute_score(data_source, solution_str, ground_truth, extra_info=None):
    if solution_str == "boom":
        raise ValueError("boom")
    right = solution_str == ground_truth and not extra_info["truncated"]
    return {"score": 2.0 * right, "acc": float(right), "pred": solution_str, "points": extra_info.get("points", 0)}
"""
ROWS = [
    {"responses": ["a", "a", "b", "a"], "data_source": "x", "reward_model": {"ground_truth": "a"}},
    {"responses": ["b", "b", "c", "a"], "data_source": "x", "reward_model": {"ground_truth": "a"}},
    {
        "responses": ["k", "k", "boom", "k"],
        "finish_reasons": ["stop", "length", "stop", "stop"],
        "data_source": "y",
        "reward_model": {"ground_truth": "k"},
        "extra_info": {"points": 7},
    },
]


def write(folder, rows):
    path = folder / "out.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "scorer.py").write_text(SCORER)
    reward = {"path": str(folder / "scorer.py")}
    return build(EvaluationConfig, {"data": {"path": [str(path)]}, "custom_reward_function": reward})


def score(config):
    group = LocalWorkerGroup(
        "reward", RewardWorker, (config.custom_reward_function, config.reward_model, config.sandbox)
    )
    return judge(list(read_answers(config.data.path, config.data)), RewardPool(group, config.reward_model))


def test_numbers_by_hand(tmp_path):
    judged = score(write(tmp_path, ROWS))
    metrics = validation_metrics(judged) | error_shares(judged)
    # x: 3 and 1 of 4 right; y: the second was cut, the third could not be scored
    assert metrics["val-core/x/acc/mean@4"] == 0.5
    assert metrics["val-aux/x/reward/mean@4"] == 1.0
    assert metrics["val-aux/x/acc/std@4"] == pytest.approx(0.1875**0.5)
    # the best of 4 drawn with replacement is right but for a draw of wrong ones alone
    assert metrics["val-core/x/acc/best@4/mean"] == pytest.approx(((1 - 0.25**4) + (1 - 0.75**4)) / 2, abs=0.02)
    assert metrics["val-aux/x/acc/worst@4/mean"] == pytest.approx((0.75**4 + 0.25**4) / 2, abs=0.02)
    assert metrics["val-core/y/acc/mean@4"] == 0.5
    assert metrics["val-aux/y/reward_error"] == 0.25
    assert "val-aux/y/points/mean@4" not in metrics  # the failed scorer gave none


def test_the_table_has_a_row_for_each_source(tmp_path):
    judged = score(write(tmp_path, ROWS))
    metrics = validation_metrics(judged) | error_shares(judged)
    _, _, x, y = metrics_table(metrics, judged).splitlines()
    best, spread = metrics["val-core/x/acc/best@4/mean"], metrics["val-aux/x/acc/best@4/std"]
    assert x.startswith(f"| x | 2 | 4 | 0.5000 | 0.4330 | {best:.4f} ± {spread:.4f} |") and x.endswith("| 0.0% |")
    assert y.startswith("| y | 1 | 4 | 0.5000 | 0.5000 |") and y.endswith("| - | 25.0% |")  # preds are missing


def test_a_single_response_is_no_list(tmp_path):
    rows = [{"responses": "a", "data_source": "x", "reward_model": {"ground_truth": "a"}}]
    judged = score(write(tmp_path, rows))
    metrics = validation_metrics(judged) | error_shares(judged)
    assert metrics["val-core/x/acc/mean@1"] == 1.0
    assert metrics_table(metrics, judged).splitlines()[2] == "| x | 1 | 1 | 1.0000 | - | - | - | - | 0.0% |"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"responses": []}, "column 'responses': found \\[\\], expected a list of texts"),
        ({"responses": [1]}, "column 'responses'"),
        ({"reward_model": {}}, "column 'reward_model': found {}, expected a struct with ground_truth"),
        ({"data_source": ""}, "column 'data_source'"),
        ({"finish_reasons": ["stop"]}, "1 finish_reasons do not belong to 4 responses"),
    ],
)
def test_rows_that_cannot_be_scored_are_named(tmp_path, changes, message):
    config = write(tmp_path, [ROWS[0] | changes])
    with pytest.raises(SchemaError, match=message):
        list(read_answers(config.data.path, config.data))


def test_what_has_no_scorer_is_told_before_anything_starts(tmp_path):
    config = write(tmp_path, ROWS)
    prompts = [each.prompt for each in read_answers(config.data.path, config.data)]
    check_scorable(prompts, config.as_run())
    with pytest.raises(InputError, match=r"custom_reward_function.path"):
        check_scorable(prompts, EvaluationConfig().as_run())


def test_metrics_go_beside_the_file(tmp_path):
    assert output_path(write(tmp_path, ROWS)) == tmp_path / "out.metrics.json"
