"""main_generation and main_eval as a user starts them, on the embedded model and held-out prompts."""

import json
import signal
import subprocess
import sys
import time

import pyarrow.parquet as pq
import pytest
from whole_runs import ROOT, read_metrics

NUM_PROMPTS, N = 16, 4
ENGINE = ["actor_rollout_ref.rollout.name=hf", "trainer.n_gpus_per_node=1", "trainer.device=cpu"]


def start(door, *arguments):
    command = [sys.executable, "-m", f"verl.trainer.{door}", *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def run(door, *arguments):
    """Run to the end; a failure shows the output."""
    process = start(door, *arguments)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output[-5000:]
    return output


def generation(data, output, *overrides):
    """Arguments of main_generation for the first held-out prompts."""
    return [
        f"data.path={data}/test.parquet",
        f"data.output_path={output}",
        f"data.max_samples={NUM_PROMPTS}",
        "data.max_prompt_length=64",
        "data.max_response_length=24",
        f"actor_rollout_ref.model.path={ROOT}/recipes/embedded/model",
        f"actor_rollout_ref.rollout.n={N}",
        *overrides,
    ]


@pytest.mark.slow
def test_generation_and_evaluation_say_what_validation_says(home_api_data, quickstart, tmp_path):
    output = tmp_path / "out.parquet"
    run("main_generation", *generation(home_api_data, output, *ENGINE))
    table = run("main_eval", f"data.path={output}")
    validation = [f"data.val_max_samples={NUM_PROMPTS}", f"actor_rollout_ref.rollout.val_kwargs.n={N}"]
    quickstart.run(tmp_path / "run", "trainer.val_only=true", *validation, *ENGINE)
    (expected,) = read_metrics(tmp_path / "run")
    found = json.loads((tmp_path / "out.metrics.json").read_text())
    assert (found["num_prompts"], found["num_responses"]) == (NUM_PROMPTS, NUM_PROMPTS * N)
    of_responses = {key for key in expected if key.startswith("val-") and "/teacher_" not in key}
    assert found["metrics"] == {key: expected[key] for key in of_responses}
    assert 0 < found["metrics"][f"val-core/home_api/acc/mean@{N}"] < 1
    assert f"| home_api | {NUM_PROMPTS} | {N} | {found['metrics'][f'val-core/home_api/acc/mean@{N}']:.4f} |" in table


@pytest.mark.slow
def test_a_killed_generation_keeps_what_it_has(home_api_data, tmp_path):
    output = tmp_path / "out.jsonl"
    partial = tmp_path / "out.jsonl.partial"
    arguments = generation(home_api_data, output, "data.batch_size=1", *ENGINE)
    process = start("main_generation", *arguments)
    deadline = time.monotonic() + 300
    while not partial.exists() or partial.read_bytes().count(b"\n") < 4:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "it was over before it could be killed"
    first_line, *kept = partial.read_text().split("\n")[:-1]
    marked = [json.loads(line) | {"responses": ["kept"] * N} for line in kept[:2]]  # whatever is there is not redone
    partial.write_text("".join(line + "\n" for line in [first_line, *map(json.dumps, marked)]) + '{"row": 7, "resp')
    assert f"2 of {NUM_PROMPTS} prompts are answered already" in run("main_generation", *arguments)
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    prompts = pq.read_table(home_api_data / "test.parquet").slice(0, NUM_PROMPTS).to_pylist()
    assert [row["prompt"] for row in rows] == [row["prompt"] for row in prompts]
    done = {record["row"] for record in marked}
    assert all((row["responses"] == ["kept"] * N) == (number in done) for number, row in enumerate(rows))
    assert all(len(row["responses"]) == len(row["finish_reasons"]) == N for row in rows)
    assert not partial.exists()


@pytest.mark.gpu
def test_generation_on_a_gpu(home_api_data, tmp_path):
    """vLLM on a GPU, its weights from a rank on the CPU: every greedy response ends, and some are right."""
    output = tmp_path / "out.parquet"
    overrides = ["actor_rollout_ref.rollout.tensor_model_parallel_size=1", "trainer.n_gpus_per_node=1"]
    overrides += ["actor_rollout_ref.rollout.gpu_memory_utilization=0.2", "trainer.device=cuda"]
    run("main_generation", *generation(home_api_data, output, *overrides))
    run("main_eval", f"data.path={output}")
    found = json.loads((tmp_path / "out.metrics.json").read_text())["metrics"]
    assert 0 < found[f"val-core/home_api/acc/mean@{N}"] < 1
