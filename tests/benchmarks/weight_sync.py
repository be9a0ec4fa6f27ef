"""Time of a weight sync: ours, from training ranks to vLLM in another process, against vLLM reloading what it has.

In turns, in the same run, with the same tensors and the same engine:

    sync      `Publisher.publish`, as after every training step: gather, hash, ship, load, and verify by the probe.
              Before each one the trainer changes its weights a little, so that a sync that did nothing would be caught
    shipped   vLLM's own `reload_weights`, called inside its process with tensors that are already there; the process
              is as vLLM starts it
    reload    the same inside the engine of the sync, which keeps freed memory (`roles.KEEPS_FREED_MEMORY`)
    copy      the floor: those tensors copied once, from memory to memory, inside that process

Prints one JSON object: medians in seconds, the sync by phase, and medians of the ratios of neighbours. `transfer` is
the sync up to the point where the engine has loaded everything and its digests were compared; the probe comes on top.
Sync uses two cores where the others use one, so other load on the machine hurts it most: `fastest` are the best
rounds of each, and `--wait-for-quiet` begins rounds when nobody else computes.

    python tests/benchmarks/weight_sync.py --wait-for-quiet 10
    python tests/benchmarks/weight_sync.py --wait-for-quiet 10 --ranks 2
"""

import argparse
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

import report
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from verl.config import PPOConfig, RolloutConfig
from verl.config.actor import ActorConfig, FSDPConfig, ModelConfig, PolicyLossConfig
from verl.config.data import DataConfig
from verl.config.rollout import WeightSyncConfig
from verl.config.root import ActorRolloutRefConfig, TrainerConfig
from verl.rollout.base import engine_spec
from verl.single_controller import dispatch
from verl.single_controller.ray_group import RayWorkerGroup
from verl.single_controller.runtime import ray_session
from verl.trainer.publish import Publisher
from verl.trainer.roles import KEEPS_FREED_MEMORY
from verl.workers.actor import ActorWorker
from verl.workers.rollout import RolloutWorker
from verl.workers.rollout_pool import RolloutPool


class ChangingActor(ActorWorker):
    @dispatch()
    @torch.no_grad()
    def change_weights(self):
        """What an optimizer step is to a sync."""
        for parameter in self.model.parameters():
            parameter.mul_(1.001)


class KeepingRolloutWorker(RolloutWorker):
    """Can copy the weights of a sync and reload from the copy."""

    @dispatch()
    def keep_next_weights(self):
        load = self._engine.load_weights

        def load_copy(weights, version):
            self._kept = [(name, tensor.clone()) for name, tensor in weights]
            self._target = [torch.zeros_like(tensor) for _, tensor in self._kept]  # zeros, so that its pages exist
            self._engine.load_weights = load
            load(self._kept, version)

        self._engine.load_weights = load_copy

    @dispatch()
    def reload(self):
        """Seconds of vLLM's own reload."""
        begin = time.perf_counter()
        self._engine._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(self._kept)})
        return time.perf_counter() - begin

    @dispatch()
    def copy(self):
        """Seconds to copy the same bytes once."""
        begin = time.perf_counter()
        for (_, source), target in zip(self._kept, self._target, strict=True):
            target.copy_(source)
        return time.perf_counter() - begin


class Timed:
    """Adds the seconds of an object's calls to `phases`."""

    def __init__(self, target, phases):
        self._target, self._phases = target, phases

    def __getattr__(self, name):
        value = getattr(self._target, name)
        if name not in PHASES:
            return value

        def call(*args, **kwargs):
            begin = time.perf_counter()
            result = value(*args, **kwargs)
            self._phases[PHASES[name]] = time.perf_counter() - begin
            if name == "finish":  # the engine scores the probe in the same call
                self._phases["probe"] = result[0].probe_seconds
                self._phases["finish"] -= result[0].probe_seconds
            return result

        return call


PHASES = {
    "begin": "begin",
    "publish_weights": "send",
    "finish": "finish",
    "verify": "compare",
}


def main():
    args = parse_arguments()
    result = report.header({key: value for key, value in vars(args).items() if key != "output"})
    with tempfile.TemporaryDirectory() as folder:
        num_parameters = write_model(Path(folder), args)
        config = run_config(folder, args)
        with ray_session({"include_dashboard": False}):
            measured = measure(config, args)
    report.finish(result | {"parameters": num_parameters} | measured, args.output)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=1, help="FSDP ranks of the trainer")
    parser.add_argument("--rounds", type=int, default=15, help="rounds of all three, in turns")
    parser.add_argument("--hidden-size", type=int, default=768)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--vocab-size", type=int, default=32768)
    parser.add_argument("--untied", action="store_true", help="a head of its own, not the embedding's weights")
    parser.add_argument("--bucket-bytes", type=int, default=WeightSyncConfig().bucket_bytes)
    parser.add_argument(
        "--wait-for-quiet",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="before each round, until others idle",
    )
    parser.add_argument("--output", type=Path, help="also write the JSON there")
    return parser.parse_args()


def write_model(folder, args):
    """A random Qwen3; the number of its parameters."""
    torch.manual_seed(0)
    heads = args.hidden_size // 64
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=args.vocab_size,
            hidden_size=args.hidden_size,
            intermediate_size=args.hidden_size * 8 // 3,
            num_hidden_layers=args.layers,
            num_attention_heads=heads,
            num_key_value_heads=max(1, heads // 2),
            head_dim=64,
            max_position_embeddings=256,
            tie_word_embeddings=not args.untied,
            initializer_range=0.05,
        )
    )
    model.save_pretrained(folder)
    return sum(parameter.numel() for parameter in model.parameters())


def run_config(folder, args):
    return PPOConfig(
        actor_rollout_ref=ActorRolloutRefConfig(
            model=ModelConfig(path=folder),
            actor=ActorConfig(policy_loss=PolicyLossConfig(loss_mode="sft"), fsdp_config=FSDPConfig()),
            rollout=RolloutConfig(
                name="vllm", cpu_kv_cache_gib=0.25, weight_sync=WeightSyncConfig(bucket_bytes=args.bucket_bytes)
            ),
        ),
        data=DataConfig(max_prompt_length=128, max_response_length=128),
        trainer=TrainerConfig(n_gpus_per_node=args.ranks, device="cpu"),
    )


def measure(config, args):
    models, trainer = config.actor_rollout_ref, config.trainer
    spec = engine_spec(models, config.data, "cpu", trainer.seed)
    spec = replace(spec, tokenizer_path=None)  # a random model has none
    threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // trainer.n_gpus_per_node))}
    engines = RayWorkerGroup("rollout", KeepingRolloutWorker, (spec,), env=KEEPS_FREED_MEMORY)
    shipped = RayWorkerGroup("shipped", KeepingRolloutWorker, (spec,))
    actor = RayWorkerGroup(
        "actor", ChangingActor, (models, config.algorithm, trainer, 1), num_ranks=trainer.n_gpus_per_node, env=threads
    )
    actor.setup()
    engines.ready()
    shipped.ready()
    shipped.keep_next_weights()
    Publisher(config, actor, RolloutPool(shipped), spec, args.vocab_size).publish(0)
    phases = {}
    pool = RolloutPool(engines)
    pool.sync = Timed(pool.sync, phases)
    publisher = Publisher(config, Timed(actor, phases), pool, spec, args.vocab_size)
    engines.keep_next_weights()
    metrics = publisher.publish(0)
    rounds, num_quiet = [], 0
    for number in range(-2, args.rounds):  # the first two warm up
        actor.change_weights()
        was_quiet = wait_for_quiet(args.wait_for_quiet)
        begin = time.perf_counter()
        publisher.publish(number + 3)
        sync = time.perf_counter() - begin
        (by_vllm,), (reload,), (copy,) = shipped.reload(), engines.reload(), engines.copy()
        transfer = phases["begin"] + phases["send"] + phases["finish"]
        if number >= 0:
            rounds.append(
                {"sync": sync, "transfer": transfer, "shipped": by_vllm, "reload": reload, "copy": copy, **phases}
            )
            num_quiet += was_quiet
    actor.shutdown()
    engines.shutdown()
    shipped.shutdown()
    fastest = {key: min(r[key] for r in rounds) for key in ("sync", "transfer", "shipped", "reload", "copy")}
    ratios = {
        f"{a}_to_{b}": [r[a] / r[b] for r in rounds]
        for a, b in [
            ("sync", "shipped"),
            ("transfer", "shipped"),
            ("sync", "reload"),
            ("transfer", "reload"),
            ("shipped", "copy"),
            ("sync", "copy"),
        ]
    }
    return {
        "rounds_begun_on_an_idle_machine": num_quiet,
        "bytes": int(metrics["rollout/weight_bytes"]),
        "probe_log_prob_gap": metrics["rollout/probe_log_prob_gap"],
        "seconds": {key: round(median(r[key] for r in rounds), 4) for key in rounds[0]},
        "fastest_seconds": {key: round(value, 4) for key, value in fastest.items()},
        "fastest_ratio": round(fastest["sync"] / fastest["shipped"], 3),
        "ratios": {key: round(median(values), 3) for key, values in ratios.items()},
        "sync_to_shipped_of_each_round": [round(value, 2) for value in ratios["sync_to_shipped"]],
    }


def wait_for_quiet(patience):
    """Whether less than a tenth of the machine's cores were busy for a moment, within `patience` seconds."""
    deadline = time.monotonic() + patience
    while True:
        before = cpu_ticks()
        time.sleep(0.2)
        idle, total = (now - then for now, then in zip(cpu_ticks(), before, strict=True))
        is_quiet = idle > 0.9 * total
        if is_quiet or time.monotonic() > deadline:
            return is_quiet


def cpu_ticks():
    """Idle and all ticks of all cores since the machine started."""
    ticks = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return ticks[3] + ticks[4], sum(ticks)


if __name__ == "__main__":
    main()
