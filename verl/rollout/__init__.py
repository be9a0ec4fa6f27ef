"""Engines that write responses: one process, token ids in, token ids and log-probs out.

`base` says what an engine is, `vllm_engine` is the fast one, `hf_engine` runs wherever transformers does. Pools of
engines are in `verl.workers.rollout_pool`.
"""

from verl.rollout.base import Engine, EngineSpec, engine_spec

__all__ = ["Engine", "EngineSpec", "engine_spec"]
