import pytest
import torch
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    Lfm2Config,
    Lfm2ForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.models.qwen3.modeling_qwen3 import Qwen3MLP

from verl.algorithms.head import head_map
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


def test_factors_and_soft_caps_are_read_from_the_configuration():
    assert head_map(Gemma2Config(**SIZES, final_logit_softcapping=0.5)) == (1.0, 0.5)
    assert head_map(GraniteConfig(**GRANITE, logits_scaling=4.0)) == (0.25, None)
    assert head_map(CohereConfig(**COHERE, logit_scale=0.0625)) == (0.0625, None)
    assert head_map(Qwen3Config(**SIZES)) == (1.0, None)


SMALL = {name: value for name, value in SIZES.items() if name != "head_dim"}
GRANITE = COHERE = {**SMALL, "initializer_range": 1.0}


@pytest.mark.parametrize(
    "lm",
    [
        lambda: Gemma2ForCausalLM(Gemma2Config(**SIZES, final_logit_softcapping=0.5, initializer_range=1.0)),
        lambda: GraniteForCausalLM(GraniteConfig(**GRANITE, logits_scaling=4.0)),
        lambda: CohereForCausalLM(CohereConfig(**COHERE, logit_scale=0.0625)),
    ],
)
def test_heads_with_a_factor_or_a_soft_cap_are_taken(lm, tmp_path):
    """`read_weights` compares the logits of the whole model with those of `head_map`."""
    lm().save_pretrained(tmp_path)
    is_capped_inside = "gemma2" in (tmp_path / "config.json").read_text()
    assert read_weights(ModelConfig(use_remove_padding=not is_capped_inside), str(tmp_path), torch.float32)


def test_a_head_that_does_more_is_refused(tmp_path):
    lm = PhiForCausalLM(PhiConfig(**SMALL))
    torch.nn.init.normal_(lm.lm_head.bias)
    lm.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="PhiForCausalLM are not hidden states times"):
        read_weights(ModelConfig(), str(tmp_path), torch.float32)


def test_models_that_cannot_be_packed_are_refused_when_they_are_read(tmp_path):
    config = Gemma2Config(**SIZES, attn_logit_softcapping=0.5)
    Gemma2ForCausalLM(config).save_pretrained(tmp_path / "capped")
    with pytest.raises(ValueError, match=r"softcap.*use_remove_padding=false"):
        read_weights(ModelConfig(), str(tmp_path / "capped"), torch.float32)
    Lfm2ForCausalLM(Lfm2Config(**SMALL, layer_types=["conv"])).save_pretrained(tmp_path / "conv")
    with pytest.raises(ValueError, match=r"conv.*use_remove_padding=false"):
        read_weights(ModelConfig(), str(tmp_path / "conv"), torch.float32)
    assert read_weights(ModelConfig(use_remove_padding=False), str(tmp_path / "conv"), torch.float32)


def test_a_layer_that_mixes_tokens_unseen_is_noticed(tmp_path, monkeypatch):
    """A model whose configuration does not say that it looks one token back."""
    Qwen3ForCausalLM(Qwen3Config(**SIZES)).save_pretrained(tmp_path)
    forward = Qwen3MLP.forward
    monkeypatch.setattr(Qwen3MLP, "forward", lambda self, x: forward(self, x) + x.roll(1, dims=1))
    with pytest.raises(ValueError, match=r"Qwen3ForCausalLM .*mixes tokens by more than attention"):
        read_weights(ModelConfig(), str(tmp_path), torch.float32)


def test_a_soft_cap_of_scores_is_never_left_out(tmp_path):
    """Padded, the modules run with the one implementation that knows the cap."""
    config = Gemma2Config(**SIZES, attn_logit_softcapping=0.1, initializer_range=1.0)
    torch.manual_seed(0)
    lm = Gemma2ForCausalLM(config)
    lm.save_pretrained(tmp_path)
    modules = build_modules(ModelConfig(path=str(tmp_path)), str(tmp_path), torch.float32, "sdpa")
    assert modules.config._attn_implementation == "eager"
    modules = build_modules(ModelConfig(path=str(tmp_path)), str(tmp_path), torch.float32, "packed_sdpa")
    assert modules.config._attn_implementation == "packed_sdpa"
