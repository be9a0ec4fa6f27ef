"""Two gloo ranks with packed rows against plain rows alone: gradients, and how often weights are gathered."""

from itertools import product
from pathlib import Path

import pytest
import torch
from rank_processes import run_ranks
from tiny_lms import SIZES, gradients, rows_of_all_kinds
from transformers import AutoModelForCausalLM, Qwen3Config, Qwen3ForCausalLM

ROWS = rows_of_all_kinds()
UNITS = 3
"""Two layers and the root; one unit where nothing is resharded, on a CPU."""
GATHERS = {True: {True: UNITS, False: 1}, False: {True: UNITS + 2 * (UNITS + 2), False: 3}}
"""Of an evaluation and two micro-batches, by whether weights are kept and whether layers reshard after the forward
(each layer is then gathered for the backward once more)."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sharded")
    for name in ("tied", "untied"):
        torch.manual_seed(1)
        Qwen3ForCausalLM(Qwen3Config(**SIZES, tie_word_embeddings=name == "tied")).save_pretrained(folder / name)
    return folder


@pytest.fixture(scope="module")
def two_ranks(folder):
    """Results of rank 0 of two."""
    run_ranks(Path(__file__).with_name("two_sharded_ranks.py"), folder)
    return torch.load(folder / "results.pt")


def plain_loss(lm, rows):
    """By definition: each row alone, all of its logits."""
    loss = torch.zeros(())
    for row in rows:
        logits = lm(input_ids=torch.tensor([row.prompt_ids + row.response_ids]), use_cache=False).logits[0]
        start = len(row.prompt_ids) - 1
        loss = loss + logits[start : start + len(row.response_ids)].logsumexp(dim=-1).sum()
    return loss


@pytest.mark.parametrize(("tied", "reshards", "kept"), [*product(("tied", "untied"), (True, False), (True, False))])
def test_gradients_and_gathers(tied, reshards, kept, folder, two_ranks):
    found = two_ranks[tied, reshards, kept]
    lm = AutoModelForCausalLM.from_pretrained(folder / tied, attn_implementation="eager")
    loss = plain_loss(lm, ROWS)
    loss.backward()
    assert found["evaluated"].item() == pytest.approx(loss.item(), rel=1e-5)
    expected = gradients(lm)
    assert found["gradients"].keys() == expected.keys()
    for name, gradient in expected.items():
        gap = (found["gradients"][name] - gradient).abs().max() / gradient.abs().max()
        assert gap < 1e-5, f"{name}: {gap:.1e}"
    assert found["gathers"] == GATHERS[kept][reshards]

    with torch.no_grad():
        for parameter in lm.parameters():
            parameter.mul_(0.5)
        assert found["after a change"].item() == pytest.approx(plain_loss(lm, ROWS).item(), rel=1e-5)
        for value, rows in zip(found["teacher"], (ROWS[:3], ROWS[3:]), strict=True):
            assert value.item() == pytest.approx(plain_loss(lm, rows).item(), rel=1e-5)
    assert torch.equal(found["head"], lm.get_output_embeddings().weight)
    assert found["teacher gathers"] == GATHERS[True][reshards]
