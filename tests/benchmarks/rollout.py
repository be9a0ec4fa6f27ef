"""Generated tokens per second of the rollout pool, by batch size and response length: vLLM, `hf`, and transformers.

The pool is the trainer's own: engines in Ray workers, weights published to them by the training ranks, responses
streamed to the driver as they end. The alternative is `generate` of transformers in one process with a thread for each
core, the whole batch at once. The model is the embedded one, which never stops by itself here: all responses of a point
have the same length, or, in the points named `mixed`, lengths spread evenly over 1 ... that length; there
`half_of_responses_seconds` says when half of the responses could be scored, which is what streaming is for.

Sides stay loaded and take turns; figures are medians over all rounds but the first. Prints JSON.

    python tests/benchmarks/rollout.py --batches 64 256 --responses 32 128
"""

import argparse
import json
import os
import sys
import tempfile
from contextlib import ExitStack, closing
from pathlib import Path
from statistics import median

import report
from sides import Side

HERE = Path(__file__).resolve().parent
SAMPLES = 8


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", nargs="+", choices=["vllm", "hf", "transformers"], help="default: all",
                        default=["vllm", "hf", "transformers"])  # fmt: skip
    parser.add_argument("--batches", nargs="+", type=int, default=[64, 256], help="responses, 8 to each prompt")
    parser.add_argument("--responses", nargs="+", type=int, default=[32, 128], help="tokens")
    parser.add_argument("--rounds", type=int, default=4, help="the first warms up")
    parser.add_argument("--cores", type=int, default=2, help="cores for each side; 0: all")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="further settings of the pools")
    parser.add_argument("--quick", action="store_true", help="2 rounds of one small batch")
    parser.add_argument("--output", type=Path, help="also write the JSON there")
    args = parser.parse_args()
    if args.quick:
        args.rounds, args.batches, args.responses = 2, [16], [8]
    if args.rounds < 2:
        parser.error(f"--rounds {args.rounds}: the first round only warms up; at least 2 are needed")
    if wrong := [batch for batch in args.batches if batch % SAMPLES]:
        parser.error(f"--batches {wrong[0]}: must be a multiple of {SAMPLES}, the responses to one prompt")
    return args


def main():
    args = arguments()
    report.take_cores(args.cores)
    result = report.header(vars(args))
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        sides = {name: stack.enter_context(closing(side)) for name, side in start(args, Path(name)).items()}
        for side in sides.values():
            side.answer()
        result["points"] = [
            measure(args, sides, batch, response, is_mixed)
            for batch in args.batches
            for response in args.responses
            for is_mixed in (False, True)
        ]
    report.finish(result, args.output)


def start(args, folder):
    import workload

    model, data = workload.endless_model(folder / "endless"), workload.task_data(folder / "data")
    sides = {}
    for name in args.sides:
        if name == "transformers":
            messages = [question.messages for question in workload.training_questions()[: max(args.batches) // SAMPLES]]
            work = {"model": str(model), "messages": messages, "threads": len(os.sched_getaffinity(0))}
            command = [sys.executable, HERE / "transformers_side.py", json.dumps(work)]
        else:
            overrides = workload.step_overrides(model, data, 8, SAMPLES, max(args.responses), 100, 0.5, name)
            overrides |= {
                "trainer.n_gpus_per_node": 1,
                "actor_rollout_ref.rollout.max_num_seqs": max(args.batches),
                "actor_rollout_ref.rollout.engine_kwargs.hf": f"{{batch_size: {max(args.batches)}}}",
            }
            overrides |= dict(pair.split("=", 1) for pair in args.set)
            command = [sys.executable, HERE / "trainer_side.py", json.dumps(overrides, default=str)]
        sides[name] = Side(name, [command], folder / f"{name}.log")
    return sides


def measure(args, sides, batch, response, is_mixed):
    """One point of the table: medians over rounds, and each side's rate over transformers'."""
    question = {"batch": batch, "samples": SAMPLES, "response": response, "is_mixed": is_mixed}
    rounds = []
    for number in range(args.rounds):
        names = list(sides)[number % 2 :] + list(sides)[: number % 2]
        rounds.append({name: sides[name].ask({"generate": question | {"seed": number}}) for name in names})
    point = {"batch": batch, "response": response, "lengths": "mixed" if is_mixed else "equal"}
    for name in sides:
        answers = [answers[name] for answers in rounds[1:]]
        point[name] = {
            "tokens_per_second": round(median(a["tokens"] / a["seconds"] for a in answers), 1),
            "seconds": round(median(a["seconds"] for a in answers), 4),
            "half_of_responses_seconds": round(median(a["half_of_responses"] for a in answers), 4),
        }
    if "transformers" in sides:
        for name in sides.keys() - {"transformers"}:
            ratios = [answers["transformers"]["seconds"] / answers[name]["seconds"] for answers in rounds[1:]]
            point[f"{name}_over_transformers"] = round(median(ratios), 3)
    report.say(f"batch {batch}, {point['lengths']} lengths of {response}: done")
    return point


if __name__ == "__main__":
    main()
