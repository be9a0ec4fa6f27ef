"""SFT on the self-teacher: what the initial policy writes when it is shown more than the question, where that is right.

A baseline of the paper: not the teacher's distribution is learnt but its samples. Four commands, and main_sft:

    # 1. Attempts of the initial policy (with lr 0 it stays that), recorded with the teacher's prompts.
    python -m verl.trainer.main_ppo --config-name sdpo_rich_feedback vars.task=datasets/lcb_v6 \\
        trainer.experiment_name=self-teacher-attempts actor_rollout_ref.actor.optim.lr=0 trainer.record=runs/attempts
    # 2. The teacher's prompts as a data set.
    python -m recipes.self_teacher_sft.data prompts runs/attempts runs/prompts.parquet
    # 3. The same policy answers them, and is scored; nothing is trained.
    python -m verl.trainer.main_ppo --config-name sdpo_rich_feedback vars.task=datasets/lcb_v6 \\
        data.val_files=runs/prompts.parquet data.max_prompt_length=10240 max_model_len=18944 \\
        actor_rollout_ref.rollout.max_model_len=18432 actor_rollout_ref.rollout.val_kwargs.temperature=1.0 \\
        trainer.experiment_name=self-teacher-answers trainer.val_only=True trainer.validation_data_dir=runs/answers
    # 4. Right answers, each to the plain question.
    python -m recipes.self_teacher_sft.data select runs/prompts.parquet runs/answers/0.jsonl runs/sft.parquet
    # 5. Learn them.
    python -m verl.trainer.main_sft model.path=Qwen/Qwen3-8B data.train_files=runs/sft.parquet

A recording of any run whose algorithm has a teacher will do for 2, but only the steps that the initial policy wrote are
its attempts.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from verl.trainer.record import RecordingError, read_identity, read_step, recorded_steps
from verl.types import InputError

QUESTION = "question"
"""Column with the messages of the plain question."""


def teacher_prompts(recording: Path) -> list[dict[str, Any]]:
    """One row for each different prompt that the teacher of a recorded run was given, in the order of the recording.

    Returns rows of a data set (`prompt`, `data_source`, `reward_model`, `extra_info`) with the question beside them.

    Raises:
        RecordingError: the folder is no recording, or a file of it is damaged.
        InputError: no sample in it has a target.
    """
    read_identity(recording)
    rows: dict[str, dict[str, Any]] = {}
    for number, path in recorded_steps(recording).items():
        batch = read_step(path, number)
        for sample, reprompt in zip(batch.samples, batch.reprompts or [], strict=batch.reprompts is not None):
            if not reprompt.token_ids:
                continue
            prompt = sample.prompt
            row = {
                "prompt": reprompt.messages,
                "data_source": prompt.data_source,
                "reward_model": {"ground_truth": prompt.ground_truth},
                "extra_info": prompt.extra_info or None,
                QUESTION: prompt.messages,
            }
            rows.setdefault(json.dumps([prompt.index, reprompt.messages]), row)
    if not rows:
        raise InputError(
            f"{recording}: no sample in this recording has a target, so there is no teacher's prompt. Record a run with"
            " loss_mode=sdpo in which something was solved or got feedback."
        )
    return list(rows.values())


def select(
    prompts: Sequence[dict[str, Any]],
    answers: Sequence[dict[str, Any]],
    threshold: float,
    most: int | None = None,
) -> list[dict[str, Any]]:
    """Rows for SFT: the plain question, and an answer that was written with the teacher's prompt.

    Args:
        prompts: what `teacher_prompts` gave.
        answers: `output`, `gts` and `score` of each answer, the same number for every prompt, in their order.
        threshold: an answer is kept when its score reaches it.
        most: answers that are kept of one question; None keeps all. Equal answers to it are kept once.

    Raises InputError when the answers are not those to the prompts, or none is kept.
    """
    if not prompts or not answers or len(answers) % len(prompts):
        raise InputError(
            f"{len(answers)} answers do not belong to {len(prompts)} prompts: each has to have the same number of them."
            " Prompts that are too long may have been left out; raise data.max_prompt_length."
        )
    n = len(answers) // len(prompts)
    kept: dict[str, dict[str, Any]] = {}
    counts: Counter[str] = Counter()
    for number, answer in enumerate(answers):
        prompt = prompts[number // n]
        if answer["gts"] != prompt["reward_model"]["ground_truth"]:
            raise InputError(
                f"answer {number} is to another question than prompt {number // n}: take the files of one run."
            )
        name = json.dumps(prompt[QUESTION])
        key = json.dumps([name, answer["output"]])
        if answer["score"] < threshold or key in kept or counts[name] == most:
            continue
        counts[name] += 1
        kept[key] = {"prompt": prompt[QUESTION], "response": answer["output"]}
    if not kept:
        raise InputError(f"none of the {len(answers)} answers reaches a score of {threshold:g}.")
    return list(kept.values())


def main(argv: Sequence[str]) -> int:
    """The two commands of the module's head. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m recipes.self_teacher_sft.data")
    commands = parser.add_subparsers(dest="command", required=True)
    first = commands.add_parser("prompts", help="the teacher's prompts of a recorded run, as a data set")
    first.add_argument("recording", type=Path, help="folder that trainer.record named")
    second = commands.add_parser("select", help="the right answers to them, for main_sft")
    second.add_argument("prompts", type=Path, help="what the command prompts wrote")
    second.add_argument("answers", type=Path, help="<trainer.validation_data_dir>/0.jsonl")
    second.add_argument("--threshold", type=float, default=1.0, help="least score that is kept (default 1.0)")
    second.add_argument("--most", type=int, help="most answers that are kept of one question (default: all)")
    for command in (first, second):
        command.add_argument("output", type=Path, help="parquet file to write")
    given = parser.parse_args(argv)
    try:
        if given.command == "prompts":
            rows = teacher_prompts(given.recording)
        else:
            prompts = pq.read_table(given.prompts).to_pylist()
            rows = select(prompts, list(_lines(given.answers)), given.threshold, given.most)
    except (InputError, RecordingError, OSError) as error:
        print(f"{error}", file=sys.stderr)
        return 1
    given.output.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), given.output, compression="zstd")
    print(f"{len(rows)} rows: {given.output}")
    return 0


def _lines(path: Path) -> Iterable[dict[str, Any]]:
    return map(json.loads, path.read_text(encoding="utf-8").splitlines())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
