"""transformers in this process: the engine for machines that vLLM has no build for, and for quick tests.

It decodes by itself instead of calling `generate`, because what an engine promises is then a few plain lines: every
request draws from its own random generator, a response is handed out when it ends, and log-probs are read off the
distribution that was sampled. Sampling is by the Gumbel trick: the argmax of log-probs plus Gumbel noise is an exact
draw, and the one that rounding changes least (a cumulative distribution has as many edges to fall over as tokens).

`engine_kwargs.hf`: `batch_size` (64; responses written at the same time, never more than `max_num_seqs`); the others
(`verl.config.rollout.HF_OPTIONS`) go to `AutoModelForCausalLM.from_config`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from verl.rollout.base import (
    NO_WEIGHTS,
    EngineSpec,
    Weights,
    check_probe,
    check_ready,
    check_requests,
    stop_token_ids,
)
from verl.rollout.hf_decoding import PlainSteps, TracedSteps, prefill, trace_step
from verl.types import Request, Rollout, Sampling


@dataclass
class _Writing:
    """A response being written."""

    request: Request
    response_ids: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)


class HfEngine:
    """See the module."""

    def __init__(self, spec: EngineSpec) -> None:
        options = dict(spec.rollout.engine_kwargs.hf)
        self._batch_size = min(options.pop("batch_size", 64), spec.rollout.max_num_seqs)
        config = AutoConfig.from_pretrained(spec.model_path, trust_remote_code=spec.trust_remote_code)
        dtype = getattr(torch, spec.dtype)
        with torch.device(spec.device):
            self._model = AutoModelForCausalLM.from_config(
                config, dtype=dtype, trust_remote_code=spec.trust_remote_code, **options
            )
        self._model.eval()
        self._traced_step = trace_step(self._model)
        self._spec = spec
        self._stop_token_ids = set(stop_token_ids(spec))
        self.weight_version = NO_WEIGHTS

    def generate(self, requests: Sequence[Request]) -> Iterator[list[Rollout]]:
        check_ready(self.weight_version)
        check_requests(requests, self._spec.max_model_len)
        for start in range(0, len(requests), self._batch_size):
            yield from self._write(requests[start : start + self._batch_size])

    def load_weights(self, weights: Weights, version: int) -> None:
        """ValueError names what does not fit; nothing is served until a load succeeds."""
        self.weight_version = NO_WEIGHTS
        parameters = dict(self._model.named_parameters(remove_duplicate=False))
        missing = {name for name, _ in self._model.named_parameters()}  # tied names once
        with torch.no_grad():
            for name, tensor in weights:
                parameter = parameters.get(name)
                if parameter is None or parameter.shape != tensor.shape:
                    expected = "no such parameter" if parameter is None else f"shape {tuple(parameter.shape)}"
                    raise ValueError(
                        f"Weight {name} of shape {tuple(tensor.shape)} does not fit the engine's model, which has"
                        f" {expected}. Trainer and engine must be built from the same model configuration."
                    )
                parameter.copy_(tensor)
                missing.discard(name)
        if missing:
            raise ValueError(f"No weights came for {len(missing)} parameters: {', '.join(sorted(missing)[:5])}, ...")
        self.weight_version = version

    @torch.inference_mode()
    def log_probs(self, token_ids: Sequence[int]) -> list[float]:
        check_ready(self.weight_version)
        check_probe(token_ids, self._spec.max_model_len)
        ids = torch.tensor([list(token_ids)], device=self._spec.device)
        log_probs = self._model(input_ids=ids).logits[0, :-1].float().log_softmax(-1)
        return log_probs.gather(-1, ids[0, 1:, None]).squeeze(-1).tolist()

    def sleep(self) -> None:
        """It keeps its memory."""

    def wake(self, part: Literal["weights", "kv_cache"]) -> None:
        """It never sleeps."""

    def close(self) -> None:
        self.weight_version = NO_WEIGHTS
        del self._model, self._traced_step

    @torch.inference_mode()
    def _write(self, requests: Sequence[Request]) -> Iterator[list[Rollout]]:
        """One batch; the responses that ended leave it when they are a quarter of it."""
        rows: list[_Writing | None] = [_Writing(request) for request in requests]
        samplings = [request.sampling for request in requests]
        prefix = prefill(self._model, [request.prompt_ids for request in requests])
        traced, limit = self._traced_step, self._spec.max_model_len
        steps = TracedSteps(traced, prefix, limit) if traced else PlainSteps(self._model, prefix, limit)
        logits = prefix.logits
        del prefix  # its keys and values are outgrown by the first step
        noise = GumbelNoise([r.seed if r.sampling.temperature > 0 else None for r in requests], logits)
        while True:
            tokens, log_probs = sample(logits, samplings, noise.draw())
            finished: list[Rollout] = []
            for i, (row, token, log_prob) in enumerate(zip(rows, tokens.tolist(), log_probs.tolist(), strict=True)):
                if row is None:
                    continue
                row.response_ids.append(token)
                row.log_probs.append(log_prob)
                if rollout := self._rollout(row):
                    finished.append(rollout)
                    rows[i] = None
            if finished:
                yield finished
            going = [i for i, row in enumerate(rows) if row is not None]
            if not going:
                return
            if len(going) <= 0.75 * len(rows):
                rows, samplings = [rows[i] for i in going], [samplings[i] for i in going]
                kept = torch.tensor(going, device=self._spec.device)
                steps.keep(kept)
                noise.keep(going)
                tokens = tokens[kept]
            logits = steps.step(tokens)

    def _rollout(self, row: _Writing) -> Rollout | None:
        """The finished response, or None while it goes on."""
        is_stopped = row.response_ids[-1] in self._stop_token_ids
        if not is_stopped and len(row.response_ids) < row.request.sampling.max_tokens:
            return None
        return Rollout(
            request_id=row.request.request_id,
            prompt_ids=row.request.prompt_ids,
            response_ids=row.response_ids,
            log_probs=row.log_probs,
            response_mask=[1] * len(row.response_ids),
            finish_reason="stop" if is_stopped else "length",
            weight_version=self.weight_version,
        )


class GumbelNoise:
    """Standard Gumbel noise for every token of the vocabulary, of each row from its own generator.

    It is drawn for several steps at once, as many as the vocabulary alone decides: the noise of a row does not depend
    on the other rows.
    """

    NUMBERS = 4096
    """Drawn from a generator at a time, or those of one step if that is more."""

    def __init__(self, seeds: Sequence[int | None], like: torch.Tensor) -> None:
        """`seeds`: of each row, None for one without noise (0 everywhere); `like`: [B, V], on the device to draw on."""
        self._generators = [None if seed is None else torch.Generator(like.device).manual_seed(seed) for seed in seeds]
        self._ahead = like.new_zeros(len(seeds), max(1, self.NUMBERS // like.shape[1]), like.shape[1])
        self._next = self._ahead.shape[1]

    def draw(self) -> torch.Tensor:
        """The noise [B, V] of the next step, float32."""
        if self._next == self._ahead.shape[1]:
            self._next = 0
            for row, generator in zip(self._ahead.unbind(), self._generators, strict=True):
                if generator is not None:
                    row.uniform_(generator=generator).log_().neg_().log_().neg_()
        self._next += 1
        return self._ahead[:, self._next - 1]

    def keep(self, rows: list[int]) -> None:
        """Drop all rows but these."""
        self._generators = [self._generators[row] for row in rows]
        self._ahead = self._ahead[rows]


def sample(
    logits: torch.Tensor, samplings: Sequence[Sampling], noise: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw one token for each row.

    Args:
        logits: [B, V] in float32.
        samplings: of each row; temperature 0 takes the most likely token.
        noise: [B, V] of standard Gumbel variables, 0 in the rows of temperature 0.

    Returns:
        Tokens [B] and their log-probs [B] under the distribution they were drawn from.
    """
    temperature = torch.tensor([sampling.temperature or 1.0 for sampling in samplings], device=logits.device)
    scores = logits / temperature[:, None]
    for row, sampling in enumerate(samplings):
        if sampling.temperature > 0 and (sampling.top_k > 0 or sampling.top_p < 1):
            scores[row] = truncate(scores[row], sampling.top_k, sampling.top_p)
    log_probs = scores.log_softmax(-1)
    tokens = (log_probs + noise).argmax(-1)
    return tokens, log_probs.gather(-1, tokens[:, None]).squeeze(-1)


def truncate(scores: torch.Tensor, top_k: int, top_p: float) -> torch.Tensor:
    """Scores [V] with -inf outside the `top_k` best and outside the smallest set of probability `top_p`."""
    if 0 < top_k < scores.shape[-1]:
        scores = scores.masked_fill(scores < scores.topk(top_k).values[-1], -torch.inf)
    if top_p < 1:
        ordered, order = scores.sort(descending=True)
        probabilities = ordered.softmax(-1)
        is_outside = probabilities.cumsum(-1) - probabilities >= top_p
        scores = scores.index_fill(0, order[is_outside], -torch.inf)
    return scores
