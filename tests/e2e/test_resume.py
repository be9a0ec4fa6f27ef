"""A run that is killed and started again ends as one that was not: same metrics, same weights, bit for bit.

Needs an engine whose tokens do not depend on chance or on scheduling: `hf` draws every response from its own seed in
batches that the requests alone determine. Times are the only metrics that may differ.
"""

import pytest
from safetensors.numpy import load_file
from whole_runs import read_metrics

TIMES = ("timing_s/", "timing_per_token_ms/", "perf/")

SETTINGS = (
    "actor_rollout_ref.rollout.name=hf",
    "trainer.total_training_steps=6",
    "trainer.save_freq=1",
    "trainer.test_freq=3",
    "trainer.deterministic=true",
    "actor_rollout_ref.actor.self_distillation.teacher_update_rate=0.05",
    "actor_rollout_ref.actor.checkpoint.save_contents=[model,optimizer,extra,hf_model]",
)


def without_times(lines):
    return [{name: value for name, value in line.items() if not name.startswith(TIMES)} for line in lines]


@pytest.mark.slow
def test_killed_run_equals_uninterrupted_run(quickstart, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    quickstart.run(whole, *SETTINGS)
    quickstart.kill_after_step(2, killed, *SETTINGS)
    quickstart.run(killed, *SETTINGS)
    assert without_times(read_metrics(killed)) == without_times(read_metrics(whole))
    weights, expected = (
        load_file(folder / "global_step_6/actor/huggingface/model.safetensors") for folder in (killed, whole)
    )
    assert weights.keys() == expected.keys()
    assert all((weights[name] == expected[name]).all() for name in expected)
