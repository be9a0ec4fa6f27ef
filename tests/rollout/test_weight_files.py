"""Folders of weights in shared memory: a killed engine's is removed, one that is in use is not. Real processes."""

import os
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest

from verl.rollout import weight_files
from verl.rollout.weight_files import remove_leftovers, weight_folder

HOLDER = """
import sys
from pathlib import Path
from verl.rollout import weight_files

weight_files.ROOT = Path(sys.argv[1])
with weight_files.weight_folder() as folder:
    (folder / "model-00000.safetensors").write_bytes(b"weights")
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setattr(weight_files, "ROOT", tmp_path)
    return tmp_path


@contextmanager
def holder(root):
    """A process that is in the middle of a sync, and its folder."""
    command = [sys.executable, "-c", HOLDER, str(root)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        folder = root / process.stdout.readline().strip()
        assert list(folder.iterdir())
        yield process, folder
        process.stdin.close()


def test_a_folder_is_gone_after_its_use(root):
    with weight_folder() as folder:
        (folder / "model.safetensors").touch()
        remove_leftovers()
        assert list(folder.iterdir())
    with pytest.raises(ValueError, match="no such weights"), weight_folder():
        raise ValueError("no such weights")
    assert list(root.iterdir()) == []


def test_a_killed_engines_folder_is_removed_by_the_next_and_a_living_ones_is_not(root):
    with holder(root) as (killed, leftover), holder(root) as (_, in_use):
        os.kill(killed.pid, signal.SIGKILL)
        killed.wait()
        assert leftover.exists()
        with weight_folder() as own:
            assert sorted(root.iterdir()) == sorted([in_use, own])
            assert list(in_use.iterdir())
    assert list(root.iterdir()) == []


def test_what_is_no_such_folder_stays(root):
    others = [root / "verl-weights-of-another-kind", root / "something"]
    others[0].symlink_to(root / "target")
    (root / "target").mkdir()
    others[1].mkdir()
    remove_leftovers()
    assert others[0].is_symlink() and others[1].is_dir() and (root / "target").is_dir()
