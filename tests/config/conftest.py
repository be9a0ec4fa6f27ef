"""Compose configurations in this process, with rules between keys but without looking at files."""

import pytest

from verl.config import PPOConfig
from verl.config.checks import ppo_problems
from verl.trainer.compose import compose


@pytest.fixture
def environment(monkeypatch):
    """What a launcher exports."""
    monkeypatch.setenv("TASK", "datasets/chemistry")
    monkeypatch.setenv("EXPERIMENT", "trial")
    monkeypatch.setenv("USER", "ada")


@pytest.fixture
def runs(environment):
    """`runs(preset, *overrides)`: the composed runs."""

    def of(preset, *overrides):
        return compose(PPOConfig, "ppo_trainer", ["--config-name", preset, *overrides], ppo_problems)

    return of


@pytest.fixture
def one(runs):
    """`one(preset, *overrides)`: the configuration of the only run."""

    def of(preset, *overrides):
        (run,) = runs(preset, *overrides)
        return run.config

    return of


@pytest.fixture
def read():
    """`read(config, "a.b.c")`: the value of a dotted key."""

    def at(config, key):
        for name in key.split("."):
            config = config[name] if isinstance(config, dict) else getattr(config, name)
        return config

    return at
