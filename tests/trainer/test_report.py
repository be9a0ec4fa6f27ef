"""The report of a run folder made by hand."""

import json

import pytest

from verl.tracking import Tracking, record_end, record_start
from verl.trainer.main_report import main
from verl.trainer.report import ReportError, read_run, sentence


def make_run(folder, points, status="finished", reason="", n=4, metric="val-core/home_api/acc/mean@8", **config):
    """A run of 2 prompts x n responses a step, validated at the given (step, accuracy) points."""
    settings = {
        "data": {"train_batch_size": 2},
        "actor_rollout_ref": {"rollout": {"n": n}, "actor": {"policy_loss": {"loss_mode": "sdpo"}}},
        "trainer": {"experiment_name": folder.name, "seed": 1},
    }
    for key, value in config.items():
        node = settings
        *path, leaf = key.split("__")
        for part in path:
            node = node.setdefault(part, {})
        node[leaf] = value
    record_start(folder, settings, {"trainer": 1})
    tracking = Tracking("p", folder.name, "file", folder=folder)
    values = dict(points)
    for step in range(max(values) + 1):
        metrics = {"timing_s/step": 0.5} if step else {}
        tracking.log(metrics | ({metric: values[step]} if step in values else {}), step)
    tracking.finish()
    if status != "running":
        record_end(folder, status, reason)
    return folder


def test_before_after_best_time_generations(tmp_path, capsys):
    folder = make_run(tmp_path / "my_run", [(0, 0.147), (20, 0.9), (40, 0.895)])
    assert main([str(folder)]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "my_run: finished" in text and f"run folder: {folder}" in text
    assert "held-out mean@8 before │ 0.147" in text and "after │ 0.895 (step 40)" in text
    assert "best │ 0.900 (step 20)" in text and "0:20 (0.50 s a step)" in text and "generations used │ 320" in text
    assert (
        "While the model trained on 320 answers of its own, the share of right answers among 8 to each held-out prompt"
        " rose from 14.7% to 89.5%." in text
    )


def test_a_failed_run_says_why(tmp_path, capsys):
    folder = make_run(tmp_path / "r", [(0, 0.5), (1, 0.25)], "failed", "WorkerError: [actor] rank 1 died")
    main([str(folder)])
    out = " ".join(capsys.readouterr().out.split())
    assert "failed (WorkerError: [actor] rank 1 died)" in out and "fell from 50.0% to 25.0%" in out


def test_sentences_for_incomplete_runs(tmp_path):
    late = read_run(make_run(tmp_path / "late", [(2, 0.5)], metric="val-core/s/acc/mean@1"))
    assert sentence(late).startswith("At step 2, the share of held-out prompts that were answered right is 50.0%")
    assert sentence(read_run(make_run(tmp_path / "only", [(0, 0.5)]))).startswith("Before training, the share")
    assert "nothing can be said" in sentence(read_run(make_run(tmp_path / "none", [(1, 0.5)], metric="other")))


def test_a_running_run_can_be_read(tmp_path):
    folder = make_run(tmp_path / "r", [(0, 0.1), (3, 0.2)], "running")
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "val-')
    run = read_run(folder)
    assert run.num_steps == 3 and run.seconds == 1.5 and run.status["status"] == "running"


def test_missing_runs_are_named(tmp_path, capsys):
    assert main([str(tmp_path / "nowhere")]) == 2
    assert "there is no metrics.jsonl" in capsys.readouterr().err
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(ReportError, match="has not finished its first step"):
        read_run(tmp_path)


def test_values_that_were_not_finite_are_no_points(tmp_path):
    name = "val-core/s/acc/mean@8"
    lines = [{"step": 0, name: None}, {"step": 1, name: 0.5}]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert [point.value for point in read_run(tmp_path).curve(name)] == [0.5]
