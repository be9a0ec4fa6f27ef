"""Files of a checkpoint that were made to run code, or are damaged, end in an error and do nothing."""

import os
import pickle

import pytest
import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.state_dict_saver import save

import verl.checkpoint.folders
from verl.checkpoint import CheckpointError, Commit, begin_save, find_latest, verify
from verl.checkpoint.dcp import load_state, saved_shapes


@pytest.fixture
def state():
    return {"model": {"weight": torch.arange(6.0).reshape(2, 3)}, "num_steps": 7}


@pytest.fixture
def folder(tmp_path, state):
    save(state, checkpoint_id=str(tmp_path / "policy"), no_dist=True)
    return tmp_path / "policy"


class Command:
    """Pickles as a call of os.system."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def rewrite(folder, change):
    metadata = FileSystemReader(str(folder)).read_metadata()
    change(metadata)
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))


def test_a_state_comes_back(folder, state):
    assert saved_shapes(folder) == {"model.weight": (2, 3), "num_steps": None}
    found = {"model": {"weight": torch.zeros(2, 3)}, "num_steps": 0}
    tensor = found["model"]["weight"]
    load_state(found, folder, is_alone=True)
    assert found["num_steps"] == 7 and torch.equal(tensor, state["model"]["weight"])


def test_metadata_that_would_run_a_command_is_refused(folder, tmp_path):
    mark = tmp_path / "was here"
    rewrite(folder, lambda metadata: setattr(metadata, "planner_data", Command(f"touch '{mark}'")))
    with pytest.raises(CheckpointError, match=r"\.metadata asks for (posix|os)\.system.*not loaded"):
        load_state({"num_steps": 0}, folder, is_alone=True)
    assert not mark.exists()
    FileSystemReader(str(folder)).read_metadata()
    assert mark.exists()  # torch's own reader does run it


@pytest.mark.parametrize("name", ["builtins.eval", "builtins.getattr", "torch.load", "subprocess.Popen"])
def test_other_names_are_refused(folder, name):
    module, _, attribute = name.rpartition(".")
    (folder / ".metadata").write_bytes(f"c{module}\n{attribute}\n.".encode())
    with pytest.raises(CheckpointError, match=name):
        saved_shapes(folder)


def test_an_object_beside_the_tensors_that_would_run_a_command_is_refused(tmp_path):
    mark = tmp_path / "was here"
    save({"num_steps": Command(f"touch '{mark}'")}, checkpoint_id=str(tmp_path / "policy"), no_dist=True)
    with pytest.raises(CheckpointError, match="num_steps is not plain data"):
        load_state({"num_steps": 0}, tmp_path / "policy", is_alone=True)
    assert not mark.exists()


@pytest.mark.parametrize("path", ["../other/__0_0.distcp", "/etc/passwd"])
def test_shards_elsewhere_are_refused(folder, path):
    def point_away(metadata):
        for entry in metadata.storage_data.values():
            entry.relative_path = path

    rewrite(folder, point_away)
    with pytest.raises(CheckpointError, match="not a file beside it"):
        saved_shapes(folder)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: f.write_bytes(f.read_bytes()[:200]), "cannot be read"),
        (lambda f: f.write_bytes(b""), "cannot be read"),
        (lambda f: f.write_bytes(pickle.dumps({"a": 1})), "holds a dict"),
        (lambda f: f.unlink(), "is missing"),
    ],
)
def test_damaged_metadata(folder, damage, message):
    damage(folder / ".metadata")
    with pytest.raises(CheckpointError, match=message):
        saved_shapes(folder)


def test_a_name_that_was_not_saved(folder):
    with pytest.raises(CheckpointError, match=r"policy cannot be read: .*Missing key"):
        load_state({"num_updates": 0}, folder, is_alone=True)


@pytest.fixture
def partial(tmp_path, state):
    """A written folder that is to become the checkpoint of step 2; there is one of step 1 already."""
    for step in (1, 2):
        folder = begin_save(tmp_path, step)
        save(state, checkpoint_id=str(folder / "actor/policy"), no_dist=True)
        if step == 1:
            Commit(folder).run()
    return folder


@pytest.fixture
def no_lag(monkeypatch):
    monkeypatch.setattr(verl.checkpoint.folders, "LAG", 0.0)


SHARD = "actor/policy/__0_0.distcp"


def cut(path):
    """Damage the last byte away; returns how many there were."""
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    return len(content)


def test_a_folder_without_all_its_shards_does_not_become_a_checkpoint(partial, no_lag, tmp_path):
    size = cut(partial / SHARD)
    with pytest.raises(
        CheckpointError, match=rf"{SHARD} has {size - 1} bytes instead of {size} or more\. The run folder"
    ):
        Commit(partial).run()
    (partial / SHARD).unlink()
    with pytest.raises(
        CheckpointError, match=rf"{SHARD} is missing\. .*file system that all machines of the run share"
    ):
        Commit(partial).run()
    assert find_latest(tmp_path) == tmp_path / "global_step_1"


def test_what_the_driver_wrote_must_be_there_too(partial, no_lag):
    commit = Commit(partial, needed=("trainer.json",))
    with pytest.raises(CheckpointError, match=r"trainer\.json is missing"):
        commit.run()
    (partial / "trainer.json").write_text("{}")
    verify(commit.run())


def test_a_shard_that_shows_up_late_is_awaited(partial, monkeypatch):
    """Folders of network file systems are looked at again only after a while."""
    (partial / SHARD).rename(partial / "late")
    monkeypatch.setattr(
        verl.checkpoint.folders.time, "sleep", lambda seconds: (partial / "late").rename(partial / SHARD)
    )
    verify(Commit(partial).run())


def test_a_checkpoint_committed_without_a_shard_is_passed_over(partial, no_lag, tmp_path, caplog, monkeypatch):
    (partial / SHARD).unlink()
    with monkeypatch.context() as patch:  # as it was done before, and by others
        patch.setattr(verl.checkpoint.folders, "shard_problems", lambda folder: [])
        whole_by_its_manifest = Commit(partial).run()
    with pytest.raises(CheckpointError, match=rf"is not a usable checkpoint: {SHARD} is missing"):
        verify(whole_by_its_manifest)
    assert find_latest(tmp_path) == tmp_path / "global_step_1"
    assert "Trying the one before it" in caplog.text
