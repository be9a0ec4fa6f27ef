"""SDPO in one file: the whole method on one core, without Ray, FSDP or vLLM.

    python recipes/minimal_sdpo.py --steps 50

One step: sample several responses for each prompt, score them, write for each response a teacher prompt that shows a
sibling's success or else the environment's error, and pull the student's next-token distributions towards those of the
teacher, which is the same model with that prompt before the same response. The teacher's weights stay frozen here.
Texts and scores come from the library; sampling, loss and loop are written out plainly, and the loss is what the
distributed trainer is compared with. Reference: arXiv 2601.20802.
"""

from __future__ import annotations

import argparse
import copy
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.progress import Progress, TextColumn
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that the file runs as a script from anywhere

from recipes.embedded.task import Feedback, Question, splits, version_2
from verl.config.self_distillation import SelfDistillationConfig
from verl.rewards.home_api import compute_score
from verl.self_distillation.reprompt import build_reprompts
from verl.types import Message, Prompt, Reward, Rollout, Sample

MODEL = Path(__file__).parent / "embedded" / "model"
MAX_NEW_TOKENS = 20


@dataclass(frozen=True)
class Settings:
    """What the embedded task learns well with."""

    steps: int = 50
    prompts: int = 32
    """In one step."""
    samples: int = 8
    """For each prompt."""
    mini_batches: int = 8
    """Optimizer steps for each batch of rollouts."""
    lr: float = 1e-3
    warmup: int = 5
    """Optimizer steps."""
    alpha: float = 0.5
    is_clip: float | None = 2.0
    feedback: Feedback = "weak"
    seed: int = 0
    model: str = str(MODEL)


def sdpo_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    response_ids: Tensor,
    mask: Tensor,
    old_log_probs: Tensor | None,
    alpha: float = 0.5,
    is_clip: float | None = 2.0,
) -> Tensor:
    """Divergence between student and teacher at every taught token, averaged over those tokens.

    With s and t the two distributions over the vocabulary and M = (1-alpha) s + alpha t:
    (1-alpha) KL(s||M) + alpha KL(t||M); alpha 0 is KL(t||s) and alpha 1 is KL(s||t). The divergence of a token is
    weighted by min(s(y) / old(y), is_clip), without gradient, where y is the token that was sampled.

    Args:
        student_logits: [B, T, V], with gradient, already divided by the temperature.
        teacher_logits: [B, T, V].
        response_ids: [B, T].
        mask: [B, T], 1 for response tokens of samples that have a teacher prompt.
        old_log_probs: [B, T] of the policy that sampled; None for the student itself.
        alpha: kind of the divergence.
        is_clip: upper bound of the weight; None for no weights.
    """
    s = student_logits.float().log_softmax(-1)
    t = teacher_logits.detach().float().log_softmax(-1)
    if alpha == 0:
        divergence = (t.exp() * (t - s)).sum(-1)
    elif alpha == 1:
        divergence = (s.exp() * (s - t)).sum(-1)
    else:
        m = ((1 - alpha) * s.exp() + alpha * t.exp()).log()
        divergence = ((1 - alpha) * s.exp() * (s - m) + alpha * t.exp() * (t - m)).sum(-1)
    if is_clip is not None and old_log_probs is not None:
        sampled = s.detach().gather(-1, response_ids[..., None])[..., 0]
        divergence = divergence * (sampled - old_log_probs).clamp(-20, 20).exp().clamp(max=is_clip)
    return (divergence * mask).sum() / mask.sum().clamp(min=1)


def pad(rows: Sequence[Sequence[int | float]], value: int | float = 0) -> Tensor:
    """Rows of different length, padded on the right: [B, longest]."""
    length = max(len(row) for row in rows)
    return torch.tensor([[*row, *[value] * (length - len(row))] for row in rows])


def response_logits(model: PreTrainedModel, prompts: list[list[int]], responses: list[list[int]]) -> Tensor:
    """Logits of the distributions that the response tokens were drawn from: [B, T, V]."""
    rows = pad([prompt + response for prompt, response in zip(prompts, responses, strict=True)])
    hidden = model.model(input_ids=rows, use_cache=False).last_hidden_state  # padding is on the right, out of sight
    first = torch.tensor([len(prompt) - 1 for prompt in prompts])[:, None]
    where = (first + torch.arange(max(map(len, responses)))).clamp(max=rows.shape[1] - 1)
    return model.lm_head(hidden.gather(1, where[..., None].expand(-1, -1, hidden.shape[-1])))


@torch.no_grad()
def generate(
    model: PreTrainedModel, prompts: list[list[int]], end: int, generator: torch.Generator
) -> Iterator[tuple[list[int], list[float]]]:
    """Sample one response for each prompt, at temperature 1: its token ids and their log-probs."""
    length = max(map(len, prompts))
    ids = torch.tensor([[end] * (length - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (length - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    cache = DynamicCache(config=model.config)
    done = torch.zeros(len(prompts), dtype=torch.bool)
    tokens, chosen = [], []
    for _ in range(MAX_NEW_TOKENS):
        output = model(
            input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, logits_to_keep=1
        )
        log_probs = output.logits[:, -1].float().log_softmax(-1)
        ids = torch.multinomial(log_probs.exp(), 1, generator=generator)
        tokens.append(ids[:, 0])
        chosen.append(log_probs.gather(1, ids)[:, 0])
        done |= ids[:, 0] == end
        if done.all():
            break
        mask = torch.cat([mask, torch.ones_like(ids)], 1)
        positions = positions[:, -1:] + 1
    for row, log_probs in zip(torch.stack(tokens, 1).tolist(), torch.stack(chosen, 1).tolist(), strict=True):
        size = row.index(end) + 1 if end in row else len(row)
        yield row[:size], log_probs[:size]


class MinimalSDPO:
    """Student, frozen teacher, optimizer, and the steps that the module describes."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        torch.manual_seed(settings.seed)
        self.tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(settings.model, trust_remote_code=False)
        self.end: int = self.tokenizer.convert_tokens_to_ids(self.tokenizer.eos_token)  # pyright: ignore
        self.student = AutoModelForCausalLM.from_pretrained(
            settings.model, dtype=torch.float32, trust_remote_code=False
        )
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.optimizer = torch.optim.AdamW(self.student.parameters(), lr=settings.lr, weight_decay=0.01)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: min(1.0, (step + 1) / settings.warmup)
        )
        self.config = SelfDistillationConfig(distillation_topk=None, alpha=settings.alpha, is_clip=settings.is_clip)
        self.generator = torch.Generator().manual_seed(settings.seed)
        self.random = random.Random(settings.seed)

    def encode(self, messages: list[Message]) -> list[int]:
        text = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)  # pyright: ignore
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]  # pyright: ignore

    def rollout(self, questions: Sequence[Question], num_samples: int) -> list[Sample]:
        """Sample and score; the samples of a question stand together and share its uid."""
        prompts = [self._prompt(index, question) for index, question in enumerate(questions)]
        repeated = [prompt for prompt in prompts for _ in range(num_samples)]
        written = generate(self.student, [prompt.token_ids for prompt in repeated], self.end, self.generator)
        return [self._scored(prompt, *response) for prompt, response in zip(repeated, written, strict=True)]

    def _prompt(self, index: int, question: Question) -> Prompt:
        truth = question.answer(version_2()[question.device], self.settings.feedback)
        return Prompt(index, question.messages, self.encode(question.messages), "home_api", truth.to_json())

    def _scored(self, prompt: Prompt, token_ids: list[int], log_probs: list[float]) -> Sample:
        is_truncated = token_ids[-1] != self.end
        text = str(self.tokenizer.decode(token_ids, skip_special_tokens=True))
        result = compute_score(text, prompt.ground_truth, {"truncated": is_truncated})
        reward = Reward(result["score"], result["acc"], result["feedback"])
        rollout = Rollout(
            request_id=0,
            prompt_ids=prompt.token_ids,
            response_ids=token_ids,
            log_probs=log_probs,
            response_mask=[1] * len(token_ids),
            finish_reason="length" if is_truncated else "stop",
            weight_version=0,
        )
        return Sample(str(prompt.index), prompt, rollout, text, reward)

    def step(self, questions: Sequence[Question]) -> dict[str, float]:
        """One batch of rollouts and the optimizer steps on it. Returns metrics."""
        samples = self.rollout(questions, self.settings.samples)
        reprompts = build_reprompts(samples, self.config, self.encode, seed=0)
        size = len(samples) // self.settings.mini_batches
        for start in range(0, len(samples), size):
            part = slice(start, start + size)
            taught = [pair for pair in zip(samples[part], reprompts.teacher_prompt_ids[part], strict=True) if pair[1]]
            if taught:
                self._update(*zip(*taught, strict=True))
        accuracy = sum(sample.reward.score for sample in samples) / len(samples)
        return {"train accuracy": accuracy} | reprompts.metrics

    def _update(self, samples: Sequence[Sample], teacher_prompts: Sequence[list[int]]) -> None:
        """One optimizer step on samples that have a teacher prompt."""
        responses = [sample.rollout.response_ids for sample in samples]
        student_logits = response_logits(self.student, [sample.prompt.token_ids for sample in samples], responses)
        with torch.no_grad():
            teacher_logits = response_logits(self.teacher, list(teacher_prompts), responses)
        loss = sdpo_loss(
            student_logits,
            teacher_logits,
            response_ids=pad(responses),
            mask=pad([sample.rollout.response_mask for sample in samples]),
            old_log_probs=pad([sample.rollout.log_probs for sample in samples], 0.0),
            alpha=self.settings.alpha,
            is_clip=self.settings.is_clip,
        )
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.student.parameters(), 1.0)
        self.optimizer.step()
        self.schedule.step()

    def evaluate(self, num_samples: int = 8) -> float:
        """mean@N on the held-out prompts: share of right calls among N samples for each."""
        samples = self.rollout(splits()["test"], num_samples)
        return sum(sample.reward.acc for sample in samples) / len(samples)

    def train(self) -> Iterator[dict[str, float]]:
        """All steps, over the training questions in a new order whenever they run out."""
        waiting: list[Question] = []
        for _ in range(self.settings.steps):
            if len(waiting) < self.settings.prompts:
                waiting = self.random.sample(splits()["train"], len(splits()["train"]))
            batch, waiting = waiting[: self.settings.prompts], waiting[self.settings.prompts :]
            yield self.step(batch)


def main() -> None:
    """Train from the command line, with a progress bar, and print the accuracy before and after."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=Settings.steps)
    parser.add_argument("--lr", type=float, default=Settings.lr)
    parser.add_argument("--feedback", choices=["weak", "strong"], default=Settings.feedback)
    parser.add_argument("--seed", type=int, default=Settings.seed)
    parser.add_argument("--model", default=Settings.model, help="folder of the base model")
    settings = Settings(**vars(parser.parse_args()))
    torch.set_num_threads(1)  # the model is far too small to share
    run = MinimalSDPO(settings)
    before = run.evaluate()
    print(f"before: held-out mean@8 {before:.3f}")
    columns = (*Progress.get_default_columns(), TextColumn("train accuracy {task.fields[accuracy]:.3f}"))
    with Progress(*columns) as progress:
        bar = progress.add_task("SDPO", total=settings.steps, accuracy=before)
        for metrics in run.train():
            progress.update(bar, advance=1, accuracy=metrics["train accuracy"])
    num_generations = settings.steps * settings.prompts * settings.samples
    print(f"after:  held-out mean@8 {run.evaluate():.3f}   ({num_generations:,} generations)")


if __name__ == "__main__":
    main()
