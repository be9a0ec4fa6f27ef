"""vLLM in this process: the engine of training runs, on GPUs and (with vLLM's CPU build) without.

In process, because then new weights stream straight from the trainer's buckets into vLLM's own loader, layer by layer,
and requests come back one by one from `step()`. An engine over several GPUs has worker processes of vLLM's own, which
no iterator can enter: there weights pass through files in shared memory.

What vLLM 0.32 needs to be told, and why:

- `logprobs_mode="processed_logprobs"`: the default ignores the temperature.
- `skip_tokenizer_init`: it sees token ids only, so stop tokens are given by id.
- CPU: no chunked prefill. A prompt cut in two rewinds the request's random generator, which CPU generators cannot do
  (RuntimeError "CPU Generator does not use offset").
- CPU: `torch.compile` stays off. Counting the rank of a sampled token would compile a kernel for about 20 s.
- With tied embeddings the CPU build packs the head separately: `lm_head.weight` must be among the weights.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from safetensors.torch import save_file

from verl.rollout.base import (
    NO_WEIGHTS,
    EngineSpec,
    Weights,
    check_probe,
    check_ready,
    check_requests,
    stop_token_ids,
)
from verl.rollout.weight_files import remove_leftovers, weight_folder
from verl.types import Request, Rollout

ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine's core in this process
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}
"""Read by vLLM when it is imported; a value that is set already wins."""

CPU_BATCHED_TOKENS = 4096


class VllmEngine:
    """See the module."""

    def __init__(self, spec: EngineSpec) -> None:
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        from vllm import LLM  # after its environment, and only where an engine really runs

        remove_leftovers()  # the memory may be needed
        if spec.device == "cpu":
            torch.compiler.set_stance("force_eager")
        self.weight_version = NO_WEIGHTS
        self._spec = spec
        self._stop_token_ids = stop_token_ids(spec)
        self._llm = LLM(**llm_arguments(spec))
        self._engine = self._llm.llm_engine

    def generate(self, requests: Sequence[Request]) -> Iterator[list[Rollout]]:
        check_ready(self.weight_version)
        check_requests(requests, self._spec.max_model_len)
        unfinished: dict[str, tuple[Request, str]] = {}
        try:
            for request in requests:
                name = str(request.request_id)
                unfinished[name] = (request, self._add(name, request.prompt_ids, **self._sampling(request)))
            while unfinished:
                finished = [output for output in self._engine.step() if output.finished]
                if finished:
                    yield [self._rollout(unfinished.pop(output.request_id)[0], output) for output in finished]
        finally:  # the caller went away, or a step failed: leave nothing behind for the next call
            self._engine.abort_request([inner_name for _, inner_name in unfinished.values()], internal=True)

    def load_weights(self, weights: Weights, version: int) -> None:
        self.weight_version = NO_WEIGHTS
        if self._engine.vllm_config.parallel_config.world_size == 1:
            self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(weights)})
        else:
            self._reload_through_files(weights)
        if not self._llm.reset_prefix_cache():
            raise RuntimeError(
                "New weights came while responses were being written: their prefixes could not be dropped."
            )
        self.weight_version = version

    def log_probs(self, token_ids: Sequence[int]) -> list[float]:
        check_ready(self.weight_version)
        check_probe(token_ids, self._spec.max_model_len)
        self._add("probe", token_ids, temperature=0.0, max_tokens=1, prompt_logprobs=0, skip_reading_prefix_cache=True)
        outputs: list[Any] = []
        while not outputs:
            outputs = self._engine.step()
        scores = outputs[0].prompt_logprobs
        return [scores[i][token].logprob for i, token in enumerate(token_ids) if i]

    def sleep(self) -> None:
        if self._spec.sleeps:
            self.weight_version = NO_WEIGHTS
            self._llm.sleep(level=2)  # weights are not kept in host memory: the next ones come from the trainer

    def wake(self, part: Literal["weights", "kv_cache"]) -> None:
        if self._engine.is_sleeping():
            self._llm.wake_up(tags=[part])

    def close(self) -> None:
        self.weight_version = NO_WEIGHTS
        self._engine.engine_core.shutdown()

    def _add(self, name: str, token_ids: Sequence[int], **sampling: Any) -> str:
        """Queue a request; returns the name that vLLM gives it."""
        from vllm import SamplingParams
        from vllm.inputs.engine import tokens_input
        from vllm.sampling_params import RequestOutputKind

        params = SamplingParams(skip_clone=True, detokenize=False, output_kind=RequestOutputKind.FINAL_ONLY, **sampling)
        return self._engine.add_request(name, tokens_input(list(token_ids)), params)

    def _sampling(self, request: Request) -> dict[str, Any]:
        sampling = request.sampling
        return {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "max_tokens": sampling.max_tokens,
            "seed": request.seed,
            "stop_token_ids": self._stop_token_ids,
            "logprobs": 0,  # of the sampled token alone
            "flat_logprobs": True,
        }

    def _rollout(self, request: Request, output: Any) -> Rollout:
        answer = output.outputs[0]
        if answer.finish_reason not in ("stop", "length"):
            raise RuntimeError(f"vLLM ended request {request.request_id} with {answer.finish_reason!r}.")
        token_ids = list(answer.token_ids)
        log_probs: Any = answer.logprobs  # flat: one entry for each token
        return Rollout(
            request_id=request.request_id,
            prompt_ids=request.prompt_ids,
            response_ids=token_ids,
            log_probs=list(log_probs.logprobs),
            response_mask=[1] * len(token_ids),
            finish_reason="stop" if answer.finish_reason == "stop" else "length",
            weight_version=self.weight_version,
        )

    def _reload_through_files(self, weights: Weights) -> None:
        with weight_folder() as folder:
            for index, (name, tensor) in enumerate(weights):
                save_file({name: tensor.contiguous()}, folder / f"model-{index:05d}.safetensors")
            self._llm.collective_rpc("reload_weights", kwargs={"weights_path": str(folder)})


def llm_arguments(spec: EngineSpec) -> dict[str, Any]:
    """Keyword arguments of `vllm.LLM`; `engine_kwargs.vllm` adds to them and wins."""
    rollout = spec.rollout
    arguments: dict[str, Any] = {
        "model": spec.model_path,
        "skip_tokenizer_init": True,
        "trust_remote_code": spec.trust_remote_code,
        "load_format": "dummy",
        "dtype": spec.dtype,
        "max_model_len": spec.max_model_len,
        "max_num_seqs": rollout.max_num_seqs,
        "enable_prefix_caching": rollout.enable_prefix_caching,
        "logprobs_mode": "processed_logprobs",
        "seed": spec.seed,
    }
    if spec.device == "cpu":
        arguments |= {
            "enforce_eager": True,
            "distributed_executor_backend": "uni",
            "kv_cache_memory_bytes": int(rollout.cpu_kv_cache_gib * 1024**3),
            "enable_chunked_prefill": False,
            # Without chunks a whole prompt, or a resumed response, must fit into one step.
            "max_num_batched_tokens": max(rollout.max_num_batched_tokens or CPU_BATCHED_TOKENS, spec.max_model_len),
        }
    else:
        parallel = min(rollout.tensor_model_parallel_size, torch.cuda.device_count())
        arguments |= {
            "enforce_eager": rollout.enforce_eager,
            "tensor_parallel_size": parallel,
            "distributed_executor_backend": "uni" if parallel == 1 else "mp",
            "gpu_memory_utilization": rollout.gpu_memory_utilization,
            "enable_sleep_mode": spec.sleeps,
        }
        if parallel > 1:
            # The dummy loader cannot read the files that new weights come in.
            arguments |= {"load_format": "auto", "use_tqdm_on_load": False}
        if rollout.max_num_batched_tokens is not None:
            arguments["max_num_batched_tokens"] = rollout.max_num_batched_tokens
    return arguments | rollout.engine_kwargs.vllm
