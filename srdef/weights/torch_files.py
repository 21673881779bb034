"""Read what `torch.save` writes, without PyTorch and without executing anything in it.

A PyTorch file is a pickle, and a pickle is a program. The machine of `srdef.weights.pickles` runs it
with the few globals that rebuild tensors, so a file can do no more than describe arrays.
"""

import io
import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from srdef.errors import InputError
from srdef.weights import archives, containers, pickles

_DTYPES = {
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
# torch/serialization.py: what a legacy file begins with, after which comes the protocol version.
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001


@dataclass(frozen=True)
class _StorageType:
    """Stands for a class such as torch.FloatStorage: data, not something a pickle can call."""

    dtype: np.dtype


@dataclass
class _Storage:
    """The memory of one or more tensors; in a legacy file its bytes come after its first use."""

    dtype: np.dtype
    size: int
    values: np.ndarray | None = None


@dataclass(frozen=True)
class _Tensor:
    """A strided view of a storage, in elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def numpy(self) -> np.ndarray:
        values = self.storage.values
        if values is None:
            raise InputError("a tensor has no data")
        if math.prod(self.shape) == 0:
            return np.zeros(self.shape, values.dtype)
        last = self.offset + sum((n - 1) * step for n, step in zip(self.shape, self.strides, strict=True))
        if last >= values.size:
            raise InputError(f"a tensor of shape {self.shape} reaches beyond its storage")
        strides = [step * values.itemsize for step in self.strides]
        return np.lib.stride_tricks.as_strided(values[self.offset :], self.shape, strides, writeable=False)


def _rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> _Tensor:
    """torch._utils._rebuild_tensor_v2; the rest is requires_grad, backward hooks and metadata."""
    # As of `conj().imag`: its storage has the other sign.
    if any(isinstance(metadata, dict) and metadata.get("neg") for metadata in rest[2:]):
        raise InputError("a tensor whose sign is not in its storage; call resolve_neg() before it is saved")
    if not isinstance(storage, _Storage):
        raise InputError("a tensor has no storage")
    (offset,) = pickles.integers((offset,), "offset of a tensor")
    shape = pickles.integers(size, "shape of a tensor")
    strides = pickles.integers(stride, "strides of a tensor")
    if len(shape) != len(strides):
        raise InputError(f"impossible tensor of shape {shape} and strides {strides}")
    return _Tensor(storage, offset, shape, strides)


def _rebuild_parameter(data: Any, _requires_grad: Any, _hooks: Any) -> Any:
    """torch._utils._rebuild_parameter: a parameter is its tensor."""
    return data


_OFFERED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): pickles.Function("OrderedDict", pickles.make_dictionary),
    ("torch._utils", "_rebuild_tensor_v2"): pickles.Function("_rebuild_tensor_v2", _rebuild_tensor),
    ("torch._utils", "_rebuild_parameter"): pickles.Function("_rebuild_parameter", _rebuild_parameter),
    **{("torch", name): _StorageType(dtype) for name, dtype in _DTYPES.items()},
}


def read(data: bytes, limit: int) -> dict[str, np.ndarray]:
    """The tensors of a `state_dict`, alone or within the dictionaries of a trainer.

    Parameters
    ----------
    data : bytes
        The whole file.
    limit : int
        Bytes that its content may have, unpacked.

    Raises
    ------
    InputError
        If the file is damaged, too large, or asks for anything but tensors.
    """
    return _read_zip(data, limit) if data.startswith(b"PK") else _read_legacy(data)


def _persistent(storage: Callable[..., _Storage]) -> Callable[[Any], _Storage]:
    """How a pickle's persistent ids become storages; `storage` gets key, type, size and the rest."""

    def load(pid: Any) -> _Storage:
        if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage":
            raise InputError("refused: a persistent id that is no storage")
        _, kind, key, _location, size, *rest = pid
        if not isinstance(kind, _StorageType) or not isinstance(key, str):
            raise InputError("refused: a persistent id that is no storage")
        (size,) = pickles.integers((size,), "size of a storage")
        return storage(key, kind.dtype, size, *rest)

    return load


def _read_zip(data: bytes, limit: int) -> dict[str, np.ndarray]:
    """The format of PyTorch >= 1.6: FOLDER/data.pkl and one file a storage, FOLDER/data/KEY."""
    storages: dict[str, _Storage] = {}
    with archives.open_archive(data, limit, "archive of torch.save") as archive:
        described = [name for name in archive.names if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(described) != 1:
            raise InputError("a zip archive that torch.save did not write (no data.pkl)")
        folder = described[0].removesuffix("data.pkl")
        if f"{folder}byteorder" in archive.names and archive.read(f"{folder}byteorder") != b"little":
            raise InputError("written on a big-endian machine, which is not supported")

        def storage(key: str, dtype: np.dtype, size: int, *_view: Any) -> _Storage:
            if key not in storages:
                # The bytes are read once, and viewed as the type of the storage's first tensor.
                values = np.frombuffer(archive.read(f"{folder}data/{key}"), dtype)
                if values.size != size:
                    raise InputError(f"storage {key:.80} has {values.size} elements, expected {size}")
                storages[key] = _Storage(dtype, size, values)
            if storages[key].dtype != dtype:
                raise InputError(f"storage {key:.80} is used with two types")
            return storages[key]

        content = pickles.load(io.BytesIO(archive.read(described[0])), _OFFERED, _persistent(storage))
    return _tensors(content)


def _read_legacy(data: bytes) -> dict[str, np.ndarray]:
    """The format before PyTorch 1.6: five pickles, then the storages, each its length and values."""
    file = io.BytesIO(data)
    storages: dict[str, _Storage] = {}

    def storage(key: str, dtype: np.dtype, size: int, view: Any = None) -> _Storage:
        if view is not None:
            raise InputError("it holds views of storages (PyTorch < 0.4), which are not supported")
        return storages.setdefault(key, _Storage(dtype, size))

    magic, protocol, system = (pickles.load(file, {}) for _ in range(3))
    if type(magic) is not int or magic != _LEGACY_MAGIC or protocol != _LEGACY_PROTOCOL:
        raise InputError("not a file that torch.save wrote")
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise InputError("written on a big-endian machine, which is not supported")
    content = pickles.load(file, _OFFERED, _persistent(storage))
    keys = pickles.load(file, {})
    for key in keys:
        target = storages.get(key) if isinstance(key, str) else None
        if target is None:
            raise InputError("damaged (it lists a storage that no tensor uses)")
        (size,) = struct.unpack("<q", file.read(8))
        if size != target.size:
            raise InputError(f"storage {key:.80} has {size} elements, expected {target.size}")
        values = file.read(size * target.dtype.itemsize)
        target.values = np.frombuffer(values, target.dtype, count=size)
    return _tensors(content)


def _tensors(content: Any) -> dict[str, np.ndarray]:
    found = containers.open_nested(content, "tensors")
    containers.refuse_others(
        [str(name) for name, value in found.items() if not isinstance(value, _Tensor)], "tensors"
    )
    return {str(name): tensor.numpy() for name, tensor in found.items()}
