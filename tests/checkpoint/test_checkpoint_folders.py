import json
import shutil
import subprocess
import sys

import pytest

from verl.checkpoint import (
    CheckpointError,
    Commit,
    begin_save,
    commit_save,
    find_latest,
    newest_committed,
    prune,
    step_of,
    verify,
)

TRACKER = "latest_checkpointed_iteration.txt"


def save(run, step, content="weights"):
    partial = begin_save(run, step)
    (partial / "actor").mkdir()
    (partial / "actor" / "shard").write_text(content)
    return commit_save(partial)


def test_a_committed_checkpoint_is_found(tmp_path):
    assert find_latest(tmp_path / "new run") is None
    save(tmp_path, 2)
    final = save(tmp_path, 10)
    assert find_latest(tmp_path) == final == tmp_path / "global_step_10"
    assert (tmp_path / "latest_checkpointed_iteration.txt").read_text() == "10\n"
    assert step_of(final) == 10
    entry = json.loads((final / "manifest.json").read_text())["files"]["actor/shard"]
    assert entry["bytes"] == 7 and len(entry["sha256"]) == 64


def test_an_interrupted_save_does_not_count_and_is_cleared_away(tmp_path):
    (begin_save(tmp_path, 3) / "half").write_text("x")
    assert find_latest(tmp_path) is None
    save(tmp_path, 4)
    assert sorted(path.name for path in tmp_path.glob("global_step_*")) == ["global_step_4"]


def test_saving_a_step_again_replaces_it(tmp_path):
    save(tmp_path, 1, "old")
    final = save(tmp_path, 1, "new")
    verify(final)
    assert (final / "actor" / "shard").read_text() == "new"
    assert not list(tmp_path.glob("*.tmp"))


def rename_in_manifest(folder, name):
    text = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(text.replace("actor/shard", name))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "manifest.json").write_text("{"), "cannot be read"),
        (lambda f: (f / "manifest.json").unlink(), "never completed"),
        (lambda f: (f / "actor" / "shard").write_text("weight"), "6 bytes instead of 7"),
        (lambda f: (f / "actor" / "shard").write_text("WEIGHTS"), "altered"),
        (lambda f: (f / "actor" / "shard").unlink(), "missing"),
        (lambda f: (f / "manifest.json").write_text('{"files": {}}'), "names no file"),
        (lambda f: rename_in_manifest(f, "../shard"), r"names \.\./shard, outside"),
        (lambda f: rename_in_manifest(f, "/etc/passwd"), "names /etc/passwd, outside"),
        (shutil.rmtree, "no folder global_step_7"),
    ],
)
def test_a_damaged_only_checkpoint_is_an_error_not_step_0(tmp_path, damage, message):
    damage(save(tmp_path, 7))
    with pytest.raises(CheckpointError, match=message):
        find_latest(tmp_path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "actor" / "shard").write_text("WEIGHTS"), "actor/shard was altered. Trying the one before"),
        (lambda f: (f / "manifest.json").unlink(), "never completed. Trying the one before"),
        (shutil.rmtree, "names step 6, but there is no folder global_step_6. The newest whole checkpoint is"),
    ],
)
def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(tmp_path, caplog, damage, message):
    older, newer = save(tmp_path, 5), save(tmp_path, 6)
    damage(newer)
    assert find_latest(tmp_path) == older
    assert message in caplog.text


@pytest.mark.parametrize("text", ["", "\n", "six", "\x00\x00"])
def test_a_tracker_without_a_number_is_told(tmp_path, caplog, text):
    whole = save(tmp_path, 5)
    (tmp_path / TRACKER).write_text(text)
    assert find_latest(tmp_path) == whole
    assert f"{TRACKER} should hold the number of a step" in caplog.text
    shutil.rmtree(whole)
    with pytest.raises(CheckpointError, match="should hold the number of a step"):
        find_latest(tmp_path)


def test_a_tracker_that_is_behind_is_no_problem(tmp_path, caplog):
    """A crash between the rename of the folder and of the tracker."""
    save(tmp_path, 5)
    newest = save(tmp_path, 6)
    (tmp_path / TRACKER).write_text("5\n")
    assert find_latest(tmp_path) == newest
    assert caplog.text == ""


def test_checkpoints_after_the_saved_step_no_longer_count(tmp_path):
    """The run was begun again before them: neither resuming nor deleting the old may take them for its own."""
    for step in (4, 8, 12):
        save(tmp_path, step, "first history")
    partial = begin_save(tmp_path, 6)
    (partial / "shard").write_text("second history")
    final = Commit(partial, num_kept=1).run()
    assert find_latest(tmp_path) == final == tmp_path / "global_step_6"
    assert sorted(path.name for path in tmp_path.glob("global_step_*")) == [
        "global_step_12.set_aside", "global_step_6", "global_step_8.set_aside"
    ]  # fmt: skip


def test_a_commit_deletes_older_ones_only_when_the_new_one_is_whole(tmp_path):
    older = save(tmp_path, 5)
    partial = begin_save(tmp_path, 6)
    (partial / "shard").symlink_to(tmp_path / "nowhere")
    (partial / "shard2").write_text("x")
    (partial / "manifest.json").mkdir()  # the manifest cannot be written
    with pytest.raises(OSError):
        Commit(partial, num_kept=1).run()
    assert find_latest(tmp_path) == newest_committed(tmp_path) == older


def test_prune_keeps_the_newest(tmp_path):
    for step in (5, 20, 100):
        save(tmp_path, step)
    prune(tmp_path, 2)
    assert sorted(path.name for path in tmp_path.glob("global_step_*")) == ["global_step_100", "global_step_20"]


def test_the_best_checkpoint_is_kept(tmp_path):
    """It is the newest one that is not later than the best step."""
    for step in (5, 20, 40, 100):
        save(tmp_path, step)
    Commit(begin_save(tmp_path, 120), num_kept=1, best_step=30).run()
    assert sorted(path.name for path in tmp_path.glob("global_step_*")) == ["global_step_120", "global_step_20"]


def test_beginning_a_save_deletes_no_checkpoint(tmp_path):
    save(tmp_path, 5)
    begin_save(tmp_path, 6)
    prune(tmp_path, 1)
    assert find_latest(tmp_path) == tmp_path / "global_step_5"


def test_a_folder_of_another_name_is_no_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match="global_step_<number>"):
        step_of(tmp_path / "final")


def test_the_driver_needs_no_torch():
    code = "import sys, verl.checkpoint; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
