"""The quickstart, as shipped, learns: the claim of the README's first command."""

import subprocess
import sys

import pytest
from whole_runs import ROOT, read_metrics

ACCURACY = "val-core/home_api/acc/mean@8"


@pytest.mark.slow
def test_quickstart_raises_held_out_accuracy(home_api_data, tmp_path):
    command = [
        sys.executable, "-m", "verl.trainer.main_ppo", "--config-name", "quickstart",
        f"data.train_files={home_api_data}/train.parquet", f"data.val_files={home_api_data}/test.parquet",
        f"trainer.default_local_dir={tmp_path}",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    lines = read_metrics(tmp_path)
    assert lines[0][ACCURACY] < 0.25
    assert lines[-1][ACCURACY] >= 0.75
    assert lines[-1]["val-aux/home_api/teacher_demo_acc"] > 0.9
    report = subprocess.run(
        [sys.executable, "-m", "verl.trainer.main_report", str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )
    assert report.returncode == 0 and f"{lines[-1][ACCURACY]:.3f}" in report.stdout
