"""Whole runs (supervised, one rank, in this process) that save, resume, meet damage or other data, and are exported."""

import json
import logging
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from sft_runs import MODEL, ROOT, Runs, write_data
from transformers import AutoModelForCausalLM, AutoTokenizer

from verl import model_merger
from verl.checkpoint import CheckpointError
from verl.checkpoint.__main__ import main


@pytest.fixture
def run(tmp_path):
    return Runs(tmp_path)


def losses(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["train/loss"] for line in lines}


def steps(folder):
    return sorted(path.name for path in folder.glob("global_step_*"))


def weights(folder):
    return load_file(folder / "model.safetensors")


def assert_same_model(found, expected):
    assert weights(found).keys() == weights(expected).keys()
    assert all(torch.equal(weights(found)[name], value) for name, value in weights(expected).items())


def test_a_resumed_run_goes_on_as_if_nothing_had_been(run, tmp_path, caplog):
    whole = run(4, folder=tmp_path / "whole")
    begun = run(2)
    shutil.rmtree(begun / "huggingface")
    with caplog.at_level(logging.INFO):
        resumed = run(4, "trainer.max_actor_ckpt_to_keep=2")
    assert losses(resumed) == losses(whole)
    assert_same_model(resumed / "huggingface", whole / "huggingface")
    assert steps(resumed) == ["global_step_3", "global_step_4"]
    (note,) = [message for message in caplog.messages if "Other settings" in message]
    assert "trainer.max_actor_ckpt_to_keep: null -> 2" in note and "trainer.total_training_steps: 2 -> 4" in note


@pytest.mark.parametrize("lora", [[], ["model.lora_rank=2", "model.lora_alpha=8"]])
def test_an_export_has_the_bits_of_the_workers_own(run, tmp_path, lora):
    folder = run(2, "optim.lr=0.01", *lora)
    checkpoint, target = folder / "global_step_2", tmp_path / "exported"
    for command in (["-m", "verl.checkpoint", "verify", checkpoint], ["-m", "verl.checkpoint", "list", folder]):
        assert subprocess.run([sys.executable, *map(str, command)], cwd=ROOT, capture_output=True).returncode == 0
    merge = ["merge", "--backend", "fsdp", "--local_dir", str(checkpoint / "actor"), "--target_dir", str(target)]
    assert model_merger.main(merge) == 0
    assert_same_model(target, folder / "huggingface")
    assert not all(torch.equal(value, weights(MODEL)[name]) for name, value in weights(target).items())
    tokens = AutoTokenizer.from_pretrained(target)("light", return_tensors="pt")
    logits = [AutoModelForCausalLM.from_pretrained(f)(**tokens).logits for f in (target, folder / "huggingface")]
    assert torch.equal(*logits)
    assert main(["export", str(checkpoint), str(target)]) == 1  # a folder that exists is left alone


def test_an_export_of_what_does_not_fit_says_so_and_writes_nothing(run, tmp_path, capsys):
    checkpoint = run(1) / "global_step_1"
    shutil.copytree(MODEL, tmp_path / "other")
    config = json.loads((MODEL / "config.json").read_text())
    (tmp_path / "other/config.json").write_text(json.dumps(config | {"intermediate_size": 17}))
    assert main(["export", str(checkpoint), str(tmp_path / "out"), "--model", str(tmp_path / "other")]) == 1
    assert "another model than model.path=" in capsys.readouterr().err
    (checkpoint / "actor/policy/.metadata").unlink()
    assert main(["export", str(checkpoint), str(tmp_path / "out")]) == 1
    assert ".metadata is missing" in capsys.readouterr().err
    assert not list(tmp_path.glob("out*"))


def test_list_and_verify_say_what_is_whole(run, capsys):
    folder = run(2)
    (folder / "global_step_3.tmp").mkdir()
    shard = next((folder / "global_step_1").rglob("*.distcp"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    assert main(["list", str(folder), "--quick"]) == 0
    assert main(["list", str(folder)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split()[0] == "1" and "policy/__0_0.distcp was altered" in line for line in lines if line.strip())
    assert any(line.split()[0] == "2" and line.rstrip().endswith("whole") for line in lines if line.strip())
    assert "global_step_3.tmp does not count: being written, or interrupted" in lines
    assert main(["verify", str(folder / "global_step_1")]) == 1
    assert main(["verify", str(folder / "global_step_2")]) == 0
    assert main(["list", str(folder / "global_step_1")]) == 1
    assert "has no checkpoints" in capsys.readouterr().err
    assert main(["verify", str(folder / "global_step_7")]) == 1
    assert "There is no checkpoint folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    "damage",
    [
        lambda f: next(f.rglob("*.distcp")).write_bytes(b""),
        lambda f: (f / "manifest.json").unlink(),
        lambda f: (f / "actor/policy/.metadata").write_bytes(b"x" * 10),
        lambda f: (f / "trainer.json").unlink(),
    ],
)
def test_a_damaged_newest_checkpoint_is_passed_over_and_written_again(run, caplog, damage):
    folder = run(2)
    expected = losses(folder)
    damage(folder / "global_step_2")
    run(2)
    assert "Trying the one before it" in caplog.text
    assert losses(folder) == expected
    assert main(["list", str(folder)]) == 0


def test_no_usable_checkpoint_is_an_error_and_not_step_0(run):
    folder = run(1)
    (folder / "global_step_1/manifest.json").unlink()
    with pytest.raises(CheckpointError, match="none can be resumed from"):
        run(2)
    assert json.loads((folder / "status.json").read_text())["status"] == "failed"


def test_resume_from_path(run, tmp_path):
    begun = run(2)
    for name in ("global_step_9", "global_step_1"):
        with pytest.raises(Exception, match="no such folder" if name == "global_step_9" else "never completed"):
            (begun / "global_step_1/manifest.json").unlink(missing_ok=True)
            resume_from(run, begun / name, tmp_path / "not made")
    other = resume_from(run, begun / "global_step_2", tmp_path / "other")
    assert list(losses(other)) == [3]
    assert steps(other) == ["global_step_3"]


def resume_from(run, path, folder):
    return run(3, "trainer.resume_mode=resume_path", f"trainer.resume_from_path={path}", folder=folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: write_data(f, 7), r"train\.parquet has changed \(6 rows, .*; now 7 rows, "),
        (lambda f: write_data(f, 6, "lamp"), r"train\.parquet has changed \(6 rows, .*; now 6 rows, "),
    ],
)
def test_another_data_file_is_named(run, tmp_path, change, message):
    run(1)
    change(tmp_path / "train.parquet")
    with pytest.raises(CheckpointError, match=message):
        run(2)


def test_a_data_file_that_only_moved_is_no_other(run, tmp_path):
    folder = run(1)
    shutil.copy(tmp_path / "train.parquet", tmp_path / "moved.parquet")
    run(2, f"data.train_files={tmp_path}/moved.parquet")
    assert list(losses(folder)) == [1, 2]
    write_data(tmp_path / "more.parquet", word="lamp")
    with pytest.raises(CheckpointError, match=r"more\.parquet is new \(6 rows"):
        run(3, f"data.train_files=[{tmp_path}/moved.parquet,{tmp_path}/more.parquet]")


def test_the_same_files_read_otherwise_name_the_setting(run):
    run(1)
    with pytest.raises(CheckpointError, match=r"files are the same.*data\.prompt_key: prompt -> response"):
        run(2, "data.prompt_key=response")


def test_data_in_another_order_is_refused(run):
    run(1, "data.seed=3")
    with pytest.raises(ValueError, match=r"data\.seed=3, this run has 4"):
        run(2, "data.seed=4")
