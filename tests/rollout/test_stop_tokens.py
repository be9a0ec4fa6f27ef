"""Which tokens end a response, and what a run's configuration makes of an engine."""

import dataclasses

import pytest
from tiny_models import EOS
from tokenizers import Tokenizer, models
from transformers import GenerationConfig, PreTrainedTokenizerFast

from verl.config import ActorRolloutRefConfig, DataConfig, RolloutConfig
from verl.config.actor import ModelConfig
from verl.rollout import engine_spec
from verl.rollout.base import EngineSpec, stop_token_ids


def test_the_model_s_configuration_alone(spec_for):
    assert stop_token_ids(spec_for("hf", True)) == [EOS]


def test_generation_configuration_and_tokenizer_add_up(spec_for, tmp_path):
    GenerationConfig(eos_token_id=[7, 9]).save_pretrained(tmp_path)
    words = Tokenizer(models.WordLevel({"a": 0, "<end>": 5}, unk_token="a"))
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>").save_pretrained(tmp_path)
    spec = EngineSpec(str(tmp_path), RolloutConfig(), 10, tokenizer_path=str(tmp_path))
    assert stop_token_ids(spec) == [5, 7, 9]


def configured(**rollout):
    model = ModelConfig(path="somewhere")
    return ActorRolloutRefConfig(model=model, rollout=RolloutConfig(**rollout))


def test_a_specification_is_read_from_the_configuration():
    data = DataConfig(max_prompt_length=30, max_response_length=12)
    spec = engine_spec(configured(), data, "cpu", seed=4)
    assert (spec.max_model_len, spec.dtype, spec.tokenizer_path, spec.seed) == (42, "float32", "somewhere", 4)
    assert engine_spec(configured(), data, "cuda", seed=4).dtype == "bfloat16"
    assert engine_spec(configured(dtype="float32", max_model_len=50), data, "cuda", 4).max_model_len == 50


def test_a_model_length_that_holds_no_full_response_is_refused():
    data = DataConfig(max_prompt_length=30, max_response_length=12)
    with pytest.raises(ValueError, match=r"max_model_len=41 is shorter .* = 42"):
        engine_spec(configured(max_model_len=41), data, "cpu", 1)
    with pytest.raises(ValueError, match=r"model.path is not set"):
        engine_spec(dataclasses.replace(configured(), model=ModelConfig()), data, "cpu", 1)
