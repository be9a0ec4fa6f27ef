"""A Hugging Face folder from a checkpoint, in one process: no Ray, no GPU, whatever the number of ranks that saved it.

The shards are read into the unsharded model, which then goes the way of the workers' own export (`hf_model`), so both
write the same bits.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml

from verl.checkpoint import CheckpointError, verify
from verl.checkpoint.dcp import check_model, load_state, saved_shapes
from verl.config import FSDPConfig, build
from verl.config.actor import ModelConfig
from verl.models.device import DTYPES
from verl.models.full_weights import export_huggingface
from verl.models.loading import build_modules, load_tokenizer, read_weights
from verl.models.policy_model import PolicyModel
from verl.tracking.run_folder import CONFIG_FILE

CPU = torch.device("cpu")


@dataclass(frozen=True)
class SavedModel:
    """What a checkpoint's configuration says about its model."""

    model: ModelConfig
    dtype: torch.dtype


def export(checkpoint: Path, target: Path, model_path: str | None = None) -> None:
    """Write the policy of a checkpoint as a folder that `from_pretrained` loads, adapters merged, tokenizer beside it.

    Args:
        checkpoint: a `global_step_N` folder, or the `actor` folder in it.
        target: a folder that does not exist yet; it appears whole or not at all.
        model_path: where the model that training began with is now; None: where it was then (`model.path`).

    Raises:
        CheckpointError: the checkpoint is damaged, does not say what model it is of, or does not fit that model.
    """
    checkpoint = checkpoint.parent if checkpoint.name == "actor" else checkpoint
    verify(checkpoint)
    if target.exists():
        raise CheckpointError(f"{target} exists already: name a new folder, so that nothing is mixed or overwritten.")
    saved = read_config(checkpoint)
    model = replace(saved.model, path=model_path or saved.model.path)
    policy = load_policy(checkpoint / "actor" / "policy", model, saved.dtype)
    partial = target.with_name(f"{target.name}.tmp")
    shutil.rmtree(partial, ignore_errors=True)
    export_huggingface(policy, model, CPU, saved.dtype, str(partial), is_writer=True)
    load_tokenizer(str(model.tokenizer_path or model.path), model.trust_remote_code).save_pretrained(str(partial))
    partial.rename(target)


def read_config(checkpoint: Path) -> SavedModel:
    """The model's part of the configuration that is saved in a checkpoint, of a reinforcement or a supervised run."""
    file = checkpoint / CONFIG_FILE
    if not file.is_file():
        raise CheckpointError(f"{checkpoint} has no {CONFIG_FILE}, so it does not say which model it is of.")
    tree: Mapping[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    roles = tree.get("actor_rollout_ref", tree)
    fsdp = build(FSDPConfig, roles.get("actor", roles)["fsdp_config"])
    return SavedModel(build(ModelConfig, roles["model"]), DTYPES[fsdp.model_dtype])


@torch.no_grad()
def load_policy(folder: Path, model: ModelConfig, dtype: torch.dtype) -> PolicyModel:
    """The trained model, whole and in host memory. With LoRA its base is read from `model.path`."""
    path = str(model.path)
    policy = PolicyModel(build_modules(model, path, dtype, "sdpa"))
    policy.to_empty(device="cpu")
    policy.lm.tie_weights()
    if model.lora_rank:
        base = read_weights(model, path, dtype)
        for name, parameter in policy.named_parameters():
            parameter.copy_(base[name.removeprefix("lm.")])
    trained = {name: value.detach() for name, value in policy.named_parameters() if value.requires_grad}
    check_model(folder, saved_shapes(folder), "model", trained, path)
    load_state({"model": trained}, folder, is_alone=True)
    return policy
