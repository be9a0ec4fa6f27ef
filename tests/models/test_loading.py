import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from verl.config.actor import ModelConfig
from verl.models.loading import build_modules, load_config, read_weights

SIZES = {
    "vocab_size": 11,
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 4,
}


def test_dropout_is_switched_off(tmp_path):
    Qwen3Config(**SIZES, attention_dropout=0.3).save_pretrained(tmp_path)
    assert load_config(str(tmp_path)).attention_dropout == 0.0


def test_weights_and_modules_have_the_same_names(tmp_path):
    Qwen3ForCausalLM(Qwen3Config(**SIZES, tie_word_embeddings=True)).save_pretrained(tmp_path)
    model = ModelConfig(path=str(tmp_path), lora_rank=2)
    weights = read_weights(model, str(tmp_path), torch.float32)
    modules = build_modules(model, str(tmp_path), torch.float32, "sdpa")
    named = {name: value.shape for name, value in [*modules.named_parameters(), *modules.named_buffers()]}
    assert named == {name: value.shape for name, value in weights.items()}
    assert all(value.is_meta for value in modules.parameters())


def test_a_model_that_changes_its_logits_is_refused(tmp_path):
    config = Gemma2Config(**SIZES, final_logit_softcapping=0.5, initializer_range=1.0)
    Gemma2ForCausalLM(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="Gemma2ForCausalLM are not hidden states times"):
        read_weights(ModelConfig(), str(tmp_path), torch.float32)
