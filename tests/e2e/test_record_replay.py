"""A replay ends as the run that was recorded: same metrics of the update, same weights, bit for bit; without engines.

The recorded run is killed and resumed on the way, so the recording is also that of an uninterrupted one.
"""

import json

import pytest
from safetensors.numpy import load_file
from whole_runs import ROOT, read_metrics

from verl.trainer.record import read_step, recorded_steps

SETTINGS = (
    "actor_rollout_ref.rollout.name=hf",
    "trainer.total_training_steps=4",
    "trainer.save_freq=1",
    "trainer.deterministic=true",
    "actor_rollout_ref.actor.self_distillation.teacher_update_rate=0.05",
    "actor_rollout_ref.actor.checkpoint.save_contents=[model,optimizer,extra,hf_model]",
)
NOT_REPLAYED = ("timing_s/", "timing_per_token_ms/", "perf/", "rollout/", "val-")


def replayed(lines):
    """What a replay has to repeat, of the steps."""
    return [
        {name: value for name, value in line.items() if not name.startswith(NOT_REPLAYED)}
        for line in lines
        if line["step"] > 0
    ]


@pytest.fixture(scope="module")
def whole(quickstart, tmp_path_factory):
    """Folder of an uninterrupted run; its recording stands in `recording`."""
    folder = tmp_path_factory.mktemp("recorded") / "whole"
    quickstart.run(folder, *SETTINGS, f"trainer.record={folder.parent}/recording")
    return folder


def weights_of(folder):
    return load_file(folder / "global_step_4/actor/huggingface/model.safetensors")


@pytest.mark.slow
def test_replay_equals_the_recorded_run(quickstart, whole, tmp_path):
    killed, replay = tmp_path / "killed", tmp_path / "replay"
    quickstart.kill_after_step(2, killed, *SETTINGS, f"trainer.record={tmp_path}/resumed")
    quickstart.run(killed, *SETTINGS, f"trainer.record={tmp_path}/resumed")
    steps, others = recorded_steps(whole.parent / "recording"), recorded_steps(tmp_path / "resumed")
    assert list(steps) == list(others) == [1, 2, 3, 4]
    assert all(read_step(steps[number], number) == read_step(others[number], number) for number in steps)

    quickstart.run(replay, *SETTINGS, f"trainer.replay={tmp_path}/resumed")
    found, expected = replayed(read_metrics(replay)), replayed(read_metrics(whole))
    assert found == expected
    names = found[-1].keys()
    assert {"actor/pg_loss", "actor/grad_norm", "actor/entropy", "self_distillation/teacher_distance"} <= names
    assert {"response/repeated_ngram_ratio", "training/rollout_log_prob_gap", "critic/score/mean"} <= names
    weights, others = weights_of(replay), weights_of(whole)
    assert weights.keys() == others.keys()
    assert all((weights[name] == others[name]).all() for name in others)
    assert sorted(path.name for path in (replay / "logs").iterdir()) == ["actor-0.log", "actor-1.log"]
    assert json.loads((replay / "status.json").read_text())["status"] == "finished"


@pytest.mark.slow
def test_ranks_that_share_forwards_and_copy_weights_learn_the_same(quickstart, whole, tmp_path):
    """The recorded batches again, each forward over both ranks (Ulysses), and each with a copy of the weights."""
    actor = "actor_rollout_ref.actor"
    sharing = (f"{actor}.ulysses_sequence_parallel_size=2", f"{actor}.fsdp_config.fsdp_size=1")
    quickstart.run(tmp_path / "shared", *SETTINGS, *sharing, f"trainer.replay={whole.parent}/recording")
    found, expected = replayed(read_metrics(tmp_path / "shared")), replayed(read_metrics(whole))
    assert len(found) == len(expected) == 4
    for one, other in zip(found, expected, strict=True):
        for name in ("", "balanced_"):  # what two ranks had, both have together
            least, most = f"global_seqlen/{name}min", f"global_seqlen/{name}max"
            other[least] = other[most] = other[least] + other[most]
        other |= {"global_seqlen/mean": other["global_seqlen/max"], "global_seqlen/minmax_diff": 0.0}
        assert one == pytest.approx(other, rel=1e-3, abs=1e-6)
    weights, others = weights_of(tmp_path / "shared"), weights_of(whole)
    start = load_file(ROOT / "recipes/embedded/model/model.safetensors")
    moved = sum(((others[name] - start[name]) ** 2).sum() for name in start) ** 0.5
    gap = sum(((weights[name] - others[name]) ** 2).sum() for name in start) ** 0.5
    assert gap < 1e-3 * moved
