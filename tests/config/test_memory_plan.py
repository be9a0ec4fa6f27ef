"""Parameter counts against transformers, and memory against arithmetic by hand."""

import json

import pytest

from verl.config import PPOConfig
from verl.config.model_shape import shape_of
from verl.trainer.memory import estimate, human, sums

SIZES = {
    "vocab_size": 225,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
}


@pytest.mark.parametrize("kind", ["qwen3", "qwen2", "llama", "olmo3", "olmo2", "mistral"])
@pytest.mark.parametrize("tied", [True, False])
def test_parameters_are_counted_as_transformers_builds_them(kind, tied):
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(kind, **SIZES, head_dim=16, tie_word_embeddings=tied, pad_token_id=0)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    shape = shape_of(json.loads(config.to_json_string(use_diff=False)))
    assert shape.num_params == sum(p.numel() for p in model.parameters())


def test_the_model_of_the_study_has_129536_parameters():
    sizes = SIZES | {"num_key_value_heads": 4, "head_dim": 32, "tie_word_embeddings": True, "model_type": "qwen3"}
    assert shape_of(sizes).num_params == 129_536


def test_memory_by_hand(one):
    """8 B parameters in fp32 on 4 ranks: 8 GB each for weights, gradients and teacher, 16 for the optimizer."""
    config = one("sdpo")
    shape = shape_of(SIZES | {"model_type": "llama"})
    shape = type(shape)(**(vars(shape) | {"num_params": 8_000_000_000, "vocab_size": 150_000}))
    sizes = {row.name: row.size for row in estimate(config, shape, on_gpu=True, gpu_bytes=100 * 10**9)}
    assert sizes["weights"] == sizes["gradients"] == sizes["teacher"] == 8e9
    assert sizes["optimizer"] == 16e9
    assert sizes["logits"] == 8192 * 150_000 * 4 * 2  # one tile, of student and teacher
    assert sizes["heads"] == 150_000 * 64 * (2 + 2 + 4)  # two in bf16 and a gradient in fp32
    assert "gathered" not in sizes
    assert sizes["engine weights"] == 8e9  # bf16, over 2 GPUs
    assert sizes["KV cache"] == pytest.approx(0.55 * 100e9 - 8e9)


def test_whole_models_are_counted_where_they_stay_gathered(one):
    config = one("sdpo", "actor_rollout_ref.actor.fsdp_config.reshard_after_forward=False")
    shape = shape_of(SIZES | {"model_type": "llama"})
    sizes = {row.name: row.size for row in estimate(config, shape, on_gpu=True, gpu_bytes=None)}
    assert sizes["gathered"] == shape.num_params * (2 + 4)  # bf16 weights, fp32 gradients
    assert sizes["gathered teacher"] == shape.num_params * 2


@pytest.mark.parametrize(
    ("overrides", "copies"),
    [
        ((), 0),
        (("kl_anchor_coef=0.1",), 1),
        (("kl_anchor_coef=0.1", "teacher_update_rate=0"), 0),
        (("kl_anchor_coef=0.1", "teacher_regularization=trust-region"), 0),
    ],
)
def test_a_frozen_model_beside_a_moving_teacher_is_a_copy_more(one, overrides, copies):
    config = one("sdpo", *(f"actor_rollout_ref.actor.self_distillation.{override}" for override in overrides))
    shape = shape_of(SIZES | {"model_type": "llama"})
    sizes = {row.name: row.size for row in estimate(config, shape, on_gpu=True, gpu_bytes=None)}
    assert sizes["teacher"] == shape.num_params  # fp32 on 4 ranks
    assert sizes.get("frozen model", 0) == copies * shape.num_params * 2 / 4  # bf16


def test_copies_and_shared_forwards_by_hand(one):
    """On 4 ranks, 2 for a copy and 2 at a forward: half of the weights, and half of a micro-batch's tokens, each."""
    actor = "actor_rollout_ref.actor"
    batch = [f"{actor}.use_dynamic_bsz=False", f"{actor}.ppo_micro_batch_size_per_gpu=1"]
    batch += ["data.max_prompt_length=100", "data.max_response_length=301"]
    shape = shape_of(SIZES | {"model_type": "llama"})
    plain, shared = (
        {row.name: row.size for row in estimate(one("sdpo", *batch, *more), shape, on_gpu=True, gpu_bytes=None)}
        for more in ([], [f"{actor}.fsdp_config.fsdp_size=2", f"{actor}.ulysses_sequence_parallel_size=2"])
    )
    assert shared["weights"] == 2 * plain["weights"] == shape.num_params * 4 / 2
    assert (plain["activations"], shared["activations"]) == (401 * 2 * 64 * 2, 201 * 2 * 64 * 2)
    assert shared["logits"] == plain["logits"]  # the only row's loss is computed by one of the two


def test_logits_of_a_small_gpu_are_a_quarter_of_it(one):
    shape = shape_of(SIZES | {"model_type": "llama", "vocab_size": 100_000})
    sizes = {row.name: row.size for row in estimate(one("sdpo"), shape, on_gpu=True, gpu_bytes=16 * 10**8)}
    assert sizes["logits"] == 500 * 100_000 * 4 * 2 == 16e8 / 4


def test_unknown_architecture_is_not_guessed():
    assert estimate(PPOConfig(), shape_of(SIZES | {"model_type": "mamba"}), on_gpu=False, gpu_bytes=None) == []


def test_missing_size_is_named():
    with pytest.raises(ValueError, match="vocab_size"):
        shape_of({"hidden_size": 1})


@pytest.mark.parametrize(("size", "text"), [(10, "10 bytes"), (2048, "2.0 KiB"), (3 * 2**30, "3.0 GiB")])
def test_sizes_for_people(size, text):
    assert human(size) == text


def test_who_sleeps_and_who_has_own_gpus_decides_what_must_fit_together(one):
    shape = shape_of(SIZES | {"model_type": "llama"})

    def sums_of(*overrides):
        config = one("sdpo", *overrides)
        rows = estimate(config, shape, on_gpu=True, gpu_bytes=10**9)
        sizes = {row.name: row.size for row in rows}
        return sizes, dict(sums(config, rows, on_gpu=True))

    sizes, shared = sums_of("actor_rollout_ref.rollout.free_cache_engine=False")
    engine = sizes["engine weights"] + sizes["KV cache"]
    kept = sizes["weights"] + sizes["optimizer"] + sizes["teacher"]
    training = sum(sizes.values()) - engine
    assert shared == {"sum": pytest.approx(training + engine)}
    assert sums_of()[1] == {"sum, update": pytest.approx(training), "sum, writing": pytest.approx(kept + engine)}
    split = ("actor_rollout_ref.hybrid_engine=False", "actor_rollout_ref.rollout.nnodes=1")
    assert sums_of(*split)[1] == {"sum, actor's": pytest.approx(training), "sum, engine's": pytest.approx(engine)}
