"""Sleep and wake of the vLLM engine, where it has a GPU to give back; without one it stays awake."""

from dataclasses import replace

import pytest
import torch
from tiny_models import make_model, true_log_probs, weights_of

from verl.rollout.vllm_engine import VllmEngine, llm_arguments

PROBE = [(7 * i * i + 3) % 96 for i in range(64)]


def test_only_a_gpu_engine_that_will_sleep_is_built_for_it(spec_for):
    spec = spec_for("vllm", True)
    assert "enable_sleep_mode" not in llm_arguments(spec)
    for sleeps in (True, False):
        assert llm_arguments(replace(spec, device="cuda", sleeps=sleeps))["enable_sleep_mode"] is sleeps


@pytest.mark.parametrize("name", ["hf", "vllm"])
def test_without_a_gpu_waking_an_engine_changes_nothing(engine_for, name):
    engine, model = engine_for(name, True), make_model(3, True)
    engine.load_weights(weights_of(model), version=5)
    engine.sleep()
    engine.wake("weights")
    engine.wake("kv_cache")
    assert engine.weight_version == 5
    assert engine.log_probs(PROBE) == pytest.approx(true_log_probs(model, PROBE[:1], PROBE[1:]), abs=1e-3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_sleeping_engine_leaves_the_gpu_and_serves_what_it_is_given_next(spec_for):
    engine = VllmEngine(replace(spec_for("vllm", True), device="cuda", sleeps=True))
    try:
        for version in (1, 2):
            model = make_model(version, is_tied=True)
            engine.wake("weights")
            engine.load_weights(weights_of(model), version)
            engine.wake("kv_cache")
            assert engine.log_probs(PROBE) == pytest.approx(true_log_probs(model, PROBE[:1], PROBE[1:]), abs=1e-2)
            awake = torch.cuda.mem_get_info()[0]
            engine.sleep()
            assert torch.cuda.mem_get_info()[0] - awake > 0.3 * torch.cuda.mem_get_info()[1]  # of its half
            with pytest.raises(RuntimeError, match="no weights"):
                engine.log_probs(PROBE)
    finally:
        engine.close()
