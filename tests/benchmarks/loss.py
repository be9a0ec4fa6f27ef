"""Time and memory of the SDPO loss, forward and backward to hidden states and head: streamed against materialised.

Ways, each in a process of its own, which all run in turns so that other load on the machine meets all of them:

    materialised-topk   the yardstick: whole logits of both models, log-sum-exp, top-k, the readable loss, autograd
    compiled-topk       the same under torch.compile (needs a C++ compiler)
    checkpointed-topk   the same in chunks of 128 tokens, recomputed in the backward (torch.utils.checkpoint)
    streamed-topk       what the trainer runs: verl.algorithms.projection.policy_loss, with all of its diagnostics
    materialised-full   whole logits, divergence over the whole vocabulary
    streamed-full       the same by policy_loss
    liger-full          Liger's fused linear JSD (a GPU, and liger-kernel installed)
    products            the four matrix products that nothing exact can avoid: a floor

`time` and `memory` are relative to materialised-topk (those of the full ways also to materialised-full); memory is the
peak beyond inputs and gradients. On a CPU it is resident memory, on a GPU what torch allocated. Prints JSON.

    python tests/benchmarks/loss.py
    python tests/benchmarks/loss.py --shapes 1024x256x32000 --ways streamed-topk --tiles 64 128 256 512
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import report
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.checkpoint import checkpoint

from verl.algorithms import compute_self_distillation_loss
from verl.algorithms.base import ResponseTokens
from verl.algorithms.head import Head, HiddenTerm, product
from verl.algorithms.projection import policy_loss
from verl.config import ActorConfig, PolicyLossConfig, SelfDistillationConfig
from verl.config.root import AlgorithmConfig
from verl.protocol import MaskTotals, Totals
from verl.registry import ALGORITHMS

CPU_SHAPES = ["256x256x151936", "1024x256x32000", "2048x128x8192"]
GPU_SHAPES = ["8192x4096x151936"]
WAYS = [
    "materialised-topk",
    "compiled-topk",
    "checkpointed-topk",
    "streamed-topk",
    "materialised-full",
    "streamed-full",
    "liger-full",
    "products",
]
CHUNK = 128
ALPHA = 0.5


class Case:
    """Inputs of one shape, and every way to compute the loss from them."""

    def __init__(self, tokens, hidden, vocabulary, topk, device, dtype, tile):
        g = torch.Generator().manual_seed(0)
        self.tokens, self.topk, self.tile, self.device = tokens, topk, tile, device
        states = torch.randn(tokens, hidden, generator=g)
        weight = torch.randn(vocabulary, hidden, generator=g) * 2 / hidden**0.5
        self.teacher_hidden = (states + 0.3 * torch.randn(tokens, hidden, generator=g)).to(device, dtype)
        self.teacher_weight = weight.clone().to(device, dtype)
        self.hidden = states.to(device, dtype).requires_grad_()
        self.weight = weight.to(device, dtype).requires_grad_()
        self.ids = torch.randint(vocabulary, (tokens,), generator=g).to(device)

    @property
    def gradient_bytes(self):
        return self.hidden.nbytes + self.weight.nbytes

    def run(self, way):
        """Loss, and gradients of hidden states and head in their `grad`."""
        self.hidden.grad = self.weight.grad = None
        kind, _, support = way.partition("-")
        if kind == "products":
            return self.products()
        topk = self.topk if support == "topk" else None
        loss = getattr(self, kind)(topk)
        loss.backward()
        return loss.detach()

    def materialised(self, topk):
        return plain_loss(self.hidden, self.weight, self.teacher_hidden, self.teacher_weight, self.ids, topk)

    def compiled(self, topk):
        fn = torch.compile(plain_loss, dynamic=False)
        return fn(self.hidden, self.weight, self.teacher_hidden, self.teacher_weight, self.ids, topk)

    def checkpointed(self, topk):
        total = torch.zeros((), device=self.device)
        for start in range(0, self.tokens, CHUNK):
            part = slice(start, start + CHUNK)
            loss = checkpoint(
                plain_loss,
                *(self.hidden[part], self.weight, self.teacher_hidden[part], self.teacher_weight, self.ids[part], topk),
                use_reentrant=False,
            )
            total = total + loss * len(self.ids[part]) / self.tokens
        return total

    def streamed(self, topk):
        settings = SelfDistillationConfig(alpha=ALPHA, distillation_topk=topk, is_clip=None)
        actor = ActorConfig(policy_loss=PolicyLossConfig("sdpo"), self_distillation=settings)
        counted = MaskTotals(self.tokens, 1)
        return policy_loss(
            ALGORITHMS.load("sdpo")(actor, AlgorithmConfig()),
            self.hidden,
            Head(self.weight),
            ResponseTokens(self.ids, torch.ones(self.tokens, device=self.device), (self.tokens,), (True,)),
            1.0,
            [HiddenTerm(1.0, self.teacher_hidden, Head(self.teacher_weight))],
            Totals(counted, counted, self.tokens),
            self.tile,
        )[0]

    def liger(self, topk):
        del topk
        from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

        # With one label to be ignored and no hard loss only the divergence is left; beta weighs the teacher.
        fused = LigerFusedLinearJSDLoss(weight_hard_loss=0.0, weight_soft_loss=1.0, beta=ALPHA, compiled=False)
        return fused(self.hidden, self.weight, self.teacher_hidden, self.teacher_weight, self.ids)

    @torch.no_grad()
    def products(self):
        """Tile by tile into one buffer, as the streamed loss does."""
        size = self.tile or 256
        dtype = torch.promote_types(self.weight.dtype, torch.float32)
        buffer = torch.empty(size, len(self.weight), dtype=dtype, device=self.device)
        by_weight = torch.zeros_like(self.weight)
        by_hidden = torch.empty_like(self.hidden)
        for start in range(0, self.tokens, size):
            part = slice(start, start + size)
            out = buffer[: len(self.hidden[part])]
            product(self.teacher_hidden[part], self.teacher_weight.T, out)
            product(self.hidden[part], self.weight.T, out)
            change = out.to(self.weight.dtype)
            by_hidden[part] = change @ self.weight
            by_weight.addmm_(change.T, self.hidden[part])
        return by_weight[0, 0]


def plain_loss(hidden, weight, teacher_hidden, teacher_weight, ids, topk):
    """The formulation with whole logits: float32 logits, log-sum-exp, gathered log-probs, the readable loss."""
    dtype = torch.promote_types(hidden.dtype, torch.float32)
    student = (hidden @ weight.T).to(dtype)
    with torch.no_grad():
        teacher = (teacher_hidden @ teacher_weight.T).to(dtype)
    parts = {}
    log_z, teacher_log_z = student.logsumexp(-1, keepdim=True), teacher.logsumexp(-1, keepdim=True)
    if topk is None:
        parts = {"student_all_log_probs": student - log_z, "teacher_all_log_probs": teacher - teacher_log_z}
    else:
        best = student.topk(topk, dim=-1)
        parts = {
            "student_topk_log_probs": best.values - log_z,
            "teacher_topk_log_probs": teacher.gather(-1, best.indices) - teacher_log_z,
        }
    sampled, taught = (x.gather(-1, ids[:, None]) - z for x, z in ((student, log_z), (teacher, teacher_log_z)))
    settings = SelfDistillationConfig(alpha=ALPHA, distillation_topk=topk, is_clip=None)
    return compute_self_distillation_loss(
        sampled.T, taught.T, torch.ones_like(sampled.T), settings, **{name: x[None] for name, x in parts.items()}
    )[0]


def side(args):
    """One way in this process: runs it when a line comes in, answers with a line of JSON."""
    torch.set_num_threads(args.threads)
    tokens, hidden, vocabulary = map(int, args.shapes[0].split("x"))
    way, _, tile = args.side.partition("@")
    device, dtype = torch.device(args.device), getattr(torch, args.dtype)
    case = Case(tokens, hidden, vocabulary, args.top_k, device, dtype, int(tile) if tile else None)
    loss = case.run(way).item()  # warms up: code is loaded, compiled, and the allocator has what it keeps
    print(json.dumps({"loss": loss}), flush=True)
    for line in sys.stdin:
        if line.strip() == "profile":
            with profile(activities=[ProfilerActivity.CPU]) as seen:
                case.run(way)
            events = sorted(seen.key_averages(), key=lambda event: -event.self_cpu_time_total)
            total = sum(event.self_cpu_time_total for event in events)
            shares = {event.key: round(event.self_cpu_time_total / total, 3) for event in events[:12]}
            print(json.dumps(shares), flush=True)
            continue
        case.hidden.grad = case.weight.grad = None
        before = start_memory(device)
        start = time.perf_counter()
        case.run(way)
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
        kept = 0 if way == "products" else case.gradient_bytes
        answer = {"seconds": seconds, "bytes": max(0, peak_memory(device) - before - kept)}
        print(json.dumps(answer), flush=True)


def start_memory(device):
    """Bytes in use; the peak is counted from here."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    Path("/proc/self/clear_refs").write_text("5")
    return resident("VmRSS")


def peak_memory(device):
    """Largest number of bytes since `start_memory`."""
    return torch.cuda.max_memory_allocated() if device.type == "cuda" else resident("VmHWM")


def resident(name):
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {name}")


class Process:
    """A side: a way (with @tile, if given) at a shape."""

    def __init__(self, way, shape, args):
        options = ["--threads", args.threads, "--top-k", args.top_k, "--device", args.device, "--dtype", args.dtype]
        command = [sys.executable, __file__, "--side", way, "--shapes", shape, *map(str, options)]
        # Freed blocks go back to the system at once, so that the peak is that of the computation.
        env = os.environ | {"MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_MMAP_THRESHOLD_": "65536"}
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
        self.rounds = []
        self.loss = self._answer()["loss"]

    def _answer(self):
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"error: a side ended with exit code {self.process.wait()}; its message is above")
        return json.loads(line)

    def ask(self, line="run"):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self._answer()

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def measure(shape, args):
    ways = [way for way in args.ways if "@" not in way]
    ways += [f"{way}@{tile}" for way in args.ways if way.startswith("streamed") for tile in args.tiles]
    sides = {}
    try:
        for way in ways:
            report.say(f"{shape} {way}")
            sides[way] = Process(way, shape, args)
        for number in range(args.rounds):
            report.say(f"{shape} round {number + 1} of {args.rounds}")
            for process in sides.values():
                process.rounds.append(process.ask())
        profiles = {way: sides[way].ask("profile") for way in ways if args.profile and way.startswith("streamed")}
    finally:
        for process in sides.values():
            process.close()
    found = {
        way: {
            "loss": process.loss,
            "seconds": median(one["seconds"] for one in process.rounds),
            "bytes": median(one["bytes"] for one in process.rounds),
        }
        for way, process in sides.items()
    }
    for base in ("materialised-topk", "materialised-full"):
        if base not in found:
            continue
        suffix = "" if base == "materialised-topk" else "_of_full"
        for way, values in found.items():
            if suffix and not way.split("@")[0].endswith("-full"):
                continue
            values[f"time{suffix}"] = round(values["seconds"] / found[base]["seconds"], 3)
            if not way.startswith("products"):
                values[f"memory{suffix}"] = round(values["bytes"] / max(found[base]["bytes"], 1), 3)
    return found | ({"profile": profiles} if profiles else {})


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", metavar="TxHxV", help=f"default: {' '.join(CPU_SHAPES)} (CPU)")
    parser.add_argument("--ways", nargs="+", choices=WAYS, help="default: all that this machine can run")
    parser.add_argument("--tiles", nargs="*", type=int, default=[], help="also the streamed ways with these tiles")
    parser.add_argument("--top-k", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], help="default: bfloat16 on a GPU, else float32")
    parser.add_argument("--profile", action="store_true", help="add where the streamed ways spend their time")
    parser.add_argument("--quick", action="store_true", help="one small shape, two rounds, without torch.compile")
    parser.add_argument("--output", type=Path, help="also write the JSON there")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.dtype = args.dtype or ("bfloat16" if args.device == "cuda" else "float32")
    args.shapes = args.shapes or (GPU_SHAPES if args.device == "cuda" else CPU_SHAPES)
    has_liger = args.device == "cuda" and importlib.util.find_spec("liger_kernel") is not None
    args.ways = args.ways or [way for way in WAYS if way != "liger-full" or has_liger]
    if args.quick:
        args.shapes, args.rounds, args.top_k = ["192x32x2000"], 2, 20
        args.ways = [way for way in args.ways if way != "compiled-topk"]
    return args


def main():
    args = arguments()
    if args.side:
        side(args)
        return
    settings = {name: value for name, value in vars(args).items() if name not in ("output", "side")}
    found = {shape: measure(shape, args) for shape in args.shapes}
    report.finish(report.header(settings) | {"results": found}, args.output)


if __name__ == "__main__":
    main()
