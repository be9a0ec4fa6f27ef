"""The embedded task: its splits, its rows, and that pre-training knows nothing of version 2 or the held-out prompts."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq

from recipes.embedded.mixture import sft_rows
from recipes.embedded.task import DEVICES, splits, version_1, version_2
from verl.rewards.home_api import Call, compute_score

ROOT = Path(__file__).parents[2]


def test_splits_are_disjoint_and_hold_every_device():
    train, test = splits()["train"], splits()["test"]
    assert (len(train), len(test), len(set(train) | set(test))) == (2048, 256, 2304)
    assert {q.device for q in train} == {q.device for q in test} == set(DEVICES)


def test_version_2_changes_a_quarter_of_the_devices_not_at_all():
    def num_changes(device):
        old, new = version_1()[device], version_2()[device]
        return sum(getattr(old, slot) != getattr(new, slot) for slot in ("verb", "key", "order"))

    assert Counter(map(num_changes, DEVICES)) == {0: 8, 1: 13, 2: 10, 3: 1}


def test_data_script_writes_scorable_rows_without_torch(tmp_path):
    script = ROOT / "recipes" / "embedded" / "make_data.py"
    code = f"import runpy, sys; sys.argv = ['x', '--output_dir', {str(tmp_path)!r}, '--feedback', 'strong'];"
    code += f"runpy.run_path({str(script)!r}, run_name='__main__'); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
    row = pq.read_table(tmp_path / "test.parquet").to_pylist()[0]
    assert list(row) == ["prompt", "data_source", "ability", "reward_model", "extra_info"]
    assert [message["role"] for message in row["prompt"]] == ["user"]
    assert (row["data_source"], row["extra_info"]["split"], row["extra_info"]["index"]) == ("home_api", "test", "0")
    truth = row["reward_model"]["ground_truth"]
    assert json.loads(truth)["feedback"] == "strong"
    assert compute_score(Call.from_json(truth).text, truth)["score"] == 1.0


def test_pretraining_rows_are_what_they_say():
    rows = sft_rows(2000, seed=1)
    prompts = [row["prompt"][0]["content"] for row in rows]
    held_out = tuple(question.text + end for question in splits()["test"] for end in ("\n", ""))
    assert not any(prompt == text or prompt.startswith(text) for prompt in prompts for text in held_out if "\n" in text)
    shown = [(p, r["response"]) for p, r in zip(prompts, rows, strict=True) if "Correct solution" in p]
    errors = [(p, r["response"]) for p, r in zip(prompts, rows, strict=True) if "feedback" in p]
    assert all(f"\n\n{response}\n\n" in prompt for prompt, response in shown)
    assert 0.17 < len(shown) / len(rows) < 0.23 and 0.42 < len(errors) / len(rows) < 0.48
    for prompt, response in errors:
        error = prompt.split("\n\n")[1]
        if "unknown" in error:
            assert error.split()[-1].rstrip(".") not in response.replace("(", " ").replace("=", " ").split()


def test_plain_pretraining_answers_follow_version_1_more_than_version_2():
    agrees = Counter()
    for row in sft_rows(4000, seed=2):
        text = row["prompt"][0]["content"]
        if "\n" in text:
            continue
        device = text.split()[0]
        for name, version in (("v1", version_1()), ("v2", version_2())):
            agrees[name] += row["response"].startswith(f"{device}.{version[device].verb}(")
        agrees["all"] += 1
        changed = version_1()[device].verb != version_2()[device].verb
        agrees["changed"] += changed
        agrees["changed, v2"] += changed and row["response"].startswith(f"{device}.{version_2()[device].verb}(")
    assert 0.75 < agrees["v1"] / agrees["all"] < 0.85
    assert agrees["changed, v2"] / agrees["changed"] < 0.06  # chance: .2 / 7
