"""Read pickles of NumPy arrays without executing anything in them.

Such a file asks for three globals of NumPy, for which harmless classes stand here; it is refused if it
asks for any other.
"""

import io
import math
import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np

from srdef.errors import InputError


class _ArrayType:
    """Stands for numpy.ndarray, as a name only."""


class _Dtype:
    """Stands for numpy.dtype."""

    def __init__(self, name: str, *_: Any) -> None:
        if name not in ("f2", "f4", "f8"):
            raise InputError(f"it holds arrays of the type {name!r}, and only floating point is read")
        self.dtype = np.dtype(f"<{name}")

    def __setstate__(self, state: Any) -> None:
        if state[1] != "<":
            raise InputError("written on a big-endian machine, which is not supported")


class _Array:
    """Stands for an array: the bytes that come with it, and their shape."""

    def __init__(self, *_: Any) -> None:
        self.values = np.zeros(0)

    def __setstate__(self, state: Any) -> None:
        _version, shape, kind, fortran, data = state
        if not isinstance(kind, _Dtype) or not isinstance(data, bytes):
            raise InputError("it holds something that is no array of numbers")
        if len(data) != math.prod(shape) * kind.dtype.itemsize:
            raise InputError(f"an array of shape {shape} has {len(data)} bytes")
        self.values = np.frombuffer(data, kind.dtype).reshape(shape, order="F" if fortran else "C")


_GLOBALS: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy", "ndarray"): _ArrayType,
    ("numpy", "dtype"): _Dtype,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _GLOBALS[module, name]
        except KeyError:
            raise InputError(
                f"refused: it asks for the global {module}.{name}, and only arrays are read"
            ) from None


def read(data: bytes) -> dict[str, np.ndarray]:
    """The arrays of a pickled dictionary; those of a list in it are named `NAME/0`, `NAME/1`.

    Raises
    ------
    InputError
        If the pickle asks for or holds anything but arrays of floating-point numbers.
    """
    content = _Unpickler(io.BytesIO(data)).load()
    if not isinstance(content, dict):
        raise InputError(f"holds a {type(content).__name__}, not a dictionary of arrays")
    return dict(_arrays(content))


def _arrays(content: dict[Any, Any]) -> Iterator[tuple[str, np.ndarray]]:
    for name, value in content.items():
        items = enumerate(value) if isinstance(value, list) else [(None, value)]
        for i, item in items:
            if not isinstance(item, _Array):
                raise InputError(f"holds more than arrays: {name}")
            yield (str(name) if i is None else f"{name}/{i}"), item.values
