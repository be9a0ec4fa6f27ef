"""The sampler of the transformers engine, on distributions small enough to know by heart."""

import pytest
import torch

from verl.rollout.hf_engine import HfEngine, sample, truncate
from verl.types import Sampling


def draw(logits, sampling, num=20000):
    generators = [torch.Generator().manual_seed(i) for i in range(num)]
    return sample(torch.tensor([logits] * num), [sampling] * num, generators)


def test_draws_follow_the_tempered_distribution():
    logits = torch.tensor([0.2, 0.5, 0.3]).log() * 2.0
    tokens, log_probs = draw(logits.tolist(), Sampling(temperature=2.0))
    frequencies = tokens.bincount(minlength=3) / len(tokens)
    assert frequencies.tolist() == pytest.approx([0.2, 0.5, 0.3], abs=0.015)
    assert log_probs.exp().tolist() == pytest.approx(torch.tensor([0.2, 0.5, 0.3])[tokens].tolist(), rel=1e-5)


def test_truncation_keeps_the_smallest_sufficient_set():
    scores = torch.tensor([0.1, 0.4, 0.3, 0.2]).log()
    assert truncate(scores, 2, 1.0).isfinite().tolist() == [False, True, True, False]
    assert truncate(scores, -1, 0.65).isfinite().tolist() == [False, True, True, False]
    assert truncate(scores, -1, 0.75).isfinite().tolist() == [False, True, True, True]
    assert truncate(scores, -1, 1.0).tolist() == scores.tolist()


def test_rows_of_a_batch_may_be_sampled_differently():
    logits = torch.tensor([[1.0, 3.0, 2.0]] * 2)
    generators = [torch.Generator().manual_seed(0) for _ in range(2)]
    tokens, log_probs = sample(logits, [Sampling(temperature=0.0), Sampling(temperature=0.5, top_k=1)], generators)
    assert tokens.tolist() == [1, 1]
    assert log_probs.tolist() == pytest.approx([logits.log_softmax(-1)[0, 1].item(), 0.0])


def test_weights_that_do_not_fit_are_named(spec_for):
    engine = HfEngine(spec_for("hf", True))
    with pytest.raises(ValueError, match=r"model.norm.weight of shape \(3,\) .* shape \(64,\)"):
        engine.load_weights([("model.norm.weight", torch.zeros(3))], 1)
    with pytest.raises(ValueError, match=r"No weights came for 23 parameters"):
        engine.load_weights([("model.norm.weight", torch.zeros(64))], 1)
    with pytest.raises(ValueError, match="no such parameter"):
        engine.load_weights([("model.nrm.weight", torch.zeros(64))], 1)
