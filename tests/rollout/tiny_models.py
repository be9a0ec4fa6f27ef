"""Random Qwen3 models of a few kilobytes, written to a folder: what the engine tests run on."""

from pathlib import Path

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

EOS = 2


def make_model(seed: int, is_tied: bool) -> Qwen3ForCausalLM:
    torch.manual_seed(seed)
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=96,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=32,
            max_position_embeddings=256,
            tie_word_embeddings=is_tied,
            eos_token_id=EOS,
            bos_token_id=1,
            pad_token_id=0,
            initializer_range=0.3,  # far from uniform, so that a wrong weight shows
        )
    ).eval()


def save_model(folder: Path, is_tied: bool) -> str:
    make_model(0, is_tied).save_pretrained(folder)
    return str(folder)


def weights_of(model: Qwen3ForCausalLM) -> list[tuple[str, torch.Tensor]]:
    """As the trainer publishes them: the tied head under its own name too."""
    return [(name, p.detach()) for name, p in model.named_parameters(remove_duplicate=False)]


@torch.no_grad()
def true_log_probs(model: Qwen3ForCausalLM, prompt_ids, response_ids, temperature=1.0) -> list[float]:
    """Log-probs of the response by transformers' own forward."""
    ids = torch.tensor([list(prompt_ids) + list(response_ids)])
    log_probs = (model(ids).logits[0].float() / temperature).log_softmax(-1)
    return [log_probs[len(prompt_ids) - 1 + i, token].item() for i, token in enumerate(response_ids)]
