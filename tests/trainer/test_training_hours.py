"""The paper's tables from small run folders made by hand: hours are those of training, not of the clock."""

import json

import pytest
import yaml

from verl.trainer.main_report import main
from verl.trainer.report import ReportError, read_run
from verl.trainer.training_hours import TimedPoint, best_within, timed_curve

METRIC = "val-core/mcq/acc/mean@16"


def make_run(folder, values, seconds=1800.0, mode="sdpo", data_set="chemistry", model="org/Qwen3-8B"):
    """A run validated after every step, each of `seconds`."""
    folder.mkdir()
    config = {
        "data": {"val_files": [f"datasets/{data_set}/test.parquet"]},
        "actor_rollout_ref": {"model": {"path": model}, "actor": {"policy_loss": {"loss_mode": mode}}},
        "algorithm": {"adv_estimator": "grpo"},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    lines = [{"step": step, METRIC: value, "timing_s/testing": 9999.0} for step, value in enumerate(values)]
    for line in lines[1:]:
        line["timing_s/step"] = seconds
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(folder)


def rows(text):
    lines = [line for line in text.splitlines() if line.startswith("|") and "---" not in line]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_best_within_hours_of_training(tmp_path):
    run = read_run(make_run(tmp_path / "a", [0.4, 0.5, 0.45, 0.7]))
    curve = timed_curve(run, METRIC)
    assert curve == [
        TimedPoint(0, 0.0, 0.4),
        TimedPoint(1, 0.5, 0.5),
        TimedPoint(2, 1.0, 0.45),
        TimedPoint(3, 1.5, 0.7),
    ]
    assert [best_within(curve, hours) for hours in (0.1, 1, 5)] == [0.4, 0.5, 0.7]
    assert best_within(curve[2:], 0.5) is None


def test_tables_over_seeds_data_sets_and_methods(tmp_path, capsys, png_size):
    folders = [
        make_run(tmp_path / "s1", [0.4, 0.5, 0.6, 0.8, 0.7]),  # 0.5 h a step
        make_run(tmp_path / "s2", [0.4, 0.7, 0.6, 0.6, 0.5]),
        make_run(tmp_path / "g", [0.4, 0.45, 0.5], seconds=900.0, mode="vanilla"),
        make_run(tmp_path / "p", [0.6, 0.65, 0.5, 0.55, 0.5], data_set="physics"),
    ]
    output = tmp_path / "hours.png"
    assert main(["--hours", "1,2", *folders, "--output", str(output)]) == 0
    printed = capsys.readouterr().out
    assert rows(printed) == [
        ["Qwen3-8B: best mean@16 within 1 h / 2 h", "chemistry", "physics"],
        ["before training", "40.0 [40.0-40.0]", "60.0"],
        ["SDPO", "65.0 [60.0-70.0] / 75.0 [70.0-80.0]", "65.0 / 65.0"],
        ["GRPO", "50.0* / 50.0*", "- / -"],
        ["Qwen3-8B: final / best mean@16", "chemistry", "physics"],
        ["before training", "40.0 [40.0-40.0]", "60.0"],
        ["SDPO", "60.0 [50.0-70.0] / 75.0 [70.0-80.0]", "50.0 / 65.0"],
        ["GRPO", "50.0 / 50.0", "- / -"],
    ]
    assert output.with_suffix(".md").read_text() in printed
    assert png_size(output) == (2400, 750)  # two panels


def test_models_have_tables_of_their_own(tmp_path, capsys):
    folders = [make_run(tmp_path / "a", [0.1, 0.2]), make_run(tmp_path / "b", [0.3, 0.4], model="allenai/Olmo-3")]
    assert main(["--hours", "0.5", *folders, "--output", str(tmp_path / "x.png")]) == 0
    titles = [line[0] for line in rows(capsys.readouterr().out) if "best" in line[0]]
    assert titles == [
        "Olmo-3: best mean@16 within 0.5 h",
        "Olmo-3: final / best mean@16",
        "Qwen3-8B: best mean@16 within 0.5 h",
        "Qwen3-8B: final / best mean@16",
    ]


def test_a_run_without_times_is_refused(tmp_path):
    folder = make_run(tmp_path / "a", [0.4, 0.5], seconds=None)
    with pytest.raises(ReportError, match=r"no timing_s/step"):
        timed_curve(read_run(folder), METRIC)


@pytest.mark.parametrize("given", ["a,b", "1,,5", "0", "nan", ""])
def test_hours_that_are_no_numbers_are_refused(tmp_path, capsys, given):
    with pytest.raises(SystemExit):
        main(["--hours", given, str(tmp_path)])
    assert f"{given!r} is not a list of hours; give positive numbers, as in 1,5" in capsys.readouterr().err
