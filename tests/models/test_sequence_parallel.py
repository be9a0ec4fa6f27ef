"""Two and four gloo ranks that run forwards together against one rank that runs them alone."""

from pathlib import Path

import pytest
import torch
from rank_processes import run_ranks
from split_ranks import PACKS, ROWS, SIZES, WAYS, new_model, run
from tiny_lms import tiny

from verl.models.device import choose_attention
from verl.models.sequence_parallel import SequenceGroup, TokenSplit


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """Results of the last rank of four."""
    folder = tmp_path_factory.mktemp("split")
    run_ranks(Path(__file__).with_name("split_ranks.py"), folder, 4)
    return torch.load(folder / "results.pt")


NARROW = {"windows and a soft cap": 1e-6}
"""Gemma's norm adds up the gradient of its weight in float32."""


def gap(found, expected):
    return ((found - expected).abs().max() / expected.abs().max().clamp(min=1e-12)).item() if expected.numel() else 0.0


@pytest.mark.parametrize("name", PACKS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("way", WAYS)
def test_ranks_together_compute_what_one_computes(way, size, name, ranks, flash_attn):
    found, expected = ranks[way, size, name], run(new_model(way), PACKS[name], SequenceGroup())
    assert found["loss"].item() == pytest.approx(expected["loss"].item(), rel=1e-10)
    assert found["states"].keys() == expected["states"].keys()
    assert found["gradients"].keys() == expected["gradients"].keys()
    for of in ("states", "gradients"):
        for key, value in expected[of].items():
            assert gap(found[of][key], value) < NARROW.get(way, 1e-10), f"{of} {key}"


def test_heads_that_cannot_be_spread_are_refused():
    split = TokenSplit(SequenceGroup(0, 3), 5)
    heads = torch.zeros(1, 4, 2, 8)
    with pytest.raises(ValueError, match="4 attention heads cannot be spread evenly over 3"):
        split.to_heads(heads, heads, heads)


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_gpus_together_compute_what_one_computes(tmp_path):
    """To what bfloat16 resolves, over NCCL, in whichever attention this machine takes."""
    run_ranks(Path(__file__).with_name("split_gpus.py"), tmp_path)
    found, device = torch.load(tmp_path / "results.pt", map_location="cpu"), torch.device("cuda", 0)
    lm = tiny("mistral", choose_attention(device, torch.bfloat16)).to(device, torch.bfloat16)
    expected = run(lm, ROWS, SequenceGroup(), device)
    for of in ("states", "gradients"):
        assert found[of].keys() == expected[of].keys()
        for key, value in expected[of].items():
            one, other = found[of][key].float().flatten(), value.float().cpu().flatten()
            assert not other.numel() or torch.nn.functional.cosine_similarity(one, other, dim=0) > 0.995
