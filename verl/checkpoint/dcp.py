"""Reading torch distributed checkpoints (DCP) that somebody else may have written, without running what is in them.

torch's own reader unpickles `.metadata` with plain `pickle.load`, and objects that are not tensors with
`torch.load(weights_only=False)`: a prepared file runs any command. Here `.metadata` may only name the classes that DCP
itself writes there, shards must lie beside it, and objects are numbers, texts and lists of these.
"""

from __future__ import annotations

import io
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

import torch
from torch.distributed.checkpoint._traverse import set_element
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta, TensorStorageMetadata
from torch.distributed.checkpoint.planner import ReadItem
from torch.distributed.checkpoint.state_dict_loader import load

from verl.checkpoint.errors import CheckpointError

DTYPES = {f"torch {name}" for name, value in vars(torch).items() if isinstance(value, torch.dtype)}
ADMITTED = DTYPES | {
    "torch.distributed.checkpoint.metadata Metadata",
    "torch.distributed.checkpoint.metadata MetadataIndex",
    "torch.distributed.checkpoint.metadata TensorStorageMetadata",
    "torch.distributed.checkpoint.metadata BytesStorageMetadata",
    "torch.distributed.checkpoint.metadata ChunkStorageMetadata",
    "torch.distributed.checkpoint.metadata TensorProperties",
    "torch.distributed.checkpoint.metadata StorageMeta",
    "torch.distributed.checkpoint.metadata _MEM_FORMAT_ENCODING",
    "torch.distributed.checkpoint.filesystem _StorageInfo",
    "torch.serialization _get_layout",  # a look-up in a table of torch's layouts
    "torch Size",
    "pathlib Path",
    "pathlib PosixPath",
    "pathlib._local Path",  # as Python 3.13 calls them
    "pathlib._local PosixPath",
}


Shapes = Mapping[str, tuple[int, ...] | None]
"""By full name; None for what is not a tensor."""
NUM_NAMED = 3
"""Differing tensors that an error names."""


def load_state(state: dict[str, Any], folder: str | Path, is_alone: bool = False) -> None:
    """Fill the tensors of `state` in place from a DCP folder, and replace its other values.

    Args:
        state: nested names; every one of them must be in the checkpoint.
        folder: where `.metadata` and the shards are.
        is_alone: one process reads everything. Otherwise this is a collective of the default group.

    Raises:
        CheckpointError: the folder cannot be read, or holds what a checkpoint does not.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        try:
            load(state, storage_reader=SafeReader(str(folder)), planner=SafePlanner(), no_dist=is_alone)
        except CheckpointException as error:
            raise CheckpointError(f"{folder} cannot be read: {reason(error)}") from error


def reason(error: CheckpointException) -> str:
    """What went wrong on the first rank that failed, in a line; DCP's own text is a page for each rank."""
    rank, (cause, _) = min(error.failures.items(), key=lambda item: item[0])
    return str(cause) if isinstance(cause, CheckpointError) else f"rank {rank}: {type(cause).__name__}: {cause}"


def saved_shapes(folder: str | Path) -> Shapes:
    """What a DCP folder holds, by full name: shapes of tensors; None for other values."""
    saved: Mapping[str, Any] = SafeReader(str(folder)).read_metadata().state_dict_metadata
    return {
        name: tuple(entry.size) if isinstance(entry, TensorStorageMetadata) else None for name, entry in saved.items()
    }


def shard_sizes(folder: str | Path) -> dict[str, int]:
    """The files beside `.metadata` that it refers to, and how many bytes each has at least."""
    sizes: dict[str, int] = {}
    for entry in (SafeReader(str(folder)).read_metadata().storage_data or {}).values():
        sizes[entry.relative_path] = max(sizes.get(entry.relative_path, 0), entry.offset + entry.length)
    return sizes


def check_model(
    folder: Path, saved: Shapes, group: str, weights: Mapping[str, torch.Tensor], model_path: str | None
) -> None:
    """Refuse a checkpoint whose weights are not those of a model.

    Args:
        folder: for the message.
        saved: `saved_shapes` of it.
        group: what names of weights begin with there.
        weights: the model's trained weights by name; sharded ones have their whole shape.
        model_path: the model's, for the message.

    Raises:
        CheckpointError: names of weights, or their shapes, differ.
    """
    mine = {f"{group}.{name}": tuple(tensor.shape) for name, tensor in weights.items()}
    theirs = {name: shape for name, shape in saved.items() if name.startswith(f"{group}.")}
    names = [name for name in sorted(mine.keys() | theirs.keys()) if mine.get(name) != theirs.get(name)]
    if not names:
        return

    def shape(shapes: Shapes, name: str) -> str:
        return str(list(shapes[name] or ())) if name in shapes else "missing"

    listed = "; ".join(f"{n} is {shape(theirs, n)} there and {shape(mine, n)} here" for n in names[:NUM_NAMED])
    raise CheckpointError(
        f"{folder} holds the weights of another model than model.path={model_path}, with its adapters if it has any:"
        f" {len(names)} of {len(mine)} tensors differ, such as {listed}. Take the model and the LoRA settings it was"
        " saved with, or start anew with trainer.resume_mode=disable in another run folder."
    )


class SafeReader(FileSystemReader):
    """torch's reader, with `.metadata` read by an unpickler that knows only DCP's own classes."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        path = Path(self._get_metadata_path(kwargs.get("rank")))
        try:
            with open(path, "rb") as file:
                metadata = _Unpickler(file, path).load()
        except CheckpointError:
            raise
        except FileNotFoundError as error:
            raise CheckpointError(f"{path} is missing: the folder is not a torch distributed checkpoint.") from error
        except Exception as error:  # an unpickler meets damage with whatever error the bytes lead to
            raise CheckpointError(f"{path} cannot be read: {type(error).__name__}: {error}.") from error
        if not isinstance(metadata, Metadata):
            raise CheckpointError(f"{path} holds a {type(metadata).__name__} instead of DCP's Metadata.")
        for entry in (metadata.storage_data or {}).values():
            if PurePath(entry.relative_path).name != entry.relative_path:
                raise CheckpointError(f"{path} names the shard {entry.relative_path}, which is not a file beside it.")
        if metadata.storage_meta is None:
            metadata.storage_meta = StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


class SafePlanner(DefaultLoadPlanner):
    """torch's planner, with objects read as data only."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        name = read_item.dest_index.fqn
        try:
            loaded = torch.load(value, weights_only=True)
        except pickle.UnpicklingError as error:
            raise CheckpointError(f"its {name} is not plain data and is not loaded: {error}") from error
        set_element(self.original_state_dict, self.mappings[name], loaded)


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: Any, path: Path) -> None:
        super().__init__(file)
        self.path = path

    def find_class(self, module: str, name: str) -> Any:
        if f"{module} {name}" not in ADMITTED:
            raise CheckpointError(
                f"{self.path} asks for {module}.{name}, which does not belong into a checkpoint: the file may have been"
                " made to run code. It is not loaded."
            )
        return super().find_class(module, name)
