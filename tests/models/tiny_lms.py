"""Tiny random models of several families, rows of every kind, and the plain definition of a packed forward."""

import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from verl.protocol import Row

VOCAB = 23
SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "initializer_range": 0.3,
}
WINDOW = 3
FAMILIES = {
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SIZES, tie_word_embeddings=True)),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SIZES, sliding_window=WINDOW)),
    "one key head": lambda: Qwen3ForCausalLM(Qwen3Config(**SIZES | {"num_key_value_heads": 1})),
    "gemma2": lambda: Gemma2ForCausalLM(
        Gemma2Config(**SIZES, attn_logit_softcapping=None, final_logit_softcapping=2.0, sliding_window=WINDOW)
    ),
}
"""Heads that share keys, all of them; a window shorter than rows; a single head of keys; a window in every other layer
and a soft cap."""


def tiny(family: str, attention: str):
    """A model in float64, its weights always the same."""
    torch.manual_seed(3)
    lm = FAMILIES[family]().double()
    lm.set_attn_implementation(attention)
    return lm.train()


def rows_of_all_kinds(seed: int = 0) -> list[Row]:
    """Two groups, a whole row twice, one row the beginning of another, one-token prompts, an empty response."""
    generator = torch.Generator().manual_seed(seed)

    def some(length: int) -> list[int]:
        return torch.randint(VOCAB, (length,), generator=generator).tolist()

    def row(prompt: list[int], response: list[int]) -> Row:
        return Row(prompt, response, [1] * len(response), teacher_prompt_ids=[5, *prompt])

    first, second = some(5), some(11)
    rows = [row(first, some(n)) for n in (3, 1, 4)] + [row(second, some(n)) for n in (2, 9, 5)]
    rows += [rows[4], row(rows[4].prompt_ids, rows[4].response_ids[:6]), row([7], some(4)), row([7], some(1))]
    return [*rows, row(first[:2], []), row(first[:4], [first[4], *some(2)])]


def alone(lm, rows: list[Row]) -> list[torch.Tensor]:
    """By definition: each row by itself through the model; the states before each response token, [R, H] each."""
    found = []
    for row in rows:
        ids = torch.tensor([row.prompt_ids + row.response_ids])
        states = lm.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state[0]
        start = len(row.prompt_ids) - 1
        found.append(states[start : start + len(row.response_ids)])
    return found


def readout(hidden: torch.Tensor) -> torch.Tensor:
    """A scalar to whose gradient every entry of every state adds something else."""
    weights = torch.linspace(-1, 1, hidden.numel(), dtype=hidden.dtype).view_as(hidden)
    return (weights * hidden.sin()).sum()


def gradients(model) -> dict[str, torch.Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def plain_varlen(q, k, v, q_starts, k_starts, max_q, max_k, softmax_scale, causal, window_size):
    """flash-attn's `flash_attn_varlen_func` as its documentation defines it, one sequence and one head at a time."""
    assert causal and q_starts.dtype == k_starts.dtype == torch.int32
    lengths = q_starts.diff().tolist(), k_starts.diff().tolist()
    assert (max(lengths[0]), max(lengths[1])) == (max_q, max_k)
    outputs = []
    for queries, keys, values in zip(q.split(lengths[0]), k.split(lengths[1]), v.split(lengths[1]), strict=True):
        # Aligned to the bottom right: the last query sees the last key.
        here = torch.arange(len(queries))[:, None] + len(keys) - len(queries)
        there = torch.arange(len(keys))[None]
        seen = there <= here
        if window_size[0] >= 0:
            seen &= there >= here - window_size[0]
        heads = []
        for head in range(q.shape[1]):
            own = head // (q.shape[1] // k.shape[1])
            scores = (queries[:, head] @ keys[:, own].T * softmax_scale).masked_fill(~seen, -torch.inf)
            heads.append(scores.softmax(dim=-1) @ values[:, own])
        outputs.append(torch.stack(heads, dim=1))
    return torch.cat(outputs)
