"""Responses written beside the update, in the real stack: a killed run goes on, an interrupted one ends."""

import json
import signal
import subprocess
import time

import pytest
from whole_runs import ROOT, read_metrics

SETTINGS = ("trainer.rollout_schedule=one_step_off", "algorithm.rollout_correction.rollout_is=token")


def wait_for_step(process, folder, step):
    deadline = time.monotonic() + 300
    while not any(line["step"] >= step for line in read_metrics(folder)):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
def test_a_killed_run_trains_on_every_prompt_once(quickstart, tmp_path):
    arguments = (*SETTINGS, "trainer.total_training_steps=6", "trainer.save_freq=1", "trainer.test_freq=3")
    arguments += (f"trainer.rollout_data_dir={tmp_path}/rollouts",)
    quickstart.kill_after_step(2, tmp_path, *arguments)
    quickstart.run(tmp_path, *arguments)
    lines = read_metrics(tmp_path)
    assert [line["step"] for line in lines] == list(range(7))
    assert all(line["rollout/probe_log_prob_gap"] < 1e-3 for line in lines)
    assert lines[1]["training/rollout_staleness"] == 0
    behind = [line["training/rollout_staleness"] for line in lines[2:]]
    assert sorted(behind) == [0, 1, 1, 1, 1]  # one more step has nothing written ahead: the first after the resume
    assert all(line["rollout_corr/k3_kl"] > 1e-5 for line in lines[2:] if line["training/rollout_staleness"])
    assert all("val-core/home_api/acc/mean@2" in lines[step] for step in (0, 3, 6))
    prompts = []
    for step in range(1, 7):
        rollouts = [json.loads(line) for line in (tmp_path / "rollouts" / f"{step}.jsonl").read_text().splitlines()]
        prompts += list(dict.fromkeys(rollout["input"] for rollout in rollouts))
    assert len(set(prompts)) == len(prompts) == 6 * 8


def heed_interrupts():
    """What a shell starts in the background ignores them, and so would the run."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.slow
def test_an_interrupted_run_ends(quickstart, tmp_path):
    command = quickstart.command(tmp_path, *SETTINGS, "trainer.total_training_steps=1000", "trainer.test_freq=-1")
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_interrupts,
    )
    wait_for_step(process, tmp_path, 2)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert errors.rstrip().endswith("interrupted")
