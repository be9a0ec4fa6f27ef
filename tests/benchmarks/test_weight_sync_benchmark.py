"""The benchmark of the weight sync measures what it says, on a model of a few kilobytes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).with_name("weight_sync.py")


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_one_round(ranks, tmp_path):
    size = ["--hidden-size", "64", "--layers", "1", "--vocab-size", "100", "--rounds", "1", "--ranks", str(ranks)]
    subprocess.run(
        [sys.executable, str(BENCHMARK), *size, "--bucket-bytes", "20000", "--output", str(tmp_path / "out.json")],
        env=os.environ | {"VLLM_CPU_OMP_THREADS_BIND": "nobind"},
        check=True,
        capture_output=True,
    )
    found = json.loads((tmp_path / "out.json").read_text())
    attention = 4 * 64 * 64 + 2 * 64  # four square projections, one head of 64; norms of queries and keys
    layer = attention + 3 * 64 * 170 + 2 * 64
    assert found["parameters"] == 100 * 64 + layer + 64
    assert found["bytes"] == 4 * (found["parameters"] + 100 * 64)  # the tied head travels too
    seconds = found["seconds"]
    parts = [seconds[name] for name in ("begin", "send", "finish")]
    assert seconds["transfer"] == pytest.approx(sum(parts), abs=2e-4)  # rounded one by one
    assert seconds["copy"] > 0 and seconds["transfer"] + seconds["probe"] <= seconds["sync"] + 2e-4
    assert found["ratios"]["sync_to_reload"] == pytest.approx(seconds["sync"] / seconds["reload"], rel=0.05)
    assert found["probe_log_prob_gap"] < 1e-3
