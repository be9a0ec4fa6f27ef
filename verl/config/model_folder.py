"""Is a folder a model that can be trained? Asked of its files' names, JSON and headers, before torch is loaded.

What transformers says about a damaged folder comes late, from a worker, in the words of whatever stumbled over it; some
damage it repairs in silence, with random weights. A safetensors file tells by its first bytes how long it must be and
what is in it, so all of this costs a few reads. Hub names are not looked up here.
"""

from __future__ import annotations

import difflib
import json
import os
import struct
from pathlib import Path
from typing import Any

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json")
DTYPES = ("float32", "float16", "bfloat16", "float64", "float8_e4m3fn", "float8_e5m2", "auto")
ENCODERS = {"albert", "bert", "camembert", "deberta", "deberta-v2", "distilbert", "electra", "modernbert", "mpnet"}
ENCODERS |= {"roberta", "xlm-roberta"}
MOST_HEADER_BYTES = 100_000_000
"""Longer headers are refused by the safetensors library too."""


class _Damaged(ValueError):
    """What is wrong with a file; the message begins with its name."""


def is_local(path: str) -> bool:
    """Whether a path cannot be a hub name (`owner/name`), or is a folder here."""
    return path.startswith((".", "/", "~")) or path.count("/") > 1 or os.path.isdir(os.path.expanduser(path))


def model_problems(key: str, path: str | None) -> list[str]:
    """What is wrong with a folder of configuration and weights: no sentence, or one that begins with `key=path: `."""
    if not path or not is_local(path):
        return []
    folder = Path(path).expanduser()
    if not (folder / "config.json").is_file():
        return [f"{key}={path}: is not a model folder (no config.json there)"]
    try:
        _check_config(_read_object(folder / "config.json"))
        _check_weights(folder)
    except _Damaged as error:
        return [f"{key}={path}: {error}"]
    return []


def tokenizer_problems(key: str, path: str | None) -> list[str]:
    """What is wrong with a folder of a tokenizer; a tokenizer alone, without a model, is one too."""
    if not path or not is_local(path):
        return []
    folder = Path(path).expanduser()
    try:
        settings = _read_object(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").exists() else {}
    except _Damaged as error:
        return [f"{key}={path}: {error}"]
    has_file = any((folder / name).is_file() for name in TOKENIZER_FILES) or any(folder.glob("*.tiktoken"))
    if has_file or "auto_map" in settings:
        return []
    return [f"{key}={path}: holds no tokenizer (none of {', '.join(TOKENIZER_FILES)})"]


def _read_object(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _Damaged(f"{file.name} cannot be read ({error})") from error
    if not isinstance(found, dict):
        raise _Damaged(f"{file.name} holds a {type(found).__name__}, not an object")
    return found


def _check_config(config: dict[str, Any]) -> None:
    kind = config.get("model_type")
    if not kind and "auto_map" not in config:
        raise _Damaged("config.json has no model_type")
    classes = config.get("architectures") or []
    generates = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
    is_causal = any(name.endswith(generates) for name in classes) or "auto_map" in config
    if kind in ENCODERS or (classes and not is_causal):
        raise _Damaged(f"is a {', '.join(classes) or kind}, not a causal language model (...ForCausalLM)")
    dtype = config.get("dtype", config.get("torch_dtype"))
    if dtype is not None and str(dtype).removeprefix("torch.") not in DTYPES:
        near = difflib.get_close_matches(str(dtype), DTYPES, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise _Damaged(f"config.json has dtype={dtype}, known are {', '.join(DTYPES)}{hint}")


def _check_weights(folder: Path) -> None:
    if (folder / WEIGHTS).exists():
        _tensor_names(folder / WEIGHTS)
    elif (folder / INDEX).exists():
        _check_shards(folder, _read_object(folder / INDEX))
    elif pickled := sorted(folder.glob("pytorch_model*.bin")):
        raise _Damaged(
            f"has its weights only in {pickled[0].name}, a pickle, which can run any code when it is read. Where you"
            " trust it, load it with transformers once and write it as safetensors with save_pretrained"
        )
    else:
        raise _Damaged(f"has no weights (neither {WEIGHTS} nor {INDEX})")


def _check_shards(folder: Path, index: dict[str, Any]) -> None:
    shards: dict[str, list[str]] = {}
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise _Damaged(f"{INDEX} has no weight_map")
    for name, file in weight_map.items():
        shards.setdefault(str(file), []).append(name)
    if missing := [file for file in shards if not (folder / file).is_file()]:
        raise _Damaged(f"lacks {len(missing)} of {len(shards)} files that {INDEX} names: {', '.join(missing[:3])}")
    for file, names in shards.items():
        if lost := sorted(set(names) - _tensor_names(folder / file)):
            raise _Damaged(f"{file} lacks {len(lost)} tensors that {INDEX} puts there: {', '.join(lost[:3])}")


def _tensor_names(file: Path) -> set[str]:
    """Names of the tensors of a safetensors file whose length is what its header says."""
    size = file.stat().st_size
    try:
        with file.open("rb") as stream:
            start = stream.read(8)
            if start == b"version ":
                raise _Damaged(f"{file.name} is a Git LFS pointer, not the weights; fetch them with git lfs pull")
            (length,) = struct.unpack("<Q", start)
            if length > min(size, MOST_HEADER_BYTES):
                raise _Damaged(f"{file.name} is not a safetensors file, or is cut off ({size} bytes)")
            header = json.loads(stream.read(length))
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    except (OSError, ValueError, struct.error, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, _Damaged):
            raise
        raise _Damaged(f"{file.name} is not a safetensors file ({size} bytes)") from error
    if (needed := 8 + length + max(ends, default=0)) != size:
        raise _Damaged(f"{file.name} has {size} bytes and should have {needed}: it is cut off or damaged")
    return header.keys() - {"__metadata__"}
