"""Weights in portions: a bucket is what is gathered, hashed and sent at one time.

Buckets bound the memory of a sync: whatever the size of the model, only a few of them exist at once. They live in host
memory and are pickled as plain byte arrays, which Ray ships through shared memory without a copy (tensors it would
serialise one storage at a time).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import xxhash

Packed = list[tuple[np.ndarray, torch.dtype, tuple[int, ...]]]


@dataclass(frozen=True, eq=False)
class Bucket:
    """Some parameters, by name. Received tensors may be read-only: copy them, never write to them."""

    names: list[str]
    tensors: list[torch.Tensor]
    """In host memory, contiguous."""

    @property
    def num_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors)

    def __reduce__(self) -> tuple:
        packed = [(as_bytes(tensor), tensor.dtype, tuple(tensor.shape)) for tensor in self.tensors]
        return _unpack, (self.names, packed)


def as_bytes(tensor: torch.Tensor) -> np.ndarray:
    """The memory of a contiguous host tensor, as bytes, without a copy (numpy has no bfloat16)."""
    return tensor.detach().reshape(-1).view(torch.uint8).numpy()


def _unpack(names: list[str], packed: Packed) -> Bucket:
    with warnings.catch_warnings():  # arrays from shared memory are read-only, which torch cannot express
        warnings.filterwarnings("ignore", message=".*not writable.*")
        tensors = [torch.from_numpy(array).view(dtype).reshape(shape) for array, dtype, shape in packed]
    return Bucket(names, tensors)


def buckets(named_tensors: Iterable[tuple[str, torch.Tensor]], bucket_bytes: int) -> Iterator[Bucket]:
    """Collect tensors, in order, into buckets of at most `bucket_bytes`; a larger tensor travels alone.

    Tensors are moved to host memory as they come, so a lazy input (gathered one by one) stays lazy. On a CPU the bucket
    holds the caller's own memory: send it before changing the weights.
    """
    names: list[str] = []
    tensors: list[torch.Tensor] = []
    size = 0
    for name, tensor in named_tensors:
        if tensors and size + tensor.nbytes > bucket_bytes:
            yield Bucket(names, tensors)
            names, tensors, size = [], [], 0
        names.append(name)
        tensors.append(tensor.detach().cpu().contiguous())
        size += tensor.nbytes
    if tensors:
        yield Bucket(names, tensors)


def digest(bucket: Bucket) -> str:
    """Hash of names, types, shapes and bytes (xxh3, 128 bits; about 15 GB/s, so that it can always be on)."""
    state = xxhash.xxh3_128()
    for name, tensor in zip(bucket.names, bucket.tensors, strict=True):
        state.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        state.update(as_bytes(tensor).data)
    return state.hexdigest()
