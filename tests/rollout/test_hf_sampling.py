"""The sampler of the transformers engine, on distributions small enough to know by heart."""

import pytest
import torch

from verl.rollout.hf_engine import GumbelNoise, HfEngine, sample, truncate
from verl.types import Sampling


def draw(logits, sampling, num=20000):
    rows = torch.tensor([logits] * num)
    return sample(rows, [sampling] * num, GumbelNoise(range(num), rows).draw())


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
    samplings = [Sampling(temperature=0.0), Sampling(temperature=0.5, top_k=1)]
    tokens, log_probs = sample(logits, samplings, GumbelNoise([None, 0], logits).draw())
    assert tokens.tolist() == [1, 1]
    assert log_probs.tolist() == pytest.approx([logits.log_softmax(-1)[0, 1].item(), 0.0])


def draws_of(noise, num):
    return torch.stack([noise.draw().clone() for _ in range(num)], dim=1)  # [B, num, V]


@pytest.mark.parametrize("vocabulary", [5, 1500, 5000])
def test_noise_of_a_row_is_its_seed_s_alone(vocabulary):
    """In any batch, after rows left, and over the edges of what is drawn ahead."""
    steps = 2 * max(1, GumbelNoise.NUMBERS // vocabulary) + 1
    like = torch.zeros(1, vocabulary)
    alone = {seed: draws_of(GumbelNoise([seed], like), steps)[0] for seed in (3, 4)}
    noise = GumbelNoise([3, None, 4], torch.zeros(3, vocabulary))
    first = draws_of(noise, 1)
    noise.keep([1, 2])
    rest = draws_of(noise, steps - 1)
    assert torch.equal(first[0], alone[3][:1])
    assert torch.equal(torch.cat([first[2], rest[1]]), alone[4])
    assert not first[1].any() and not rest[0].any()
    assert not torch.equal(alone[3], alone[4])
    assert len(alone[3].unique(dim=0)) == steps


def test_noise_is_of_the_gumbel_distribution():
    """Mean: Euler's constant; variance: pi^2 / 6; seeds and steps uncorrelated."""
    noise = draws_of(GumbelNoise(range(400), torch.zeros(400, 50)), 100)
    assert noise.mean().item() == pytest.approx(0.57722, abs=5e-3)
    assert noise.var().item() == pytest.approx(torch.pi**2 / 6, abs=2e-2)
    centred = noise - noise.mean()
    for other in (centred.roll(1, dims=0), centred.roll(1, dims=1), centred.roll(1, dims=2)):
        assert (centred * other).mean().item() == pytest.approx(0, abs=5e-3)


def test_weights_that_do_not_fit_are_named(spec_for):
    engine = HfEngine(spec_for("hf", True))
    with pytest.raises(ValueError, match=r"model.norm.weight of shape \(3,\) .* shape \(64,\)"):
        engine.load_weights([("model.norm.weight", torch.zeros(3))], 1)
    with pytest.raises(ValueError, match=r"No weights came for 23 parameters"):
        engine.load_weights([("model.norm.weight", torch.zeros(64))], 1)
    with pytest.raises(ValueError, match="no such parameter"):
        engine.load_weights([("model.nrm.weight", torch.zeros(64))], 1)
