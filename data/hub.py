"""Rows of a set on the Hugging Face hub, through the `datasets` package."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from data.files import FORMATS
from data.rows import DataError, Row
from data.sources.base import Hub

_NO_CONNECTION = {"ConnectionError", "ConnectError", "LocalEntryNotFoundError", "Timeout", "TimeoutException"}
"""Classes of httpx, huggingface_hub, requests and Python itself that have no base in common."""


def hub_rows(hub: Hub, columns: tuple[str, ...]) -> Iterator[Row]:
    """All rows, part after part. Raises DataError when the set cannot be had, with the way round."""
    for config in hub.configs:
        name = hub.name if config is None else f"{hub.name} ({config})"
        try:
            rows = _load(hub, config)
        except Exception as error:  # the libraries below raise many kinds
            raise DataError(
                f"{_reason(error, name)}\n"
                f"A local file of the set can be given instead: --from_path FILE ({FORMATS}) "
                f"with the columns {', '.join(columns)}."
            ) from error
        for number, values in enumerate(rows):
            yield Row(f"{name}, split {hub.split}, row {number} (the first is 0)", values)


def _load(hub: Hub, config: str | None) -> Any:
    import datasets  # slow to import, and not needed for local files

    if hub.files:
        return datasets.load_dataset("parquet", data_files=f"hf://datasets/{hub.name}/{hub.files}", split="train")
    return datasets.load_dataset(hub.name, config, split=hub.split, revision=hub.revision)


def _reason(error: Exception, name: str) -> str:
    text = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
    if isinstance(error, ImportError):
        return f"{name}: reading the hub needs the package datasets (pip install datasets; {text})."
    if _NO_CONNECTION & {cls.__name__ for cls in type(error).__mro__}:
        return f"{name}: the Hugging Face hub cannot be reached from here ({text})."
    return f"{name}: cannot be loaded from the hub ({text}). Is the set gated, and are its terms accepted?"
