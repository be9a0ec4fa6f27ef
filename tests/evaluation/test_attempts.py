"""Logs of attempts: what is written is read again, also after a kill, and a broken file is named by line."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from attempt_logs import attempt

from verl.evaluation.attempt_writer import AttemptWriter
from verl.evaluation.attempts import Header, read_attempts
from verl.types import InputError

HEADER = Header("sdpo", "run", {"trainer": {"seed": 3}})
FIRST_LINE = '{"config": {}, "run_name": "r", "method": "multiturn"}\n'
LINE = '{"question_id": "q", "seed": 0, "attempt": 1, "reward": 0.5, "solved": false, "timestamp": 1.5}\n'


def test_what_is_written_is_read(tmp_path):
    attempts = [attempt(1, step=1, response="näh\u2028 too"), attempt(2, True, step=1), attempt(1, seed=5, step=2)]
    with AttemptWriter(tmp_path / "attempts.jsonl", HEADER) as log:
        log.append(attempts[:2])
        log.append(attempts[2:])
    read = read_attempts(tmp_path)  # a run folder
    assert read.header == HEADER
    assert read.attempts == attempts
    first = json.loads((tmp_path / "attempts.jsonl").read_text(encoding="utf-8").split("\n")[1])
    assert first["question_id"] == "q_01" and first["step"] == 1 and first["solved"] is False


def test_a_resumed_run_knows_how_far_it_was(tmp_path):
    path = tmp_path / "attempts.jsonl"
    with AttemptWriter(path, HEADER) as log:
        log.append([attempt(1), attempt(2), attempt(1, True, question="q_02")])
    with AttemptWriter(path, HEADER) as log:
        assert (log.num_attempts("q_01", 0), log.num_attempts("q_02", 0), log.num_attempts("q_01", 1)) == (2, 1, 0)
        assert log.is_solved("q_02", 0) and not log.is_solved("q_01", 0)
        log.append([attempt(3, True)])
    assert [a.attempt for a in read_attempts(path).attempts] == [1, 2, 1, 3]


def test_a_killed_writer_leaves_whole_lines_and_the_next_one_goes_on(tmp_path):
    path = tmp_path / "attempts.jsonl"
    code = (
        "import os, sys\n"
        "from attempt_logs import attempt\n"
        "from verl.evaluation.attempt_writer import AttemptWriter\n"
        "from verl.evaluation.attempts import Header\n"
        "log = AttemptWriter(sys.argv[1], Header('sdpo', 'run'))\n"
        "log.append([attempt(1), attempt(2)])\n"
        "os.kill(os.getpid(), 9)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], cwd=Path(__file__).parent).returncode == -9
    with path.open("ab") as file:  # what a kill in the middle of a write would have added
        file.write(LINE.encode()[:40])
    assert len(read_attempts(path).attempts) == 2
    with AttemptWriter(path, HEADER) as log:
        log.append([attempt(3)])
    assert [a.attempt for a in read_attempts(path).attempts] == [1, 2, 3]


def test_a_header_that_was_cut_is_written_again(tmp_path):
    path = tmp_path / "attempts.jsonl"
    path.write_text('{"config": {"data"')
    with AttemptWriter(path, HEADER):
        pass
    assert read_attempts(path).header == HEADER


def test_attempts_after_the_checkpoint_are_dropped(tmp_path):
    path = tmp_path / "attempts.jsonl"
    with AttemptWriter(path, HEADER) as log:
        log.append([attempt(1, step=1), attempt(2, step=1), attempt(3, True, step=2)])
        log.keep(lambda attempt: attempt.extras["step"] <= 1)
        assert log.num_attempts("q_01", 0) == 2 and not log.is_solved("q_01", 0)
        log.append([attempt(3, step=2)])
    read = read_attempts(path)
    assert read.header == HEADER and [a.solved for a in read.attempts] == [False, False, False]
    assert [file.name for file in tmp_path.iterdir()] == ["attempts.jsonl"]


def test_numbers_out_of_order_are_refused_and_nothing_is_written(tmp_path):
    with AttemptWriter(tmp_path / "a.jsonl", HEADER) as log:
        with pytest.raises(ValueError, match="not the next one, 2"):
            log.append([attempt(1), attempt(3)])
        log.append([attempt(1)])


def test_a_log_of_another_method_is_not_continued(tmp_path):
    with AttemptWriter(tmp_path / "a.jsonl", HEADER):
        pass
    with pytest.raises(InputError, match="method=sdpo, and this run has method=multiturn"):
        AttemptWriter(tmp_path / "a.jsonl", Header("multiturn", "run"))


def test_the_multi_turn_baseline_s_own_keys_are_kept(tmp_path):
    path = tmp_path / "multiturn-x-local.jsonl"
    line = json.loads(LINE) | {"turn": 1, "split": "train", "prompt_tokens": 5, "metrics": {"a": 1}}
    path.write_text('{"config": {}, "wandb_run_name": "w", "method": "multiturn"}\n' + json.dumps(line) + "\n")
    log = read_attempts(path)
    assert log.header.run_name == "w"
    assert log.attempts[0].extras == {"turn": 1, "split": "train", "prompt_tokens": 5, "metrics": {"a": 1}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("not json\n", "line 1 is not JSON"),
        ("[1]\n", "line 1 is list"),
        (LINE, "line 1 is no header"),
        (FIRST_LINE.replace("multiturn", "grpo"), "method=grpo is unknown; methods are sdpo, multiturn, best_of_k"),
        (FIRST_LINE + LINE.replace('"seed": 0, ', ""), "line 2 lacks `seed` \\(a whole number\\)"),
        (FIRST_LINE + LINE.replace("0.5", "NaN"), "line 2: reward=nan is not a finite number"),
        (FIRST_LINE + LINE.replace("false", "0"), "line 2: solved=0 is not true or false"),
        (FIRST_LINE + LINE + LINE, "line 3: attempt=1 at question q with seed 0; the next one has the number 2"),
    ],
)
def test_broken_logs_are_refused_with_file_and_line(tmp_path, text, message):
    path = tmp_path / "log.jsonl"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_attempts(path)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match=r"attempts\.jsonl: there is no such file"):
        read_attempts(tmp_path)


def test_a_key_that_a_scorer_quotes_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setenv("JUDGE_API_KEY", "sk-live-0123456789")
    path = tmp_path / "a.jsonl"
    with AttemptWriter(path, HEADER) as log:
        log.append([attempt(1, metrics={"feedback": "401 for ?api_key=sk-live-0123456789"})])
    assert "sk-live" not in path.read_text() and "401 for" in path.read_text()
