"""Packed, with and without shared beginnings, and padded forwards against each row alone through the model."""

import pytest
import torch
from tiny_lms import SIZES, alone, gradients, readout, rows_of_all_kinds, tiny
from torch.nn import functional
from transformers import Gemma2Config, Gemma2ForCausalLM, Qwen2MoeConfig, Qwen2MoeForCausalLM

from verl.config.actor import ModelConfig
from verl.models.lora import add_lora
from verl.models.packed_attention import CannotPack, check_layers
from verl.models.packing import pack
from verl.models.policy_model import PolicyModel
from verl.protocol import Row

CPU = torch.device("cpu")
ROWS = rows_of_all_kinds()
WAYS = {
    "shared": ("packed_sdpa", {}),
    "packed": ("packed_sdpa", {"share_prefixes": False}),
    "shared, varlen": ("packed_varlen", {}),
    "packed, varlen": ("packed_varlen", {"share_prefixes": False}),
    "padded": ("sdpa", {"remove_padding": False}),
}


def run(lm, rows, **options):
    """Hidden states before the response tokens, and gradients of a readout of them."""
    model = PolicyModel(lm)
    hidden = model(pack(rows, CPU, **options), lambda hidden, _: hidden)
    readout(hidden).backward()
    return hidden.detach(), gradients(lm)


def expected_of(lm, rows):
    hidden = torch.cat(alone(lm, rows))
    readout(hidden).backward()
    return hidden.detach(), gradients(lm)


def assert_same(found, expected):
    """To 1e-5 of the largest entry: norms and softmax are computed in float32 by the models themselves."""
    assert found[1].keys() == expected[1].keys()
    pairs = [("hidden states", found[0], expected[0])]
    for name, one, other in [*pairs, *((name, found[1][name], other) for name, other in expected[1].items())]:
        assert one.shape == other.shape
        gap = (one - other).abs().max() / other.abs().max()
        assert gap < 1e-5, f"{name}: {gap:.1e}"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("family", ["qwen3", "llama", "mistral", "gemma2"])
def test_every_way_equals_rows_alone(family, way, flash_attn):
    attention, options = WAYS[way]
    assert_same(run(tiny(family, attention), ROWS, **options), expected_of(tiny(family, "eager"), ROWS))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("seed", [1, 2])
def test_single_rows_and_parts(seed, way, flash_attn):
    attention, options = WAYS[way]
    rows = rows_of_all_kinds(seed)
    for part in (rows[:1], rows[8:9], rows[1:4], rows[10:]):
        assert_same(run(tiny("mistral", attention), part, **options), expected_of(tiny("mistral", "eager"), part))


@pytest.mark.parametrize("way", ["shared", "shared, varlen"])
def test_layers_computed_anew_in_the_backward(way, flash_attn):
    attention, options = WAYS[way]
    lm = tiny("mistral", attention)
    lm.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    assert_same(run(lm, ROWS, **options), expected_of(tiny("mistral", "eager"), ROWS))


def test_adapters():
    both = [tiny("qwen3", "packed_sdpa"), tiny("qwen3", "eager")]
    for lm in both:
        add_lora(lm, ModelConfig(lora_rank=2))
        torch.manual_seed(5)
        for name, parameter in lm.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(parameter)
    found, expected = run(both[0], ROWS), expected_of(both[1], ROWS)
    assert_same(found, expected)
    assert expected[1] and all(".lora_" in name for name in expected[1])


def test_teacher_prompts():
    rows = [Row(row.teacher_prompt_ids, row.response_ids, row.response_mask) for row in ROWS]
    assert_same(run(tiny("qwen3", "packed_sdpa"), ROWS, for_teacher=True), expected_of(tiny("qwen3", "eager"), rows))


def test_the_embedded_model():
    from transformers import AutoModelForCausalLM

    def embedded(attention):
        path = "recipes/embedded/model"
        return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float64, attn_implementation=attention)

    assert_same(run(embedded("packed_sdpa"), ROWS), expected_of(embedded("eager"), ROWS))


@pytest.mark.parametrize("remove_padding", [True, False])
def test_without_rows_every_weight_still_gets_a_gradient(remove_padding):
    lm = tiny("llama", "packed_sdpa" if remove_padding else "sdpa")
    model = PolicyModel(lm)
    loss = model(pack([], CPU, remove_padding=remove_padding), lambda h, head: 0.0 * (h.sum() + head.weight.sum()))
    loss.backward()
    assert all(p.grad is not None and p.grad.abs().max() == 0 for p in lm.parameters())


def test_the_head_comes_with_its_factor_and_soft_cap():
    """Logits of `head_map`'s head over packed states are those of the whole model, row by row."""
    lm = tiny("gemma2", "packed_sdpa")
    head, hidden = PolicyModel(lm)(pack(ROWS[:3], CPU), lambda hidden, head: (head, hidden))
    logits = head.scale * hidden @ head.weight.T
    logits = head.soft_cap * torch.tanh(logits / head.soft_cap)
    plain = tiny("gemma2", "eager")
    whole = [plain(input_ids=torch.tensor([row.prompt_ids + row.response_ids])).logits[0] for row in ROWS[:3]]
    expected = [one[len(row.prompt_ids) - 1 : -1] for one, row in zip(whole, ROWS[:3], strict=True)]
    torch.testing.assert_close(logits, torch.cat(expected), rtol=1e-5, atol=1e-5)


def test_what_changes_the_result_is_refused():
    packed = pack(ROWS, CPU)
    capped = Gemma2ForCausalLM(Gemma2Config(**SIZES, attn_logit_softcapping=1.0))
    capped.set_attn_implementation("packed_sdpa")
    with pytest.raises(CannotPack, match=r"Gemma2Attention .*softcap.*actor_rollout_ref\.model\.use_rem.*=false"):
        PolicyModel(capped)(packed, lambda hidden, _: hidden)
    sliding = Qwen2MoeForCausalLM(
        Qwen2MoeConfig(**SIZES, use_sliding_window=True, sliding_window=3, max_window_layers=0, num_experts=2)
    )
    sliding.set_attn_implementation("packed_sdpa")
    with pytest.raises(CannotPack, match="a sliding window that only its mask knows"):
        PolicyModel(sliding)(packed, lambda hidden, _: hidden)
    padded = pack(ROWS, CPU, remove_padding=False)
    with pytest.raises(CannotPack, match="no layout"):
        PolicyModel(tiny("llama", "packed_sdpa"))(padded, lambda hidden, _: hidden)
    config = tiny("qwen3", "sdpa").config
    config.layer_types = ["full_attention", "linear_attention"]
    with pytest.raises(CannotPack, match="layers of type linear_attention"):
        check_layers(config)


@pytest.mark.gpu
def test_half_precision_on_a_gpu():
    """Packed and padded agree to what bfloat16 resolves, in whichever way this machine takes."""
    from verl.models.device import choose_attention

    device = torch.device("cuda", 0)
    found = {}
    for packed in (True, False):
        lm = tiny("mistral", choose_attention(device, torch.bfloat16, packed)).to(device, torch.bfloat16)
        model = PolicyModel(lm)
        hidden = model(pack(ROWS, device, remove_padding=packed), lambda hidden, _: hidden)
        readout(hidden.float()).backward()
        found[packed] = [hidden.float(), *(g.float() for g in gradients(lm).values())]
    for one, other in zip(found[True], found[False], strict=True):
        assert functional.cosine_similarity(one.flatten(), other.flatten(), dim=0) > 0.995
