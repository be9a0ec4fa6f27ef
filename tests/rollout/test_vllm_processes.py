"""An engine of several processes, as on several GPUs: weights then travel through files in shared memory."""

import dataclasses

import pytest
from tiny_models import make_model, true_log_probs, weights_of

from verl.config import RolloutConfig
from verl.config.rollout import EngineKwargsConfig
from verl.rollout.vllm_engine import VllmEngine
from verl.rollout.weight_files import ROOT

PROBE = [(7 * i * i + 3) % 96 for i in range(64)]


@pytest.mark.slow
def test_weights_reach_every_process(spec_for):
    arguments = {"tensor_parallel_size": 2, "distributed_executor_backend": "mp", "load_format": "auto"}
    rollout = RolloutConfig(cpu_kv_cache_gib=0.25, engine_kwargs=EngineKwargsConfig(vllm=arguments))
    leftover = ROOT / "verl-weights-of-a-killed-engine"
    leftover.mkdir()
    engine = VllmEngine(dataclasses.replace(spec_for("vllm", True), rollout=rollout))
    try:
        assert not leftover.exists()
        for version in (1, 2):
            model = make_model(version, is_tied=True)
            engine.load_weights(weights_of(model), version)
            assert engine.log_probs(PROBE) == pytest.approx(true_log_probs(model, PROBE[:1], PROBE[1:]), abs=1e-3)
            assert list(ROOT.glob("verl-*weights-*")) == []
    finally:
        engine.close()
