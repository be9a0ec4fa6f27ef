"""A recording gives back what was written, and refuses what does not fit."""

import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_run import compose_run

from verl.self_distillation.reprompt import Reprompt
from verl.self_distillation.sections import Sections
from verl.trainer.record import RecordingError, read_step, recorded_steps, write_step
from verl.trainer.replay import Recorder, Replay, dump_batch
from verl.trainer.run_data import load_run_data
from verl.trainer.sampling import Batch
from verl.types import Prompt, Reward, Rollout, Sample


def sample(index, **changes):
    messages = [{"role": "user", "content": f"Grüße {index} ✓\n"}]
    prompt = Prompt(index, messages, [5, 6], "own", {"answer": [1, None]}, {"split": "train", "deep": {"x": 0.1}})
    rollout = Rollout(index, [5, 6], [7, 150000], [-0.1, -1 / 3], [1, 0], "length", 4)
    extras = {"pred": "x", "tags": ["a", 1, True, None]}
    return replace(Sample(str(index // 2), prompt, rollout, "tail", Reward(0.25, 1.0, "wrong", extras, "")), **changes)


REPROMPTS = [
    Reprompt([{"role": "user", "content": "again"}], [1, 2, 3], Sections("shown", None, "tried"), True),
    Reprompt([], [], Sections()),
]


def test_what_is_read_is_what_was_written(tmp_path):
    rollout = replace(sample(1).rollout, prompt_ids=[9], response_ids=[], log_probs=[], response_mask=[])
    batch = Batch([sample(0), sample(1, rollout=rollout, reward=Reward(1 / 3, 0.0, error="Traceback"))], REPROMPTS)
    path = write_step(tmp_path, 12, batch)
    assert path.name == "step_000012.parquet" and read_step(path, 12) == batch
    assert [path.name for path in tmp_path.iterdir()] == ["step_000012.parquet"]  # no half of a file
    without = Batch([sample(0)], None)
    assert read_step(write_step(tmp_path, 12, without), 12) == without


def test_numbers_that_are_not_finite_are_kept(tmp_path):
    rollout = replace(sample(0).rollout, log_probs=[-math.inf, math.nan])
    (found,) = read_step(write_step(tmp_path, 1, Batch([sample(0, rollout=rollout)], None)), 1).samples
    assert found.rollout.log_probs[0] == -math.inf and math.isnan(found.rollout.log_probs[1])


def test_values_that_json_lacks_become_what_it_can_say(tmp_path):
    strange = replace(sample(0).reward, extras={"array": np.arange(2), "kind": pa.int8()})
    (found,) = read_step(write_step(tmp_path, 1, Batch([sample(0, reward=strange)], None)), 1).samples
    assert found.reward.extras == {"array": [0, 1], "kind": "int8"}


def test_damaged_and_foreign_files(tmp_path):
    path = write_step(tmp_path, 3, Batch([sample(0)], None))
    with pytest.raises(RecordingError, match="holds step 3, not step 4"):
        read_step(path, 4)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(RecordingError, match=r"step_000003.parquet cannot be read: it is damaged"):
        read_step(path, 3)
    pq.write_table(pa.table({"x": [1]}).replace_schema_metadata({"step": "3"}), path)
    with pytest.raises(RecordingError, match="damaged or no file of a recording"):
        read_step(path, 3)


@pytest.fixture
def run(tmp_path):
    """`run(**trainer)`: configuration and data of a small run in `tmp_path`."""

    def make(*overrides):
        config = compose_run(tmp_path, *overrides)
        return config, load_run_data(config)

    return make


@pytest.fixture
def recorded(run, tmp_path):
    """A recording of steps 1 to 3 with as many samples as the small run has."""
    config, data = run(f"trainer.record={tmp_path}/rec")
    recorder = Recorder.begin(config, data, 0)
    for number in (1, 2, 3):
        recorder.write(number, Batch([sample(i) for i in range(12)], [REPROMPTS[0]] * 12))
    return tmp_path / "rec"


def test_a_recording_says_what_it_is_of_and_holds_no_secret(run, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_planted")
    config, data = run(f"trainer.record={tmp_path}/rec", "vars.note=hf_planted")
    Recorder.begin(config, data, 0)
    record = json.loads((tmp_path / "rec/recording.json").read_text())
    assert record["vocab_size"] == len(data.tokenizer) and record["data"] == data.identity.fingerprint
    assert record["config"]["vars"]["note"] == "***" and record["config"]["data"]["train_batch_size"] == 4


def test_a_replay_reads_the_steps(run, recorded):
    replay = Replay(*run(f"trainer.replay={recorded}"))
    assert (replay.start_from(0), replay.start_from(2), replay.last_step) == (0, 2, 3)
    assert replay.make_schedule().take(2).reprompts == [REPROMPTS[0]] * 12
    assert replay.publish(1) == {}


def refused(run, folder, *overrides, step=0):
    """The message of a replay that cannot be."""
    with pytest.raises(RecordingError) as error:
        replay = Replay(*run(f"trainer.replay={folder}", *overrides))
        replay.start_from(step)
        replay.read(step + 1)
    assert str(folder) in str(error.value)
    return str(error.value)


def test_what_does_not_fit_is_refused(run, recorded, tmp_path):
    assert "nothing is left to train on" in refused(run, recorded, step=3)
    assert "12 samples, this run makes 16 a step" in refused(run, recorded, "actor_rollout_ref.rollout.n=4")
    assert "recorded on other data" in refused(run, recorded, "data.train_max_samples=6")
    assert "is not a recording" in refused(run, tmp_path)
    (recorded / "step_000002.parquet").rename(tmp_path / "two")
    assert "step 2 is missing between 1 and 3" in refused(run, recorded)
    (recorded / "step_000001.parquet").unlink()
    text = refused(run, recorded)
    assert "begins with step 3, and this run stands at step 0" in text and "global_step_2" in text
    (recorded / "step_000003.parquet").unlink()
    assert "holds no step" in refused(run, recorded)


def test_another_tokenizer_is_refused(run, recorded, tmp_path):
    from small_run import MODEL

    other = shutil.copytree(MODEL, tmp_path / "other")
    path = other / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    name, number = tokenizer["model"]["vocab"].popitem()
    tokenizer["model"]["vocab"][f"another {name}"] = number
    path.write_text(json.dumps(tokenizer))
    assert "with another tokenizer" in refused(run, recorded, f"actor_rollout_ref.model.path={other}")


def test_a_recording_without_a_teacher_cannot_teach(run, recorded):
    write_step(recorded, 1, Batch([sample(i) for i in range(12)], None))
    assert "recorded without a teacher" in refused(run, recorded)
    vanilla = run(f"trainer.replay={recorded}", "actor_rollout_ref.actor.policy_loss.loss_mode=vanilla")
    assert Replay(*vanilla).read(2).reprompts is None


def test_a_used_folder_is_not_written_over(run, recorded, tmp_path):
    identity = json.loads((recorded / "recording.json").read_text())
    (recorded / "recording.json").write_text(json.dumps(identity | {"process": "elsewhere:1"}))
    config, data = run(f"trainer.record={recorded}")
    with pytest.raises(RecordingError, match="holds steps 1 to 3 of a run, and this one starts anew"):
        Recorder.begin(config, data, 0)
    with pytest.raises(RecordingError, match="goes on from step 7"):
        Recorder.begin(config, data, 7)
    assert list(recorded_steps(recorded)) == [1, 2, 3]
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").write_text("keep")
    with pytest.raises(RecordingError, match="is not empty, and no recording"):
        Recorder.begin(*run(f"trainer.record={tmp_path}/full"), 0)


def test_a_resumed_run_goes_on_recording(run, recorded):
    Recorder.begin(*run(f"trainer.record={recorded}"), 2)
    assert list(recorded_steps(recorded)) == [1, 2]


def test_a_run_that_restarts_itself_may_begin_again(run, recorded):
    Recorder.begin(*run(f"trainer.record={recorded}"), 0)  # the process that wrote the folder
    assert list(recorded_steps(recorded)) == []


def test_a_dump_may_be_ahead_of_its_checkpoint(run, tmp_path, caplog):
    config, data = run()
    dump_batch(tmp_path / "step_3", 3, Batch([sample(i) for i in range(12)], [REPROMPTS[0]] * 12), config, data)
    config, data = run(f"trainer.replay={tmp_path}/step_3")
    replay = Replay(config, data)
    expected = [data.next_prompts(), data.advance(), data.advance(), data.next_prompts()][-1]
    data.sampler.load_state_dict(load_run_data(config).sampler.state_dict())
    assert (replay.start_from(0), replay.last_step) == (2, 3)
    assert data.next_prompts() == expected  # so that a checkpoint after it stands where it should
    assert "the weights here are those of step 0" in caplog.text
