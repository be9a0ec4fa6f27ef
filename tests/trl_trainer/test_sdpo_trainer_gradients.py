"""The gradient of a step: against a plain definition, and the same however the batch is cut and spread."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from scripted import PROMPTS, RIGHT, TEXTS, arguments, gradient, load, make, tokenizer, told, weights, write
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import GPT2Config, GPT2LMHeadModel

HERE = Path(__file__).parent
TEMPERATURE = 0.7
BY_TRL = 1e-7
"""How far numbers may be off that TRL has a part in: its output head computes in float32."""


def encode(content):
    messages = [{"role": "user", "content": content}]
    return tokenizer().apply_chat_template(messages, add_generation_prompt=True, tokenize=True)["input_ids"]


def completion(text):
    return [*tokenizer().encode(text, add_special_tokens=False), tokenizer().eos_token_id]


def hint(text):
    """What the teacher reads, written out: a sibling's success, and for the success itself nothing."""
    question = PROMPTS[0][0]["content"]
    return (
        f"{question}\nCorrect solution:\n\n{RIGHT}\n\nCorrectly solve the original question." if text != RIGHT else None
    )


def log_probs(model, prompt, response):
    """[T, V]"""
    logits = model(input_ids=torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
    return (logits / TEMPERATURE).log_softmax(-1)


def jsd(s, t):
    """[T]: half of KL(s || m) and half of KL(t || m), m their mean."""
    m = ((s.exp() + t.exp()) / 2).log()
    return ((s.exp() * (s - m)).sum(-1) + (t.exp() * (t - m)).sum(-1)) / 2


def read_by_both(student, teacher, rows=None):
    """Token ids [T] of each taught completion with the log-probs [T, V] of both models, the teacher's without gradient.

    `rows`: (question, completion, what the teacher reads); None: those of `TEXTS`.
    """
    for question, text, content in rows or [(PROMPTS[0][0]["content"], t, hint(t)) for t in TEXTS if hint(t)]:
        ids = completion(text)
        with torch.no_grad():
            t = log_probs(teacher, encode(content), ids)
        yield torch.tensor(ids)[:, None], log_probs(student, encode(question), ids), t


def plain_gradient(weigh=lambda s, ids: torch.ones(len(ids)), make_model=load, rows=None):
    """The definition: one row at a time, whole vocabularies, a mean over all tokens of rows with a hint."""
    student, teacher = make_model(), make_model()
    total, num_tokens = 0.0, 0
    for ids, s, t in read_by_both(student, teacher, rows):
        total = total + (jsd(s, t) * weigh(s, ids)).sum()
        num_tokens += len(ids)
    loss = total / num_tokens
    loss.backward()
    return {name: p.grad for name, p in student.named_parameters()}, loss.item()


def same(found, expected, tolerance=1e-10):
    assert found.keys() == expected.keys()
    size = max(value.abs().max() for value in expected.values())
    assert size > 1e-4
    for name, value in expected.items():
        assert (found[name] - value).abs().max() <= tolerance, name


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return gradient(tmp_path_factory.mktemp("whole"))


def test_a_step_is_the_plain_definition(whole):
    expected, loss = plain_gradient()
    found, trainer = whole
    same(found, expected)
    log = trainer.state.log_history[0]
    assert log["sdpo/loss"] == pytest.approx(loss, abs=1e-10)
    assert log["loss"] == pytest.approx(loss, abs=1e-7)  # Trainer adds up in float32
    assert log["sdpo/teacher_coverage"] == 7 / 8
    assert log["self_distillation/feedback_available_fraction"] == 7 / 8
    assert log["self_distillation/feedback_used_fraction"] == 0


@pytest.mark.parametrize(("rows", "accumulation"), [(1, 8), (2, 4), (4, 2)])
def test_the_cut_changes_nothing(whole, tmp_path, rows, accumulation):
    found, trainer = gradient(tmp_path, args=arguments(tmp_path, rows, accumulation))
    same(found, whole[0])
    log, expected = trainer.state.log_history[0], whole[1].state.log_history[0]
    for name in ("sdpo/loss", "sdpo/kl_mean", "entropy", "self_distillation/teacher_entropy"):
        assert log[name] == pytest.approx(expected[name], abs=1e-10), name
    assert log["self_distillation/target_token_count"] == pytest.approx(87)


def test_rollout_batches_smaller_than_a_step_share_its_divisor(whole, tmp_path):
    """Two rollout batches of 4 siblings in a step of 8 rows: only the second has a success."""
    args = arguments(tmp_path, rows=4, accumulation=2, steps_per_generation=1, num_generations=4)
    first = iter([TEXTS[:4], TEXTS[4:]])

    def rollout(prompts, trainer):
        return write(next(first))(prompts, trainer)

    _, trainer = gradient(tmp_path, args=args, rollout=rollout, prompts=[PROMPTS[0], PROMPTS[0]])
    log = trainer.state.log_history[0]
    num_tokens = sum(len(completion(text)) for text in TEXTS if text != RIGHT)
    assert log["self_distillation/target_token_count"] == num_tokens
    assert log["self_distillation/feedback_used_fraction"] == 1 / 2  # 4 of 4, then none of 4


def gpt2():
    """A model with learnt absolute positions, which padding would shift if they were not counted."""
    torch.manual_seed(0)
    shape = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 128}
    silent = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    ends = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 0}
    return GPT2LMHeadModel(GPT2Config(vocab_size=375, **shape, **silent, **ends)).double()


@pytest.mark.parametrize("weight", [1.0, 0.5])
def test_padding_changes_nothing(tmp_path, weight):
    """Two questions of different length in a batch, and no success: every teacher reads another feedback."""
    questions = ["shower to 6", "the old lamp in the big office to 3"]
    texts = [text for text in TEXTS if text != RIGHT][:4] * 2
    pairs = list(zip([q for q in questions for _ in range(4)], texts, strict=True))
    head = "{}\nThe following is feedback from your unsuccessful earlier attempt:\n\n{}\n\n"
    rows = [(q, t, head.format(q, told(t)) + "Correctly solve the original question.") for q, t in pairs]
    expected, _ = plain_gradient(make_model=gpt2, rows=rows)
    args = arguments(tmp_path, num_generations=4)
    chats = [[{"role": "user", "content": question}] for question in questions]
    model = gpt2()
    before = weights(model)
    trainer = make(tmp_path, model, args, prompts=chats, rollout=write(texts), distillation_weight=weight)
    trainer.train()
    # Without any success all advantages are 0, and GRPO adds nothing.
    found = {name: (before[name] - p.detach()) / weight for name, p in model.named_parameters()}
    same(found, expected)


def test_a_micro_batch_is_as_wide_as_its_own_rows(tmp_path):
    """One row at a time: its own prompt and completion, however long the others' are."""
    model, widths = load(), []
    questions = ("shower in the attic to 6", "the old lamp in the big office to 3")
    chats = [[{"role": "user", "content": question}] for question in questions]
    args = arguments(tmp_path, rows=1, accumulation=8, num_generations=4)
    trainer = make(tmp_path, model, args, prompts=chats, rollout=write(["shower.set(room=attic,value=6)"] * 8))
    backbones = (model.get_decoder(), trainer.ref_model.get_decoder())
    for seen in backbones:
        seen.register_forward_hook(
            lambda module, args, kwargs, output: widths.append((module, kwargs["input_ids"].shape)), with_kwargs=True
        )
    trainer.train()
    response = len(completion("shower.set(room=attic,value=6)"))
    prompts = {len(encode(chat[0]["content"])) for chat in chats}
    assert len(prompts) == 2
    assert {tuple(shape) for module, shape in widths if module is backbones[0]} == {(1, n + response) for n in prompts}
    assert len({shape[1] for module, shape in widths if module is backbones[1]}) == 2


@pytest.mark.parametrize("chunk", [1, 7])
def test_tiles_change_nothing(whole, tmp_path, chunk):
    same(gradient(tmp_path, logits_chunk_tokens=chunk)[0], whole[0])


@pytest.mark.parametrize("weight", [1.0, 0.4])
def test_two_processes_are_one(tmp_path, weight):
    """Siblings on two ranks: the second one's success is shown to the first one's rows, and rewards are a row's own."""
    options = {"distillation_weight": weight, "arguments": {"rows": 4}}
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=0"]
    command += ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]
    command += [str(HERE / "scripted.py"), str(tmp_path), json.dumps(options)]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    found = torch.load(tmp_path / "found.pt")
    expected, trainer = gradient(tmp_path / "one", distillation_weight=weight)
    same(found["gradient"], expected, 1e-10 if weight == 1 else BY_TRL)
    log = trainer.state.log_history[0]
    for name in ("sdpo/loss", "sdpo/teacher_coverage", "self_distillation/reprompt_len/mean", "entropy"):
        assert found["log"][name] == pytest.approx(log[name], abs=1e-6), name


def test_both_losses_come_from_one_forward(tmp_path):
    """(1 - w) GRPO + w SDPO, where GRPO is what TRL computes by itself."""
    from trl import GRPOTrainer

    own, _ = gradient(tmp_path / "sdpo")
    model = load()
    before = weights(model)
    mixed = make(tmp_path / "mixed", model=model, distillation_weight=0.4)
    calls = []
    model.get_decoder().register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    mixed.train()
    assert calls.count(True) == 1
    grpo, _ = gradient(tmp_path / "grpo", enabled=False)
    expected = {name: 0.6 * grpo[name] + 0.4 * own[name] for name in own}
    same({name: before[name] - p.detach() for name, p in model.named_parameters()}, expected, BY_TRL)
    assert issubclass(type(mixed), GRPOTrainer)


def test_the_sampled_token_alone(tmp_path):
    """Credit log t - log s of the sampled token, without a gradient, times the gradient of -log s."""
    found, _ = gradient(tmp_path, full_logit_distillation=False, alpha=1.0)
    student, teacher = load(), load()
    total, num_tokens = 0.0, 0
    for ids, s, t in read_by_both(student, teacher):
        own = s.gather(1, ids)
        total = total - ((t.gather(1, ids) - own).detach() * own).sum()
        num_tokens += len(ids)
    (total / num_tokens).backward()
    same(found, {name: p.grad for name, p in student.named_parameters()})


@pytest.mark.parametrize("add_tail", [True, False])
def test_top_k_with_and_without_a_tail(tmp_path, add_tail):
    found, _ = gradient(tmp_path, distillation_topk=3, distillation_add_tail=add_tail, alpha=0.0)
    student, teacher = load(), load()
    total, num_tokens = 0.0, 0
    for ids, s, t in read_by_both(student, teacher):
        best = s.topk(3).indices
        p, q = t.gather(1, best).exp(), s.gather(1, best).exp()
        if add_tail:
            p, q = (torch.cat([x, (1 - x.sum(1, keepdim=True)).clamp(min=1e-7)], 1) for x in (p, q))
        else:
            p, q = (x / x.sum(1, keepdim=True) for x in (p, q))
        total = total + (p * (p.log() - q.log())).sum()  # alpha 0: KL(teacher || student)
        num_tokens += len(ids)
    (total / num_tokens).backward()
    same(found, {name: p.grad for name, p in student.named_parameters()}, 1e-8)


class Logits(TorchDispatchMode):
    """Remembers for how many tokens at most a tensor over the vocabulary was made while it was on."""

    def __init__(self, head):
        super().__init__()
        self.vocab_size, self.hidden_size = head.shape
        self.tokens = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else [result]:
            is_logits = isinstance(value, torch.Tensor) and value.ndim > 1 and value.shape[-1] == self.vocab_size
            if is_logits and value.shape[-2] != self.hidden_size:  # the transposed head itself
                self.tokens.add(value.numel() // self.vocab_size)
        return result


def test_logits_of_a_batch_never_exist(tmp_path):
    """87 tokens are learnt; with tiles of 4 nothing over the vocabulary is of more than 4, of student or teacher."""
    trainer = make(tmp_path, logits_chunk_tokens=4)
    original, seen = trainer.compute_loss, Logits(trainer.model.get_output_embeddings().weight)

    def watched(*arguments_, **named):
        with seen:
            return original(*arguments_, **named)

    trainer.compute_loss = watched
    trainer.train()
    assert max(seen.tokens) == 4


def test_without_any_target_nothing_moves(tmp_path):
    def nothing(completions, **_):
        return [0.0] * len(completions)

    found, trainer = gradient(tmp_path, reward=nothing)
    assert all(not value.any() for value in found.values())
    assert trainer.state.log_history[0]["loss"] == 0.0
    for name in ("sdpo/loss", "sdpo/kl_mean", "sdpo/teacher_coverage"):
        assert trainer.state.log_history[0][name] == 0.0, name


@pytest.mark.parametrize("is_clip", [2.0, 0.5, None])
def test_the_ratio_is_of_the_logits_over_temperature(tmp_path, is_clip):
    """A second step on the same rollouts: ratios exp(student - old), both at the sampling temperature, bounded."""
    model, seen = load(), []
    args = arguments(tmp_path, num_iterations=2, max_steps=2, learning_rate=0.5)
    trainer = make(tmp_path, model=model, args=args, is_clip=is_clip)
    original = trainer.compute_loss

    def spy(*arguments_, **named):
        seen.append(copy.deepcopy(model.state_dict()))
        return original(*arguments_, **named)

    trainer.compute_loss = spy
    trainer.train()
    log = trainer.state.log_history[1]
    if is_clip is None:
        assert "self_distillation/is_ratio_mean" not in log
        return
    ratios, weighted, num_tokens = [], 0.0, 0
    student, first, teacher = load(), load(), load()
    student.load_state_dict(seen[1])
    with torch.no_grad():
        rows = zip(read_by_both(student, teacher), read_by_both(first, teacher), strict=True)
        for (ids, s, t), (_, old, _) in rows:
            ratio = (s.gather(1, ids) - old.gather(1, ids)).exp()[:, 0]
            weighted += (jsd(s, t) * ratio.clamp(max=is_clip)).sum().item()
            num_tokens += len(ids)
            ratios += ratio.tolist()
    assert log["self_distillation/is_ratio_mean"] == pytest.approx(sum(ratios) / len(ratios), abs=10 * BY_TRL)
    assert max(abs(ratio - 1) for ratio in ratios) > 1e-3
    assert log["sdpo/loss"] == pytest.approx(weighted / num_tokens, abs=BY_TRL)


def test_engine_log_probs_weigh_tokens_also_in_an_aligned_step(tmp_path):
    """Weights min(exp(trainer - engine), 2) although TRL computes no old log-probs here."""
    engine = [-1.5, None, *[-1.5] * 30]  # of the second token vLLM gave no number
    found, trainer = gradient(tmp_path, rollout=write(log_probs=engine))

    def weigh(s, ids):
        chosen = s.detach().gather(1, ids)[:, 0]
        weights = (chosen + 1.5).exp().clamp(max=2.0)
        weights[1] = 1.0
        return weights

    expected, _ = plain_gradient(weigh)
    same(found, expected)
    assert trainer.state.log_history[0]["rollout_corr/rollout_is_mean"] < 2
    switched_off, _ = gradient(tmp_path / "off", rollout=write(log_probs=engine), rollout_is_threshold=None)
    same(switched_off, plain_gradient()[0])


def test_feedback_of_the_rollout_itself_reaches_the_teacher(tmp_path):
    trainer = make(tmp_path, use_successful_as_teacher=False)
    seen = []
    original = trainer._generate_and_score_completions
    trainer._generate_and_score_completions = lambda inputs: seen.append(original(inputs)) or seen[-1]
    trainer.train()
    (batch,) = seen
    read = trainer.processing_class.batch_decode(batch["teacher_input_ids"])
    assert batch["self_distillation_mask"].tolist() == [float(text != RIGHT) for text in TEXTS]
    for text, teacher_text in zip(TEXTS, read, strict=True):
        assert (told(text) or "no such call") in teacher_text or text == RIGHT
        assert teacher_text.count(text) >= 1  # the completion itself
    for name in ("teacher_attention_mask", "teacher_position_ids"):
        assert batch[name].shape == batch["teacher_input_ids"].shape
