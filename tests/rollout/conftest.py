import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # vLLM reads it once; engines of two processes need it

import pytest
from tiny_models import make_model, save_model, weights_of

from verl.config import RolloutConfig
from verl.registry import ENGINES
from verl.rollout.base import EngineSpec

KINDS = [("hf", True), ("hf", False), ("vllm", True), ("vllm", False)]


@pytest.fixture(scope="session")
def spec_for(tmp_path_factory):
    """EngineSpec by engine name and whether embeddings are tied."""
    paths = {tied: save_model(tmp_path_factory.mktemp("model"), tied) for tied in (True, False)}

    def spec(name, is_tied):
        return EngineSpec(
            model_path=paths[is_tied],
            rollout=RolloutConfig(name=name, cpu_kv_cache_gib=0.25),
            max_model_len=128,
        )

    return spec


@pytest.fixture(scope="session")
def engine_for(spec_for):
    """Engines of the whole session: starting vLLM takes seconds."""
    engines = {}

    def engine(name, is_tied):
        if (name, is_tied) not in engines:
            engines[name, is_tied] = ENGINES.load(name)(spec_for(name, is_tied))
        return engines[name, is_tied]

    yield engine
    for engine in engines.values():
        engine.close()


@pytest.fixture(params=KINDS, ids=lambda kind: f"{kind[0]}-{'tied' if kind[1] else 'untied'}")
def served(request, engine_for):
    """An engine that was given a model's weights, and that model."""
    name, is_tied = request.param
    engine, model = engine_for(name, is_tied), make_model(1, is_tied)
    engine.load_weights(weights_of(model), version=1)
    return engine, model
