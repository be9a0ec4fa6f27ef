"""Disks that are full, read-only or limited, for real: memory disks where root may mount them, and file size limits."""

import json
import resource
import shutil
import subprocess
from dataclasses import replace

import pytest
from sft_runs import ROOT, Runs

from verl.checkpoint import CheckpointError, find_latest
from verl.config import ConfigError
from verl.config.actor import CheckpointConfig
from verl.dataset import DataIdentity, StatefulSampler
from verl.trainer.checkpointing import RunCheckpoints
from verl.trainer.roles import sft_workers
from verl.trainer.sft_trainer import worker_config

CHECKPOINT_BYTES = 1_674_784
"""Of the embedded model: weights and two moments."""


@pytest.fixture
def run(tmp_path):
    return Runs(tmp_path)


@pytest.fixture
def disk(tmp_path):
    """`disk(options)`: mount (or, given `remount`, change) a memory disk and return its folder."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options):
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no permission to mount a small disk ({done.stderr.strip()})")
        return folder

    yield mount
    subprocess.run(["umount", folder], capture_output=True)


def left_in(folder):
    return sorted(path.name for path in folder.glob("global_step_*"))


@pytest.mark.parametrize("async_save", [True, False])
def test_a_disk_that_fills_up_ends_the_run_with_its_last_checkpoint_whole(run, disk, async_save):
    folder = disk("size=5m") / "run"
    config = run.config(6, folder=folder)
    with sft_workers(worker_config(config), config.trainer, 6, folder / "logs") as workers:
        checkpoints = new_checkpoints(config, folder, workers, CheckpointConfig(async_save=async_save))
        checkpoints.save_if_due(1, 6)
        checkpoints.save_if_due(2, 6)
        with pytest.raises(CheckpointError) as error:
            checkpoints.save_if_due(3, 6)
            assert async_save  # and the next step is told
            checkpoints.save_if_due(4, 6)
    message = str(error.value)
    assert f"The checkpoint of step 3 in {folder} was not completed: " in message
    assert "No space left on device (0 bytes were free on that disk)" in message
    assert f"The newest whole one is {folder}/global_step_2" in message
    assert find_latest(folder) == folder / "global_step_2"
    assert left_in(folder) == ["global_step_1", "global_step_2"]


def new_checkpoints(config, folder, workers, settings):
    folder.mkdir(exist_ok=True)
    sampler = StatefulSampler(6, 2, shuffle=True, seed=1)
    return RunCheckpoints(folder, config.trainer, workers, sampler, settings, DataIdentity())


def test_a_run_on_a_disk_that_fills_up_says_so_and_goes_on_when_there_is_room(run, disk):
    folder = disk("size=5m") / "run"
    done = subprocess.run(run.command(6, folder=folder), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("CheckpointError: The checkpoint of step 3")
    status = json.loads((folder / "status.json").read_text())
    assert status["status"] == "failed" and "No space left on device" in status["reason"]
    shutil.rmtree(folder / "global_step_1")
    run(6, "trainer.max_actor_ckpt_to_keep=1", folder=folder)
    assert left_in(folder) == ["global_step_6"]
    assert [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()] == [*range(1, 7)]


def test_a_disk_without_room_for_one_checkpoint_is_refused_before_the_first_step(run, disk):
    folder = disk("size=1m") / "run"
    with pytest.raises(
        CheckpointError, match=rf"default_local_dir={folder}: .* needs {CHECKPOINT_BYTES:,} bytes .*free"
    ):
        run(2, folder=folder)
    assert not (folder / "metrics.jsonl").exists()
    run(2, "trainer.save_freq=-1", "trainer.save_last=false", folder=disk("remount,size=20m") / "run")


def test_a_disk_that_becomes_read_only_leaves_the_last_checkpoint(run, disk):
    folder = disk("size=20m") / "run"
    config = run.config(6, folder=folder)
    with sft_workers(worker_config(config), config.trainer, 6, folder / "logs") as workers:
        checkpoints = new_checkpoints(config, folder, workers, CheckpointConfig())
        checkpoints.save(1)
        checkpoints.finish()
        disk("remount,ro")
        with pytest.raises(
            CheckpointError, match=rf"Read-only file system.*newest whole one is {folder}/global_step_1"
        ):
            checkpoints.save(2)
    with pytest.raises(ConfigError, match=rf"default_local_dir={folder}: {folder} cannot be written to"):
        run(2, folder=folder)


def test_a_limit_on_file_sizes_is_met_like_a_full_disk(run, tmp_path):
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (CHECKPOINT_BYTES // 2, CHECKPOINT_BYTES // 2))

    command = run.command(3, folder=tmp_path / "run")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, preexec_fn=limit)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "checkpoint of step 1" in last and "File too large" in last and last.endswith("There is no other.")
    assert left_in(tmp_path / "run") == []
    run(3)  # nothing stands in the way of a new start
    assert left_in(tmp_path / "run") == ["global_step_1", "global_step_2", "global_step_3"]


@pytest.mark.parametrize("key", ["default_local_dir", "rollout_data_dir", "validation_data_dir"])
def test_folders_that_cannot_be_made_are_found_before_anything_starts(run, tmp_path, key):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=rf"trainer\.{key}=.*file/x: cannot be a folder, because .*/file is a file"):
        run.config(1, f"trainer.{key}={tmp_path}/file/x", folder=tmp_path / "run")


def test_a_checkpoint_of_a_run_that_exports_needs_the_room_of_the_export_too(run, tmp_path):
    config = run.config(1, folder=tmp_path / "run")
    config = replace(config, trainer=replace(config.trainer, save_last=True))
    with sft_workers(worker_config(config), config.trainer, 1, tmp_path / "logs") as workers:
        (plain,), (with_export,) = workers.checkpoint_bytes(), workers.checkpoint_bytes(True)
    assert plain == CHECKPOINT_BYTES
    assert with_export - plain == pytest.approx(CHECKPOINT_BYTES / 3, rel=0.02)
