"""Files, folders and code that a configuration names: are they on this machine?

Apart from `verl.config.checks` because a dry run, which may be made on another machine, only mentions what is missing.
"""

from __future__ import annotations

import ast
import difflib
import os
from collections.abc import Iterable
from pathlib import Path

from verl.config.actor import ModelConfig
from verl.config.data import CustomClassConfig
from verl.config.engine_arguments import vllm_problems
from verl.config.evaluation import EvaluationConfig, GenerationConfig
from verl.config.model_folder import model_problems, tokenizer_problems
from verl.config.root import CustomRewardConfig, PPOConfig, SFTConfig, TrainerConfig


def missing_files(config: PPOConfig) -> list[str]:
    """Files and folders that the run needs and that are not on this machine."""
    model = config.actor_rollout_ref.model
    problems = _missing("data.train_files", config.data.train_files or [])
    problems += _missing("data.val_files", config.data.val_files or [])
    problems += model_files("actor_rollout_ref.model", model)
    problems += model_problems("actor_rollout_ref.ref.model.path", config.actor_rollout_ref.ref.model.path)
    problems += vllm_problems(
        "actor_rollout_ref.rollout.engine_kwargs.vllm", config.actor_rollout_ref.rollout.engine_kwargs.vllm
    )
    problems += custom_code("custom_reward_function", config.custom_reward_function)
    problems += custom_code("data.custom_cls", config.data.custom_cls)
    if (replay := config.trainer.replay) and not Path(replay).expanduser().is_dir():
        problems.append(f"trainer.replay={replay}: there is no such folder")
    return problems + resume_folder(config.trainer) + unwritable_folders(config.trainer)


def _missing(key: str, files: Iterable[str]) -> list[str]:
    return [f"{key}={file}: there is no such file" for file in files if not Path(file).expanduser().is_file()]


def model_files(key: str, model: ModelConfig) -> list[str]:
    """A model's folder, and that of its tokenizer; one sentence if they are the same and no model at all."""
    problems = model_problems(f"{key}.path", model.path)
    if model.tokenizer_path:
        return problems + tokenizer_problems(f"{key}.tokenizer_path", model.tokenizer_path)
    return problems or tokenizer_problems(f"{key}.path", model.path)


def custom_code(key: str, code: CustomRewardConfig | CustomClassConfig) -> list[str]:
    """A user's file exists, is Python, and defines the name."""
    if code.path is None:
        return []
    if not code.name:
        return [f"{key}.name=null: say which name in {key}.path={code.path} is meant"]
    try:
        tree = ast.parse(Path(code.path).expanduser().read_text(encoding="utf-8"))
    except OSError:
        return [f"{key}.path={code.path}: there is no such file"]
    except (SyntaxError, ValueError) as error:
        return [f"{key}.path={code.path}: is not valid Python ({error})"]
    names = defined_names(tree)
    if code.name in names or "*" in names:
        return []
    near = difflib.get_close_matches(code.name, names, 1)
    hint = f"; did you mean {near[0]}?" if near else f"; it defines {', '.join(sorted(names)) or 'nothing'}"
    return [f"{key}.name={code.name}: {code.path} does not define it{hint}"]


def defined_names(tree: ast.Module) -> set[str]:
    """Names that a module binds anywhere; `*` stands for what cannot be told."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names


def resume_folder(trainer: TrainerConfig) -> list[str]:
    """The checkpoint that a run shall continue from."""
    path = trainer.resume_from_path
    if trainer.resume_mode != "resume_path" or path is None or Path(path).expanduser().is_dir():
        return []
    return [f"trainer.resume_from_path={path}: there is no such folder"]


def unwritable_folders(trainer: TrainerConfig) -> list[str]:
    """Folders that the run writes to and cannot: nothing is made here, the nearest one that exists is asked."""
    run_folder = trainer.default_local_dir or "checkpoints"
    folders = {"default_local_dir": run_folder, "rollout_data_dir": trainer.rollout_data_dir}
    folders |= {"validation_data_dir": trainer.validation_data_dir, "record": trainer.record}
    problems = {f"trainer.{key}={folder}": folder and _not_writable(folder) for key, folder in folders.items()}
    return [f"{key}: {problem}" for key, problem in problems.items() if problem]


def _not_writable(folder: str) -> str | None:
    path = Path(folder).expanduser().absolute()
    existing = next(part for part in [path, *path.parents] if part.exists())
    if not existing.is_dir():
        return f"cannot be a folder, because {existing} is a file"
    if not os.access(existing, os.W_OK | os.X_OK):
        return f"{existing} cannot be written to (its permissions, or a read-only disk)"
    return None


def sft_missing_files(config: SFTConfig) -> list[str]:
    """Files and folders that are not on this machine."""
    problems = _missing("data.train_files", config.data.train_files or [])
    problems += _missing("data.val_files", config.data.val_files or [])
    problems += model_files("model", config.model)
    return problems + resume_folder(config.trainer) + unwritable_folders(config.trainer)


def generation_missing_files(config: GenerationConfig) -> list[str]:
    """Files and folders that are not on this machine, and an output that is there already."""
    roles, output = config.actor_rollout_ref, config.data.output_path
    problems = _missing("data.path", config.data.path or [])
    problems += model_files("actor_rollout_ref.model", roles.model)
    problems += vllm_problems("actor_rollout_ref.rollout.engine_kwargs.vllm", roles.rollout.engine_kwargs.vllm)
    if output and Path(output).expanduser().exists():
        problems.append(f"data.output_path={output}: exists already; choose another name, or remove it")
    return problems + _unwritable_file("data.output_path", output)


def evaluation_missing_files(config: EvaluationConfig) -> list[str]:
    """Files that are not on this machine."""
    problems = _missing("data.path", config.data.path or [])
    problems += custom_code("custom_reward_function", config.custom_reward_function)
    return problems + _unwritable_file("data.output_path", config.data.output_path)


def _unwritable_file(key: str, file: str | None) -> list[str]:
    problem = _not_writable(str(Path(file).parent)) if file else None
    return [f"{key}={file}: {problem}"] if problem else []
