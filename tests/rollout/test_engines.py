"""What both engines promise, tried on random models of two layers."""

import pytest
import torch
from tiny_models import EOS, make_model, true_log_probs, weights_of

from verl.rollout.base import NO_WEIGHTS
from verl.types import Request, Sampling

PROMPT = [5, 17, 33, 80, 41, 9]
PROBE = [(7 * i * i + 3) % 96 for i in range(64)]


def request(number, prompt=PROMPT, seed=None, **sampling):
    return Request(number, list(prompt), Sampling(**{"max_tokens": 20} | sampling), number if seed is None else seed)


def answers(engine, requests):
    return {rollout.request_id: rollout for part in engine.generate(requests) for rollout in part}


def test_log_probs_follow_the_weights(served):
    engine, first = served
    second = make_model(2, first.config.tie_word_embeddings)
    assert engine.log_probs(PROBE) == pytest.approx(true_log_probs(first, PROBE[:1], PROBE[1:]), abs=1e-3)
    engine.load_weights(weights_of(second), version=2)
    assert engine.weight_version == 2
    assert engine.log_probs(PROBE) == pytest.approx(true_log_probs(second, PROBE[:1], PROBE[1:]), abs=1e-3)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_sampled_tokens_come_with_their_log_probs(served, temperature):
    engine, model = served
    rollouts = answers(engine, [request(i, temperature=temperature) for i in range(4)])
    for rollout in rollouts.values():
        expected = true_log_probs(model, PROMPT, rollout.response_ids, temperature)
        assert rollout.log_probs == pytest.approx(expected, abs=1e-3)
        assert rollout.response_mask == [1] * len(rollout.response_ids)
        assert rollout.weight_version == 1


@torch.no_grad()
def test_greedy_takes_the_most_likely_token(served):
    engine, model = served
    rollout = answers(engine, [request(0, temperature=0.0), request(1)])[0]
    logits = model(torch.tensor([PROMPT + rollout.response_ids])).logits[0, len(PROMPT) - 1 : -1]
    assert rollout.response_ids == logits.argmax(-1).tolist()
    assert rollout.log_probs == pytest.approx(logits.log_softmax(-1).amax(-1).tolist(), abs=1e-3)


def test_truncated_sampling_renormalises(served):
    engine, _ = served
    rollouts = answers(engine, [request(0, top_k=1), request(1, top_p=1e-6), request(2, temperature=0.0)])
    assert rollouts[0].response_ids == rollouts[1].response_ids == rollouts[2].response_ids
    assert rollouts[0].log_probs == pytest.approx([0.0] * len(rollouts[0].log_probs))


def test_a_response_depends_on_its_seed_not_on_its_batch(served):
    engine, _ = served
    others = [request(i, prompt=[3 + i] * (1 + i % 7), temperature=0.8) for i in range(20, 50)]
    alone = answers(engine, [request(1, seed=11)])[1]
    together = answers(engine, [request(0, seed=12), request(1, seed=11), request(2, seed=11), *others])
    assert together[1].response_ids == alone.response_ids == together[2].response_ids
    assert together[1].log_probs == pytest.approx(alone.log_probs, abs=1e-3)
    assert together[0].response_ids != alone.response_ids


def test_stopped_responses_end_with_eos_and_cut_ones_have_none(served):
    engine, _ = served
    rollouts = answers(engine, [request(i, max_tokens=40) for i in range(64)]).values()
    stopped = [rollout.response_ids for rollout in rollouts if rollout.finish_reason == "stop"]
    cut = [rollout.response_ids for rollout in rollouts if rollout.finish_reason == "length"]
    assert stopped and all(ids[-1] == EOS and EOS not in ids[:-1] for ids in stopped)
    assert cut and all(len(ids) == 40 and EOS not in ids for ids in cut)


def test_short_responses_come_before_long_ones(served):
    engine, _ = served
    limits = [50, 3, 100, 20, 1, 9]
    requests = [request(i, max_tokens=limit, temperature=0.5) for i, limit in enumerate(limits)]
    parts = [[len(rollout.response_ids) for rollout in part] for part in engine.generate(requests)]
    lengths = [length for part in parts for length in part]
    assert len(parts) > 2 and lengths == sorted(lengths)


def test_more_prompt_tokens_than_fit_into_one_step(served):
    engine, _ = served
    requests = [request(i, prompt=[(i * j) % 90 + 3 for j in range(1, 100)], max_tokens=2) for i in range(70)]
    assert len(answers(engine, requests)) == 70


def test_an_abandoned_generation_leaves_nothing_behind(served):
    engine, _ = served
    running = engine.generate([request(0, max_tokens=1), request(1, max_tokens=100)])
    next(running)
    running.close()
    assert list(answers(engine, [request(1)])) == [1]
    assert answers(engine, []) == {}


def test_nothing_is_served_after_a_failed_load_until_the_next_one(served):
    engine, model = served

    def breaking():
        yield from weights_of(model)[:5]
        raise ConnectionError("sender died")

    with pytest.raises(ConnectionError):
        engine.load_weights(breaking(), version=2)
    assert engine.weight_version == NO_WEIGHTS
    with pytest.raises(RuntimeError, match="has no weights"):
        next(engine.generate([request(0)]))
    with pytest.raises(RuntimeError, match="has no weights"):
        engine.log_probs(PROBE)
    engine.load_weights(weights_of(model), version=3)
    assert engine.log_probs(PROBE) == pytest.approx(true_log_probs(model, PROBE[:1], PROBE[1:]), abs=1e-3)


def test_old_prefixes_are_forgotten_with_the_old_weights(served):
    engine, model = served
    prompt = [(3 * i) % 90 + 3 for i in range(100)]  # several blocks of the prefix cache
    answers(engine, [request(0, prompt=prompt)])
    other = make_model(5, model.config.tie_word_embeddings)
    engine.load_weights(weights_of(other), version=2)
    rollout = answers(engine, [request(0, prompt=prompt)])[0]
    assert rollout.log_probs == pytest.approx(true_log_probs(other, prompt, rollout.response_ids), abs=1e-3)


def test_weights_that_come_while_vllm_writes_are_refused(engine_for):
    engine, model = engine_for("vllm", True), make_model(1, is_tied=True)
    engine.load_weights(weights_of(model), version=1)
    running = engine.generate([request(0, max_tokens=1), *(request(i, max_tokens=100) for i in range(1, 9))])
    next(running)
    with pytest.raises(RuntimeError, match="while responses were being written"):
        engine.load_weights(weights_of(model), version=2)
    running.close()
    engine.load_weights(weights_of(model), version=2)
    assert list(answers(engine, [request(1)])) == [1]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([request(7, max_tokens=125)], r"Request 7: 6 prompt tokens plus max_tokens=125 exceed .*max_model_len=128"),
        ([request(7, prompt=[])], "0 prompt tokens"),
        ([request(7), request(7)], "same request_id"),
    ],
)
def test_requests_that_cannot_be_answered_are_refused(served, bad, message):
    with pytest.raises(ValueError, match=message):
        next(served[0].generate(bad))


@pytest.mark.parametrize("length", [1, 128])
def test_probes_that_cannot_be_scored_are_refused(served, length):
    with pytest.raises(ValueError, match="probe_tokens"):
        served[0].log_probs([5] * length)
