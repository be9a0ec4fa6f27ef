"""The benchmarks run, measure what they say, and count right. No figure is asserted that a clock has made."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import scaling
import step
import workload
from coin_reward import coin
from sides import Side

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
BENCHMARKS = sorted(path.name for path in HERE.glob("*.py") if "ArgumentParser(" in path.read_text())


def run(name, *arguments):
    command = [sys.executable, str(HERE / name), *arguments]
    return subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)


def result(name, *arguments):
    done = run(name, *arguments)
    assert done.returncode == 0, done.stderr[-5000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", [name for name in BENCHMARKS if not name.startswith("test_")])
def test_help(name):
    done = run(name, "--help")
    assert done.returncode == 0 and "python tests/benchmarks/" in done.stdout, done.stderr


def test_update_part():
    found = result("step.py", "--part", "update", "--quick", "--ranks", "1", "--model", "embedded", "--cores", "1")
    assert found["cores"] == 1 and found["versions"]["torch"] and found["settings"]["ranks"] == 1
    update = found["update"]
    # 2 prompts x 4 responses: prompts of 32 tokens, responses of 16, teacher prompts of 112
    # the last token of a response is not run; packed: 2 x (32 + 4 x 15); the teacher's first response has its own
    # prompt: 2 x (2 x 112 + 4 x 15); of the half that is taught both have the same: 2 x (112 + 2 x 15)
    student = {"student": 376, "student_packed": 184}
    assert update["tokens"] == {
        "sdpo_all_taught": student | {"teacher": 1016, "teacher_packed": 568},
        "sdpo_half_taught": student | {"teacher": 508, "teacher_packed": 284},
        "grpo": student | {"teacher": 0, "teacher_packed": 0},
    }
    assert update["ratios"]["all_taught_bound"] == pytest.approx(1.15 * (552 + 568) / 552, abs=1e-3)
    assert update["ratios"]["all_taught_bound_unshared"] == pytest.approx(1.15 * (1128 + 1016) / 1128, abs=1e-3)
    assert all(seconds > 0 for seconds in update["seconds"].values())


def test_step_part():
    """The endless model writes 8 tokens, always, and the coin lets some of 4 responses succeed."""
    found = result("step.py", "--part", "step", "--side", "sdpo", "--engine", "hf", "--quick", "--ranks", "1")
    sdpo = found["step"]["sides"]["sdpo"]
    assert (sdpo["engine"], sdpo["ranks"], sdpo["response_length"]) == ("hf", 1, 8)
    assert {"gen", "reprompt", "update_actor", "update_weights"} <= sdpo["phase_seconds"].keys()
    assert 0 < sdpo["taught_share"] <= 1


@pytest.mark.slow
def test_scaling():
    found = result("scaling.py", "--quick", "--factors", "response", "--algorithms", "sdpo")
    first, second = found["response"]["points"]
    # 2 prompts x 2 responses, prompts of 256; the teacher's prompt is longer by one response
    assert first["sdpo"]["tokens"] == 2 * (256 + 2 * 15) + 4 * (256 + 16 + 15)
    assert second["sdpo"]["tokens"] == 2 * (256 + 2 * 31) + 4 * (256 + 32 + 31)
    assert first["sdpo"]["extra_bytes"] > 0


@pytest.mark.slow
def test_rollout():
    found = result("rollout.py", "--quick", "--sides", "hf", "transformers")
    assert [point["lengths"] for point in found["points"]] == ["equal", "mixed"]
    for point in found["points"]:
        for side in ("hf", "transformers"):
            assert 0 < point[side]["half_of_responses_seconds"] <= point[side]["seconds"]


def test_rows_of_a_batch():
    """Half taught means half of every group; a group shares prompts, the teacher's too but for the one shown."""
    lengths = {"prompt": 5, "response": 3, "teacher_prompt": 7, "vocab_size": 50}
    rows = workload.batch_rows(2, 4, taught=1.0, has_advantages=False, **lengths)
    for group in (rows[:4], rows[4:]):
        assert len({tuple(row.prompt_ids) for row in group}) == 1
        assert [row.teacher_prompt_ids == group[-1].teacher_prompt_ids for row in group] == [False, True, True, True]
    half = workload.batch_rows(2, 4, taught=0.5, has_advantages=True, **lengths)
    assert [row.is_taught for row in half] == [False, True] * 4
    counts = workload.count_tokens(half)
    assert (counts["student"], counts["teacher"]) == (8 * 7, 4 * 9)
    assert [row.index for row in half] == list(range(8))


def test_common_beginnings_count_once():
    assert workload.num_distinct_beginnings([[1, 2, 3], [1, 2, 4], [1, 2], [2, 1]]) == 6


def test_ratio_and_growth():
    assert step.ratio([2.0, 3.0, 8.0], [1.0, 1.0, 2.0]) == {"median": 3.0, "min": 2.0, "max": 4.0}
    points = [
        {"sdpo": {"seconds": 2.0, "extra_bytes": 10, "tokens": 100}},
        {"sdpo": {"seconds": 5.0, "extra_bytes": 10, "tokens": 200}},
    ]
    assert scaling.growth(points, ["sdpo"])["sdpo"][1] == {"seconds": 2.5, "extra_bytes": 1.0, "tokens": 2.0}


def test_coin_is_fair_and_depends_on_the_text_alone():
    throws = [coin(f"text {number}") for number in range(1000)]
    assert throws == [coin(f"text {number}") for number in range(1000)]
    assert 400 < sum(throws) < 600


def test_a_side_that_dies_shows_its_log(tmp_path):
    side = Side("broken", [[sys.executable, "-c", "raise SystemExit('the reason')"]], tmp_path / "broken.log")
    with pytest.raises(RuntimeError, match=r"side broken ended with status 1(.|\n)*the reason"):
        side.answer()
    side.close()
