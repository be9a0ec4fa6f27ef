"""The multi-turn baseline: one model, one question, attempt after attempt, each told what came of those before.

    python -m recipes.multiturn_baseline.multiturn --data-dir datasets/lcb_v6_questions/q_03 [--template feedback_only]

Nothing learns; all that changes is the prompt (`prompts`). A turn is a line of
`outputs/multiturn_baseline/multiturn-<run>-<Slurm job id, or local>.jsonl`, the attempt log that `main_report
--discovery` reads. Rewards and feedback come from the row of `--split`; the run stops with the first response that is
right by the test row too. The same command again goes on after the last line, with the responses that the uninterrupted
run would have had.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # so that the file runs as a script from anywhere

from recipes.multiturn_baseline.conversation import Conversation
from recipes.multiturn_baseline.settings import Settings, check_same, parse
from recipes.test_time.base_model import base_model
from recipes.test_time.question import find_question, question_id
from verl.config import DataConfig, RolloutConfig
from verl.config.root import CustomRewardConfig
from verl.dataset import encode_messages, load_dataset
from verl.evaluation.attempt_writer import AttemptWriter
from verl.evaluation.attempts import Attempt, Header, read_attempts
from verl.models.loading import load_tokenizer
from verl.rewards import load_custom
from verl.rollout.base import EngineSpec
from verl.tracking import Tracking
from verl.trainer.interrupts import StoppedForNow, is_asked_to_stop
from verl.trainer.roles import choose_device
from verl.types import InputError, Prompt


def summary(turns: Sequence[Attempt], max_context_len: int) -> dict[str, Any]:
    """What a whole run amounts to."""
    return {
        "final_reward": turns[-1].reward if turns else 0.0,
        "solved": any(turn.solved for turn in turns),
        "total_turns": len(turns),
        "total_duration_sec": sum(turn.extras["duration_sec"] for turn in turns),
        "max_context_len_exceeded": any(turn.extras["num_dropped"] for turn in turns),
        "max_context_len": max_context_len,
    }


def log_path(settings: Settings) -> Path:
    """Where the turns are written."""
    job = os.environ.get("SLURM_JOB_ID") or "local"
    return settings.resume or settings.output_dir / f"multiturn-{settings.run_name}-{job}.jsonl"


def engine_spec_of(settings: Settings) -> EngineSpec:
    """The engine that the flags describe."""
    rollout = RolloutConfig(
        name=settings.engine,
        tensor_model_parallel_size=settings.tensor_parallel_size,
        gpu_memory_utilization=settings.gpu_memory_utilization,
        max_num_seqs=1,
    )
    return EngineSpec(
        settings.model,
        rollout,
        max_model_len=settings.max_context_len + settings.max_new_tokens,
        tokenizer_path=settings.model,
        dtype="bfloat16" if settings.dtype == "bfloat16" else "float32",
        device=choose_device("auto" if settings.device == "auto" else "cuda" if settings.device == "cuda" else "cpu"),
        trust_remote_code=settings.trust_remote_code,
        seed=settings.seed,
    )


def read_rows(settings: Settings, tokenizer: Any, template_kwargs: dict[str, Any]) -> dict[str, Prompt]:
    """The first row of each split."""
    data = DataConfig(max_prompt_length=settings.max_context_len, apply_chat_template_kwargs=template_kwargs)
    files = {split: str(settings.data_dir / f"{split}.parquet") for split in ("train", "test")}
    return {split: load_dataset([file], tokenizer, data, max_samples=1)[0] for split, file in files.items()}


@contextmanager
def tracking(settings: Settings, num_done: int) -> Iterator[Callable[[Attempt], None]]:
    """Passes turns to the trackers of `--logger`, if there are any."""
    if not settings.logger:
        yield lambda turn: None
        return
    project = os.environ.get("WANDB_PROJECT") or "multiturn"
    folder = settings.output_dir / settings.run_name
    tracking = Tracking(project, settings.run_name, settings.logger, settings.as_plain(), folder=folder)
    tracking.start_from(num_done)
    try:
        yield lambda turn: tracking.log(
            {
                "reward": turn.reward,
                "solved": turn.solved,
                **{key: turn.extras[key] for key in ("prompt_tokens", "response_tokens", "num_dropped")},
            },
            turn.attempt,
        )
    finally:
        tracking.finish()


def attempts_of(path: Path, run_id: tuple[str, int]) -> list[Attempt]:
    """The turns of one question and seed; others may be in the same log."""
    return [attempt for attempt in read_attempts(path).attempts if attempt.run == run_id]


def run(settings: Settings) -> dict[str, Any]:
    """All turns that the log does not have yet. Returns the summary, which also is written beside the log."""
    path = log_path(settings)
    if settings.resume and not path.is_file():
        raise InputError(f"--resume {path}: there is no such file.")
    if settings.reward_function:
        load_custom(settings.reward_function, CustomRewardConfig.name, {})  # mistakes in it, before anything starts
    tokenizer = load_tokenizer(settings.model, settings.trust_remote_code)
    kwargs = {"enable_thinking": settings.enable_thinking}
    rows = read_rows(settings, tokenizer, kwargs)
    header = Header("multiturn", name := settings.run_name, settings.as_plain(), extras={"wandb_run_name": name})
    run_id = question_id(settings.data_dir), settings.seed
    with AttemptWriter(path, header) as log:
        check_same(dict(log.header.config), settings)
        num_done = log.num_attempts(*run_id)
        if num_done < settings.max_turns and not log.is_solved(*run_id):
            with (
                base_model(engine_spec_of(settings), CustomRewardConfig(path=settings.reward_function)) as model,
                tracking(settings, num_done) as track,
            ):
                conversation = Conversation(
                    settings,
                    rows,
                    model,
                    encode=lambda messages: encode_messages(tokenizer, messages, kwargs),
                    decode=lambda token_ids: tokenizer.decode(token_ids, skip_special_tokens=True),
                )
                conversation.resume(attempts_of(path, run_id))
                for _ in range(num_done, settings.max_turns):
                    turn = conversation.next_turn()
                    log.append([turn])
                    track(turn)
                    if turn.solved:
                        break
                    if turn.attempt < settings.max_turns and is_asked_to_stop():
                        raise StoppedForNow(turn.attempt, goes_on=True, what="turn")
    found = summary(attempts_of(path, run_id), settings.max_context_len)
    path.with_suffix(".summary.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns its exit status."""
    settings = parse(__doc__, arguments)
    try:
        folder = find_question(settings.data_dir)
        name = settings.run_name or f"{question_id(folder)}-{settings.template}-seed{settings.seed}"
        settings = replace(settings, data_dir=folder, run_name=name)
        found = run(settings)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    except StoppedForNow as stopped:
        print(stopped, file=sys.stderr)
        return stopped.exit_status
    print(json.dumps(found), f"({log_path(settings)})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
