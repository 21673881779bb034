"""Read weights files into flat dictionaries of NumPy arrays, without executing anything in them.

A PyTorch file is a pickle, and a pickle is a program. The unpickler here knows the few globals that
rebuild tensors and refuses every other, so a file can do no more than describe arrays. PyTorch
itself is not needed.
"""

import hashlib
import io
import math
import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np
import safetensors

from srdef.errors import InputError
from srdef.weights import hdf5, numpy_pickles

TORCH_SUFFIXES = (".pth", ".pt")
KERAS_SUFFIXES = (".h5", ".hdf5")

_TORCH_DTYPES = {
    "DoubleStorage": np.dtype("<f8"),
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}
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
# torch/serialization.py: what a legacy file begins with, after which comes the protocol version.
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001


def read(path: str | Path, *, sha256: str | None = None) -> dict[str, np.ndarray]:
    """Read a weights file.

    Parameters
    ----------
    path : path
        `.safetensors`, `.npz`, `.h5` in the legacy layout of Keras, or `.pth`/`.pt` as `torch.save`
        writes a `state_dict` (the zip format of PyTorch >= 1.6 and the legacy format before it), alone or
        under `params_ema`, `params` or `state_dict` beside other things, `.pkl` with a dictionary of
        NumPy arrays.
    sha256 : str, optional
        What the file's SHA-256 must be, in hexadecimal.

    Returns
    -------
    dict of str to numpy.ndarray
        In the order of the file; the arrays may be read-only views. bfloat16 stays
        `ml_dtypes.bfloat16`.

    Raises
    ------
    InputError
        If the file cannot be read, has another hash, is damaged, or asks for anything but tensors.
    """
    path = Path(path)
    parse = _READERS.get(path.suffix)
    if parse is None:
        raise InputError(f"weights file {path}: unknown kind; choose from: {', '.join(_READERS)}")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"weights file {path}: cannot be read ({error.strerror})") from None
    if sha256 is not None:
        found = hashlib.sha256(data).hexdigest()
        if found != sha256:
            raise InputError(f"weights file {path}: SHA-256 is {found}, expected {sha256}")
    try:
        return parse(data)
    except InputError as error:
        raise InputError(f"weights file {path}: {error}") from None
    except Exception as error:  # of garbage, pickle and zipfile raise nearly everything
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(f"weights file {path}: damaged ({reason})") from None


def _read_safetensors(data: bytes) -> dict[str, np.ndarray]:
    # safetensors.numpy.load has no bfloat16.
    tensors = {}
    for name, tensor in safetensors.deserialize(data):
        dtype = _SAFETENSORS_DTYPES.get(tensor["dtype"])
        if dtype is None:
            raise InputError(f"tensor {name!r} has the unsupported type {tensor['dtype']}")
        tensors[name] = np.frombuffer(tensor["data"], dtype).reshape(tensor["shape"])
    return tensors


def _read_npz(data: bytes) -> dict[str, np.ndarray]:
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        if not isinstance(file, Mapping):
            raise InputError("not an .npz archive")
        return dict(file)


def _read_torch(data: bytes) -> dict[str, np.ndarray]:
    return _read_zip(data) if data.startswith(b"PK") else _read_legacy(data)


class _Sealed:
    """Takes no state from a pickle, so that a file cannot change what this module has made."""

    def __setstate__(self, state: Any) -> None:
        raise InputError(f"refused: it gives a state to a {type(self).__name__}")


class _Dictionary(dict[Any, Any]):
    """Stands for collections.OrderedDict."""

    def __setstate__(self, state: Any) -> None:
        """Ignore the state: the `_metadata` of a `state_dict` (version numbers of its modules)."""


@dataclass(frozen=True)
class _StorageType(_Sealed):
    """Stands for a class such as torch.FloatStorage: data, not something a pickle can call."""

    dtype: np.dtype


@dataclass
class _Storage(_Sealed):
    """The memory of one or more tensors; in a legacy file its bytes come after its first use."""

    dtype: np.dtype
    size: int
    values: np.ndarray | None = None


@dataclass(frozen=True)
class _Tensor(_Sealed):
    """A strided view of a storage, in elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def numpy(self) -> np.ndarray:
        values = self.storage.values
        if values is None:
            raise InputError("a tensor has no data")
        if len(self.shape) != len(self.strides) or min((self.offset, *self.shape, *self.strides)) < 0:
            raise InputError(f"impossible tensor of shape {self.shape} and strides {self.strides}")
        if math.prod(self.shape) == 0:
            return np.zeros(self.shape, values.dtype)
        last = self.offset + sum((n - 1) * step for n, step in zip(self.shape, self.strides, strict=True))
        if last >= values.size:
            raise InputError(f"a tensor of shape {self.shape} reaches beyond its storage")
        strides = [step * values.itemsize for step in self.strides]
        return np.lib.stride_tricks.as_strided(values[self.offset :], self.shape, strides, writeable=False)


class _RebuildTensor(_Sealed):
    """torch._utils._rebuild_tensor_v2; `rest` is requires_grad, backward hooks and metadata."""

    def __call__(self, storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> _Tensor:
        if not isinstance(storage, _Storage):
            raise InputError("a tensor has no storage")
        return _Tensor(storage, int(offset), tuple(map(int, size)), tuple(map(int, stride)))


class _RebuildParameter(_Sealed):
    """torch._utils._rebuild_parameter: a parameter is its tensor."""

    def __call__(self, data: Any, requires_grad: Any, hooks: Any) -> Any:
        return data


_GLOBALS: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _Dictionary,
    ("torch._utils", "_rebuild_tensor_v2"): _RebuildTensor(),
    ("torch._utils", "_rebuild_parameter"): _RebuildParameter(),
    **{("torch", name): _StorageType(dtype) for name, dtype in _TORCH_DTYPES.items()},
}


class _Unpickler(pickle.Unpickler):
    """An unpickler that can make containers, numbers, strings and tensors, and nothing else."""

    def __init__(self, file: BinaryIO, storage: Callable[..., _Storage]) -> None:
        # Names in files of Python 2 are ASCII; latin-1 never fails.
        super().__init__(file, encoding="latin-1")
        self._storage = storage

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _GLOBALS[module, name]
        except KeyError:
            raise InputError(
                f"refused: it asks for the global {module}.{name}, and only tensors are read"
            ) from None

    def persistent_load(self, pid: Any) -> _Storage:
        kind, storage_type, key, _location, size, *rest = pid
        if kind != "storage" or not isinstance(storage_type, _StorageType):
            raise InputError(f"refused: a persistent id of the kind {kind!r}")
        return self._storage(str(key), storage_type.dtype, int(size), *rest)


def _no_storage(*_: Any) -> _Storage:
    raise InputError("a storage stands where there can be none")


def _read_zip(data: bytes) -> dict[str, np.ndarray]:
    """The format of PyTorch >= 1.6: FOLDER/data.pkl and one file a storage, FOLDER/data/KEY."""
    storages: dict[str, _Storage] = {}
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = archive.namelist()
        pickles = [name for name in names if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise InputError("a zip archive that torch.save did not write (no data.pkl)")
        folder = pickles[0].removesuffix("data.pkl")
        if f"{folder}byteorder" in names and archive.read(f"{folder}byteorder") != b"little":
            raise InputError("written on a big-endian machine, which is not supported")

        def storage(key: str, dtype: np.dtype, size: int) -> _Storage:
            if key not in storages:
                # The bytes are read once, and viewed as the type of the storage's first tensor.
                values = np.frombuffer(archive.read(f"{folder}data/{key}"), dtype)
                if values.size != size:
                    raise InputError(f"storage {key} has {values.size} elements, expected {size}")
                storages[key] = _Storage(dtype, size, values)
            if storages[key].dtype != dtype:
                raise InputError(f"storage {key} is used with two types")
            return storages[key]

        content = _Unpickler(io.BytesIO(archive.read(pickles[0])), storage).load()
    return _tensors(content)


def _read_legacy(data: bytes) -> dict[str, np.ndarray]:
    """The format before PyTorch 1.6: five pickles, then the storages, each its length and values."""
    file = io.BytesIO(data)
    storages: dict[str, _Storage] = {}

    def storage(key: str, dtype: np.dtype, size: int, view: Any = None) -> _Storage:
        if view is not None:
            raise InputError("it holds views of storages (PyTorch < 0.4), which are not supported")
        return storages.setdefault(key, _Storage(dtype, size))

    def load(storage: Callable[..., _Storage]) -> Any:
        return _Unpickler(file, storage).load()

    if load(_no_storage) != _LEGACY_MAGIC or load(_no_storage) != _LEGACY_PROTOCOL:
        raise InputError("not a file that torch.save wrote")
    if load(_no_storage)["little_endian"] is not True:
        raise InputError("written on a big-endian machine, which is not supported")
    content = load(storage)
    for key in load(_no_storage):
        target = storages[key]
        (size,) = struct.unpack("<q", file.read(8))
        if size != target.size:
            raise InputError(f"storage {key} has {size} elements, expected {target.size}")
        values = file.read(size * target.dtype.itemsize)
        target.values = np.frombuffer(values, target.dtype, count=size)
    return _tensors(content)


# Where trainers keep the weights beside other things: BasicSR's averaged and last ones, Lightning's.
_NESTED = ("params_ema", "params", "state_dict")


def _tensors(content: Any) -> dict[str, np.ndarray]:
    if not isinstance(content, Mapping):
        raise InputError(f"holds a {type(content).__name__}, not a dictionary of tensors")
    for name in _NESTED:
        if isinstance(content.get(name), Mapping):
            return _tensors(content[name])
    others = [str(name) for name, value in content.items() if not isinstance(value, _Tensor)]
    if others:
        raise InputError(f"holds more than tensors: {', '.join(others)}")
    return {str(name): tensor.numpy() for name, tensor in content.items()}


_READERS: dict[str, Callable[[bytes], dict[str, np.ndarray]]] = {
    ".safetensors": _read_safetensors,
    ".npz": _read_npz,
    ".pkl": numpy_pickles.read,
    **dict.fromkeys(KERAS_SUFFIXES, hdf5.read),
    **dict.fromkeys(TORCH_SUFFIXES, _read_torch),
}
SUFFIXES = tuple(_READERS)
