"""Your own images as arrays: in memory, or in .npz and .npy files."""

import hashlib
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from srdef.datasets.base import REGISTRY, Entry, Example, Source
from srdef.datasets.files import stamp
from srdef.errors import InputError
from srdef.paths import expanded

# What the fields of an .npz file are usually called.
IMAGE_FIELDS = ("images", "image", "x", "X", "x_test", "X_test", "test_images", "data", "arr_0")
LABEL_FIELDS = ("labels", "label", "y", "Y", "y_test", "Y_test", "test_labels", "target", "targets", "arr_1")


@REGISTRY.register("arrays")
def arrays(
    path: str | Path | None = None,
    *,
    images: Any = None,
    labels: Any = None,
    image_field: str | None = None,
    label_field: str | None = None,
    num_classes: int | None = None,
    channels_first: bool = False,
) -> Source:
    """Images and labels in an .npz file, in .npy files, or in memory; read as they are, if no size is given.

    Parameters
    ----------
    path : path, optional
        An `.npz` file with images and labels, or an `.npy` file of images. Objects in it (pickles) are
        refused.
    images : array (N, height, width, channels) or (N, height, width), optional
        Instead of `path`. Levels of 8 bits (uint8, or other integers from 0 to 255), or floats in [0, 1].
    labels : integer array (N,), path or "predicted", optional
        Class indices from 0; or an `.npy` file of them; "predicted": -1 for each image, which an evaluation
        replaces by what the classifier predicts for it. Default: those in the `.npz` file; beside an `.npy`
        file `x.npy` one that is called `x_labels.npy` or `labels.npy`.
    image_field, label_field : str, optional
        The names of the fields of an `.npz` file. Default: the first there is of `IMAGE_FIELDS` and of
        `LABEL_FIELDS`.
    num_classes : int, optional
        Default: those of the model, which has as many as the largest label needs, or more.
    channels_first : bool
        Whether the images are `(N, channels, height, width)`.

    Raises
    ------
    InputError
        If a file or field is missing or damaged, shapes or types do not fit, a label is not one of the
        classes or, when an image is read, a value is out of range.
    """
    where = "data set 'arrays'" if path is None else str(path)
    if (path is None) == (images is None):
        raise InputError("data set 'arrays': give either path or images")
    if path is not None:
        images, found = _read(expanded(path), image_field, label_field, labels is None)
        labels = found if labels is None else labels
    if isinstance(labels, str | Path) and labels != "predicted":
        where_labels, labels = str(labels), _load(expanded(labels))
    else:
        where_labels = where
    return _source(images, labels, where, where_labels, num_classes, channels_first)


def from_pair(made: Any, where: str) -> Source:
    """The source of `images, labels`; InputError for anything else."""
    if not isinstance(made, tuple | list) or len(made) != 2:
        raise InputError(f"{where}: the function must return a Source or images, labels, not {made!r:.80}")
    images, labels = made
    return _source(images, labels, where, where, None, False)


def _source(
    images: Any, labels: Any, where: str, where_labels: str, num_classes: int | None, channels_first: bool
) -> Source:
    images = _as_array(images, where)
    if images.ndim not in (3, 4) or 0 in images.shape:
        raise InputError(
            f"{where}: images must have the shape (N, height, width, channels) or (N, height, width), "
            f"not {images.shape}"
        )
    if images.ndim == 3:
        images = images[..., None]
    elif channels_first:
        images = np.moveaxis(images, 1, -1)
    elif images.shape[1] in (1, 3, 4) and images.shape[3] > 4:
        raise InputError(
            f"{where}: images of the shape {images.shape} have their channels first: say channels_first=True"
        )
    if images.dtype.kind not in "iuf":
        raise InputError(f"{where}: images must be numbers, not {images.dtype}")
    classes = _check_labels(labels, len(images), where_labels, num_classes)

    def read(position: int) -> Example:
        pixels = np.asarray(images[position])
        return Example(_pixels(pixels, f"{where}: image {position}"), int(classes[position]), str(position))

    # An .npy file stays on the disk.
    mapped = images if isinstance(images, np.memmap) else images.base
    file = Path(str(mapped.filename)) if isinstance(mapped, np.memmap) and mapped.filename else None

    def entry(position: int) -> Entry:
        kept = np.ascontiguousarray(images[position]).data if file is None else stamp(file).encode()
        return Entry(int(classes[position]), str(position), hashlib.sha256(kept).hexdigest())

    count = num_classes if num_classes is not None else max(int(classes.max()) + 1, 1)
    names = tuple(map(str, range(count)))
    return Source(len(images), read, names, crop="none", entry=entry, least_classes=num_classes is None)


def _check_labels(labels: Any, count: int, where: str, num_classes: int | None) -> np.ndarray:
    """The labels `(count,)`; -1 for "predicted"."""
    if labels is None:
        raise InputError(f"{where}: there are no labels; give labels=, or labels='predicted'")
    if isinstance(labels, str):
        return np.full(count, -1)
    classes = _as_array(labels, where)
    if classes.shape == (count, 1):  # as Keras has those of CIFAR
        classes = classes[:, 0]
    if classes.shape != (count,):
        raise InputError(
            f"{where}: {count} images need as many labels, not an array of shape {classes.shape}"
        )
    if classes.dtype.kind not in "iu":
        raise InputError(f"{where}: labels must be integers, not {classes.dtype}")
    largest = np.iinfo(np.int32).max if num_classes is None else num_classes - 1
    bad = (classes < 0) | (classes > largest)
    if bad.any():
        position = int(np.argmax(bad))
        raise InputError(f"{where}: label {classes[position]} of image {position} is outside [0, {largest}]")
    return classes


def _pixels(pixels: np.ndarray, where: str) -> np.ndarray:
    """An image of uint8, or of float32 in [0, 1]."""
    low, high = (0, 1) if pixels.dtype.kind == "f" else (0, 255)
    if not (pixels.min() >= low and pixels.max() <= high):  # NaN is neither
        hint = "; divide by 255" if high == 1 and 1 < pixels.max() <= 255 and pixels.min() >= 0 else ""
        raise InputError(
            f"{where} has values from {pixels.min():g} to {pixels.max():g}; {pixels.dtype} must lie in "
            f"[{low}, {high}]{hint}"
        )
    return pixels.astype(np.float32 if high == 1 else np.uint8)


def _as_array(values: Any, where: str) -> np.ndarray:
    try:
        return values if isinstance(values, np.ndarray) else np.asarray(values)
    except ValueError:  # lists of different lengths
        raise InputError(f"{where}: {type(values).__name__} is no array of numbers") from None


def _read(path: Path, image_field: str | None, label_field: str | None, wanted: bool) -> tuple[Any, Any]:
    """Images and, if `wanted`, labels (None where there are none) of a file."""
    if path.suffix not in (".npz", ".npy"):
        raise InputError(f"{path}: arrays are read from .npz and .npy files")
    if path.suffix == ".npz":
        images = _load(path, image_field, IMAGE_FIELDS)
        return images, _load(path, label_field, LABEL_FIELDS) if wanted else None
    if image_field or label_field:
        raise InputError(f"{path}: an .npy file has no fields")
    beside = (path.with_name(f"{path.stem}_labels.npy"), path.with_name("labels.npy"))
    names = [file for file in beside if file.is_file() and file != path]
    if wanted and not names:
        raise InputError(f"{path}: there are no labels beside it ({beside[0].name} or labels.npy)")
    return _load(path), _load(names[0]) if wanted else None


def _load(path: Path, field: str | None = None, usual: Sequence[str] = ()) -> np.ndarray:
    """The array in an .npy file, which stays on the disk, or a field of an .npz file."""
    try:
        content = np.load(path, mmap_mode="r", allow_pickle=False)
        if isinstance(content, np.ndarray):
            return content
        with content:
            fields = content.files
            chosen = field or next((name for name in usual if name in fields), None)
            if chosen not in fields:
                option = "image_field" if usual == IMAGE_FIELDS else "label_field"
                named = f"no field {field!r}" if field else f"none of the fields {', '.join(usual)}"
                raise InputError(f"{path} has {named}; it has: {', '.join(fields) or 'none'} ({option}=)")
            found: np.ndarray = content[chosen]
            return found
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (ValueError, EOFError, KeyError, zipfile.BadZipFile, NotImplementedError) as error:
        reason = (
            "it holds Python objects"
            if "pickle" in str(error) or "Python objects" in str(error)
            else "it may be damaged"
        )
        raise InputError(f"{path}: cannot be read, {reason} ({' '.join(str(error).split())[:200]})") from None
