"""Best-of-k: independent attempts of the base model at one question, as the comparison for test-time training.

    python -m recipes.test_time.best_of_k --data-dir datasets/lcb_v6_questions/q_03 --budget 2944 [key=value ...]

Model, sampling and limits are those of the preset `ttt`, so that `main` and this differ in nothing but learning. The
log is `outputs/best_of_k/<run name>/attempts.jsonl`. All attempts are made, also after a right one: then discovery@k
has an unbiased estimate from all of them; `--stop-when-solved` gives that up. Every attempt has its own seed, so a run
that was interrupted goes on with the very attempts that it would have made.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial

from recipes.test_time.command import budget_of, folder_of, new_parser, open_door
from recipes.test_time.question import question_id
from verl.config import PPOConfig
from verl.config.secrets import redact


def sample_question(config: PPOConfig, stops_when_solved: bool) -> None:
    """Make the attempts that the log does not have yet."""
    from recipes.test_time.base_model import base_model
    from recipes.test_time.judge import SOLVED, score_item
    from verl.evaluation.attempt_writer import AttemptWriter
    from verl.evaluation.attempts import ATTEMPTS_FILE, Attempt, Header
    from verl.rollout.base import engine_spec
    from verl.trainer.interrupts import StoppedForNow, is_asked_to_stop
    from verl.trainer.roles import choose_device
    from verl.trainer.run import run_folder
    from verl.trainer.run_data import load_run_data
    from verl.trainer.sampling import derive_seed
    from verl.types import Request, Sampling

    roles, seed, budget = config.actor_rollout_ref, config.trainer.seed, budget_of(config)
    name, folder = question_id(folder_of(config)), run_folder(config.trainer)
    data = load_run_data(config)
    prompt, hidden = data.train[0], data.validation[0]
    rollout = roles.rollout
    sampling = Sampling(rollout.temperature, rollout.top_p, rollout.top_k, config.data.max_response_length)
    spec = engine_spec(roles, config.data, choose_device(config.trainer.device), seed)
    run_name = str(config.trainer.experiment_name)
    header = Header("best_of_k", run_name, redact(asdict(config)), stops_when_solved)
    scorer = config.custom_reward_function, config.reward_model, config.sandbox
    with AttemptWriter(folder / ATTEMPTS_FILE, header) as log, base_model(spec, *scorer) as model:
        while (done := log.num_attempts(name, seed)) < budget and not (stops_when_solved and log.is_solved(name, seed)):
            numbers = range(done + 1, min(done + rollout.max_num_seqs, budget) + 1)
            rollouts = model.write(
                [Request(k, prompt.token_ids, sampling, derive_seed(seed, "best of k", k)) for k in numbers]
            )
            texts = [data.decode(written.response_ids) for written in rollouts]
            rewards = model.score(
                [
                    score_item(k, hidden, text, written.finish_reason == "length")
                    for k, text, written in zip(numbers, texts, rollouts, strict=True)
                ]
            )
            now = time.time()
            log.append(
                [
                    Attempt(name, seed, k, reward.score, reward.score >= SOLVED, now, {"response": text})
                    for k, text, reward in zip(numbers, texts, rewards, strict=True)
                ]
            )
            if is_asked_to_stop() and numbers[-1] < budget:
                raise StoppedForNow(numbers[-1], goes_on=True, what="attempt")
        outcome = "solved" if log.is_solved(name, seed) else "not solved"
        print(f"{name}, seed {seed}: {outcome} in {log.num_attempts(name, seed)} attempts ({folder})")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns its exit status."""
    parser = new_parser("python -m recipes.test_time.best_of_k", __doc__)
    parser.add_argument("--stop-when-solved", action="store_true", help="make no attempt after a right one")
    options, rest = parser.parse_known_args(arguments)
    run = partial(sample_question, stops_when_solved=options.stop_when_solved)
    rest = ["trainer.default_local_dir=outputs/best_of_k/${trainer.experiment_name}", *rest]
    return open_door(options, rest, "best_of_k", print_plan, run)


def print_plan(config: PPOConfig, missing: list[str]) -> None:
    """What would be done, and what is missing for it."""
    print(f"best-of-k: {budget_of(config)} attempts of {config.actor_rollout_ref.model.path} at {folder_of(config)}")
    print(*missing, sep="\n")


if __name__ == "__main__":
    sys.exit(main())
