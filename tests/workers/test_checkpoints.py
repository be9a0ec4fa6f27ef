"""What one or two ranks save is what they resume from, to the bit; what becomes of a checkpoint that does not fit."""

import os
import signal
import threading
from pathlib import Path

import pytest
import torch
from checkpoint_case import everything, new_actor, resume_and_go_on, save_and_go_on, state_at_save, train_on
from rank_processes import run_ranks
from training_case import make_actor, make_config, save_tiny
from transformers import Qwen3Config, Qwen3ForCausalLM

from verl.checkpoint import CheckpointError, Commit, verify


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    save_tiny(folder / "tied", True)
    return folder


@pytest.fixture(scope="module")
def one(folder):
    """What one rank saved."""
    return {"at": state_at_save(folder), "saved by one": save_and_go_on(folder, "one")}


@pytest.fixture(scope="module")
def two(folder, one):
    """Results of two ranks, which also resume from what one rank saved."""
    run_ranks(Path(__file__).with_name("checkpoint_case.py"), folder)
    return [torch.load(folder / f"results-{rank}.pt") for rank in (0, 1)]


def assert_equal(found, expected):
    """To the bit."""
    assert found["counts"] == expected["counts"]
    for part in ("weights", "teacher", "moments"):
        assert found[part].keys() == expected[part].keys()
        for name, value in expected[part].items():
            assert torch.equal(found[part][name], value), (part, name)


def assert_close(found, expected):
    """As equal as two and one rank are, which add in another order."""
    assert found["counts"] == expected["counts"]
    for part in ("weights", "teacher"):
        for name, value in expected[part].items():
            torch.testing.assert_close(found[part][name], value, rtol=1e-4, atol=1e-5)


def test_saved_by_two_resumed_by_one(folder, two):
    resumed = resume_and_go_on(folder, "two")
    assert_equal(resumed["at"], two[0]["at"])
    assert_close(resumed["after"], two[0]["saved by two"]["after"])


def test_saved_by_one_resumed_by_two(one, two):
    assert_equal(two[0]["one to two"]["at"], one["at"])
    assert_close(two[0]["one to two"]["after"], one["saved by one"]["after"])


def test_copies_go_on_in_shards_and_shards_as_copies(folder, two):
    """Two ranks with a copy each (`fsdp_size=1`), and two with a half each."""
    for rank in two:
        assert_equal(rank["copies to shards"]["at"], rank["at, copied"])
        assert_equal(rank["shards to copies"]["at"], rank["at"])
        assert_close(rank["copies to shards"]["after"], rank["saved by copies"]["after"])
        assert_close(rank["shards to copies"]["after"], rank["saved by two"]["after"])
    assert_close(two[0]["at, copied"], two[0]["at"])
    verify(folder / "copies" / "global_step_1")


def test_copies_are_written_once(folder, one, two):
    written = sum(path.stat().st_size for path in (folder / "copies" / "global_step_1").rglob("*.distcp"))
    assert written < 1.5 * sum(path.stat().st_size for path in (folder / "one").rglob("*.distcp"))
    random_state = torch.get_rng_state().nbytes
    moments, tensors = len(two[0]["at"]["moments"]) // 3, one["at"]["bytes"] - random_state
    counts = 4 * moments  # `step` of each weight, on every rank
    assert sum(rank["at, copied"]["bytes"] for rank in two) == tensors + counts + 2 * random_state


def test_the_same_number_of_ranks_goes_on_to_the_bit_random_numbers_included(folder, one, two):
    for rank in (0, 1):
        assert_equal(two[rank]["two to two"]["after"], two[rank]["saved by two"]["after"])
        assert two[rank]["two to two"]["draws"] == two[rank]["saved by two"]["draws"]
    assert two[0]["two to two"]["draws"] != two[1]["two to two"]["draws"]
    resumed = resume_and_go_on(folder, "one")
    assert resumed["draws"] == one["saved by one"]["draws"]
    assert_equal(resumed["after"], one["saved by one"]["after"])


def test_what_two_ranks_wrote_in_the_background_was_committed_by_one_of_them(folder, two):
    verify(folder / "two" / "global_step_1")
    names = {path.name for path in (folder / "two" / "global_step_1" / "actor" / "policy").iterdir()}
    assert {".metadata", "__0_0.distcp", "__1_0.distcp"} <= names
    assert not list((folder / "two").glob("*.tmp"))


def test_shards_on_another_machines_disk_make_no_checkpoint(folder, two):
    message = two[0]["on own disks"]
    assert "actor/policy/__1_0.distcp is missing; actor/teacher/__1_0.distcp is missing. The run folder" in message
    assert "must be on a file system that all machines of the run share" in message
    assert two[1]["on own disks"] == ""  # it has written its part; rank 0 completes
    assert not list(folder.glob("disk-*/global_step_1"))


def test_a_background_write_that_fails_is_told_when_asked_and_by_the_next_save(folder, tmp_path):
    worker = new_actor(folder)
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where a folder should be made")
    for tell in (lambda: worker.checkpoint_is_written(wait=True), lambda: worker.save_checkpoint(str(tmp_path / "x"))):
        worker.save_checkpoint(str(blocked), in_background=True)
        with pytest.raises(CheckpointError, match=r"rank 0: NotADirectoryError: .*blocked/policy"):
            tell()
    assert worker.checkpoint_is_written()
    worker.save_checkpoint(str(tmp_path / "y"))  # the next one is not harmed
    assert (tmp_path / "y" / "policy" / ".metadata").exists()


class Held(Commit):
    """A commit that waits for the test."""

    may_go = threading.Event()

    def run(self):
        assert self.may_go.wait(60)
        return super().run()


def test_training_goes_on_while_a_checkpoint_is_being_written(folder, tmp_path):
    worker = new_actor(folder)
    partial = tmp_path / "global_step_1.tmp"
    partial.mkdir()
    worker.save_checkpoint(str(partial / "actor"), Held(partial), in_background=True)
    train_on(worker)
    assert not worker.checkpoint_is_written()
    assert partial.exists() and not (tmp_path / "global_step_1").exists()
    Held.may_go.set()
    assert worker.checkpoint_is_written(wait=True)
    verify(tmp_path / "global_step_1")


def test_closing_completes_what_is_being_written(folder, tmp_path):
    worker = new_actor(folder)
    partial = tmp_path / "global_step_3.tmp"
    partial.mkdir()
    worker.save_checkpoint(str(partial / "actor"), Commit(partial), in_background=True)
    worker.writer.close()
    verify(tmp_path / "global_step_3")


def test_after_an_interrupted_wait_closing_waits_no_more(folder, tmp_path):
    worker = new_actor(folder)
    never = threading.Event()

    class Interrupting(Commit):
        def run(self):
            while worker.writer._pending is not None:  # the driver does not wait yet
                never.wait(0.01)
            os.kill(os.getpid(), signal.SIGINT)
            never.wait()

    worker.save_checkpoint(str(tmp_path / "actor"), Interrupting(tmp_path), in_background=True)
    with pytest.raises(KeyboardInterrupt):
        worker.checkpoint_is_written(wait=True)
    worker.writer.close()
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "checkpoint"]
    assert thread.daemon  # nor does the process's end


def test_checkpoint_bytes_are_what_is_written(folder, tmp_path):
    worker = new_actor(folder)
    train_on(worker)
    worker.save_checkpoint(str(tmp_path))
    written = sum(path.stat().st_size for path in tmp_path.rglob("*.distcp"))
    assert 0 < worker.checkpoint_bytes() <= written
    parameters = sum(value.numel() for value in worker.model.parameters())
    assert worker.checkpoint_bytes() >= parameters * 4 * 4  # weights, two moments and the teacher
    assert worker.checkpoint_bytes(with_export=True) == worker.checkpoint_bytes() + parameters * 4


def test_a_checkpoint_of_another_shape_is_refused_before_anything_is_loaded(folder, one, tmp_path):
    config = Qwen3Config.from_pretrained(folder / "tied", intermediate_size=40)
    Qwen3ForCausalLM(config).save_pretrained(tmp_path / "wide")
    worker = make_actor(make_config(str(tmp_path / "wide"), teacher_update_rate=0.3))
    before = everything(worker)
    with pytest.raises(CheckpointError) as error:
        worker.load_checkpoint(str(folder / "one" / "global_step_1" / "actor"))
    message = str(error.value)
    assert "one/global_step_1/actor/policy" in message and f"model.path={tmp_path}/wide" in message
    assert "mlp.down_proj.weight is [16, 24] there and [16, 40] here" in message
    assert_equal(everything(worker), before)


def test_a_checkpoint_of_another_architecture_is_refused(folder, one, tmp_path):
    untied = save_tiny(tmp_path / "untied", False)
    with pytest.raises(CheckpointError, match=r"1 of 25 tensors differ.*lm\.lm_head\.weight is missing there"):
        make_actor(make_config(untied)).load_checkpoint(str(folder / "one" / "global_step_1" / "actor"))
    adapted = make_actor(make_config(str(folder / "tied"), model={"lora_rank": 2}))
    with pytest.raises(CheckpointError, match=r"LoRA settings it was saved with"):
        adapted.load_checkpoint(str(folder / "one" / "global_step_1" / "actor"))


def test_settings_of_the_optimizer_are_those_of_the_resumed_run(folder, one):
    config = make_config(str(folder / "tied"), teacher_update_rate=0.3)
    object.__setattr__(config.actor.optim, "weight_decay", 0.5)
    worker = make_actor(config)
    worker.load_checkpoint(str(folder / "one" / "global_step_1" / "actor"))
    assert worker.learner.optimizer.param_groups[0]["weight_decay"] == 0.5


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_saves_in_the_background_what_it_had_at_the_call(folder, tmp_path):
    if torch.distributed.is_initialized():  # by a test before, for the CPU only
        torch.distributed.destroy_process_group()
    config = make_config(str(folder / "tied"), teacher_update_rate=0.3)
    worker, resumed = make_actor(config, device="cuda"), make_actor(config, device="cuda")
    train_on(worker)
    expected = everything(worker)
    worker.save_checkpoint(str(tmp_path), in_background=True)
    train_on(worker)
    assert worker.checkpoint_is_written(wait=True)
    resumed.load_checkpoint(str(tmp_path))
    assert_equal(everything(resumed), expected)
    resumed.close()
    worker.close()
