"""What a training step costs, phase by phase: SDPO, GRPO and TRL's SDPOTrainer; and what an update alone costs.

Part `step`: whole steps (generation, reward, reprompt, update, weight sync) of the real trainer: Ray, two FSDP2 ranks
over gloo, a rollout engine, reward workers. Work of a step: 8 prompts x 8 responses x 32 tokens on the embedded model,
K = 100 with the tail, alpha 0.5, one optimizer step, EMA teacher; responses have the same fixed length on all sides,
and about half of them succeed. With `--trl-python`, TRL does the same work on the same cores, as one process with a
thread for each core and as one process for each core, and the better one counts.

Part `update`: the update alone, by two FSDP2 ranks, on one batch that all sides share: SDPO with all responses taught,
with half of them, and GRPO. With L tokens, all taught must stay below 1.15 (3 L_student + L_teacher) / (3 L_student) of
GRPO's time (a backward pass costs two forward passes), half taught below GRPO's. L counts packed tokens, common
beginnings of rows once; the wider bound for rows that share nothing is printed beside it.

All sides stay loaded and take turns; figures are medians over all steps but the first round's, ratios are medians over
rounds. Prints JSON.

    python tests/benchmarks/step.py --trl-python ~/trl/bin/python
    python tests/benchmarks/step.py --shape quickstart --engine hf --part step
"""

import argparse
import json
import os
import socket
import sys
import tempfile
from collections import Counter
from contextlib import ExitStack, closing
from pathlib import Path
from statistics import median

import report
from sides import Side

HERE = Path(__file__).resolve().parent
OURS = ("sdpo", "grpo")
TRL = ("trl_threads", "trl_processes")
UPDATES = {"sdpo_all_taught": ("sdpo", 1.0), "sdpo_half_taught": ("sdpo", 0.5), "grpo": ("grpo", 0.0)}
GRPO = {"actor_rollout_ref.actor.policy_loss.loss_mode": "vanilla"}
MARGIN = 1.15


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=["step", "update", "both"], default="both")
    parser.add_argument("--side", choices=["ours", "sdpo", "trl", "all"], default="all", help="of part step")
    parser.add_argument("--engine", choices=["vllm", "hf"], default="vllm", help="that writes our responses")
    parser.add_argument("--trl-python", type=Path, help="a Python that has trl 1.16; without it TRL is left out")
    parser.add_argument("--shape", choices=["fixed", "quickstart"], default="fixed", help="quickstart: its own work,"
                        " rewards and lengths, without TRL (which cannot make its feedback)")  # fmt: skip
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--samples", type=int, default=8, help="responses for each prompt")
    parser.add_argument("--response", type=int, default=32, help="tokens")
    parser.add_argument("--top-k", type=int, default=100)
    parser.add_argument("--alpha", type=float, default=0.5)
    parser.add_argument("--rounds", type=int, default=6, help="the first warms up")
    parser.add_argument("--steps", type=int, default=5, help="of each side in a round")
    update = parser.add_argument_group("part update")
    update.add_argument("--model", choices=["random", "embedded"], default="random", help="of part update")
    update.add_argument("--hidden", type=int, default=512, help="size of the random model")
    update.add_argument("--layers", type=int, default=8, help="of the random model")
    update.add_argument("--vocab", type=int, default=4096, help="of the random model")
    update.add_argument("--prompt-tokens", type=int, default=32)
    update.add_argument("--response-tokens", type=int, default=64)
    update.add_argument("--teacher-prompt-tokens", type=int, default=112)
    parser.add_argument("--ranks", type=int, default=2, help="FSDP2 ranks of ours")
    parser.add_argument("--cores", type=int, default=2, help="cores for each side; 0: all")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="further settings of ours")
    parser.add_argument("--quick", action="store_true", help="2 rounds of 2 steps, small batches")
    parser.add_argument("--output", type=Path, help="also write the JSON there")
    args = parser.parse_args()
    if args.quick:
        args.rounds, args.steps, args.prompts, args.samples, args.response = 2, 2, 2, 4, 8
        args.hidden, args.layers, args.response_tokens = 64, 2, 16
    if args.rounds < 2:
        parser.error(f"--rounds {args.rounds}: the first round only warms up; at least 2 are needed")
    return args


def main():
    args = arguments()
    report.take_cores(args.cores)
    result = report.header(vars(args))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if args.part in ("step", "both"):
            result["step"] = measure_steps(args, folder)
        if args.part in ("update", "both"):
            result["update"] = measure_updates(args, folder)
    report.finish(result, args.output)


# Part step


def measure_steps(args, folder):
    with ExitStack() as stack:
        sides = {
            name: stack.enter_context(closing(side)) for name, side in step_sides(args, folder).items()
        }  # all start at once
        started = {name: side.answer() for name, side in sides.items()}
        rounds = take_turns(sides, {name: {"steps": args.steps} for name in sides}, args.rounds)
    found = {name: started[name] | summarize_steps([r[name]["steps"] for r in rounds[1:]]) for name in sides}
    rates = {name: [tokens_per_second(r[name]["steps"]) for r in rounds[1:]] for name in sides}
    ratios = {}
    if trl := [name for name in TRL if name in found]:
        best = max(trl, key=lambda name: found[name]["tokens_per_second"])
        ratios["trl_better_of_two"] = best
        if "sdpo" in rates:
            ratios["sdpo_over_trl_tokens_per_second"] = ratio(rates["sdpo"], rates[best])
    if set(OURS) <= rates.keys():
        ratios["sdpo_over_grpo_step_seconds"] = ratio(rates["grpo"], rates["sdpo"])
        ratios["sdpo_over_grpo_bound"] = MARGIN
    return {"sides": found, "ratios": ratios}


def step_sides(args, folder):
    """Start everything that part `step` compares."""
    import workload

    model, data = workload.endless_model(folder / "endless"), workload.task_data(folder / "data")
    if args.shape == "fixed":
        overrides = workload.step_overrides(
            model, data, args.prompts, args.samples, args.response, args.top_k, args.alpha, args.engine
        )
    else:
        overrides = {"vars.data": data, "actor_rollout_ref.rollout.name": args.engine}
    overrides |= {"trainer.n_gpus_per_node": args.ranks} | dict(pair.split("=", 1) for pair in args.set)
    chosen = {"ours": OURS, "sdpo": OURS[:1], "trl": (), "all": OURS}[args.side]
    sides = {}
    for name in chosen:
        text = json.dumps(overrides | (GRPO if name == "grpo" else {}), default=str)
        sides[name] = Side(name, [[sys.executable, HERE / "trainer_side.py", text]], folder / f"{name}.log")
    if args.trl_python and args.shape == "fixed" and args.side in ("trl", "all"):
        sides |= trl_sides(args, folder, model, overrides)
    if not sides:
        sys.exit("error: nothing to measure: --side trl needs --trl-python and --shape fixed")
    return sides


def trl_sides(args, folder, model, overrides):
    import workload

    settings = workload.quickstart(overrides).actor_rollout_ref.actor.self_distillation
    cores = len(os.sched_getaffinity(0))
    work = {
        "model": str(model),
        "messages": [question.messages for question in workload.training_questions()],
        "reprompt_template": settings.reprompt_template,
        "solution_template": settings.solution_template,
        **{name: getattr(args, name) for name in ("prompts", "samples", "response", "top_k", "alpha")},
    }
    sides = {}
    for name, processes in zip(TRL, (1, cores), strict=True):
        threads = cores // processes
        text = json.dumps(work | {"threads": threads, "folder": str(folder / name)})
        path = folder / f"{name}.json"
        path.write_text(text)
        env = {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "PYTHONPATH": "", "CUDA_VISIBLE_DEVICES": ""}
        port = free_port()
        envs = [env | process_env(rank, processes, port) for rank in range(processes)]
        command = [args.trl_python, HERE / "trl_side.py", path]
        sides[name] = Side(name, [command] * processes, folder / f"{name}.log", envs)
    return sides


def process_env(rank, processes, port):
    """What `torchrun` would set."""
    if processes == 1:
        return {}
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
    return {key: str(value) for key, value in place.items()} | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def take_turns(sides, questions, rounds):
    """Ask every side in every round; the order changes so that nobody always follows the same one."""
    answers = []
    for number in range(rounds):
        names = list(questions)[number % 2 :] + list(questions)[: number % 2]
        answers.append({name: sides[name].ask(questions[name]) for name in names})
        report.say(f"round {number + 1} of {rounds} done")
    return answers


def tokens_per_second(steps):
    return median(step["tokens"] / step["seconds"] for step in steps)


def summarize_steps(rounds):
    """Medians over the steps of all rounds."""
    steps = [step for steps in rounds for step in steps]
    phases = Counter(name for step in steps for name in step["phases"])
    found = {
        "tokens_per_second": round(median(step["tokens"] / step["seconds"] for step in steps), 1),
        "step_seconds": round(median(step["seconds"] for step in steps), 4),
        "phase_seconds": {name: round(median(s["phases"].get(name, 0.0) for s in steps), 4) for name in phases},
        "response_length": round(median(step["response_length"] for step in steps), 2),
        "taught_share": round(median(step["taught"] for step in steps), 3),
    }
    if "reward_wait" in steps[0]:
        found["reward_wait_seconds"] = round(median(step["reward_wait"] for step in steps), 4)
    return found


def ratio(ours, theirs):
    """Median over rounds of one figure over another, and its range."""
    values = sorted(a / b for a, b in zip(ours, theirs, strict=True))
    return {"median": round(median(values), 3), "min": round(values[0], 3), "max": round(values[-1], 3)}


# Part update


def measure_updates(args, folder):
    import workload

    if args.model == "random":
        path, num_parameters = workload.random_model(folder / "random", args.vocab, args.hidden, args.layers)
        vocab_size = args.vocab
    else:
        path, num_parameters, vocab_size = workload.EMBEDDED, 139_000, 375
    overrides = workload.update_overrides(
        path, args.prompts, args.samples, args.prompt_tokens, args.response_tokens, args.teacher_prompt_tokens
    )
    overrides |= {
        "trainer.n_gpus_per_node": args.ranks,
        "actor_rollout_ref.actor.self_distillation.distillation_topk": args.top_k,
        "actor_rollout_ref.actor.self_distillation.alpha": args.alpha,
        **dict(pair.split("=", 1) for pair in args.set),
    }
    batches = {
        name: {
            "groups": args.prompts,
            "samples": args.samples,
            "prompt": args.prompt_tokens,
            "response": args.response_tokens,
            "teacher_prompt": args.teacher_prompt_tokens,
            "taught": taught,
            "vocab_size": vocab_size,
            "has_advantages": algorithm == "grpo",
        }
        for name, (algorithm, taught) in UPDATES.items()
    }
    with ExitStack() as stack:
        sides = {}
        for algorithm in OURS:
            text = json.dumps(overrides | (GRPO if algorithm == "grpo" else {}), default=str)
            command = [sys.executable, HERE / "update_side.py", text]
            side = Side(algorithm, [command], folder / f"update_{algorithm}.log")
            sides[algorithm] = stack.enter_context(closing(side))
        for side in sides.values():
            side.answer()
        questions = {name: {"rows": batch, "repeats": 1} for name, batch in batches.items()}
        rounds = take_turns({name: sides[UPDATES[name][0]] for name in UPDATES}, questions, args.rounds)
    seconds = {name: [answer[name]["seconds"][0] for answer in rounds[1:]] for name in UPDATES}
    counts = {name: workload.count_tokens(workload.batch_rows(**batch)) for name, batch in batches.items()}
    taught = counts["sdpo_all_taught"]
    return {
        "parameters": num_parameters,
        "seconds": {name: round(median(values), 4) for name, values in seconds.items()},
        "tokens": counts,
        "ratios": {
            "all_taught_over_grpo": ratio(seconds["sdpo_all_taught"], seconds["grpo"]),
            "all_taught_bound": bound(taught["student_packed"], taught["teacher_packed"]),
            "all_taught_bound_unshared": bound(taught["student"], taught["teacher"]),
            "half_taught_over_grpo": ratio(seconds["sdpo_half_taught"], seconds["grpo"]),
            "half_taught_bound": 1.0,
        },
    }


def bound(student, teacher):
    """How much longer an SDPO update may take than GRPO's, by the tokens of student and teacher."""
    return round(MARGIN * (3 * student + teacher) / (3 * student), 3)


if __name__ == "__main__":
    main()
