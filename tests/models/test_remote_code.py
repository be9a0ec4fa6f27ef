"""A model folder with Python code in it: the code is run when it is asked for, said aloud, and not otherwise."""

import json
import logging

import pytest

from verl.config import RolloutConfig
from verl.models import remote_code
from verl.models.loading import load_config, load_tokenizer
from verl.rollout.base import EngineSpec, stop_token_ids
from verl.rollout.hf_engine import HfEngine

CONFIGURATION = """
from transformers import Qwen3Config
open({marker!r}, "a").write("configuration ")

class PlantedConfig(Qwen3Config):
    model_type = "planted"
"""
TOKENIZATION = """
from transformers import PreTrainedTokenizerFast
open({marker!r}, "a").write("tokenizer ")

class PlantedTokenizer(PreTrainedTokenizerFast):
    pass
"""


@pytest.fixture
def marker(tmp_path):
    return tmp_path / "it ran"


@pytest.fixture
def planted(tmp_path, marker, monkeypatch):
    """The folder; what transformers copies of it stays below the test's folder."""
    import transformers.dynamic_module_utils as dynamic
    from tokenizers import Tokenizer, models

    monkeypatch.setattr(dynamic, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("sys.path", [str(tmp_path / "modules"), *__import__("sys").path])
    folder = tmp_path / "planted_model"
    folder.mkdir()
    (folder / "configuration_planted.py").write_text(CONFIGURATION.format(marker=str(marker)))
    (folder / "tokenization_planted.py").write_text(TOKENIZATION.format(marker=str(marker)))
    auto_map = {"AutoConfig": "configuration_planted.PlantedConfig"}
    (folder / "config.json").write_text(json.dumps({"model_type": "planted", "auto_map": auto_map, "vocab_size": 3}))
    auto_map = {"AutoTokenizer": [None, "tokenization_planted.PlantedTokenizer"]}
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PlantedTokenizer", "auto_map": auto_map, "eos_token": "b"})
    )
    Tokenizer(models.WordLevel({"a": 0, "b": 1, "c": 2}, "a")).save(str(folder / "tokenizer.json"))
    remote_code.say_aloud.cache_clear()
    return str(folder)


LOADERS = {
    "configuration": load_config,
    "tokenizer": load_tokenizer,
    "the engine's configuration": lambda path: HfEngine(EngineSpec(path, RolloutConfig(), 8)),
    "the engine's stop tokens": lambda path: stop_token_ids(EngineSpec(path, RolloutConfig(), 8, tokenizer_path=path)),
}


@pytest.mark.parametrize("name", LOADERS)
def test_code_is_not_run_unasked_and_the_key_is_named(name, planted, marker):
    with pytest.raises(ValueError, match="trust_remote_code"):
        LOADERS[name](planted)
    assert not marker.exists()


@pytest.mark.parametrize(("load", "what"), [(load_config, "configuration "), (load_tokenizer, "tokenizer ")])
def test_code_is_run_when_asked_and_said_aloud_once(load, what, planted, marker, caplog):
    with caplog.at_level(logging.WARNING, "verl"):
        for _ in range(2):
            load(planted, trust_remote_code=True)
    assert marker.read_text().split()[-1] == what.strip()
    messages = [record.getMessage() for record in caplog.records if record.name.startswith("verl")]
    assert len(messages) == 1
    assert planted in messages[0] and "actor_rollout_ref.model.trust_remote_code=False" in messages[0]


def test_nothing_is_said_of_a_model_that_is_not_trusted(planted, caplog):
    with pytest.raises(ValueError), caplog.at_level(logging.WARNING, "verl"):
        load_tokenizer(planted)
    assert [record for record in caplog.records if record.name.startswith("verl")] == []
