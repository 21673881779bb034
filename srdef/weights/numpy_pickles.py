"""Read pickles of NumPy arrays without executing anything in them.

Such a file asks for three globals of NumPy, for which harmless stand-ins are here; it is refused if it
asks for any other.
"""

import io
import math
from typing import Any

import numpy as np

from srdef.errors import InputError
from srdef.weights import containers, pickles


class _Dtype(pickles.Stateful):
    """Stands for numpy.dtype."""

    def __init__(self, name: Any, *_: Any) -> None:
        if name not in ("f2", "f4", "f8", "u1"):
            raise InputError(f"it holds arrays of the type {name!s:.80}, and only floating point is read")
        self.dtype = np.dtype(f"<{name}")

    def set_state(self, state: Any) -> None:
        # Of single bytes there is no order.
        if not isinstance(state, tuple) or len(state) < 2 or state[1] != ("|" if self.dtype == "u1" else "<"):
            raise InputError("written on a big-endian machine, which is not supported")


class Array(pickles.Stateful):
    """Stands for an array: the bytes that come with it, and their shape."""

    def __init__(self, *_: Any) -> None:
        self.values = np.zeros(0)

    def set_state(self, state: Any) -> None:
        _version, shape, kind, fortran, data = state
        if isinstance(data, str):  # as Python 2 wrote bytes
            data = data.encode("latin-1", errors="replace")
        if not isinstance(kind, _Dtype) or not isinstance(data, bytes):
            raise InputError("it holds something that is no array of numbers")
        shape = pickles.integers(shape, "shape of an array")
        if len(data) != math.prod(shape) * kind.dtype.itemsize:
            raise InputError(f"an array of shape {shape} has {len(data)} bytes")
        self.values = np.frombuffer(data, kind.dtype).reshape(shape, order="F" if fortran else "C")


_OFFERED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): pickles.Function("_reconstruct", Array),
    ("numpy._core.multiarray", "_reconstruct"): pickles.Function("_reconstruct", Array),
    ("numpy", "ndarray"): "numpy.ndarray",  # only an argument of _reconstruct
    ("numpy", "dtype"): pickles.Function("dtype", _Dtype),
}


def read_plain(data: bytes) -> Any:
    """What a pickle holds: numbers, strings, lists, dictionaries, and arrays of floats or bytes as `Array`.

    Raises
    ------
    InputError
        If the pickle asks for or holds anything else.
    """
    return pickles.load(io.BytesIO(data), _OFFERED)


def read(data: bytes) -> dict[str, np.ndarray]:
    """The arrays of a pickled dictionary; those of a list in it are named `NAME/0`, `NAME/1`.

    Parameters
    ----------
    data : bytes
        The whole file; the arrays are together no larger than it.

    Returns
    -------
    dict of str to numpy.ndarray
        In the order of the file.

    Raises
    ------
    InputError
        If the pickle asks for or holds anything but arrays of floating-point numbers.
    """
    content = containers.open_nested(read_plain(data), "arrays")
    arrays: dict[str, np.ndarray] = {}
    strangers = []
    for name, value in content.items():
        items = enumerate(value) if isinstance(value, list) else [(None, value)]
        for i, item in items:
            if isinstance(item, Array) and item.values.dtype != np.uint8:
                arrays[str(name) if i is None else f"{name}/{i}"] = item.values
            else:
                strangers.append(str(name))
    containers.refuse_others(strangers, "arrays")
    return arrays
