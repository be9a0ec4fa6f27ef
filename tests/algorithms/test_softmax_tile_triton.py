"""The kernels against the torch functions: on a GPU, and without one in Triton's interpreter, in a process of its own.

The interpreter runs what a kernel says, not what becomes of it; that every kernel can be compiled is a test as well.
"""

import itertools
import os
import subprocess
import sys

import pytest
import torch

from verl.algorithms import softmax_tile
from verl.algorithms.base import ResponseTokens
from verl.algorithms.head import Head, HiddenTerm
from verl.algorithms.projection import policy_loss
from verl.algorithms.softmax_tile import Reading
from verl.config import ActorConfig, PolicyLossConfig, SelfDistillationConfig
from verl.config.root import AlgorithmConfig
from verl.protocol import MaskTotals, Totals
from verl.registry import ALGORITHMS

pytest.importorskip("triton", reason="comes with torch for GPUs; elsewhere: pip install --no-deps triton==3.7.1")
IS_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if IS_INTERPRETED else "cuda"
on_device = pytest.mark.filterwarnings("default") if IS_INTERPRETED else pytest.mark.gpu

SHAPES = [(1, 1, 0), (3, 2, 1), (5, 97, 3), (2, 2048, 0), (1, 2500, 8), (3, 4112, 16)]
"""Rows, vocabulary (below, at and above a block of the kernels), and numbers between the rows that no one may touch."""
if not IS_INTERPRETED:
    SHAPES += [(300, 151_936, 0), (300, 50_257, 0)]
LOGITS = {
    "usual": lambda x: 3 * x,
    "rising": lambda x: x + torch.linspace(0, 9, x.shape[1], device=x.device),
    "large": lambda x: 1000 * x + 10_000,
    "ties": lambda x: x.round(),
    "sure": lambda x: x.index_fill(1, torch.tensor([x.shape[1] // 2], device=x.device), 200.0),
    "forbidden": lambda x: x.masked_fill(torch.arange(x.shape[1], device=x.device) % 3 == 1, float("-inf")),
    "same": torch.zeros_like,
}


@pytest.fixture
def kernels():
    return pytest.importorskip("verl.algorithms.softmax_tile_triton")


def tile(shape, kind="usual", seed=0):
    n, size, gap = shape
    generator = torch.Generator().manual_seed(seed)
    wide = torch.randn(n, size + gap, generator=generator).to(DEVICE)
    wide[:, :size] = LOGITS[kind](wide[:, :size].clone())
    return wide[:, :size]


def per_row(n, seed):
    return torch.randn(n, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def in_double(function, *arguments):
    """What the torch function makes of the same numbers in float64 on the CPU, and of its tensors in place."""

    def exact(value):
        if isinstance(value, Reading):
            return Reading(*map(exact, vars(value).values()))
        return value.cpu().double().clone() if isinstance(value, torch.Tensor) else value

    copies = [exact(argument) for argument in arguments]
    return function(*copies), copies


def same(actual, expected, rtol=2e-5, least=1e-30):
    """Each number within a share of itself, and small ones within a tenth of that share of the largest, or `least`."""
    largest = expected.masked_fill(~expected.isfinite(), 0.0).abs().max().item()
    atol = max(0.1 * rtol * largest, least)
    torch.testing.assert_close(actual.cpu().double(), expected, rtol=rtol, atol=atol, equal_nan=True)


def reading(logits):
    """What is to be read from logits, by the definitions, in float64; then float32."""
    exact = logits.double()
    p, largest = exact.softmax(1), exact.amax(1)
    found = (largest, (exact - largest[:, None]).logsumexp(1), -torch.xlogy(p, p).sum(1))
    return Reading(*(value.float() for value in found))


@on_device
@pytest.mark.parametrize("kind", LOGITS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_read(kernels, shape, kind):
    logits = tile(shape, kind)
    before = logits.clone()
    largest, log_total, entropy = kernels.read(logits, True)
    expected = reading(logits)
    assert torch.equal(largest, expected.largest)
    for actual, exact in ((log_total, expected.log_total), (entropy, expected.entropy)):
        same(actual, exact.cpu().double(), least=1e-6)  # float32 cannot tell 1 from 1 - 1e-8
    assert torch.equal(logits, before)
    assert kernels.read(logits, False)[2] is None


@on_device
def test_not_a_number_is_not_hidden(kernels):
    logits = tile((3, 2500, 0))
    logits[1, 2400] = float("nan")
    _, log_total, entropy = kernels.read(logits, True)
    assert log_total.isnan().tolist() == entropy.isnan().tolist() == [False, True, False]


@on_device
@pytest.mark.parametrize("kind", LOGITS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("k", [1, 5, 100])
def test_top_k(kernels, shape, kind, k, monkeypatch):
    monkeypatch.setattr(softmax_tile, "_kernels", lambda *_: kernels)
    logits = tile(shape, kind)
    k = min(k, shape[1])
    ids = softmax_tile.top_k(logits, k)
    assert torch.equal(logits.gather(1, ids).sort(dim=1, descending=True).values, logits.topk(k).values)
    assert all(len(set(row)) == k for row in ids.tolist())
    for width in {1, 8, 32} if shape[1] >= 32 else {1}:
        blocks = logits[:, : shape[1] // width * width].unflatten(1, (-1, width))
        assert torch.equal(kernels.block_maxima(logits, width), blocks.amax(2))


@on_device
@pytest.mark.parametrize("kinds", [("usual", "usual"), ("large", "large"), ("sure", "usual"), ("usual", "sure")])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("alpha", "normalize"), [(0.0, True), (1.0, False), (0.5, False), (0.3, True)])
def test_compare(kernels, shape, kinds, alpha, normalize):
    student, teacher = tile(shape, kinds[0]), tile((*shape[:2], shape[2] + 4), kinds[1], seed=1)
    arguments = (student, teacher, reading(student), reading(teacher), alpha, normalize)
    expected, (p, u, *_) = in_double(softmax_tile.compare_, *arguments)
    found = kernels.compare_(*arguments)
    for actual, exact in zip((*found, student, teacher), (*expected, p, u), strict=True):
        same(actual, exact, rtol=1e-4)


@on_device
def test_no_divergence_of_a_model_from_itself(kernels):
    student = tile((3, 2500, 0))
    seen = reading(student)
    distance, _ = kernels.compare_(student, student.clone(), seen, seen, 0.5, True)
    assert (distance.abs() < 1e-6).all()


@on_device
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("with_entropy", [True, False])
def test_gradients(kernels, shape, with_entropy):
    n = shape[0]
    share, grad = per_row(n, 2), per_row(1, 3).expand(n)  # a sum's gradient is one number for all
    logits = tile(shape)
    seen, entropy_grad = reading(logits), per_row(n, 4) if with_entropy else None
    p, u = tile(shape), tile((*shape[:2], shape[2] + 4), seed=5)
    p.copy_(p.softmax(1))
    p[:, shape[1] // 2] = 0.0
    u.mul_(p)

    expected, _ = in_double(softmax_tile.softmax_gradient_, logits, seen, share, entropy_grad)
    same(kernels.softmax_gradient_(logits, seen, share, entropy_grad), expected)
    same(logits, expected)

    expected, (_, u_before, *_) = in_double(softmax_tile.divergence_gradient_, p, u, seen, share, grad, entropy_grad)
    same(kernels.divergence_gradient_(p, u, seen, share, grad, entropy_grad), expected)
    same(p, expected)
    assert torch.equal(u.cpu().double(), u_before)


@on_device
def test_nothing_between_the_rows_is_touched(kernels):
    wide = torch.full((4, 5003), 7.0, device=DEVICE)
    other = wide.clone()
    seen, ones = reading(wide[:, :5000]), torch.ones(4, device=DEVICE)
    kernels.compare_(wide[:, :5000], other[:, :5000], seen, seen, 0.5, False)
    kernels.divergence_gradient_(wide[:, :5000], other[:, :5000], seen, ones, ones)
    kernels.softmax_gradient_(other[:, :5000], seen, ones)
    assert (wide[:, 5000:] == 7.0).all() and (other[:, 5000:] == 7.0).all()


TOPK = SelfDistillationConfig(distillation_topk=20)
LOSSES = {
    "top-k": ActorConfig(policy_loss=PolicyLossConfig("sdpo"), self_distillation=TOPK),
    "whole": ActorConfig(
        policy_loss=PolicyLossConfig("sdpo"),
        self_distillation=SelfDistillationConfig(distillation_topk=None),
        entropy_coeff=0.1,
    ),
    "vanilla": ActorConfig(policy_loss=PolicyLossConfig("vanilla"), entropy_coeff=0.01),
}
LENGTHS, HIDDEN, VOCAB = (40, 13, 27), 64, 5003


def loss_and_gradients(config, dtype, device):
    """A micro-batch of numbers that bfloat16 holds exactly, in some type on some device."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator).bfloat16().to(device)

    num, taught = sum(LENGTHS), LENGTHS[0] + LENGTHS[2]
    hidden, weight = normal(num, HIDDEN).to(dtype).requires_grad_(), (0.4 * normal(VOCAB, HIDDEN)).to(dtype)
    weight.requires_grad_()
    tokens = ResponseTokens(
        ids=torch.randint(VOCAB, (num,), generator=generator).to(device),
        mask=torch.ones(num, device=device),
        lengths=LENGTHS,
        is_taught=(True, False, True),
        old_log_probs=-10 * normal(num).float().abs(),
        rollout_log_probs=-10 * normal(num).float().abs(),
        advantages=normal(num).float(),
    )
    teacher = HiddenTerm(1.0, normal(taught, HIDDEN).to(dtype), Head((0.4 * normal(VOCAB, HIDDEN)).to(dtype)))
    algorithm = ALGORITHMS.load(config.policy_loss.loss_mode)(config, AlgorithmConfig())
    totals = Totals(MaskTotals(num, 3), MaskTotals(taught, 2), max(LENGTHS))
    terms = [teacher] if algorithm.needs_teacher else []
    loss, _ = policy_loss(algorithm, hidden, Head(weight), tokens, 0.8, terms, totals, tokens_per_tile=32)
    loss.backward()
    return [value.detach().float().cpu() for value in (loss, hidden.grad, weight.grad)]


@on_device
@pytest.mark.parametrize("name", LOSSES)
def test_loss_and_gradients_in_bfloat16(kernels, name, monkeypatch):
    """Hidden states and head go to the products as they are; what is rounded is only the gradient, to 8 bits."""
    expected = loss_and_gradients(LOSSES[name], torch.float32, "cpu")
    monkeypatch.setattr(softmax_tile, "_kernels", lambda *_: kernels)
    found = loss_and_gradients(LOSSES[name], torch.float32 if IS_INTERPRETED else torch.bfloat16, DEVICE)
    torch.testing.assert_close(found[0], expected[0], rtol=1e-4, atol=1e-6)
    for actual, exact in zip(found[1:], expected[1:], strict=True):
        assert (actual - exact).norm() <= (1e-5 if IS_INTERPRETED else 1e-2) * exact.norm()


@pytest.mark.gpu
def test_a_gpu_takes_the_kernels(kernels):
    logits = torch.zeros(2, 8, device="cuda")
    assert softmax_tile._kernels(logits) is kernels
    assert softmax_tile._kernels(logits.double()) is softmax_tile._kernels(logits.T) is None


CAPABILITIES = {80: "A100", 90: "H100, H200"}


@pytest.mark.skipif(IS_INTERPRETED, reason="compiled, not interpreted")
@pytest.mark.parametrize("capability", CAPABILITIES)
def test_every_kernel_compiles(kernels, capability):
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    def type_of(parameter):
        return "constexpr" if parameter.is_constexpr else parameter.annotation_type or "*fp32"

    for kernel in (kernels._read, kernels._block_maxima, kernels._compare, kernels._gradient):
        types = {parameter.name: type_of(parameter) for parameter in kernel.params}
        sizes = {name: value for name, value in (("BLOCK", kernels._BLOCK), ("WIDTH", 32)) if name in types}
        flags = [name for name in types if types[name] == "constexpr" and name not in sizes]
        for values in itertools.product([True, False], repeat=len(flags)):
            source = ASTSource(kernel, types, sizes | dict(zip(flags, values, strict=True)))
            built = compile(source, GPUTarget("cuda", capability, 32), {"num_warps": kernels._NUM_WARPS})
            assert f"sm_{capability}" in built.asm["ptx"]


@pytest.mark.skipif(IS_INTERPRETED, reason="this is the process that it starts")
def test_kernels_in_the_interpreter():
    command = [sys.executable, "-m", "pytest", "-q", "-m", "not gpu", "-p", "no:cacheprovider", __file__]
    done = subprocess.run(command, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
