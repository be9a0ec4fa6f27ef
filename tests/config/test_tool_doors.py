"""The command lines of main_generation and main_eval: what they refuse, and what a dry run says."""

import subprocess
import sys

import pytest

from verl.config import ConfigError, EvaluationConfig, GenerationConfig
from verl.config.checks import evaluation_problems, generation_problems
from verl.config.evaluation import weights_run
from verl.config.files import generation_missing_files
from verl.trainer.compose import compose
from verl.trainer.main_eval import DOOR as EVAL
from verl.trainer.main_generation import DOOR as GENERATION

GIVEN = ("data.path=x.parquet", "data.output_path=y.parquet", "actor_rollout_ref.model.path=o/m")


def generation(*overrides):
    (run,) = compose(GenerationConfig, "generation", [*GIVEN, *overrides], generation_problems)
    return run


def refused(*overrides):
    with pytest.raises(ConfigError) as error:
        generation(*overrides)
    return error.value.problems


def test_what_is_missing_is_said_at_once():
    with pytest.raises(ConfigError) as error:
        compose(GenerationConfig, "generation", [], generation_problems)
    text = str(error.value)
    assert all(key in text for key in ("actor_rollout_ref.model.path=null", "data.path=null", "data.output_path=null"))
    with pytest.raises(ConfigError, match=r"data.path=null"):
        compose(EvaluationConfig, "evaluation", [], evaluation_problems)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("data.output_path=y.csv", "must end in .parquet or .jsonl"),
        ("data.max_samples=0", "must be at least 1"),
        ("actor_rollout_ref.model.lora_rank=8", "untrained adapters"),
        ("actor_rollout_ref.rollout.calculate_log_probs=true", "has no effect in generation"),
        ("actor_rollout_ref.rollout.max_model_len=100", "is shorter than data.max_prompt_length=512"),
        ("actor_rollout_ref.rollout.temperature=-1", "must be at least 0"),
        ("actor_rollout_ref.actor.ppo_epochs=2", "unknown key"),
        ("trainer.total_epochs=2", "unknown key"),
    ],
)
def test_keys_that_do_not_fit(override, words):
    (problem,) = refused(override)
    assert override.partition("=")[0] in problem and words in problem


def test_validation_s_sampling_is_not_generation_s():
    (problem,) = refused("actor_rollout_ref.rollout.val_kwargs.n=4")
    assert problem == "actor_rollout_ref.rollout.val_kwargs={...}: has no effect in generation; take it out"


def test_greedy_and_the_engines_of_a_run():
    config = generation("actor_rollout_ref.rollout.temperature=0", "trainer.n_gpus_per_node=2").config
    assert config.actor_rollout_ref.rollout.temperature == 0
    run = config.as_run()
    assert (run.trainer.n_gpus_per_node, run.data.max_response_length) == (2, 512)
    source = weights_run(run, "bfloat16")
    assert (source.trainer.device, source.trainer.n_gpus_per_node) == ("cpu", 1)
    assert source.actor_rollout_ref.actor.fsdp_config.model_dtype == "bf16"


def test_an_output_that_is_there_is_not_overwritten(tmp_path):
    (tmp_path / "y.parquet").write_text("")
    config = generation(f"data.output_path={tmp_path}/y.parquet").config
    assert any("exists already" in problem for problem in generation_missing_files(config))


def test_dry_runs_start_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert GENERATION.open([*GIVEN, "trainer.dry_run=true", "actor_rollout_ref.rollout.n=3"]) == 0
    printed = capsys.readouterr().out
    assert "3 to each, temperature 1, top_p 1" in printed and "x.parquet: there is no such file" in printed
    assert EVAL.open(["data.path=x.parquet", "trainer.dry_run=true"]) == 0
    assert "verl.rewards, by data source" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_help_names_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "verl.trainer.main_eval", "--help"], capture_output=True, text=True, check=True
    )
    assert "python -m verl.trainer.main_eval" in done.stdout and "response_key: responses" in done.stdout
