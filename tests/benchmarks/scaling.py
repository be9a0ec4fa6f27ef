"""How time and memory of an SDPO update grow with response tokens T, vocabulary V, group size and ranks.

One factor at a time is varied around a base point (2 prompts x 8 responses x 128 tokens, V = 8,192, 1 rank) on a random
Qwen3. Each point is a fresh process: training ranks that update on a tiny batch to warm up (the optimizer's state is
made), then on the batch itself. The alternative is a GRPO update of the same rows, in the next process.

`seconds` is the median of the updates, `extra_bytes` the largest resident memory of a rank during them beyond what it
held before, `tokens` counts student and teacher tokens, common beginnings once. `growth` divides each point's figures
by those of the first point of its factor: with a streamed loss and packed tokens time grows like T, and memory does not
grow like T times V; a shared prompt makes a larger group cheaper per response. Prints JSON.

    python tests/benchmarks/scaling.py --factors response vocabulary
"""

import argparse
import json
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from statistics import median

import report
from sides import Side

HERE = Path(__file__).resolve().parent
FACTORS = {
    "response": [64, 128, 256, 512],
    "vocabulary": [2048, 8192, 32768],
    "group": [2, 8, 16],
    "ranks": [1, 2],
}
TINY = {"prompt": 2, "response": 1, "teacher_prompt": 2}
"""Lengths of the batch that warms up: it makes the optimizer's state, and leaves the allocator nothing to reuse."""
BASE = {"response": 128, "vocabulary": 8192, "group": 8, "ranks": 1}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--factors", nargs="+", choices=list(FACTORS), default=list(FACTORS), help="default: all")
    parser.add_argument("--values", nargs="+", type=int, help="of the factor, when only one is named")
    parser.add_argument("--algorithms", nargs="+", choices=["sdpo", "grpo"], default=["sdpo", "grpo"])
    parser.add_argument("--prompts", type=int, default=2, help="in the batch")
    parser.add_argument("--prompt-tokens", type=int, default=256)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--top-k", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3, help="updates at a point, after one to warm up")
    parser.add_argument("--cores", type=int, default=2, help="cores for all ranks together; 0: all")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="further settings of the trainer")
    parser.add_argument("--quick", action="store_true", help="two small points of the first factor")
    parser.add_argument("--output", type=Path, help="also write the JSON there")
    args = parser.parse_args()
    if args.values and len(args.factors) != 1:
        parser.error(f"--values: name one factor with --factors (given: {', '.join(args.factors)})")
    return args


def main():
    args = arguments()
    report.take_cores(args.cores)
    result = report.header(vars(args))
    base, factors = BASE, {factor: args.values or FACTORS[factor] for factor in args.factors}
    if args.quick:
        base, factor = BASE | {"response": 16, "vocabulary": 512, "group": 2}, args.factors[0]
        factors = {factor: {"response": [16, 32], "vocabulary": [512, 1024]}.get(factor, [1, 2])}
    with tempfile.TemporaryDirectory() as name:
        cache = {}
        for factor, values in factors.items():
            points = []
            for value in values:
                shape = base | {factor: value}
                key = tuple(shape.items())
                cache[key] = cache.get(key) or measure(args, Path(name), shape)
                points.append({factor: value} | cache[key])
                report.say(f"{factor} {value}: done")
            result[factor] = {"points": points, "growth": growth(points, args.algorithms)}
    report.finish(result, args.output)


def measure(args, folder, shape):
    """One point: seconds and memory for each algorithm, each in a fresh process."""
    import workload

    model = folder / f"model-{shape['vocabulary']}"
    if not model.exists():
        workload.random_model(model, shape["vocabulary"], args.hidden, args.layers)
    teacher_prompt = args.prompt_tokens + shape["response"]  # the teacher sees another response besides
    overrides = workload.update_overrides(
        model, args.prompts, shape["group"], args.prompt_tokens, shape["response"], teacher_prompt
    )
    overrides |= {
        "trainer.n_gpus_per_node": shape["ranks"],
        "actor_rollout_ref.actor.self_distillation.distillation_topk": args.top_k,
        **dict(pair.split("=", 1) for pair in args.set),
    }
    point = {}
    for algorithm in args.algorithms:
        rows = {
            "groups": args.prompts,
            "samples": shape["group"],
            "prompt": args.prompt_tokens,
            "response": shape["response"],
            "teacher_prompt": teacher_prompt,
            "taught": float(algorithm == "sdpo"),
            "vocab_size": min(300, shape["vocabulary"]),
            "has_advantages": algorithm == "grpo",
        }
        mode = {} if algorithm == "sdpo" else {"actor_rollout_ref.actor.policy_loss.loss_mode": "vanilla"}
        command = [sys.executable, HERE / "update_side.py", json.dumps(overrides | mode, default=str)]
        with closing(Side(algorithm, [command], folder / f"{algorithm}.log")) as side:
            side.answer()
            side.ask({"rows": rows | TINY, "repeats": 2})
            answer = side.ask({"rows": rows, "repeats": args.repeats})
        counts = workload.count_tokens(workload.batch_rows(**rows))
        point[algorithm] = {
            "seconds": round(median(answer["seconds"]), 4),
            "extra_bytes": max(high - low for high, low in zip(answer["peak"], answer["rss"], strict=True)),
            "tokens": counts["student_packed"] + counts["teacher_packed"],
        }
    return point


def growth(points, algorithms):
    """Each point's figures over the first one's."""
    return {
        algorithm: [
            {
                name: round(point[algorithm][name] / points[0][algorithm][name], 2)
                for name in ("seconds", "extra_bytes", "tokens")
                if points[0][algorithm][name]
            }
            for point in points
        ]
        for algorithm in algorithms
    }


if __name__ == "__main__":
    main()
