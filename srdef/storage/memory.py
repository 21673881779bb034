"""Arrays over images in memory, with the interface of `BatchStore`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from srdef import batching
from srdef.storage.store import BatchStore


class MemoryStore:
    """What `srdef.storage.store.BatchStore` keeps in a folder, for as long as the process lives.

    Parameters
    ----------
    label : str
    fields : mapping of name to (shape of one image's entry, dtype)
    count, batch_size : int
    """

    def __init__(
        self, label: str, fields: Mapping[str, tuple[tuple[int, ...], Any]], count: int, batch_size: int
    ) -> None:
        self.path, self.digest = Path(label), label
        self.count, self.batch_size = count, batch_size
        self.damaged: list[slice] = []  # memory does not rot
        self._arrays = {name: np.zeros((count, *shape), dtype) for name, (shape, dtype) in fields.items()}
        self._missing = list(batching.slices(count, batch_size))

    def missing(self) -> list[slice]:
        """The rows of the batches that are not there yet."""
        return list(self._missing)

    def done(self, rows: slice) -> bool:
        """Whether one batch is there."""
        return rows not in self._missing

    def write(self, rows: slice, **arrays: np.ndarray) -> None:
        """Keep one batch."""
        for name, values in arrays.items():
            self._arrays[name][rows] = values
        self._missing.remove(rows)

    def read(self, field: str) -> np.ndarray:
        """One array, of all images."""
        return self._arrays[field]

    def read_rows(self, field: str, rows: slice) -> np.ndarray:
        """One array, of some images."""
        return self._arrays[field][rows]


Store = BatchStore | MemoryStore
