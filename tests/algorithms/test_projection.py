"""The streamed loss against the plain definition, with logits whole and autograd's gradients."""

import dataclasses

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from verl.algorithms import compute_self_distillation_loss
from verl.algorithms.base import LossInputs, ResponseTokens, TokenDistribution
from verl.algorithms.head import Head, HiddenTerm
from verl.algorithms.loss_stream import tile_tokens
from verl.algorithms.projection import policy_loss, score, student_log_probs
from verl.algorithms.softmax_tile import top_k
from verl.config import ActorConfig, PolicyLossConfig, SelfDistillationConfig
from verl.config.root import AlgorithmConfig, RolloutCorrectionConfig
from verl.protocol import MaskTotals, Totals
from verl.registry import ALGORITHMS

H = 5


def plain_logits(hidden, head, temperature):
    values = head.scale * hidden @ head.weight.T
    if head.soft_cap is not None:
        values = head.soft_cap * torch.tanh(values / head.soft_cap)
    return values / temperature


@st.composite
def cases(draw):
    """A micro-batch, a loss and a cut into tiles."""
    lengths = draw(st.lists(st.integers(0, 6), min_size=1, max_size=4))
    credit = draw(st.sampled_from(["logit", "logit", "logit", "token", "sequence"]))
    vocab_size = draw(st.integers(2, 70))
    return {
        "seed": draw(st.integers(0, 2**31)),
        "lengths": lengths,
        "is_taught": tuple(draw(st.booleans()) for _ in lengths),
        "vocab_size": vocab_size,
        "temperature": draw(st.floats(0.5, 2.0)),
        "tokens_per_tile": draw(st.one_of(st.none(), st.integers(1, 30))),
        "scale": draw(st.sampled_from([1.0, 0.25, 1.5])),
        "soft_cap": draw(st.sampled_from([None, None, 2.0])),
        "trust_region": draw(st.booleans()),
        "agg": draw(st.sampled_from(["token-mean", "seq-mean-token-mean"])),
        "settings": SelfDistillationConfig(
            alpha=draw(st.sampled_from([0.0, 0.5, 1.0, 0.3])) if credit == "logit" else 1.0,
            distillation_topk=draw(st.sampled_from([None, 1, 3, 20, 100])),
            distillation_add_tail=draw(st.booleans()),
            credit=credit,
            is_clip=draw(st.sampled_from([None, 1.1])),
            normalize_divergence=draw(st.booleans()),
        ),
    }


def make_case(case, dtype=torch.float32):
    g = torch.Generator().manual_seed(case["seed"])
    m, vocab_size = sum(case["lengths"]), case["vocab_size"]
    is_taught = torch.tensor(case["is_taught"]).repeat_interleave(torch.tensor(case["lengths"]))

    def normal(*shape):
        return torch.randn(*shape, generator=g).to(dtype)

    tokens = ResponseTokens(
        ids=torch.randint(vocab_size, (m,), generator=g),
        mask=(torch.rand(m, generator=g) < 0.8).to(dtype),
        lengths=tuple(case["lengths"]),
        is_taught=case["is_taught"],
        old_log_probs=-normal(m).abs(),
        rollout_log_probs=-normal(m).abs(),
        advantages=normal(m),
        ref_log_probs=-normal(m).abs(),
    )
    heads = [Head(normal(vocab_size, H), case["scale"], case["soft_cap"]) for _ in range(3)]
    weights = [0.7, 0.3] if case["trust_region"] else [1.0]
    num_taught = int(is_taught.sum())
    terms = [HiddenTerm(w, normal(num_taught, H), head) for w, head in zip(weights, heads[1:], strict=False)]
    return tokens, normal(m, H), heads[0], terms if num_taught else []


def rows_of(values, lengths):
    """Flat [M, ...] to padded rows [B, T, ...]."""
    return torch.nn.utils.rnn.pad_sequence(list(values.split(lengths)), batch_first=True)


def totals_of(tokens):
    def count(mask):
        rows = list(mask.split(tokens.lengths))
        return MaskTotals(int(mask.sum()), sum(bool(part.sum()) for part in rows))

    is_taught = torch.tensor(tokens.is_taught).repeat_interleave(torch.tensor(tokens.lengths))
    return Totals(count(tokens.mask), count(tokens.mask * is_taught), max(tokens.lengths))


def plain_sdpo(case, tokens, hidden, head, terms):
    """`compute_self_distillation_loss` on whole log-probs."""
    config, lengths = case["settings"], list(tokens.lengths)
    s = plain_logits(hidden, head, case["temperature"]).log_softmax(-1)
    t = torch.zeros_like(s)
    is_taught = torch.tensor(tokens.is_taught)
    if terms:
        mixed = sum(term.weight * plain_logits(term.hidden, term.head, case["temperature"]) for term in terms)
        t[is_taught.repeat_interleave(torch.tensor(lengths))] = mixed.log_softmax(-1)
    support = {"student_all_log_probs": rows_of(s, lengths), "teacher_all_log_probs": rows_of(t, lengths)}
    if config.distillation_topk is not None:
        top = s.detach().topk(min(config.distillation_topk, s.shape[-1]), dim=-1).indices
        support = {
            "student_topk_log_probs": rows_of(s.gather(-1, top), lengths),
            "teacher_topk_log_probs": rows_of(t.gather(-1, top), lengths),
        }
    sampled, of_teacher = (rows_of(x.gather(-1, tokens.ids[:, None]).squeeze(-1), lengths) for x in (s, t))
    return compute_self_distillation_loss(
        sampled,
        of_teacher,
        rows_of(tokens.mask, lengths),
        config,
        rows_of(tokens.old_log_probs, lengths),
        **support,
        self_distillation_mask=is_taught.to(s.dtype),
        loss_agg_mode=case["agg"],
    )[0]


def gradients_of(loss, *inputs):
    grads = torch.autograd.grad(loss, inputs, allow_unused=True)
    return [torch.zeros_like(x) if grad is None else grad for x, grad in zip(inputs, grads, strict=True)]


def error_of(actual, expected):
    """Largest difference, relative to the largest entry."""
    if not expected.numel():
        return 0.0
    return ((actual - expected).abs().max() / expected.abs().max().clamp(min=0.1)).item()


def widened(case):
    """The same numbers in float64."""
    tokens, hidden, head, terms = make_case(case)
    tensors = {name: value for name, value in vars(tokens).items() if isinstance(value, torch.Tensor)}
    wide = {name: value.double() for name, value in tensors.items() if value.is_floating_point()}
    return (
        dataclasses.replace(tokens, **wide),
        hidden.double(),
        dataclasses.replace(head, weight=head.weight.double()),
        [
            HiddenTerm(t.weight, t.hidden.double(), dataclasses.replace(t.head, weight=t.head.weight.double()))
            for t in terms
        ],
    )


def streamed(case, mode, actor, tokens, hidden, head, terms):
    """Loss and gradients of the streamed loss."""
    config = ActorConfig(policy_loss=PolicyLossConfig(mode), loss_agg_mode=case["agg"], **actor)
    correction = RolloutCorrectionConfig(rollout_is=case.get("rollout_is"))
    algorithm = ALGORITHMS.load(mode)(config, AlgorithmConfig(rollout_correction=correction))
    hidden.requires_grad_()
    head.weight.requires_grad_()
    terms = terms if algorithm.needs_teacher else []
    totals, tile = totals_of(tokens), case["tokens_per_tile"]
    loss, _ = policy_loss(algorithm, hidden, head, tokens, case["temperature"], terms, totals, tile)
    return loss, *gradients_of(loss, hidden, head.weight)


def plain(case, batch):
    """Loss and gradients of the plain definition."""
    tokens, hidden, head, terms = batch
    hidden.requires_grad_()
    head.weight.requires_grad_()
    loss = plain_sdpo(case, tokens, hidden, head, terms)
    return loss, *gradients_of(loss, hidden, head.weight)


@settings(max_examples=250)
@given(case=cases())
def test_streamed_sdpo_is_the_plain_definition(case):
    actor = {"self_distillation": case["settings"]}
    exact = plain(case, widened(case))
    for actual, expected in zip(streamed(case, "sdpo", actor, *widened(case)), exact, strict=True):
        assert error_of(actual, expected) < 1e-8


def has_digits(case):
    """Whether float32 can tell: a nearly empty tail, 1 minus a sum of almost 1, has lost them in any formulation."""
    config, (_, hidden, head, terms) = case["settings"], widened(case)
    if config.distillation_topk is None or not config.distillation_add_tail or not terms:
        return True
    k, mass = min(config.distillation_topk, case["vocab_size"]), 0.0
    for model in (hidden @ head.weight.T, *(term.hidden @ term.head.weight.T for term in terms)):
        probs = (case["scale"] * model / case["temperature"]).softmax(-1)
        mass = max(mass, probs.topk(k, dim=-1).values.sum(-1).max().item())
    return mass < 0.95


@settings(max_examples=150, derandomize=True, suppress_health_check=[HealthCheck.filter_too_much])
@given(case=cases().filter(has_digits))
def test_streamed_sdpo_in_float32(case):
    """To 1e-5 of the largest entry, where the definition itself is as good in float32 (p - q of near twins is not)."""
    exact, single = plain(case, widened(case)), plain(case, make_case(case))
    results = streamed(case, "sdpo", {"self_distillation": case["settings"]}, *make_case(case))
    for actual, own, expected in zip(results, single, exact, strict=True):
        assert error_of(actual, expected) < 1e-5 + 10 * error_of(own, expected)


def plain_policy_gradient(case, mode, actor, tokens, hidden, head):
    """PPO, GSPO and SFT with log_softmax, whole rows and autograd."""
    config = ActorConfig(policy_loss=PolicyLossConfig(mode), loss_agg_mode=case["agg"], **actor)
    correction = RolloutCorrectionConfig(rollout_is=case["rollout_is"])
    algorithm = ALGORITHMS.load(mode)(config, AlgorithmConfig(rollout_correction=correction))
    log_probs = plain_logits(hidden, head, case["temperature"]).log_softmax(-1)
    lengths = list(tokens.lengths)

    def rows(values):
        return rows_of(values, lengths)

    loss, _ = algorithm.loss(
        LossInputs(
            student=TokenDistribution(
                rows(log_probs.gather(-1, tokens.ids[:, None]).squeeze(-1)),
                rows(-(log_probs.exp() * log_probs).sum(-1)),
            ),
            response_mask=rows(tokens.mask),
            self_distillation_mask=torch.zeros(len(lengths)),
            totals=totals_of(tokens),
            **{name: rows(getattr(tokens, name)) for name in PER_TOKEN},
        )
    )
    return loss, *gradients_of(loss, hidden, head.weight)


PER_TOKEN = ("old_log_probs", "rollout_log_probs", "advantages", "ref_log_probs")


@settings(max_examples=100)
@given(
    case=cases(),
    mode=st.sampled_from(["vanilla", "gspo", "sft"]),
    rollout_is=st.sampled_from([None, "token", "sequence"]),
    entropy_coeff=st.sampled_from([0.0, 0.3]),
)
def test_streamed_policy_gradients_are_the_plain_ones(case, mode, rollout_is, entropy_coeff):
    case = case | {"rollout_is": rollout_is}
    actor = {"entropy_coeff": entropy_coeff, "use_kl_loss": mode != "sft"}
    tokens, hidden, head, _ = widened(case)
    hidden.requires_grad_()
    head.weight.requires_grad_()
    expected = plain_policy_gradient(case, mode, actor, tokens, hidden, head)
    for actual, value in zip(streamed(case, mode, actor, *widened(case)), expected, strict=True):
        assert error_of(actual, value) < 1e-8


@pytest.mark.parametrize("topk", [5, None])
@pytest.mark.parametrize("tokens_per_tile", [None, 3])
def test_rows_are_coupled_with_and_without_a_teacher(topk, tokens_per_tile):
    """Sequence weights look at whole rows; an entropy bonus brings in the rows that nobody teaches."""
    case = EXAMPLE | {"rollout_is": "sequence", "tokens_per_tile": tokens_per_tile}
    settings_ = SelfDistillationConfig(distillation_topk=topk, is_clip=None, alpha=0.5)
    actor = {"self_distillation": settings_, "entropy_coeff": 0.1}
    tokens, hidden, head, terms = widened(case)
    hidden.requires_grad_()
    head.weight.requires_grad_()
    lengths, is_taught = list(tokens.lengths), torch.tensor(tokens.is_taught)
    s = plain_logits(hidden, head, 1.0).log_softmax(-1)
    t = torch.zeros_like(s)
    t[is_taught.repeat_interleave(torch.tensor(lengths))] = plain_logits(
        terms[0].hidden, terms[0].head, 1.0
    ).log_softmax(-1)
    sampled = s.gather(-1, tokens.ids[:, None]).squeeze(-1)
    weights = torch.zeros_like(sampled)
    for part in torch.arange(len(sampled)).split(lengths):
        log_ratio = ((sampled.detach() - tokens.rollout_log_probs) * tokens.mask)[part].sum()
        weights[part] = log_ratio.clamp(-20, 20).exp().clamp(max=2.0)
    top = s.detach().topk(min(topk or s.shape[-1], s.shape[-1]), dim=-1).indices
    kind = "topk" if topk else "all"
    loss, _ = compute_self_distillation_loss(
        rows_of(sampled, lengths),
        rows_of(t.gather(-1, tokens.ids[:, None]).squeeze(-1), lengths),
        rows_of(tokens.mask, lengths),
        settings_,
        **{f"student_{kind}_log_probs": rows_of(s.gather(-1, top), lengths)},
        **{f"teacher_{kind}_log_probs": rows_of(t.gather(-1, top), lengths)},
        self_distillation_mask=is_taught.double(),
        rollout_is_weights=rows_of(weights, lengths),
    )
    entropy = -(s.exp() * s).sum(-1)
    loss = loss - 0.1 * (entropy * tokens.mask).sum() / tokens.mask.sum()
    tokens, *rest = widened(case)
    tokens = dataclasses.replace(tokens, old_log_probs=None)
    expected = (loss, *gradients_of(loss, hidden, head.weight))
    for actual, value in zip(streamed(case, "sdpo", actor, tokens, *rest), expected, strict=True):
        assert error_of(actual, value) < 1e-8


@given(
    n=st.integers(1, 4),
    size=st.integers(1, 300),
    share=st.floats(0, 1),
    values=st.integers(1, 50),
    seed=st.integers(0, 99),
)
def test_top_k_of_blocks_is_top_k(n, size, share, values, seed):
    g = torch.Generator().manual_seed(seed)
    logits = torch.randint(values, (n, size), generator=g).float()  # with ties
    k = max(1, round(share * size))
    ids = top_k(logits, k)
    assert all(len(set(row)) == k for row in ids.tolist())
    assert torch.equal(logits.gather(1, ids).sort(dim=1, descending=True).values, logits.topk(k, dim=1).values)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_scores_are_log_softmax(dtype):
    g = torch.Generator().manual_seed(0)
    terms = [
        HiddenTerm(
            weight, torch.randn(9, H, generator=g).to(dtype), Head(torch.randn(7, H, generator=g).to(dtype), 2.0, cap)
        )
        for weight, cap in ((0.75, None), (0.25, 1.5))
    ]
    ids = torch.randint(7, (9,), generator=g)
    wide = [(t.weight, t.hidden.double(), Head(t.head.weight.double(), t.head.scale, t.head.soft_cap)) for t in terms]
    expected = sum(weight * plain_logits(hidden, head, 0.8) for weight, hidden, head in wide).log_softmax(-1)
    seen = score(terms, ids, 0.8)
    sampled = expected.gather(1, ids[:, None]).squeeze(1)
    torch.testing.assert_close(seen.log_probs.double(), sampled, rtol=1e-5, atol=1e-5)
    assert seen.is_most_likely.tolist() == (expected.argmax(-1) == ids).tolist()
    only = student_log_probs(terms[0].hidden, terms[0].head, ids, 0.8)
    alone = plain_logits(wide[0][1], wide[0][2], 0.8).log_softmax(-1).gather(1, ids[:, None]).squeeze(1)
    torch.testing.assert_close(only.double(), alone, rtol=1e-5, atol=1e-5)


def test_bfloat16_is_summed_in_float32():
    """Gradients of a bfloat16 model differ from the exact ones by the rounding of the result alone."""
    case = EXAMPLE | {"tokens_per_tile": 4}
    batch = make_case(case, torch.bfloat16)
    exact = plain(case, (batch[0], batch[1].double(), Head(batch[2].weight.double()), widened_terms(batch[3])))
    for actual, expected in zip(streamed(case, "sdpo", ACTOR, *batch), exact, strict=True):
        assert error_of(actual.double(), expected) < 2**-8


def widened_terms(terms):
    return [HiddenTerm(t.weight, t.hidden.double(), Head(t.head.weight.double())) for t in terms]


EXAMPLE = {
    "seed": 1,
    "lengths": [20, 3, 9],
    "is_taught": (True, False, True),
    "vocab_size": 50,
    "temperature": 1.0,
    "tokens_per_tile": None,
    "scale": 1.0,
    "soft_cap": None,
    "trust_region": False,
    "agg": "token-mean",
    "settings": SelfDistillationConfig(distillation_topk=5, is_clip=None, alpha=0.5),
}
ACTOR = {"self_distillation": EXAMPLE["settings"]}


def test_backward_scales_the_gradients():
    _, by_hidden, by_head = streamed(EXAMPLE, "sdpo", ACTOR, *widened(EXAMPLE))
    tokens, hidden, head, terms = widened(EXAMPLE)
    hidden.requires_grad_()
    head.weight.requires_grad_()
    config = ActorConfig(policy_loss=PolicyLossConfig("sdpo"), **ACTOR)
    algorithm = ALGORITHMS.load("sdpo")(config, AlgorithmConfig())
    (3 * policy_loss(algorithm, hidden, head, tokens, 1.0, terms, totals_of(tokens))[0]).backward()
    torch.testing.assert_close(hidden.grad, 3 * by_hidden)
    torch.testing.assert_close(head.weight.grad, 3 * by_head)


def test_head_without_gradient_is_left_alone():
    tokens, hidden, head, terms = make_case(EXAMPLE)
    hidden.requires_grad_()
    algorithm = ALGORITHMS.load("sdpo")(ActorConfig(policy_loss=PolicyLossConfig("sdpo"), **ACTOR), AlgorithmConfig())
    loss, _ = policy_loss(algorithm, hidden, head, tokens, 1.0, terms, totals_of(tokens))
    loss.backward()
    assert head.weight.grad is None
    torch.testing.assert_close(hidden.grad, streamed(EXAMPLE, "sdpo", ACTOR, *make_case(EXAMPLE))[1])


def test_logits_are_never_whole():
    """Whatever the number of tokens, no tensor has more entries than a tile."""
    case = EXAMPLE | {"lengths": [400, 400], "is_taught": (True, True), "tokens_per_tile": 16, "vocab_size": 500}
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            result = func(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                largest = max(largest, result.numel())
            return result

    batch = make_case(case)
    with Watch():
        streamed(case, "sdpo", ACTOR, *batch)
    assert largest == 16 * 500


def test_tiles_follow_the_vocabulary():
    cpu = torch.device("cpu")
    assert [tile_tokens(size, 2, cpu) for size in (300, 8192, 152_000)] == [4096, 256, 128]


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_greedy_temperature_is_refused(temperature):
    with pytest.raises(ValueError, match=f"temperature={temperature}"):
        score(
            [HiddenTerm(1.0, torch.zeros(1, H), Head(torch.zeros(3, H)))], torch.zeros(1, dtype=torch.long), temperature
        )
