"""MNIST from its published files (the IDX format)."""

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import Literal

import numpy as np

from srdef.datasets.base import REGISTRY, Example, Source
from srdef.datasets.files import existing_folder
from srdef.datasets.published import MNIST
from srdef.errors import InputError
from srdef.validation import check_choice
from srdef.weights import download

# Above that of the largest published file, so that a small file cannot fill the memory.
LARGEST = 1 << 28


@REGISTRY.register("mnist")
def mnist(
    split: Literal["train", "test"] = "test", path: str | Path | None = None, channels: Literal[1, 3] = 1
) -> Source:
    """MNIST: gray images of handwritten digits, 28x28 pixels, 10,000 to test and 60,000 to train.

    LeCun, Cortes, Burges 1998. Images keep their size if none is given.

    Parameters
    ----------
    split : "test" or "train"
    path : path, optional
        A folder with `t10k-images-idx3-ubyte` and `t10k-labels-idx1-ubyte` (test), `train-images-idx3-ubyte`
        and `train-labels-idx1-ubyte` (train), each with or without `.gz`, or with `MNIST/raw`, where
        torchvision puts them. Default: downloaded once (12 MB) into srdef's cache folder, and verified.
    channels : 1 or 3
        Images `(28, 28, 1)`; or with the same values in three channels, for models and defenses that take
        RGB.

    Raises
    ------
    InputError
        If the download fails, a file is missing or damaged, or a label is not a digit.
    """
    check_choice("split", split, ("test", "train"))
    if channels not in (1, 3):
        raise InputError(f"channels must be 1 or 3, not {channels!r}")
    start = "t10k" if split == "test" else "train"
    image_file, label_file = (_file(f"{start}-{kind}-ubyte", path) for kind in ("images-idx3", "labels-idx1"))
    images, labels = _read_idx(image_file, 3), _read_idx(label_file, 1)
    if len(images) != len(labels):
        raise InputError(f"{image_file} has {len(images)} images and {label_file.name} {len(labels)} labels")
    bad = np.flatnonzero(labels > 9)
    if len(bad):
        raise InputError(f"{label_file}: label {labels[bad[0]]} of image {bad[0]} is outside [0, 9]")

    def read(position: int) -> Example:
        pixels = np.repeat(images[position][..., None], channels, axis=-1)
        return Example(pixels, int(labels[position]), f"{split}/{position}")

    return Source(len(images), read, tuple("0123456789"), crop="none")


def _file(name: str, path: str | Path | None) -> Path:
    """Where the file `name` is, packed or not."""
    if path is None:
        return download.fetch(MNIST[name])
    root = existing_folder(path)
    for folder in (root, root / "MNIST" / "raw", root / "raw"):
        for file in (folder / name, folder / f"{name}.gz"):
            if file.is_file():
                return file
    raise InputError(f"data set 'mnist': {root} has no {name} and no {name}.gz")


def _read_idx(file: Path, dimensions: int) -> np.ndarray:
    """The array of bytes in an IDX file: 0, 0, 8, the number of dimensions, each as a big-endian integer."""
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as content:
            data = content.read(LARGEST + 1)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{file}: cannot be read, it may be damaged ({reason})") from None
    start = 4 + 4 * dimensions
    if len(data) < start or data[:4] != bytes((0, 0, 8, dimensions)):
        raise InputError(f"{file}: not an IDX file of bytes in {dimensions} dimensions")
    shape = struct.unpack(f">{dimensions}I", data[4:start])
    if 0 in shape or len(data) - start != math.prod(shape):
        written = "x".join(map(str, shape))
        raise InputError(
            f"{file}: {len(data) - start} bytes in the place of {written}; it is truncated, or another file"
        )
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)
