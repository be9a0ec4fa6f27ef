"""Test-time training and best-of-k: real runs of the embedded model on small questions."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from one_question import lines, without_times, write_question

from recipes.embedded.hard_questions import Success, hard_questions
from recipes.embedded.task import splits, version_1, version_2
from recipes.test_time import best_of_k, main
from recipes.test_time.judge import Judge
from recipes.test_time.question import find_question
from verl.config import SandboxConfig
from verl.config.root import CustomRewardConfig, RewardConfig
from verl.single_controller import LocalWorkerGroup
from verl.types import InputError, Prompt, Reward, Rollout, Sample
from verl.workers.reward import RewardPool, RewardWorker

ROOT = Path(__file__).resolve().parents[2]


def arguments(question, folder, budget, *more):
    return [
        f"--data-dir={question}",
        "--config-name=ttt_quickstart",
        f"--budget={budget}",
        "--seed=3",
        f"trainer.default_local_dir={folder}",
        f"custom_reward_function.path={question}/scorer.py",
        "trainer.logger=[file]",
        *more,
    ]


def test_a_folder_of_another_spelling_is_found_and_must_hold_one_question(tmp_path):
    write_question(tmp_path / "q_01")
    assert find_question(tmp_path / "q_1") == tmp_path / "q_01"
    with pytest.raises(InputError, match="q_02: no such folder"):
        find_question(tmp_path / "q_02")
    write_question(tmp_path / "q_03", prompt="lamp in the attic to 2")
    os.replace(tmp_path / "q_03/test.parquet", tmp_path / "q_01/test.parquet")
    with pytest.raises(InputError, match=r"test.parquet, row 0 .* is another question than .*train.parquet, row 0"):
        find_question(tmp_path / "q_01")


def test_the_judge_asks_the_hidden_tests_only_about_what_passed_the_public_ones():
    scorer = (CustomRewardConfig(), RewardConfig(), SandboxConfig())
    pool = RewardPool(LocalWorkerGroup("reward", RewardWorker, scorer), scorer[1])
    asked = []

    class Counting(RewardPool):
        def submit(self, items):
            asked.extend(item.solution_str for item in items)
            pool.submit(items)

        def results(self):
            return pool.results()

    def sample(text, score, truth="public"):
        prompt = Prompt(0, [], [1], "sciknoweval", truth)
        return Sample("0", prompt, Rollout(0, [1], [2], [0.0], [1], "stop", 0), text, Reward(score, score))

    judge = Judge(Prompt(0, [], [1], "sciknoweval", "B"), Counting(pool.group, pool.config))
    found = judge.solved([sample("A", 1.0), sample("B", 0.0), sample("B", 1.0)])
    assert found == [False, False, True] and asked == ["A", "B"]
    assert judge.solved([sample("A", 1.0, "B"), sample("B", 0.0, "B")]) == [True, False]
    assert asked == ["A", "B"]  # these rewards came from the same tests


def test_hidden_tests_end_the_run_and_teach_nothing(tmp_path):
    question = write_question(
        tmp_path / "q_1",
        right="'level' in solution_str and (ground_truth == 'public' or 'room=attic,level=' in solution_str)",
    )
    folder = tmp_path / "run"
    dump = tmp_path / "dump"
    command = arguments(question, folder, 400, "--in-process", f"trainer.rollout_data_dir={dump}")
    assert main.main(command) == 0
    header, attempts = lines(folder / "attempts.jsonl")
    assert (header["method"], header["stops_when_solved"], header["config"]["vars"]["budget"]) == ("sdpo", True, 400)
    assert [a["attempt"] for a in attempts] == list(range(1, len(attempts) + 1))
    assert [a["step"] for a in attempts] == [1 + i // 16 for i in range(len(attempts))]
    assert {(a["question_id"], a["seed"]) for a in attempts} == {("q_1", 3)}
    for attempt in attempts:
        assert attempt["reward"] == float("level" in attempt["response"])
        assert attempt["solved"] == ("room=attic,level=" in attempt["response"])
    assert any(a["reward"] and not a["solved"] for a in attempts)
    assert {a["solved"] for a in attempts[-16:]} == {True, False}
    assert not any(a["solved"] for a in attempts[:-16])
    assert "public" in (dump / "1.jsonl").read_text()
    assert not any("hidden" in file.read_text() for file in dump.iterdir())
    before = (folder / "attempts.jsonl").read_bytes()
    assert main.main(command) == 0  # solved: nothing is left to do
    assert (folder / "attempts.jsonl").read_bytes() == before


def test_attempts_beyond_the_budget_are_not_looked_at(tmp_path):
    question = write_question(tmp_path / "q_1")
    assert main.main(arguments(question, tmp_path / "run", 20, "--in-process")) == 0
    _, attempts = lines(tmp_path / "run/attempts.jsonl")
    assert [a["step"] for a in attempts] == [1] * 16 + [2] * 4


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--budget=0"], "vars.budget=0: must be a whole number of attempts of at least 1"),
        (["data.train_batch_size=2", "data.train_max_samples=2"], "data.train_max_samples=2: must be 1"),
        (["data.val_files=null"], r"data.val_files=None: must be the question's test.parquet alone"),
    ],
)
def test_what_is_no_run_on_one_question_is_refused(tmp_path, capsys, more, message):
    question = write_question(tmp_path / "q_1")
    assert main.main(arguments(question, tmp_path / "run", 20, *more)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_best_of_k_makes_all_attempts_and_goes_on_where_it_was(tmp_path, capsys):
    right = "'level' in solution_str and ground_truth == 'hidden'"
    question = write_question(tmp_path / "q_1", right=right)
    small = "actor_rollout_ref.rollout.max_num_seqs=16"
    for folder, budgets in (("whole", [40]), ("parts", [24, 40])):
        for budget in budgets:
            assert best_of_k.main(arguments(question, tmp_path / folder, budget, small)) == 0
    (header, whole), (_, parts) = (lines(tmp_path / name / "attempts.jsonl") for name in ("whole", "parts"))
    assert (header["method"], header["stops_when_solved"]) == ("best_of_k", False)
    assert [a["attempt"] for a in whole] == list(range(1, 41))
    assert without_times(parts) == without_times(whole)
    assert len({a["response"] for a in whole}) > 5  # independent draws
    for attempt in whole:
        assert attempt["solved"] == ("level" in attempt["response"]) == attempt["reward"]
    assert 1 < sum(a["solved"] for a in whole) < 40
    assert "solved in 40 attempts" in capsys.readouterr().out


def test_best_of_k_that_is_asked_to_stop_asks_to_be_started_again(tmp_path, monkeypatch):
    question = write_question(tmp_path / "q_1", right="False")
    (tmp_path / "stop").touch()
    monkeypatch.setenv("VERL_STOP_FILE", str(tmp_path / "stop"))
    small = "actor_rollout_ref.rollout.max_num_seqs=4"
    assert [best_of_k.main(arguments(question, tmp_path / "run", 8, small)) for _ in range(2)] == [75, 0]
    assert [a["attempt"] for a in lines(tmp_path / "run/attempts.jsonl")[1]] == list(range(1, 9))


def test_best_of_k_may_stop_when_it_is_solved(tmp_path):
    question = write_question(tmp_path / "q_1", right="'level' in solution_str")
    small = "actor_rollout_ref.rollout.max_num_seqs=4"
    assert best_of_k.main(arguments(question, tmp_path / "run", 100, small, "--stop-when-solved")) == 0
    header, attempts = lines(tmp_path / "run/attempts.jsonl")
    assert header["stops_when_solved"] is True
    assert any(a["solved"] for a in attempts[-4:]) and not any(a["solved"] for a in attempts[:-4])


def test_hard_questions_are_those_with_most_to_unlearn():
    success = Success(str(ROOT / "recipes/embedded/model"))
    rates = hard_questions(success, 1 / 500)
    questions = splits()["test"]
    assert len({questions[number].device for number in rates}) == len(rates) >= 10
    for number, rate in rates.items():
        device = questions[number].device
        old, new = version_1()[device], version_2()[device]
        assert 0 < rate <= 1 / 500
        assert (old.verb != new.verb) + (old.key != new.key) + (old.order != new.order) >= 2


KILL = """
    with open(os.path.dirname(__file__) + "/calls", "a") as file:
        file.write(".")
    if os.path.getsize(file.name) == {call}:
        os.kill(os.getpid(), signal.SIGKILL)
"""


def start(question, folder, *more):
    """The command in a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "recipes.test_time.main", *arguments(question, folder, *more)],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_a_killed_run_goes_on_from_its_checkpoint_and_counts_no_attempt_twice(tmp_path):
    def train(question, name):
        settings = ["--in-process", "trainer.save_freq=3", "actor_rollout_ref.actor.checkpoint.async_save=false"]
        return start(question, tmp_path / name, 128, *settings)

    whole = train(write_question(tmp_path / "a/q_1"), "whole")
    assert whole.returncode == 0, whole.stderr
    question = write_question(tmp_path / "b/q_1", more=KILL.format(call=16 * 5 + 7).strip())
    killed = train(question, "killed")
    assert killed.returncode == -signal.SIGKILL
    _, attempts = lines(tmp_path / "killed/attempts.jsonl")
    assert len(attempts) == 16 * 5  # the sixth step was being scored
    resumed = train(question, "killed")
    assert resumed.returncode == 0, resumed.stderr
    assert "32 attempts came after step 3, which is resumed from: made again" in resumed.stderr
    (_, expected), (_, found) = (lines(tmp_path / name / "attempts.jsonl") for name in ("whole", "killed"))
    assert [a["attempt"] for a in found] == list(range(1, 129))
    assert without_times(found) == without_times(expected)
    again = train(question, "killed")
    assert again.returncode == 0 and "not solved after 128 attempts" in again.stdout


@pytest.mark.slow
def test_the_distributed_trainer_makes_the_same_log(tmp_path):
    question = write_question(tmp_path / "q_1")
    ended = start(question, tmp_path / "run", 40, "trainer.n_gpus_per_node=2")
    assert ended.returncode == 0, ended.stderr
    assert "q_1, seed 3: not solved after 40 attempts" in ended.stdout
    _, attempts = lines(tmp_path / "run/attempts.jsonl")
    assert [a["attempt"] for a in attempts] == list(range(1, 41))
    status = json.loads((tmp_path / "run/status.json").read_text())
    assert status["status"] == "finished"
    assert status["ended_early"]["reason"] == "q_1 is not solved in 40 attempts, the budget"
