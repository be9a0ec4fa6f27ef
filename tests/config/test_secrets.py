"""Secrets are found by their names, and hidden wherever their values are."""

import json
import logging
import re

import pytest

from verl.config import EvaluationConfig, GenerationConfig, PPOConfig, SFTConfig, known_keys
from verl.config.secrets import HIDDEN, hide_known, is_secret_name, learn, learn_from_texts, redact
from verl.config.verl_keys import IGNORED, RENAMED
from verl.self_distillation.reprompt import Reprompt
from verl.self_distillation.sections import Sections
from verl.tracking import dump_samples
from verl.trainer.compose import PRESETS
from verl.trainer.door import _Redacting
from verl.trainer.record import read_step, write_step
from verl.trainer.sampling import Batch
from verl.types import Prompt, Reward, Rollout, Sample


@pytest.fixture(autouse=True)
def nothing_told(monkeypatch):
    monkeypatch.setattr("verl.config.secrets._told", set())


SECRET = """WANDB_API_KEY HF_TOKEN OPENAI_API_KEY MY_SECRET AWS_SECRET_ACCESS_KEY PASSWORD DB_PASSWORD
    vars.api_key apikey hub-token secret_key azure.credential token private_key
    api-key X-API-Key x_api_keys apiKey OPENAI_KEY openai_key judge_key MYCORP_KEY API_KEY_2 HF_TOKEN1 DB_PASS dbPass
    db_pwd GITHUB_PAT Authorization Proxy-Authorization +vars.token access_token smtp.passphrase"""
PLAIN = """max_num_batched_tokens ppo_max_token_len_per_gpu tokenizer_path loss_agg_mode prompt_key tokens reward_fn_key
    probe_tokens response_key vars.key PWD seed OLDPWD PATH XAUTHORITY max_tokens max_token tokenizer pad_token
    eos_token_id stop_token PROMPT_KEY PUBLIC_KEY sort_key key keys pass pass@2 first_pass user_key email_key - 7"""


@pytest.mark.parametrize("name", SECRET.split())
def test_named_like_a_secret(name):
    assert is_secret_name(name)


@pytest.mark.parametrize("name", PLAIN.split())
def test_not_a_secret(name):
    assert not is_secret_name(name)


def test_every_configuration_key_of_ours_is_shown():
    keys = [key for cls in (PPOConfig, SFTConfig, EvaluationConfig, GenerationConfig) for key in known_keys(cls)]
    for path in PRESETS.rglob("*.yaml"):
        keys += re.findall(r"^ *([\w.]+):", path.read_text(), re.MULTILINE)
    keys += [*RENAMED, *RENAMED.values(), *IGNORED]
    assert len(keys) > 500 and [key for key in keys if is_secret_name(key)] == []


def test_values_are_hidden_wherever_they_are(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_environment")
    monkeypatch.setenv("SHORT_TOKEN", "ab")
    config = {
        "vars": {"api_key": "sk-configured", "url": "https://host?k=sk-configured", "n": 3, "token": None},
        "ray": {"env_vars": [{"WANDB_API_KEY": "w"}], "args": ("hf_environment", "about", "ab")},
    }
    assert redact(config) == {
        "vars": {"api_key": HIDDEN, "url": f"https://host?k={HIDDEN}", "n": 3, "token": None},
        "ray": {"env_vars": [{"WANDB_API_KEY": HIDDEN}], "args": [HIDDEN, "about", HIDDEN]},
    }
    assert redact("to sk-configured") == "to sk-configured"
    learn(config)
    assert redact("to sk-configured") == f"to {HIDDEN}"


def test_arguments_and_messages(monkeypatch):
    monkeypatch.setenv("MY_PASSWORD", "correct horse")
    assert redact(["main_ppo", "+vars.api_key=sk-1", "trainer.seed=1"]) == [
        "main_ppo",
        f"+vars.api_key={HIDDEN}",
        "trainer.seed=1",
    ]
    record = logging.LogRecord("verl", logging.INFO, "", 0, "cannot log in with %s", ("correct horse",), None)
    assert _Redacting().format(record) == f"cannot log in with {HIDDEN}"


def test_other_forms_of_a_secret():
    learn({"headers": {"Authorization": "Bearer sk-a/b+c"}, "api_keys": ["key/one", 7]})
    assert redact("?k=sk-a/b+c&l=sk-a%2Fb%2Bc key/one key%2Fone 7") == "?k=***&l=*** *** *** 7"


def test_data_are_searched_for_what_is_known_and_their_names_are_words(monkeypatch):
    monkeypatch.setenv("JUDGE_API_KEY", "sk-live-1")
    monkeypatch.setenv("SHORT_TOKEN", "yes")
    answer = {"token": "yes", "pad_token": "<pad>", "tags": ["of sk-live-1", 1, None], "text": "api_key=unknown"}
    assert hide_known()(answer) == answer | {"tags": [f"of {HIDDEN}", 1, None]}


def test_secrets_in_what_cannot_be_parsed():
    text = """k={api_key: sk-one, "X-API-Key":'sk two', n: 123456, url:"http://h?token=sk-three&n=4"""
    learn_from_texts([text, "headers={Authorization: Bearer sk-four"])
    assert redact("sk-one, sk two, sk-three, sk-four, 123456") == "***, ***, ***, ***, 123456"


MISTAKES = {
    "unknown key": (["+trainer.api_key=sk-planted"], "trainer.api_key: unknown key"),
    "secret elsewhere": (["+vars.token=sk-planted", "trainer.device=sk-planted"], f"trainer.device={HIDDEN}"),
    "from the environment": (["trainer.resume_mode=sk-environment"], f"trainer.resume_mode={HIDDEN}"),
    "cannot be parsed": (
        ["+vars.password=sk-planted[", "trainer.device=sk-planted["],
        f"vars.password={HIDDEN}: cannot be read",
    ),
    "inside of a mapping": (
        ["custom_reward_function.path=null", "custom_reward_function.reward_kwargs={judge:{api_key:sk-planted}}"],
        f"reward_kwargs={{'judge': {{'api_key': '{HIDDEN}'}}}} are of one",
    ),
    "inside of a mapping that cannot be parsed": (
        ["custom_reward_function.reward_kwargs={judge:{api_key:sk-planted}"],
        f"reward_kwargs={{judge:{{api_key:{HIDDEN}}}: cannot be read",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_does_not_echo_a_secret(name, capsys, monkeypatch):
    from verl.trainer.main_ppo import DOOR

    monkeypatch.setenv("SOME_API_KEY", "sk-environment")
    given, answer = MISTAKES[name]
    assert DOOR.open(["--config-name", "quickstart", *given]) == 2
    output = "".join(capsys.readouterr())
    assert answer in output and "sk-" not in output


def test_a_mistake_does_not_echo_a_secret_of_a_preset(tmp_path, capsys):
    from verl.trainer.main_ppo import DOOR

    (tmp_path / "mine.yaml").write_text(
        "defaults: [quickstart, _self_]\ncustom_reward_function: {reward_kwargs: {headers: {X-API-Key: sk-planted}}}\n"
    )
    assert DOOR.open(["--config-name", "mine", "--config-dir", str(tmp_path), "trainer.device=sk-planted"]) == 2
    output = "".join(capsys.readouterr())
    assert f"{{'headers': {{'X-API-Key': '{HIDDEN}'}}}} are of one" in output and "sk-" not in output


def failed_sample():
    """A response whose scorer was refused by a service, and says with what."""
    rollout = Rollout(0, [5], [7], [-0.1], [1], "stop", 1)
    error = "Traceback\nHTTPError: 401 for url https://judge/v1?api_key=planted_2"
    reward = Reward(
        0.0, 0.0, "no answer with planted_4", {"pred": ["by planted_2"], "cause": OSError("planted_2")}, error
    )
    return Sample("0", Prompt(0, [], [5], "own", "42"), rollout, "text", reward)


def test_a_run_folder_holds_no_secret(tmp_path, monkeypatch):
    """With all that a run writes by itself, wandb's files too; the trackers really run."""
    from verl.config import build
    from verl.trainer.run import recorded_run

    planted = {"HF_TOKEN": "hf_planted_1", "MY_SECRET": "planted_2", "WANDB_API_KEY": "3" * 40}
    for name, value in planted.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr("sys.argv", ["main_ppo", "vars.password=planted_4", "vars.note=planted_2"])
    config = build(
        PPOConfig,
        {
            "vars": {"password": "planted_4", "note": "is planted_2", "list": [{"api_key": "planted_5"}]},
            "ray_kwargs": {"ray_init": {"runtime_env": {"env_vars": {"AWS_SECRET_ACCESS_KEY": "planted_6"}}}},
            "trainer": {"default_local_dir": str(tmp_path / "run"), "logger": ["console", "file", "wandb"]},
        },
    )
    with pytest.raises(OSError, match="planted_2"), recorded_run(config) as run, run.tracking(3) as tracking:
        tracking.log({"loss": 1.0}, 1)
        assert tracking.active == ["file", "console", "wandb"]
        sections = Sections(None, "planted_4", None)
        reprompt = Reprompt([{"role": "user", "content": "planted_4"}], [5], sections, False)
        write_step(run.folder / "nonfinite", 1, Batch([failed_sample()], [reprompt]))
        dump_samples(run.folder / "dump", 1, [failed_sample()], lambda ids: "prompt, planted_4", [[5]])
        raise OSError("403 for planted_2 and planted_4")
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert any("wandb" in str(path) for path in files)
    found = {str(path): word for path in files for word in (b"planted", b"3" * 40) if word in path.read_bytes()}
    assert found == {}
    assert json.loads((tmp_path / "run/status.json").read_text())["reason"] == f"403 for {HIDDEN} and {HIDDEN}"
    assert "password: '***'" in (tmp_path / "run/config.yaml").read_text()
    (line,) = [json.loads(line) for line in (tmp_path / "run/dump/1.jsonl").read_text().splitlines()]
    shown = {name: line[name] for name in ("error", "feedback", "pred", "cause", "teacher_prompt", "gts", "output")}
    assert shown == {
        "error": f"Traceback\nHTTPError: 401 for url https://judge/v1?api_key={HIDDEN}",
        "feedback": f"no answer with {HIDDEN}",
        "pred": [f"by {HIDDEN}"],
        "cause": HIDDEN,
        "teacher_prompt": "prompt, ***",
        "gts": "42",
        "output": "text",
    }
    batch = read_step(tmp_path / "run/nonfinite/step_000001.parquet", 1)
    reward = batch.samples[0].reward
    assert reward == Reward(
        0.0, 0.0, shown["feedback"], {name: shown[name] for name in ("pred", "cause")}, shown["error"]
    )
    assert batch.reprompts == [Reprompt([{"role": "user", "content": HIDDEN}], [5], Sections(None, HIDDEN, None))]
