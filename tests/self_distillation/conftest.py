"""Scored samples from a few words, for the tests of reprompting."""

import pytest

from verl.types import Prompt, Reward, Rollout, Sample


def _sample(uid="u", score=0.0, text="answer", feedback="", messages=None):
    messages = messages or [{"role": "user", "content": f"Q_{uid}"}]
    prompt = Prompt(index=0, messages=messages, token_ids=[1], data_source="test", ground_truth="")
    rollout = Rollout(0, [1], [2], [0.0], [1], "stop", 0)
    return Sample(uid, prompt, rollout, text, Reward(score, score, feedback))


@pytest.fixture(scope="session")
def make_sample():
    return _sample
