"""Read weights files into flat dictionaries of NumPy arrays, without executing anything in them.

Nor can a small file take the machine's memory: what a file declares is added up before it is read, and
compared with what the network needs.
"""

import hashlib
import io
import json
import math
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import ml_dtypes
import numpy as np
import safetensors

from srdef.errors import InputError
from srdef.paths import expanded
from srdef.weights import archives, hdf5, numpy_pickles, torch_files

TORCH_SUFFIXES = (".pth", ".pt")
KERAS_SUFFIXES = (".h5", ".hdf5")

# What a file may hold for each byte of the network's weights: float64 instead of float32, and an average and
# two moments of an optimiser beside them. And what it may hold in any case.
SLACK = 8
ALWAYS_ALLOWED = 16 << 20
# For a network that is not known: five times the largest one here.
LARGEST = 1 << 30
# Twenty times those of the deepest network here.
MOST_TENSORS = 20_000

_SAFETENSORS_DTYPES = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
_LONGEST_HEADER = 16 << 20


def read(path: str | Path, *, sha256: str | None = None, needed: int | None = None) -> dict[str, np.ndarray]:
    """Read a weights file.

    Parameters
    ----------
    path : path
        `.safetensors`, `.npz`, `.h5` in the legacy layout of Keras, `.pth`/`.pt` as `torch.save` writes a
        `state_dict` (the zip format of PyTorch >= 1.6 and the legacy format before it), or `.pkl` with a
        dictionary of NumPy arrays. In the last two the weights may be in a dictionary within others;
        where there are several, the first one of `srdef.weights.containers.NESTED` is taken.
    sha256 : str, optional
        What the file's SHA-256 must be, in hexadecimal.
    needed : int, optional
        Bytes of the network's weights. The file, and what it unpacks to, may have `SLACK` times as many and
        `ALWAYS_ALLOWED` more; where it is not given, `LARGEST`.

    Returns
    -------
    dict of str to numpy.ndarray
        In the order of the file; the arrays may be read-only views. bfloat16 stays
        `ml_dtypes.bfloat16`.

    Raises
    ------
    InputError
        If the file cannot be read, has another hash, is damaged, too large, or asks for anything but
        tensors.
    """
    path = expanded(path)
    parse = _READERS.get(path.suffix)
    if parse is None:
        raise InputError(f"weights file {path}: unknown kind; choose from: {', '.join(_READERS)}")
    limit = LARGEST if needed is None else SLACK * needed + ALWAYS_ALLOWED
    data = _bytes(path, limit)
    if sha256 is not None:
        found = hashlib.sha256(data).hexdigest()
        if found != sha256:
            raise InputError(f"weights file {path}: SHA-256 is {found}, expected {sha256}")
    try:
        tensors = parse(data, limit)
        if len(tensors) > MOST_TENSORS:
            raise InputError(f"{len(tensors)} tensors, and at most {MOST_TENSORS} are expected")
        return tensors
    except InputError as error:
        raise InputError(f"weights file {path}: {error}") from None
    except MemoryError:
        raise InputError(f"weights file {path}: there is not enough memory to read it") from None
    except Exception as error:  # of garbage, zipfile and h5py raise nearly everything
        reason = f"{type(error).__name__}: {error}"
        raise InputError(f"weights file {path}: damaged ({reason:.200})") from None


def metadata(path: str | Path) -> dict[str, str]:
    """What a `.safetensors` file says beside its tensors; nothing of another file, or a damaged one."""
    path = expanded(path)
    if path.suffix != ".safetensors":
        return {}
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            found = json.loads(file.read(min(length, _LONGEST_HEADER)))["__metadata__"]
            return {str(name): str(text) for name, text in found.items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return {}


def _bytes(path: Path, limit: int) -> bytes:
    """The whole of a regular file, if it is not larger than `limit`."""
    try:
        status = os.stat(path)
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):  # a folder says so itself
            raise InputError(f"weights file {path}: not a file but a pipe or a device")
        if stat.S_ISREG(status.st_mode) and status.st_size > limit:
            raise InputError(f"weights file {path}: {status.st_size} bytes, and at most {limit} are expected")
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"weights file {path}: cannot be read ({error.strerror})") from None


def _read_safetensors(data: bytes, _limit: int) -> dict[str, np.ndarray]:
    if int.from_bytes(data[:8], "little") > _LONGEST_HEADER:
        raise InputError(f"refused: a header of more than {_LONGEST_HEADER} bytes")
    # safetensors.numpy.load has no bfloat16.
    tensors = {}
    for name, tensor in safetensors.deserialize(data):
        dtype = _SAFETENSORS_DTYPES.get(tensor["dtype"])
        if dtype is None:
            raise InputError(f"tensor {name:.80} has the unsupported type {tensor['dtype']}")
        tensors[name] = np.frombuffer(tensor["data"], dtype).reshape(tensor["shape"])
    return tensors


def _read_npz(data: bytes, limit: int) -> dict[str, np.ndarray]:
    with archives.open_archive(data, limit, ".npz archive") as archive:
        return {name.removesuffix(".npy"): _read_npy(archive.read(name), name) for name in archive.names}


def _read_npy(data: bytes, name: str) -> np.ndarray:
    """A view of the array in a `.npy` file; numpy.load would reserve what its header declares."""
    start, shape, dtype, order = _npy_header(data, name)
    if dtype.kind not in "fiub":
        raise InputError(f"refused: {name:.80} has the type {dtype}, and only numbers are read")
    if len(data) - start != math.prod(shape) * dtype.itemsize:
        raise InputError(f"{name:.80} declares the shape {shape}, and has {len(data) - start} bytes")
    return np.frombuffer(data, dtype, offset=start).reshape(shape, order=order)


def _npy_header(data: bytes, name: str) -> tuple[int, tuple[int, ...], np.dtype, Literal["C", "F"]]:
    """Where the values begin, the shape, the type, and the order of the axes in memory."""
    file = io.BytesIO(data)
    parse = _NPY_HEADERS.get(np.lib.format.read_magic(file))
    if parse is None:
        raise InputError(f"{name:.80} has an unknown version of the .npy format")
    shape, fortran, dtype = parse(file)
    return file.tell(), shape, dtype, "F" if fortran else "C"


_NPY_HEADERS: dict[tuple[int, int], Callable[..., Any]] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}

_READERS: dict[str, Callable[[bytes, int], dict[str, np.ndarray]]] = {
    ".safetensors": _read_safetensors,
    ".npz": _read_npz,
    ".pkl": lambda data, limit: numpy_pickles.read(data),
    **dict.fromkeys(KERAS_SUFFIXES, hdf5.read),
    **dict.fromkeys(TORCH_SUFFIXES, torch_files.read),
}
SUFFIXES = tuple(_READERS)
