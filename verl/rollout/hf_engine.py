"""transformers in this process: the engine for machines that vLLM has no build for, and for quick tests.

It decodes by itself instead of calling `generate`, because what an engine promises is then a few plain lines: every
request draws from its own random generator, a response leaves the batch (and is handed out) when it ends, and log-probs
are read off the distribution that was sampled. Sampling is by the Gumbel trick: the argmax of log-probs plus Gumbel
noise is an exact draw.

`engine_kwargs.hf`: `batch_size` (64; responses written at the same time, never more than `max_num_seqs`); all
others go to `AutoModelForCausalLM.from_config`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

from verl.rollout.base import (
    NO_WEIGHTS,
    EngineSpec,
    Weights,
    check_probe,
    check_ready,
    check_requests,
    stop_token_ids,
)
from verl.types import Request, Rollout, Sampling


@dataclass
class _Writing:
    """A response being written."""

    request: Request
    generator: torch.Generator
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

    @torch.no_grad()
    def log_probs(self, token_ids: Sequence[int]) -> list[float]:
        check_ready(self.weight_version)
        check_probe(token_ids, self._spec.max_model_len)
        ids = torch.tensor([list(token_ids)], device=self._spec.device)
        log_probs = self._model(input_ids=ids).logits[0, :-1].float().log_softmax(-1)
        return log_probs.gather(-1, ids[0, 1:, None]).squeeze(-1).tolist()

    def close(self) -> None:
        self.weight_version = NO_WEIGHTS
        del self._model

    @torch.no_grad()
    def _write(self, requests: Sequence[Request]) -> Iterator[list[Rollout]]:
        """One batch, prompts padded on the left; the batch shrinks as responses end."""
        device = self._spec.device
        rows = [_Writing(r, torch.Generator(device).manual_seed(r.seed)) for r in requests]
        width = max(len(request.prompt_ids) for request in requests)
        pads = [width - len(request.prompt_ids) for request in requests]
        ids = torch.tensor([[0] * pad + r.prompt_ids for pad, r in zip(pads, requests, strict=True)], device=device)
        mask = torch.tensor([[0] * pad + [1] * (width - pad) for pad in pads], device=device)  # [B, S]
        positions = (mask.cumsum(-1) - 1).clamp(min=0)  # [B, S]
        cache = DynamicCache(config=self._model.config)
        while rows:
            output = self._model(
                input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, logits_to_keep=1
            )
            tokens, log_probs = sample(
                output.logits[:, -1].float(), [row.request.sampling for row in rows], [row.generator for row in rows]
            )
            for row, token, log_prob in zip(rows, tokens.tolist(), log_probs.tolist(), strict=True):
                row.response_ids.append(token)
                row.log_probs.append(log_prob)
            results = [self._rollout(row) for row in rows]
            if finished := [rollout for rollout in results if rollout is not None]:
                yield finished
            keep = [i for i, rollout in enumerate(results) if rollout is None]
            rows = [rows[i] for i in keep]
            if finished:
                kept = torch.tensor(keep, device=device, dtype=torch.long)
                cache.batch_select_indices(kept)
                tokens, positions, mask = tokens[kept], positions[kept], mask[kept]
            ids, positions = tokens[:, None], positions[:, -1:] + 1
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=-1)

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


def sample(
    logits: torch.Tensor, samplings: Sequence[Sampling], generators: Sequence[torch.Generator]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw one token for each row.

    Args:
        logits: [B, V] in float32.
        samplings: of each row; temperature 0 takes the most likely token.
        generators: of each row, on the device of the logits; one draw of V numbers is taken from each.

    Returns:
        Tokens [B] and their log-probs [B] under the distribution they were drawn from.
    """
    is_greedy = [sampling.temperature == 0 for sampling in samplings]
    temperature = torch.tensor(
        [1.0 if greedy else s.temperature for greedy, s in zip(is_greedy, samplings, strict=True)], device=logits.device
    )
    scores = logits / temperature[:, None]
    for row, (sampling, greedy) in enumerate(zip(samplings, is_greedy, strict=True)):
        if not greedy and (sampling.top_k > 0 or sampling.top_p < 1):
            scores[row] = truncate(scores[row], sampling.top_k, sampling.top_p)
    log_probs = scores.log_softmax(-1)
    draws = torch.ones_like(log_probs)  # exponential; their logarithm is Gumbel noise with the sign turned
    for draw, generator, greedy in zip(draws.unbind(), generators, is_greedy, strict=True):
        if not greedy:
            draw.exponential_(generator=generator)
    tokens = (log_probs - draws.log_()).argmax(-1)
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
