"""The forwards of the transformers engine against transformers' plain forward over whole sequences."""

import dataclasses
import itertools
from typing import Any

import pytest
import torch
from tiny_models import EOS, make_model, save_model, true_log_probs, weights_of
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
)

from verl.config import RolloutConfig
from verl.rollout.base import EngineSpec
from verl.rollout.hf_decoding import PlainSteps, TracedSteps, prefill, trace_step
from verl.rollout.hf_engine import HfEngine
from verl.types import Request, Sampling

SHAPE: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.3,
    "bos_token_id": 1,
    "eos_token_id": EOS,
    "pad_token_id": 0,
}
MIXTURE: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
TRACED = {
    "qwen3": Qwen3Config(**SHAPE, head_dim=32, tie_word_embeddings=True),
    "qwen2": Qwen2Config(**SHAPE),
    "llama": LlamaConfig(**SHAPE),
    "mistral without a window": MistralConfig(**SHAPE, sliding_window=None),
    "mixture": Qwen3MoeConfig(**SHAPE, **MIXTURE),
    "gpt2": GPT2Config(vocab_size=96, n_embd=64, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=EOS),
}
NOT_TRACED = {
    "mistral with a window": MistralConfig(**SHAPE, sliding_window=8),
    "frequencies chosen by the length": LlamaConfig(
        **SHAPE, rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    ),
}
PROMPTS = [[5, 6, 7], [8, 9, 10, 11, 12, 13, 14, 15, 16], [5, 6, 7], [90]]


def model_of(config):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval()


def true_logits(model, rows):
    return torch.stack([model(torch.tensor([row])).logits[0, -1] for row in rows])


@pytest.mark.parametrize("config", (TRACED | NOT_TRACED).values(), ids=(TRACED | NOT_TRACED).keys())
@torch.inference_mode()
def test_steps_are_the_plain_forward(config):
    """Over more tokens than there are places at first, while sequences leave."""
    model = model_of(config)
    traced = trace_step(model)
    assert (traced is not None) == (config in TRACED.values())
    prefix = prefill(model, PROMPTS)
    steps = TracedSteps(traced, prefix, 256) if traced else PlainSteps(model, prefix, 256)
    logits, rows = prefix.logits, [list(prompt) for prompt in PROMPTS]
    for number in range(40):
        expected = true_logits(model, rows).log_softmax(-1)
        torch.testing.assert_close(logits.log_softmax(-1), expected, atol=1e-5, rtol=1e-5)
        if number in (3, 35):
            rows = rows[1:]
            steps.keep(torch.arange(1, len(rows) + 1))
        tokens = [(7 * number + 11 * row) % 90 + 3 for row in range(len(rows))]
        rows = [[*row, token] for row, token in zip(rows, tokens, strict=True)]
        logits = steps.step(torch.tensor(tokens))


def test_tracing_leaves_the_model_as_it_was():
    model = model_of(TRACED["llama"])
    before = model.config.to_dict() | {"attention": model.config._attn_implementation}
    trace_step(model)
    assert model.config.to_dict() | {"attention": model.config._attn_implementation} == before


def test_a_step_that_is_not_the_same_each_time_is_not_traced():
    """What the tracer cannot see: a number that Python counts up, and that the recording would hold still."""
    model, numbers = model_of(TRACED["llama"]), itertools.count()
    model.lm_head.register_forward_hook(lambda _module, _inputs, logits: logits + logits * next(numbers))
    assert trace_step(model) is None


@torch.inference_mode()
def test_equal_prompts_are_computed_once():
    model, shapes = model_of(TRACED["llama"]), []
    model.model.embed_tokens.register_forward_hook(lambda _module, inputs, _: shapes.append(tuple(inputs[0].shape)))
    prefix = prefill(model, [[5, 6, 7], [8, 9], [5, 6, 7], [8, 9], [5, 6, 7]])
    assert shapes == [(2, 3)]
    assert prefix.mask.tolist() == [[1, 1, 1], [0, 1, 1], [1, 1, 1], [0, 1, 1], [1, 1, 1]]
    assert prefix.positions.tolist() == [[3], [2], [3], [2], [3]]
    assert torch.equal(prefix.logits[0], prefix.logits[4]) and not torch.equal(prefix.logits[0], prefix.logits[1])


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    path = save_model(tmp_path_factory.mktemp("model"), True)
    return HfEngine(EngineSpec(model_path=path, rollout=RolloutConfig(name="hf"), max_model_len=128))


def write(engine, requests):
    return {rollout.request_id: rollout for part in engine.generate(requests) for rollout in part}


REQUESTS = [Request(i, PROMPTS[i % 4], Sampling(temperature=0.9, max_tokens=5 + 9 * (i % 6)), i) for i in range(20)]


def test_responses_are_those_of_the_weights_in_use(engine):
    """The recording is older than every weight it runs with."""
    for number in (1, 2):
        model = make_model(number, is_tied=True)
        engine.load_weights(weights_of(model), number)
        for rollout in write(engine, REQUESTS).values():
            expected = true_log_probs(model, rollout.prompt_ids, rollout.response_ids, 0.9)
            assert rollout.log_probs == pytest.approx(expected, abs=1e-5)


def test_recorded_and_plain_steps_write_the_same(engine, monkeypatch):
    engine.load_weights(weights_of(make_model(1, is_tied=True)), 1)
    recorded = write(engine, REQUESTS)
    monkeypatch.setattr(engine, "_traced_step", None)
    plain = write(engine, REQUESTS)
    for number, rollout in recorded.items():
        assert rollout.log_probs == pytest.approx(plain[number].log_probs, abs=1e-5)
        assert dataclasses.replace(rollout, log_probs=[]) == dataclasses.replace(plain[number], log_probs=[])


def test_a_request_alone_and_after_others_left_gets_the_same_tokens(engine):
    engine.load_weights(weights_of(make_model(1, is_tied=True)), 1)
    together = write(engine, REQUESTS)
    for request in REQUESTS:
        assert write(engine, [request])[request.request_id].response_ids == together[request.request_id].response_ids


@pytest.mark.parametrize("is_traced", [True, False])
def test_ended_rows_do_not_run_out_of_positions(tmp_path, is_traced, monkeypatch):
    """A response that fills the model's table of positions stays in the batch while most others go on."""
    config = GPT2Config(vocab_size=96, n_embd=64, n_layer=2, n_head=4, n_positions=12, bos_token_id=1, eos_token_id=EOS)
    model = model_of(config)
    model.save_pretrained(tmp_path)
    engine = HfEngine(EngineSpec(model_path=str(tmp_path), rollout=RolloutConfig(name="hf"), max_model_len=12))
    if not is_traced:
        monkeypatch.setattr(engine, "_traced_step", None)
    engine.load_weights(list(model.named_parameters(remove_duplicate=False)), 1)
    full = Request(0, list(range(3, 13)), Sampling(max_tokens=2), 0)
    others = [Request(i, [20 + i], Sampling(max_tokens=11), i) for i in range(1, 7)]
    for rollout in write(engine, [full, *others]).values():
        expected = true_log_probs(model, rollout.prompt_ids, rollout.response_ids)
        assert rollout.log_probs == pytest.approx(expected, abs=1e-5)
