"""What a run has already computed: the only state of an evaluation.

A `BatchStore` holds a few arrays, one chunk a batch, as zarr written by TensorStore. A chunk is
written to a temporary file and renamed, and the flag `done` of a batch is written last; so a run
that is killed anywhere leaves only whole batches, and the next run continues after them. The name
of a store's folder ends in the hash of its manifest, which says everything its content depends on:
a changed configuration finds another folder, never stale data.
"""

import fcntl
import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts

from srdef.errors import InputError
from srdef.storage.files import canonical_json, write_atomically


@contextmanager
def exclusive(workdir: Path) -> Iterator[None]:
    """Make `workdir` and keep every other run out of it until the block ends.

    The lock is the operating system's, so it is gone with the process however that ends.

    Raises
    ------
    InputError
        If the folder cannot be written to, or another run holds it.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        lock = open(workdir / "lock", "a+")  # noqa: SIM115 (held until the block ends)
    except OSError as error:
        raise InputError(f"cannot write to workdir {workdir}: {error.strerror}") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise InputError(
                f"workdir {workdir} is in use by another run (process {lock.read().strip() or 'unknown'}); "
                "wait for it or choose another --workdir"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


class BatchStore:
    """Arrays over `count` images, kept batch by batch in a folder.

    Parameters
    ----------
    parent : Path
        The folder is `parent / f"{label}-{hash of the manifest}"`.
    label : str
        For people who look into the folder.
    manifest : mapping
        Plain data: everything the content depends on.
    fields : mapping of name to (shape of one image's entry, dtype)
    count, batch_size : int

    Raises
    ------
    InputError
        If the folder cannot be written.
    """

    def __init__(
        self,
        parent: Path,
        label: str,
        manifest: Mapping[str, Any],
        fields: Mapping[str, tuple[tuple[int, ...], Any]],
        count: int,
        batch_size: int,
    ) -> None:
        self.count, self.batch_size = count, batch_size
        layout = {name: [list(shape), np.dtype(dtype).name] for name, (shape, dtype) in fields.items()}
        text = canonical_json({**manifest, "count": count, "batch_size": batch_size, "fields": layout})
        name = "".join(c if c.isalnum() or c in "-_" else "_" for c in label)
        self.path = parent / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if not (self.path / "manifest.json").exists():
                write_atomically(self.path / "manifest.json", text)
        except OSError as error:
            raise InputError(f"cannot write to {self.path}: {error.strerror}") from None
        self._arrays = {
            field: self._open(field, (count, *shape), (batch_size, *shape), dtype)
            for field, (shape, dtype) in fields.items()
        }
        batches = -(-count // batch_size)
        self._done = self._open("done", (batches,), (1,), np.uint8)

    def _open(self, field: str, shape: tuple[int, ...], chunk: tuple[int, ...], dtype: Any) -> Any:
        spec = {
            "driver": "zarr",
            "kvstore": {"driver": "file", "path": str(self.path / field)},
            "metadata": {
                "shape": list(shape),
                "chunks": list(chunk),
                "dtype": np.dtype(dtype).str,
                "compressor": {"id": "zlib", "level": 1},
                "fill_value": 0,
            },
            "open": True,
            "create": True,
        }
        return ts.open(spec).result()

    def _rows(self, batch: int) -> slice:
        return slice(batch * self.batch_size, min((batch + 1) * self.batch_size, self.count))

    def missing(self) -> list[slice]:
        """The rows of the batches that are not there yet."""
        done = self._done.read().result()
        return [self._rows(int(batch)) for batch in np.flatnonzero(done == 0)]

    def write(self, rows: slice, **arrays: np.ndarray) -> None:
        """Write one batch; it counts as done only when all of it is on the disk."""
        writes = [self._arrays[field][rows].write(value) for field, value in arrays.items()]
        for write in writes:
            write.result()
        self._done[rows.start // self.batch_size].write(1).result()

    def read(self, field: str) -> np.ndarray:
        """One array, of all images; only for a store with nothing missing."""
        if self.missing():
            raise RuntimeError(f"{self.path} is not complete")
        return self._arrays[field].read().result()

    def read_rows(self, field: str, rows: slice) -> np.ndarray:
        """One array, of one batch that is done."""
        return self._arrays[field][rows].read().result()
