"""One side of a benchmark: the real trainer (Ray, FSDP2 ranks, engine, reward workers), one step after the other.

Questions: {"steps": n} trains n steps; {"generate": {...}} lets the rollout pool write responses. Started by step.py
and rollout.py.
"""

import json
import random
import sys
import tempfile
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from statistics import mean

from sides import Channel
from workload import quickstart

from verl.trainer.rl_trainer import RLTrainer
from verl.trainer.roles import ray_roles
from verl.trainer.run_data import load_run_data
from verl.trainer.sampling import make_requests
from verl.trainer.writing import Writing
from verl.types import Sampling

MANY_STEPS = 1_000_000


def main():
    channel = Channel()
    config = quickstart(json.loads(sys.argv[1]) | {"trainer.total_training_steps": MANY_STEPS})
    data = load_run_data(config)
    with tempfile.TemporaryDirectory() as folder, ray_roles(config, MANY_STEPS, Path(folder)) as roles:
        source = Writing(config, data, roles, step=0)
        trainer = RLTrainer(config, data, roles, source)
        source.publish(version=0)
        waits = time_rewards(roles.rewards)
        number = 0
        channel.send({"engine": roles.spec.rollout.name, "ranks": roles.actor.world_size})
        with closing(source.make_schedule()) as schedule:
            while (question := channel.receive()) is not None:
                if "generate" in question:
                    channel.send(generate(data, roles, **question["generate"]))
                    continue
                steps = []
                for _ in range(question["steps"]):
                    number += 1
                    waits.clear()
                    steps.append(train(trainer, number, schedule) | {"reward_wait": sum(waits)})
                channel.send({"steps": steps})


def time_rewards(pool):
    """Collect how long the driver waits for rewards after the last response has come: what does not overlap."""
    waits, results = [], pool.results

    def timed():
        begin = time.perf_counter()
        yield from results()
        waits.append(time.perf_counter() - begin)

    pool.results = timed
    return waits


def train(trainer, number, schedule):
    """One step: seconds in all and by phase, tokens that were generated, share of responses that were taught."""
    begin = time.perf_counter()
    step = trainer.train_step(number, schedule)
    seconds = time.perf_counter() - begin
    phases = {name: value for name, value in step.timer.seconds.items() if name != "step"}
    lengths = [len(sample.rollout.response_ids) for sample in step.samples]
    return {
        "seconds": seconds,
        "phases": phases,
        "tokens": sum(lengths),
        "response_length": mean(lengths),
        "taught": mean(float(row.is_taught) for row in step.rows),
    }


def generate(data, roles, batch, samples, response, is_mixed, seed):
    """Write a batch of responses and take them as they end.

    With `is_mixed` their lengths are spread evenly over 1 ... `response`.
    """
    prompts = data.train[: batch // samples]
    requests = make_requests(prompts, samples, Sampling(max_tokens=response), seed)
    if is_mixed:
        rng = random.Random(seed)
        requests = [replace(r, sampling=Sampling(max_tokens=rng.randint(1, response))) for r in requests]
    begin = time.perf_counter()
    arrivals, tokens = [], 0
    for rollouts in roles.rollouts.generate(requests):
        arrivals += [time.perf_counter() - begin] * len(rollouts)
        tokens += sum(len(rollout.response_ids) for rollout in rollouts)
    return {
        "seconds": time.perf_counter() - begin,
        "tokens": tokens,
        "first_response": arrivals[0],
        "half_of_responses": arrivals[len(arrivals) // 2],
    }


if __name__ == "__main__":
    main()
