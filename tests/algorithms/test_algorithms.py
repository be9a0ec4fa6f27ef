"""Every algorithm, from hidden states: parts add up to the whole, padding is nothing."""

import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from verl.algorithms import compute_self_distillation_loss
from verl.algorithms.aggregation import MODES, count_mask
from verl.algorithms.base import ResponseTokens
from verl.algorithms.head import Head, HiddenTerm
from verl.algorithms.projection import policy_loss
from verl.config import ActorConfig, PolicyLossConfig, SelfDistillationConfig
from verl.config.root import AlgorithmConfig, RolloutCorrectionConfig
from verl.protocol import Totals, add_metrics, mean_metrics
from verl.registry import ALGORITHMS

B, T, H, V, TEMPERATURE = 5, 4, 3, 7, 0.8
LENGTHS = [4, 2, 3, 1, 4]
TAUGHT = torch.tensor([1.0, 0, 1, 0, 1])
ANCHORS = torch.tensor([0.0, 0, 0, 0, 1])


def batch(seed=0):
    g = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    mask = (torch.arange(T)[None, :] < torch.tensor(LENGTHS)[:, None]).double()
    return {
        "hidden": normal(B, T, H),
        "response_ids": torch.randint(V, (B, T), generator=g),
        "response_mask": mask,
        "self_distillation_mask": TAUGHT,
        "old_log_probs": -normal(B, T).abs(),
        "rollout_log_probs": -normal(B, T).abs(),
        "advantages": normal(B, 1) * mask,
        "ref_log_probs": -normal(B, T).abs(),
    }, {"head": normal(V, H), "teacher": normal(B, T, H), "teacher_head": normal(V, H)}


def make(mode, agg="token-mean", correction="token", **actor):
    config = ActorConfig(policy_loss=PolicyLossConfig(mode), loss_agg_mode=agg, **actor)
    algorithm = AlgorithmConfig(rollout_correction=RolloutCorrectionConfig(rollout_is=correction))
    return ALGORITHMS.load(mode)(config, algorithm)


def totals_of(values):
    mask, is_anchor = values["response_mask"], values["is_anchor"][:, None]
    own = mask * (1 - is_anchor)
    taught = own * values["self_distillation_mask"][:, None]
    return Totals(count_mask(own), count_mask(taught), mask.shape[1], count_mask(mask * is_anchor))


def flat(values):
    """Rows [B, T] as the tokens of a micro-batch: padding becomes tokens that the policy did not write."""
    num_rows, length = values["response_ids"].shape
    per_token = {name: values[name].flatten() for name in PER_TOKEN if name in values}
    return ResponseTokens(
        ids=values["response_ids"].flatten(),
        mask=values["response_mask"].flatten(),
        lengths=(length,) * num_rows,
        is_taught=tuple((values["self_distillation_mask"] > 0).tolist()),
        is_anchor=tuple((values["is_anchor"] > 0).tolist()),
        **per_token,
    )


PER_TOKEN = (
    "old_log_probs",
    "rollout_log_probs",
    "advantages",
    "ref_log_probs",
    "distillation_weights",
    "routed_mask",
)


def run(algorithm, values, constants, totals, tokens_per_tile=3):
    """Loss, gradients of head and hidden, metrics."""
    head = constants["head"].clone().requires_grad_()
    hidden = values["hidden"].clone().requires_grad_()
    taught = values["self_distillation_mask"] > 0
    terms = [HiddenTerm(1.0, values["teacher"][taught].flatten(0, 1), Head(constants["teacher_head"]))]
    terms = terms if algorithm.needs_teacher and taught.any() else []
    tokens, states = flat(values), hidden.flatten(0, 1)
    loss, metrics = policy_loss(algorithm, states, Head(head), tokens, TEMPERATURE, terms, totals, tokens_per_tile)
    loss.backward()
    return loss.detach(), head.grad, metrics, hidden.grad


def whole(algorithm):
    values, constants = batch()
    values["teacher"] = constants.pop("teacher")
    values["is_anchor"] = ANCHORS if algorithm.anchored_fraction else 0 * ANCHORS
    return values, constants, run(algorithm, values, constants, totals_of(values))


ALL = {
    "sdpo-topk": ("sdpo", {"self_distillation": SelfDistillationConfig(distillation_topk=3)}),
    "sdpo-full-entropy": (
        "sdpo",
        {"self_distillation": SelfDistillationConfig(distillation_topk=None), "entropy_coeff": 0.1},
    ),
    "sdpo-token": ("sdpo", {"self_distillation": SelfDistillationConfig(credit="token", alpha=1.0)}),
    "sdpo-sequence": ("sdpo", {"self_distillation": SelfDistillationConfig(credit="sequence", alpha=1.0)}),
    "sdpo-mix": ("sdpo", {"self_distillation": SelfDistillationConfig(grpo_lambda=0.9, distillation_topk=2)}),
    "sdpo-anchored": (
        "sdpo",
        {
            "self_distillation": SelfDistillationConfig(grpo_lambda=0.3, distillation_topk=3, teacher_anchor_coef=0.5),
            "entropy_coeff": 0.1,
        },
    ),
    "vanilla": ("vanilla", {"use_kl_loss": True, "entropy_coeff": 0.01}),
    "gspo": ("gspo", {}),
    "cispo": ("cispo", {}),
    "sft": ("sft", {}),
}


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("agg", MODES)
@settings(max_examples=8)
@given(assignment=st.lists(st.integers(0, 2), min_size=B, max_size=B))
def test_any_cut_adds_up_to_the_whole(name, agg, assignment):
    mode, actor = ALL[name]
    algorithm = make(mode, agg, **actor)
    values, constants, (loss, grad, metrics, _) = whole(algorithm)
    parts = []
    for part in range(3):
        rows = [row for row in range(B) if assignment[row] == part]
        parts.append(run(algorithm, {k: v[rows] for k, v in values.items()}, constants, totals_of(values)))
    torch.testing.assert_close(sum(p[0] for p in parts), loss)
    torch.testing.assert_close(sum(p[1] for p in parts), grad)
    assert mean_metrics(add_metrics(p[2] for p in parts)) == pytest.approx(mean_metrics(metrics))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("agg", MODES)
@settings(max_examples=3)
@given(padding=st.integers(1, 3), garbage=st.integers(-5, 5))
def test_padding_changes_nothing(name, agg, padding, garbage):
    mode, actor = ALL[name]
    algorithm = make(mode, agg, **actor)
    values, constants, (loss, grad, metrics, _) = whole(algorithm)

    def pad(key, value):
        if value.ndim == 1:
            return value
        fill = {"response_mask": 0, "response_ids": 0}.get(key, garbage)
        return torch.cat([value, torch.full((B, padding, *value.shape[2:]), fill, dtype=value.dtype)], dim=1)

    padded = run(algorithm, {k: pad(k, v) for k, v in values.items()}, constants, totals_of(values))
    torch.testing.assert_close(padded[0], loss)
    torch.testing.assert_close(padded[1], grad)
    assert mean_metrics(padded[2]) == pytest.approx(mean_metrics(metrics))


@pytest.mark.parametrize("name", ["sdpo-topk", "sdpo-token", "sdpo-sequence"])
@pytest.mark.parametrize("agg", MODES)
def test_no_target_is_exactly_zero(name, agg):
    algorithm = make("sdpo", agg, **ALL[name][1])
    values, constants, _ = whole(algorithm)
    values["self_distillation_mask"] = torch.zeros(B)
    loss, grad, *_ = run(algorithm, values, constants, totals_of(values))
    assert loss.item() == 0.0
    assert grad.abs().max() == 0.0


WEIGHTS = torch.tensor([0.5, 0.0, 0.25, 0.0, 1.0], dtype=torch.float64)[:, None].expand(B, T)
ROUTED = torch.tensor([0.0, 1, 0, 0, 0], dtype=torch.float64)[:, None].expand(B, T)


@pytest.mark.parametrize("share", [0.0, 0.3])
@pytest.mark.parametrize("agg", MODES)
def test_rows_that_weigh_less_and_rows_that_learn_by_grpo_alone(agg, share):
    """Against the sum over rows, each alone in the batch, with its weight put in by hand."""

    def loss_of(rows_distilled, grpo_lambda, **given):
        settings = SelfDistillationConfig(distillation_topk=3, grpo_lambda=grpo_lambda, correct_samples="grpo")
        algorithm = make("sdpo", agg, self_distillation=settings, clip_ratio=1e6, clip_ratio_c=1e6)
        values, constants = batch()
        values |= {"teacher": constants.pop("teacher"), "is_anchor": 0 * ANCHORS, **given}
        totals = totals_of(values)
        if rows_distilled is not None:
            values["self_distillation_mask"] = TAUGHT * (torch.arange(B) == rows_distilled)
        return run(algorithm, values, constants, totals)

    advantages = batch()[0]["advantages"]
    none = torch.zeros(B, T, dtype=torch.float64)
    parts = []
    for row in (0, 2, 4):  # distillation: each taught row alone, without the policy gradient
        parts.append((WEIGHTS[row, 0] * (1 - share), loss_of(row, 0.0, advantages=none)))
    for row in range(B):  # policy gradient: each row alone, without distillation
        alone = advantages * (torch.arange(B) == row)[:, None]
        parts.append((1.0 if row == 1 else share, loss_of(None, 1.0, advantages=alone)))
    found = loss_of(None, share, distillation_weights=WEIGHTS, routed_mask=ROUTED)
    torch.testing.assert_close(found[0], sum(weight * part[0] for weight, part in parts))
    torch.testing.assert_close(found[1], sum(weight * part[1] for weight, part in parts))


@pytest.mark.parametrize("agg", MODES)
def test_empty_micro_batch_is_exactly_zero(agg):
    algorithm = make("sdpo", agg, **ALL["sdpo-mix"][1])
    values, constants, _ = whole(algorithm)
    loss, grad, *_ = run(algorithm, {k: v[:0] for k, v in values.items()}, constants, totals_of(values))
    assert loss.item() == 0.0
    assert grad.abs().max() == 0.0


def test_loss_scale_factor_divides():
    loss = whole(make("sft", "seq-mean-token-sum-norm"))[2][0]
    scaled = whole(make("sft", "seq-mean-token-sum-norm", loss_scale_factor=10.0))[2][0]
    torch.testing.assert_close(scaled * 10, loss * T)


def test_sdpo_is_the_readable_loss():
    config = SelfDistillationConfig(distillation_topk=3, alpha=0.3)
    algorithm = make("sdpo", "seq-mean-token-mean", correction=None, self_distillation=config)
    values, constants, (loss, _, metrics, _) = whole(algorithm)
    s = (values["hidden"] @ constants["head"].T / TEMPERATURE).log_softmax(-1)
    t = (values["teacher"] @ constants["teacher_head"].T / TEMPERATURE).log_softmax(-1)
    ids, top = values["response_ids"][..., None], s.topk(3).indices
    expected, expected_metrics = compute_self_distillation_loss(
        s.gather(-1, ids).squeeze(-1),
        t.gather(-1, ids).squeeze(-1),
        values["response_mask"],
        config,
        values["old_log_probs"],
        student_topk_log_probs=s.gather(-1, top),
        teacher_topk_log_probs=t.gather(-1, top),
        self_distillation_mask=TAUGHT,
        loss_agg_mode="seq-mean-token-mean",
    )
    torch.testing.assert_close(loss, expected)
    means = mean_metrics(metrics)
    assert {name: means[name] for name in expected_metrics} == pytest.approx(expected_metrics)
    taught = (values["response_mask"] * TAUGHT[:, None]) > 0
    diagnostics = {
        "student_entropy": -(s.exp() * s).sum(-1),
        "teacher_entropy": -(t.exp() * t).sum(-1),
        "topk_mass_student": s.gather(-1, top).exp().sum(-1),
        "topk_mass_teacher": t.gather(-1, top).exp().sum(-1),
        "argmax_agreement": (s.argmax(-1) == t.argmax(-1)).double(),
    }
    for name, value in diagnostics.items():
        assert means[f"self_distillation/{name}"] == pytest.approx(value[taught].mean().item()), name
    assert means["self_distillation/target_token_count"] == taught.sum().item()
    assert means["actor/pg_loss"] == pytest.approx(loss.item())


def test_mix_is_a_mean_of_both_losses():
    def loss_of(mode, share):
        config = SelfDistillationConfig(grpo_lambda=share, distillation_topk=3)
        return whole(make(mode, self_distillation=config))[2]

    sdpo, vanilla, mixed = loss_of("sdpo", 0.0), loss_of("vanilla", 0.0), loss_of("sdpo", 0.9)
    torch.testing.assert_close(mixed[0], 0.1 * sdpo[0] + 0.9 * vanilla[0])
    torch.testing.assert_close(mixed[1], 0.1 * sdpo[1] + 0.9 * vanilla[1])
    torch.testing.assert_close(loss_of("sdpo", 1.0)[1], vanilla[1])


@pytest.mark.parametrize(
    ("actor", "teacher", "advantages", "untaught", "old"),
    [
        ({}, True, False, False, True),
        ({"entropy_coeff": 0.1}, True, False, True, True),
        ({"self_distillation": SelfDistillationConfig(grpo_lambda=0.5)}, True, True, True, True),
        ({"self_distillation": SelfDistillationConfig(grpo_lambda=1.0)}, False, True, True, True),
        ({"self_distillation": SelfDistillationConfig(is_clip=None)}, True, False, False, False),
    ],
)
def test_sdpo_says_what_it_needs(actor, teacher, advantages, untaught, old):
    algorithm = make("sdpo", correction=None, **actor)
    assert (algorithm.needs_teacher, algorithm.needs_advantages) == (teacher, advantages)
    assert (algorithm.needs_untaught_rows, algorithm.needs_old_log_probs) == (untaught, old)


def test_sft_is_cross_entropy():
    values, constants, (loss, _, metrics, _) = whole(make("sft"))
    logits = values["hidden"] @ constants["head"].T / TEMPERATURE
    is_response = values["response_mask"] > 0
    expected = torch.nn.functional.cross_entropy(logits[is_response], values["response_ids"][is_response])
    torch.testing.assert_close(loss, expected)
    assert mean_metrics(metrics) == {"train/loss": pytest.approx(expected.item())}


def test_teacher_of_other_rows_is_refused():
    algorithm = make("sdpo")
    values, constants, _ = whole(algorithm)
    terms = [HiddenTerm(1.0, values["teacher"].flatten(0, 1), Head(constants["teacher_head"]))]
    hidden, head = values["hidden"].flatten(0, 1), Head(constants["head"])
    with pytest.raises(ValueError, match=r"have 12 response tokens, but .* 20"):
        policy_loss(algorithm, hidden, head, flat(values), 1.0, terms, totals_of(values))


def test_import_is_light():
    heavy = ["ray", "vllm", "transformers", "hydra", "omegaconf", "pyarrow", "datasets"]
    code = f"import sys, verl.algorithms; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
