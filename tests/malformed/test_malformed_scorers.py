"""Scorers that cannot be used: their file at the door, their call when the run starts, and what they return, or do
beside returning, where they are called: that costs their own response, and nothing else."""

import os

import pytest
from doors import arguments, ask, begin, check, write_rows

from verl.config import SandboxConfig
from verl.config.root import CustomRewardConfig, RewardConfig
from verl.types import Reward
from verl.workers.reward import RewardWorker, ScoreItem

GOOD = [{"data_source": "own", "prompt": [{"role": "user", "content": "hi"}], "reward_model": {"ground_truth": ""}}] * 4
WANTED = "wanted is compute_score(data_source, solution_str, ground_truth, extra_info=None)"
HEAD = "def compute_score(data_source, solution_str, ground_truth, extra_info=None):\n    "
AT_THE_DOOR = {
    "no file": (None, "there is no such file"),
    "syntax error": ("def compute_score(:\n", "is not valid Python"),
    "name missing": ("def compute_scores(x): ...\n", "does not define it; did you mean compute_scores?"),
    "not UTF-8": (b"# \xff\xfe\n", "is not valid Python"),
}
SCORERS = {
    "not a function": ("compute_score = 5\n", "is a int, not a function", WANTED),
    "async": (f"async {HEAD}return 1\n", "is an async function; wanted is a plain one"),
    "other arguments": ("def compute_score(text): return 1\n", "has the signature (text)", WANTED),
    "fails on import": (
        "import os\nx = os.none\n" + HEAD + "return 1",
        "fails while being imported: line 2: Attribute",
    ),
    "exits on import": ("import sys\nsys.exit(3)\n" + HEAD + "return 1", "being imported: line 2: SystemExit: 3"),
}
RESULTS = {
    "nothing": ("return None", "the scorer's 'result' is None; it must be a finite number or a dictionary with score"),
    "a text": ("return '1'", "the scorer's 'result' is '1'; it must be a finite number"),
    "not a number": ("return float('nan')", "the scorer's 'result' is nan"),
    "infinity": ("return {'score': float('inf')}", "the scorer's 'score' is inf"),
    "nan as acc": ("return {'score': 1, 'acc': float('nan')}", "the scorer's 'acc' is nan"),
    "no score": ("return {'acc': 1, 'pred': 2}", "the scorer's dictionary has no 'score'; it has acc, pred"),
    "feedback is a list": ("return {'score': 0, 'feedback': ['x']}", "'feedback' is ['x']; it must be text"),
    "raises": ("return 1 / 0", "ZeroDivisionError"),
    "exits": ("import sys; sys.exit('enough')", "SystemExit: enough"),
    "recurses": ("return compute_score(1, 2, 3)", "RecursionError"),
}
ACCEPTED = {
    "a truth value": ("return True", Reward(1.0, 1.0)),
    "a number of numpy": ("import numpy; return numpy.float32(0.5)", Reward(0.5, 0.5)),
    "null for feedback and acc": ("return {'score': 1, 'acc': None, 'feedback': None}", Reward(1.0, 1.0)),
    "prints": ("print('x' * 10000); return 1", Reward(1.0, 1.0)),
    "goes to another folder": ("import os; os.chdir('/'); return 1", Reward(1.0, 1.0)),
    "arrays and keys that are no texts": (
        "import numpy; return {'score': 1, 5: numpy.arange(2), 'x': {(1, 2): {3}}}",
        Reward(1.0, 1.0, "", {"5": [0, 1], "x": {"(1, 2)": [3]}}),
    ),
    "very much": ("return {'score': 1} | {f'k{i}': i for i in range(10_000)}", None),
}


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scorers")
    write_rows(folder / "train.parquet", GOOD)
    lines = []
    for number, (code, *_) in enumerate(AT_THE_DOOR.values()):
        path = folder / f"{number}.py"
        if code is not None:
            path.write_bytes(code if isinstance(code, bytes) else code.encode())
        lines.append(arguments(folder, f"custom_reward_function.path={path}"))
    return dict(zip(AT_THE_DOOR, ask(lines), strict=True))


@pytest.mark.parametrize("name", AT_THE_DOOR)
def test_a_scorer_s_file_is_refused_before_torch_is_loaded(answers, name):
    answer = answers[name]
    assert answer.heavy == []
    check((answer.status, answer.text), 2, ["custom_reward_function", *AT_THE_DOOR[name][1:]])


@pytest.mark.parametrize("name", SCORERS)
def test_a_scorer_that_cannot_be_called_ends_the_start(tmp_path, name):
    code, *words = SCORERS[name]
    write_rows(tmp_path / "train.parquet", GOOD)
    (tmp_path / "scorer.py").write_text(code)
    check(begin(tmp_path, f"custom_reward_function.path={tmp_path}/scorer.py"), 1, ["custom_reward_function", *words])


def score(tmp_path, body):
    (tmp_path / "scorer.py").write_text(HEAD + body + "\n")
    custom = CustomRewardConfig(str(tmp_path / "scorer.py"))
    (reward,) = RewardWorker(custom, RewardConfig(), SandboxConfig()).score([ScoreItem(0, "own", "x", None)]).rewards
    return reward


@pytest.mark.parametrize("name", RESULTS)
def test_a_result_that_is_no_score_costs_its_own_response(tmp_path, name):
    body, *words = RESULTS[name]
    reward = score(tmp_path, body)
    assert (reward.score, reward.acc, reward.feedback) == (0.0, 0.0, "")
    for word in words:
        assert word in reward.error


@pytest.mark.parametrize("name", ACCEPTED)
def test_a_result_that_is_odd_counts(tmp_path, name):
    body, expected = ACCEPTED[name]
    folder = os.getcwd()
    reward = score(tmp_path, body)
    assert not reward.error and os.getcwd() == folder
    if expected is None:
        assert len(reward.extras) == 10_000
    else:
        assert reward == expected


def test_extras_that_cannot_be_sent_become_text(tmp_path):
    reward = score(tmp_path, "import threading; return {'score': 1, 'lock': threading.Lock(), 'f': [lambda: 1]}")
    assert reward.extras["lock"].startswith("<unlocked _thread.lock") and "lambda" in reward.extras["f"][0]
