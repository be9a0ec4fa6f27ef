"""Data sets: parquet files in, prompts (or rows of supervised fine-tuning) out, and the order they come in."""

from verl.dataset.encoding import encode_messages
from verl.dataset.identity import DataIdentity
from verl.dataset.prompts import ParquetDataset, fingerprint, load_dataset
from verl.dataset.sampler import StatefulSampler
from verl.dataset.sft import SFTDataset, fingerprint_rows

__all__ = [
    "DataIdentity",
    "ParquetDataset",
    "SFTDataset",
    "StatefulSampler",
    "encode_messages",
    "fingerprint",
    "fingerprint_rows",
    "load_dataset",
]
