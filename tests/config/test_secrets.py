"""Secrets are found by their names, and hidden wherever their values are."""

import json
import logging

import pytest

from verl.config.secrets import HIDDEN, is_secret_name, learn, redact
from verl.trainer.door import _Redacting


@pytest.fixture(autouse=True)
def nothing_told(monkeypatch):
    monkeypatch.setattr("verl.config.secrets._told", set())


SECRET = """WANDB_API_KEY HF_TOKEN OPENAI_API_KEY MY_SECRET AWS_SECRET_ACCESS_KEY PASSWORD DB_PASSWORD
    vars.api_key apikey hub-token secret_key azure.credential token private_key"""
PLAIN = """max_num_batched_tokens ppo_max_token_len_per_gpu tokenizer_path loss_agg_mode prompt_key tokens reward_fn_key
    probe_tokens response_key vars.key PWD seed"""


@pytest.mark.parametrize("name", SECRET.split())
def test_named_like_a_secret(name):
    assert is_secret_name(name)


@pytest.mark.parametrize("name", PLAIN.split())
def test_not_a_secret(name):
    assert not is_secret_name(name)


def test_every_configuration_key_of_ours_is_shown():
    from verl.config import PPOConfig, SFTConfig, known_keys

    assert [key for cls in (PPOConfig, SFTConfig) for key in known_keys(cls) if is_secret_name(key)] == []


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


MISTAKES = {
    "unknown key": (["+trainer.api_key=sk-planted"], "trainer.api_key: unknown key"),
    "secret elsewhere": (["+vars.token=sk-planted", "trainer.device=sk-planted"], f"trainer.device={HIDDEN}"),
    "from the environment": (["trainer.resume_mode=sk-environment"], f"trainer.resume_mode={HIDDEN}"),
    "cannot be parsed": (
        ["+vars.password=sk-planted[", "trainer.device=sk-planted["],
        f"vars.password={HIDDEN}: cannot be read",
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


def test_a_run_folder_holds_no_secret(tmp_path, monkeypatch):
    """With all that a run writes by itself, wandb's files too; the trackers really run."""
    from verl.config import PPOConfig, build
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
    with pytest.raises(OSError, match="planted_2"), recorded_run(config, 3) as run:
        run.tracking.log({"loss": 1.0}, 1)
        assert run.tracking.active == ["file", "console", "wandb"]
        raise OSError("403 for planted_2 and planted_4")
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert any("wandb" in str(path) for path in files)
    found = {str(path): word for path in files for word in (b"planted", b"3" * 40) if word in path.read_bytes()}
    assert found == {}
    assert json.loads((tmp_path / "run/status.json").read_text())["reason"] == f"403 for {HIDDEN} and {HIDDEN}"
    assert "password: '***'" in (tmp_path / "run/config.yaml").read_text()
