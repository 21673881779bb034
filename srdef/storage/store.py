"""What a run has already computed: the only state of an evaluation.

A `BatchStore` holds a few arrays, one chunk a batch, as zarr written by TensorStore. A chunk is
written to a temporary file and renamed, and the size of a batch's files is written last; so a run
that is killed anywhere leaves only whole batches, and the next run continues after them. A batch whose
files are missing or have another size is missing too, and one whose files cannot be decoded is an error and
then missing; never are zeros read in its place. Several processes may write different batches of one store at
the same time. The name of a store's folder ends in the hash of its
manifest, which says everything its content depends on: a changed configuration finds another folder, never
stale data, and the same under another label finds what is there.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts

from srdef import interrupts
from srdef.errors import InputError
from srdef.storage import locks
from srdef.storage.files import LOCK, canonical_json, remove_unfinished, write_atomically

# How often metadata are made again that others damage or remove at the same time.
_ATTEMPTS = 4


@contextmanager
def exclusive(workdir: Path) -> Iterator[None]:
    """Make `workdir` and keep every other run out of it until the block ends.

    The lock is the operating system's, so it is gone with the process however that ends. On a file system
    without locks a warning says that nothing keeps others out, and what killed runs have left stays.

    Raises
    ------
    InputError
        If the folder cannot be written to, or another run holds it.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        file = open(workdir / LOCK, "a+", encoding="utf-8")  # noqa: SIM115 (held until the block ends)
    except OSError as error:
        raise InputError(f"cannot write to workdir {workdir}: {error.strerror}") from None
    with file:
        try:
            alone = locks.lock(file, workdir, wait=False)
        except BlockingIOError:
            file.seek(0)
            raise InputError(
                f"workdir {workdir} is in use by another run (process {file.read().strip() or 'unknown'}); "
                "wait for it or choose another --workdir"
            ) from None
        with as_input_error(f"cannot write to workdir {workdir}"):
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
        if alone:
            remove_unfinished(workdir)
        yield


def read_array(folder: Path, rows: slice) -> np.ndarray:
    """Rows of one array, given the folder of a store's field, which stays as it is.

    Raises
    ------
    InputError
        Names the file, if one is missing or damaged.
    """
    spec = {
        "driver": "zarr",
        "kvstore": {"driver": "file", "path": str(folder)},
        "open": True,
        "fill_missing_data_reads": False,
    }
    with as_input_error(f"cannot read {folder}"):
        return np.asarray(ts.open(spec).result()[rows].read().result())


@contextmanager
def as_input_error(what: str) -> Iterator[None]:
    """Turn what TensorStore and the operating system raise into an InputError that begins with `what`."""
    try:
        yield
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{what} ({error.strerror or error})") from None
    except ValueError as error:  # TensorStore raises it for all of its codes
        # "CODE: what happened [details of the specification and the source]".
        reason = re.sub(
            r"^[A-Z_]+: ", "", re.split(r" \[(?:tensorstore_spec|os_error_code|source)", str(error))[0]
        )
        raise InputError(f"{what} ({' '.join(reason.split())})") from None


class BatchStore:
    """Arrays over `count` images, kept batch by batch in a folder.

    Parameters
    ----------
    parent : Path
        The folder is `parent / f"{label}-{hash of the manifest}"`, or that of another label with this hash.
    label : str
        For people who look into the folder.
    manifest : mapping
        Plain data: everything the content depends on.
    fields : mapping of name to (shape of one image's entry, dtype)
    count, batch_size : int

    Attributes
    ----------
    path : Path
        The folder.
    digest : str
        The hash of the manifest.

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
        self.digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        name = "".join(c if c.isalnum() or c in "-_" else "_" for c in label)
        self.path = parent / f"{name}-{self.digest}"
        if not self.path.is_dir():
            self.path = min(filter(Path.is_dir, parent.glob(f"*-{self.digest}")), default=self.path)
        with as_input_error(f"cannot write to {self.path}"):
            self.path.mkdir(parents=True, exist_ok=True)
            kept = self.path / "manifest.json"
            if not kept.is_file() or kept.read_bytes() != text.encode():
                write_atomically(kept, text)
        self._arrays = {
            field: self._open(field, (count, *shape), (batch_size, *shape), dtype)
            for field, (shape, dtype) in fields.items()
        }
        # Of each batch the bytes of all its files; 0 until it is done.
        self._sizes = self._open("sizes", (-(-count // batch_size),), (1,), np.uint64, missing_is_zero=True)
        self.damaged: list[slice] = []

    def _open(
        self,
        field: str,
        shape: tuple[int, ...],
        chunk: tuple[int, ...],
        dtype: Any,
        missing_is_zero: bool = False,
    ) -> Any:
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
            "fill_missing_data_reads": missing_is_zero,
            "store_data_equal_to_fill_value": True,
        }
        with as_input_error(f"cannot open {self.path / field}"):
            for _ in range(_ATTEMPTS):
                with suppress(ValueError):
                    return ts.open(spec).result()
                # It is all in `spec`, so that a damaged one can be made again beside the chunks; of several
                # processes that find it damaged another one may just have done so.
                metadata = self.path / field / ".zarray"
                if _is_damaged(metadata):
                    metadata.unlink(missing_ok=True)
            return ts.open(spec).result()

    def _rows(self, batch: int) -> slice:
        return slice(batch * self.batch_size, min((batch + 1) * self.batch_size, self.count))

    def _files(self, batch: int) -> Iterator[Path]:
        """The files of one batch: one chunk of each array."""
        for field, array in self._arrays.items():
            yield self.path / field / ".".join([str(batch), *["0"] * (array.rank - 1)])

    def _size(self, batch: int) -> int:
        """The bytes of a batch's files; 0 if one is missing."""
        try:
            return sum(file.stat().st_size for file in self._files(batch))
        except OSError:
            return 0

    def _sizes_when_done(self) -> np.ndarray:
        try:
            return self._sizes.read().result()
        except ValueError:  # a damaged one among many
            sizes = np.zeros(self._sizes.shape, np.uint64)
            for batch in range(len(sizes)):
                with suppress(ValueError):
                    sizes[batch] = self._sizes[batch].read().result()
            return sizes

    def missing(self) -> list[slice]:
        """The rows of the batches that are not there, or not as they were written.

        Afterwards `damaged` has those of them that had been done: whose files are missing or have another
        size. Nothing is decoded for that; `read` finds the rest.
        """
        sizes = self._sizes_when_done().tolist()
        missing = [batch for batch, size in enumerate(sizes) if size == 0 or size != self._size(batch)]
        self.damaged = [self._rows(batch) for batch in missing if sizes[batch]]
        return [self._rows(batch) for batch in missing]

    def done(self, rows: slice) -> bool:
        """Whether one batch is there, as it was written; another process may just have written it."""
        batch = rows.start // self.batch_size
        try:
            size = int(self._sizes[batch].read().result())
        except ValueError:
            return False
        return size != 0 and size == self._size(batch)

    def write(self, rows: slice, **arrays: np.ndarray) -> None:
        """Write one batch; it counts as done only when all of it is on the disk.

        Raises
        ------
        InputError
            Names the file that cannot be written: a full disk, no permission. What was done before stays.
        """
        batch = rows.start // self.batch_size
        with as_input_error(f"cannot write to {self.path}"):
            for file in self._files(batch):  # damaged ones could be in the way of TensorStore
                file.unlink(missing_ok=True)
            writes = [self._arrays[field][rows].write(value) for field, value in arrays.items()]
            for write in writes:
                write.result()
            self._sizes[batch].write(self._size(batch)).result()
        interrupts.check()

    def read(self, field: str) -> np.ndarray:
        """One array, of all images; only for a store with nothing missing.

        Raises
        ------
        InputError
            As `read_rows`.
        """
        if self.missing():
            raise RuntimeError(f"{self.path} is not complete")
        try:
            return self._arrays[field].read().result()
        except ValueError:  # by batches, to find which one it is
            batches = range(self._sizes.shape[0])
            return np.concatenate([self.read_rows(field, self._rows(batch)) for batch in batches])

    def read_rows(self, field: str, rows: slice) -> np.ndarray:
        """One array, of one batch that is done.

        Raises
        ------
        InputError
            Names the file, if it cannot be decoded. Its batch is missing from then on.
        """
        with as_input_error(f"cannot read {self.path}, whose damaged batch the next run computes again"):
            try:
                return self._arrays[field][rows].read().result()
            except ValueError:
                with suppress(ValueError):  # of a folder that cannot be written: then that is what it says
                    self._sizes[rows.start // self.batch_size].write(0).result()
                raise


def _is_damaged(metadata: Path) -> bool:
    """Whether a file is there that is no JSON."""
    try:
        json.loads(metadata.read_bytes())
    except FileNotFoundError:
        return False
    except ValueError:
        return True
    return False
