"""Read the legacy HDF5 weights of Keras, the layout of the files that `keras.applications` publishes.

The group attribute `layer_names` lists the layers, the attribute `weight_names` of each layer's group
its datasets. An HDF5 file can name other files, as links or as storage, and can declare arrays that are
not in it, or are much larger than what is stored of them; such a file is refused.
"""

import io
import math
import re
from collections.abc import Iterator

import h5py
import numpy as np

from srdef.errors import InputError

# Bytes of one list of names, each with its fixed length, or that of the collection HDF5 keeps it in (64 kB as
# it writes them): room for two thousand layers.
_LONGEST_LIST = 128 << 20
_DEEPEST = 16


def read(data: bytes, limit: int) -> dict[str, np.ndarray]:
    """The tensors in the order of the file, which is what Keras itself goes by.

    Parameters
    ----------
    data : bytes
        The whole file.
    limit : int
        Bytes that all arrays together may have.

    Returns
    -------
    dict of str to numpy.ndarray
        Named `LAYER/WEIGHT`.

    Raises
    ------
    InputError
        If the file is not of this layout, declares more than it has or than `limit`, or refers to other
        files.
    """
    tensors = {}
    left = limit
    longest = _longest_string(data)
    with h5py.File(io.BytesIO(data), "r") as file:
        # `model.save` puts the same layout one level down, beside the optimiser.
        root = _member(file, "model_weights") if "model_weights" in file else file
        layers = list(_names(root, "layer_names", longest))
        if not layers:
            raise InputError("it lacks layer_names: not a weights file in Keras's legacy layout")
        for layer in layers:
            group = _member(root, layer)
            for weight in _names(group, "weight_names", longest):
                dataset = _member(group, weight)
                left -= _declared_size(dataset, weight)
                if left < 0:
                    raise InputError(
                        f"refused: its arrays declare more than the {limit} bytes expected at most"
                    )
                tensors[f"{layer}/{weight}"] = np.asarray(dataset[()])
    return tensors


def _names(group: h5py.Group, attribute: str, longest: int) -> Iterator[str]:
    """A list of names; a long one is split over `attribute`0, `attribute`1 and so on."""
    if not isinstance(group, h5py.Group):
        raise InputError(f"{attribute} belongs to a group, and there is none")
    if attribute in group.attrs:
        yield from _name_list(group, attribute, longest)
        return
    part = 0
    while f"{attribute}{part}" in group.attrs:
        yield from _name_list(group, f"{attribute}{part}", longest)
        part += 1


def _name_list(group: h5py.Group, attribute: str, longest: int) -> Iterator[str]:
    declared = group.attrs.get_id(attribute)
    if declared.shape == (0,):  # an empty list, which has the type of numbers
        return
    string = h5py.check_string_dtype(declared.dtype)
    if string is None or len(declared.shape) != 1:
        raise InputError(f"{attribute} is not a list of strings")
    if math.prod(declared.shape) * (string.length or longest) > _LONGEST_LIST:
        raise InputError(f"refused: {attribute} declares more than {_LONGEST_LIST} bytes")
    for name in group.attrs[attribute]:
        yield name.decode() if isinstance(name, bytes) else str(name)


def _longest_string(data: bytes) -> int:
    """Bytes that a string of variable length can have: no more than the collection of strings that it is in.

    HDF5 file format, III.E: such a collection begins with GCOL, the version 1, three bytes, and its size.
    Many strings may be one and the same there.
    """
    starts = [found.start() for found in re.finditer(rb"GCOL\x01", data)]
    sizes = [int.from_bytes(data[start + 8 : start + 16], "little") for start in starts]
    left = len(data) // 16  # objects that the file has room for; collections do not overlap
    for start, size in zip(starts, sizes, strict=True):
        left = _refuse_endless(data, start + 16, min(start + size, len(data)), left)
    return min(max(sizes, default=1), len(data))


def _refuse_endless(data: bytes, place: int, end: int, left: int) -> int:
    """InputError for a collection of strings that HDF5 would read for ever; returns what of `left` is left.

    An object has a header of 16 bytes (its index, then its size in the second half) and a content that is
    filled up to a multiple of 8. The free space has the index 0 and a size that counts its header: if that is
    nothing, HDF5 looks at it again and again. What else is wrong it finds by itself.
    """
    while place + 16 <= end:
        index = int.from_bytes(data[place : place + 2], "little")
        size = int.from_bytes(data[place + 8 : place + 16], "little")
        if (index == 0 and size < 16) or left == 0:
            raise InputError("refused: a collection of strings in it has no end")
        left -= 1
        place += 16 + -(-size // 8) * 8 if index else size
    return left


def _member(group: h5py.Group, name: str) -> h5py.Group | h5py.Dataset:
    """`group[name]`, if no link on the way leads out of the file."""
    found = group
    parts = name.split("/")
    if len(parts) > _DEEPEST:
        raise InputError(f"refused: a name of more than {_DEEPEST} parts")
    for part in parts:
        if not isinstance(found, h5py.Group) or part not in found:
            raise InputError(f"it lacks {name:.80}")
        if not isinstance(found.get(part, getlink=True), h5py.HardLink):
            raise InputError(f"refused: {name:.80} is a link, and only the file itself is read")
        found = found[part]
    return found


def _declared_size(dataset: h5py.Group | h5py.Dataset, name: str) -> int:
    """The bytes of an array, if the file holds every one of them."""
    name = f"{name:.80}"
    if not isinstance(dataset, h5py.Dataset):
        raise InputError(f"{name} is not an array")
    if dataset.external or dataset.is_virtual:
        raise InputError(f"refused: {name} is stored in another file, and only the file itself is read")
    if dataset.dtype.kind not in "fiu":
        raise InputError(f"{name} has the type {dataset.dtype}, and only numbers are read")
    # A few bytes unpack to gigabytes, and HDF5 does not stop at the size that a chunk declares.
    if dataset.id.get_create_plist().get_nfilters():
        raise InputError(f"refused: {name} is compressed; `h5repack -f NONE` unpacks it")
    size = math.prod(dataset.shape) * dataset.dtype.itemsize
    stored = dataset.id.get_storage_size()
    if stored < size:
        raise InputError(f"{name} declares {size} bytes, and the file has {stored} of them")
    return size
