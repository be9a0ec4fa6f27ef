"""The order of the rows: a new permutation in every epoch, and a position that survives a restart.

The permutation of an epoch is a function of seed and epoch alone, so the state is two numbers and a resumed run draws
what the uninterrupted one would have drawn.
"""

from __future__ import annotations

import copy
import random
from typing import Any

from verl.types import InputError


class StatefulSampler:
    """Batches of row numbers, epoch after epoch, without end. An incomplete last batch of an epoch is dropped.

    Raises:
        InputError: there are fewer rows than one batch needs.
    """

    def __init__(self, num_rows: int, batch_size: int, shuffle: bool, seed: int) -> None:
        if not 1 <= batch_size <= num_rows:
            raise InputError(
                f"data.train_batch_size={batch_size}: must be between 1 and the number of rows, {num_rows}."
            )
        self.num_rows = num_rows
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.epoch = 0
        """Epoch of the last batch; the first is 0."""
        self._position = 0  # rows of this epoch already drawn
        self._order = self._permutation()

    def next_batch(self) -> list[int]:
        """The row numbers of the next step."""
        if self._position + self.batch_size > self.num_rows:
            self.epoch += 1
            self._position = 0
            self._order = self._permutation()
        start = self._position
        self._position += self.batch_size
        return self._order[start : self._position]

    def peek_batch(self) -> list[int]:
        """What `next_batch` will give; nothing moves."""
        return copy.copy(self).next_batch()

    def state_dict(self) -> dict[str, Any]:
        """Where the sampler stands, as plain numbers."""
        return {
            "epoch": self.epoch,
            "position": self._position,
            "num_rows": self.num_rows,
            "shuffle": self.shuffle,
            "seed": self.seed,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken; the batch size may have changed.

        Raises ValueError when rows, seed or shuffling differ: the order would be another one.
        """
        for name, meaning in (("num_rows", "rows"), ("shuffle", "data.shuffle"), ("seed", "data.seed")):
            if state[name] != getattr(self, name):
                raise ValueError(
                    f"the checkpoint was made with {meaning}={state[name]}, this run has {getattr(self, name)}:"
                    " the order of the data would change. Restore that, or start with trainer.resume_mode=disable."
                )
        self.epoch = state["epoch"]
        self._position = state["position"]
        self._order = self._permutation()

    def _permutation(self) -> list[int]:
        order = list(range(self.num_rows))
        if self.shuffle:
            random.Random(f"{self.seed}/{self.epoch}").shuffle(order)
        return order
