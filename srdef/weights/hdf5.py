"""Read the legacy HDF5 weights of Keras, the layout of the files that `keras.applications` publishes.

The group attribute `layer_names` lists the layers, the attribute `weight_names` of each layer's group
its datasets. An HDF5 file can name other files, as links or as storage; such a file is refused.
"""

import io
from collections.abc import Iterator

import h5py
import numpy as np

from srdef.errors import InputError


def read(data: bytes) -> dict[str, np.ndarray]:
    """The tensors in the order of the file, which is what Keras itself goes by.

    Parameters
    ----------
    data : bytes
        The whole file.

    Returns
    -------
    dict of str to numpy.ndarray
        Named `LAYER/WEIGHT`.

    Raises
    ------
    InputError
        If the file is not of this layout, or refers to other files.
    """
    tensors = {}
    with h5py.File(io.BytesIO(data), "r") as file:
        # `model.save` puts the same layout one level down, beside the optimiser.
        root = _member(file, "model_weights") if "model_weights" in file else file
        layers = list(_names(root, "layer_names"))
        if not layers:
            raise InputError("it lacks layer_names: not a weights file in Keras's legacy layout")
        for layer in layers:
            group = _member(root, layer)
            for weight in _names(group, "weight_names"):
                tensors[f"{layer}/{weight}"] = _array(_member(group, weight), weight)
    return tensors


def _names(group: h5py.Group, attribute: str) -> Iterator[str]:
    """A list of names; a long one is split over `attribute`0, `attribute`1 and so on."""
    if attribute in group.attrs:
        parts = [group.attrs[attribute]]
    else:
        parts = []
        while f"{attribute}{len(parts)}" in group.attrs:
            parts.append(group.attrs[f"{attribute}{len(parts)}"])
    for part in parts:
        for name in part:
            yield name.decode() if isinstance(name, bytes) else str(name)


def _member(group: h5py.Group, name: str) -> h5py.Group | h5py.Dataset:
    """`group[name]`, if no link on the way leads out of the file."""
    found = group
    for part in name.split("/"):
        if not isinstance(found, h5py.Group) or part not in found:
            raise InputError(f"it lacks {name}")
        if not isinstance(found.get(part, getlink=True), h5py.HardLink):
            raise InputError(f"refused: {name} is a link, and only the file itself is read")
        found = found[part]
    return found


def _array(dataset: h5py.Group | h5py.Dataset, name: str) -> np.ndarray:
    if not isinstance(dataset, h5py.Dataset):
        raise InputError(f"{name} is not an array")
    if dataset.external or dataset.is_virtual:
        raise InputError(f"refused: {name} is stored in another file, and only the file itself is read")
    if dataset.dtype.kind not in "fiu":
        raise InputError(f"{name} has the type {dataset.dtype}, and only numbers are read")
    return np.asarray(dataset[()])
