"""Jobs in a real Slurm: the launcher submits them, the time limit interrupts them, and they go on by themselves."""

import json

import pytest
from slurm_jobs import ROOT

SMALL = (
    "data.train_batch_size=8",
    "data.val_max_samples=8",
    "actor_rollout_ref.actor.ppo_mini_batch_size=4",
    "actor_rollout_ref.rollout.n=4",
    "actor_rollout_ref.rollout.val_kwargs.n=2",
    "actor_rollout_ref.rollout.name=hf",
    "trainer.total_training_steps=2",
    "trainer.val_before_train=false",
)


def submit_local_preset(slurm, tmp_path, *overrides, **cluster):
    launcher = ["bash", "experiments/local/run_embedded.sh", "--submit", *SMALL]
    folder = f"trainer.default_local_dir={tmp_path / 'run'}"
    env = {"CLUSTER_DATA_DIR": str(tmp_path), "CLUSTER_TIME": "1:00:00"} | cluster
    return slurm.submit(*launcher, folder, *overrides, **env)


def steps(run):
    return [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def status(run):
    return json.loads((run / "status.json").read_text())


@pytest.mark.slow
def test_a_job_at_its_time_limit_saves_is_queued_again_and_finishes(slurm, tmp_path):
    reward = f"custom_reward_function.path={ROOT}/tests/slurm/stop_in_step_one.py"
    job = submit_local_preset(
        slurm, tmp_path, reward, "trainer.save_freq=0", CLUSTER_TIME="1", CLUSTER_SIGNAL_SECONDS="60"
    )
    slurm.wait_until_queued_again(job)
    run = tmp_path / "run"
    assert steps(run) == [0, 1]
    assert status(run)["status"] == "interrupted"
    assert "asked to stop after step 1, which is saved; the same command goes on from there" in status(run)["reason"]
    assert (run / "global_step_1" / "manifest.json").exists()
    facts = slurm.wait_until_ended(job)
    assert (facts["JobState"], facts["Restarts"]) == ("COMPLETED", "1"), slurm.log(job)
    assert f"Resuming from {run / 'global_step_1'}" in slurm.log(job)
    assert steps(run) == [0, 1, 2]
    assert status(run)["status"] == "finished"


@pytest.mark.slow
def test_a_job_of_two_nodes_trains_on_both(slurm, tmp_path):
    job = submit_local_preset(slurm, tmp_path, "actor_rollout_ref.rollout.num_engines=2", CLUSTER_NODES="2")
    facts = slurm.wait_until_ended(job)
    assert facts["JobState"] == "COMPLETED", slurm.log(job)
    assert "on: node1 node2" in slurm.log(job)
    assert "Starting 2 training rank(s), 2 hf engine(s)" in slurm.log(job)
    assert steps(tmp_path / "run") == [0, 1, 2]


@pytest.mark.slow
def test_nodes_that_do_not_join_in_time_fail_the_job_and_the_command_is_not_begun(slurm):
    options = ("--nodes=2", "--ntasks-per-node=1")
    job = slurm.submit_command("echo", "begun", options=options, RAY_START_SECONDS="0")
    facts = slurm.wait_until_ended(job)
    assert (facts["JobState"], facts["ExitCode"]) == ("FAILED", "1:0"), slurm.log(job)
    assert "error: Ray's head does not answer at " in slurm.log(job)
    assert "begun" not in slurm.log(job)


def test_the_status_of_the_command_is_the_jobs(slurm):
    facts = slurm.wait_until_ended(slurm.submit_command("bash", "-c", "exit 3", options=("--requeue",)))
    assert (facts["JobState"], facts["ExitCode"], facts["Restarts"]) == ("FAILED", "3:0", "0")


def test_a_second_signal_cancels_the_job_and_the_command_may_say_so(slurm):
    command = "trap 'echo told to end; exit 143' TERM; echo begun; while true; do sleep 0.1; done"
    job = slurm.submit_command("srun", "--overlap", "bash", "-c", command, options=("--requeue",))
    slurm.wait_for_text(job, "begun")
    for text in ("the trainer is asked to finish its step", "told to end"):
        slurm.call("scancel", "--signal=USR1", "--batch", job)
        slurm.wait_for_text(job, text)
    assert slurm.wait_until_ended(job)["JobState"] == "CANCELLED"
    assert not list(ROOT.glob(".stop-*"))
