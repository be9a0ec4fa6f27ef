"""Trainer and engine compute the same log-probs after every sync of a run, with both engines."""

import pytest
from whole_runs import read_metrics


@pytest.mark.parametrize("engine", ["vllm", "hf"])
def test_log_probs_agree_after_every_sync(quickstart, tmp_path, engine):
    quickstart.run(
        tmp_path,
        f"actor_rollout_ref.rollout.name={engine}",
        "trainer.total_training_steps=5",
        "trainer.test_freq=5",
        "trainer.save_freq=-1",
        f"trainer.rollout_data_dir={tmp_path}/rollouts",
    )
    lines = read_metrics(tmp_path)
    assert [line["step"] for line in lines] == [0, 1, 2, 3, 4, 5]
    assert all(line["rollout/probe_log_prob_gap"] < 1e-3 for line in lines)
    assert all(line["training/rollout_probs_diff_mean"] < 1e-3 for line in lines[1:])
    for line in lines[1:]:  # two ranks
        found = {name: line[f"global_seqlen/{name}"] for name in ("min", "max", "mean", "balanced_min", "balanced_max")}
        assert found["min"] + found["max"] == 2 * found["mean"] == line["perf/total_num_tokens"]
        assert 0 < found["balanced_min"] <= found["balanced_max"]
        assert found["balanced_min"] + found["balanced_max"] <= line["perf/total_num_tokens"]
    weights_moved = {line["actor/pg_loss"] for line in lines[1:]}
    assert len(weights_moved) == 5
    assert "val-core/home_api/acc/mean@2" in lines[0] and "val-core/home_api/acc/mean@2" in lines[5]
    assert len((tmp_path / "rollouts" / "3.jsonl").read_text().splitlines()) == 32
