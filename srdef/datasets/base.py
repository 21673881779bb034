"""What a data set is, and how one is read by name."""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from srdef.datasets.reading import Crop, check_crop, to_square
from srdef.datasets.selection import Selection
from srdef.errors import InputError
from srdef.images import from_uint8
from srdef.registry import Registry

REGISTRY = Registry("data set")


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled images in memory; unpacks into `images, labels`.

    Attributes
    ----------
    images : (N, size, size, 3) float32
        RGB in [0, 1], each value one of the 256 levels k/255.
    labels : (N,) int32
        Class indices, counted from 0; -1 where the classifier's own clean prediction is to be the
        label (`labels="predicted"` of the data set `folder`).
    names : tuple of str
        What each image is called (a file name); all different.
    ids : (N,) int32
        Position of each image in the whole data set, whatever `offset` and `limit` were: with it
        the random key of an image is made.
    class_names : tuple of str
        The name of each class; its length is the number of classes.
    """

    images: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...]
    ids: np.ndarray
    class_names: tuple[str, ...]

    def __iter__(self) -> Iterator[np.ndarray]:
        return iter((self.images, self.labels))

    def __len__(self) -> int:
        return len(self.images)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def select(self, rows: np.ndarray | slice) -> "Dataset":
        """The images that `rows` picks: a boolean mask, an array of positions or a slice."""
        positions = np.arange(len(self))[rows]
        return replace(
            self,
            images=self.images[positions],
            labels=self.labels[positions],
            names=tuple(self.names[i] for i in positions),
            ids=self.ids[positions],
        )

    def digest(self) -> str:
        """SHA-256 (hexadecimal) over pixels, labels, names and ids.

        Equal digests mean equal data, so results stored for one digest may be used again.
        """
        sha = hashlib.sha256(repr((self.images.shape, self.names)).encode())
        for array in (self.images, self.labels, self.ids):
            sha.update(np.ascontiguousarray(array).data)
        return sha.hexdigest()


@dataclass(frozen=True)
class Example:
    """One image as it lies in its file (RGB, any size), its label and its name."""

    image: Image.Image
    label: int
    name: str


@dataclass(frozen=True)
class Source:
    """Where the images of a data set come from: what the builders in `REGISTRY` return.

    Attributes
    ----------
    length : int
        How many images there are.
    read : callable
        Reads the image at a position; called from several threads.
    class_names : tuple of str
        The name of each class.
    crop : {"center", "none"}
        The crop this data set is read with unless the caller asks for another.
    """

    length: int
    read: Callable[[int], Example]
    class_names: tuple[str, ...]
    crop: Crop


def list_names() -> list[str]:
    """The names that `load` knows."""
    return REGISTRY.names()


def open_source(name: str, size: int, crop: str | None = None, **options: object) -> Source:
    """A data set before its images are read, with the crop that they will be read with.

    Raises
    ------
    InputError
        As `load`.
    """
    if size < 1:
        raise InputError(f"size must be at least 1 pixel, not {size}")
    if crop is not None:
        check_crop(crop)
    source: Source = REGISTRY.create(name, **options)
    return source if crop is None else replace(source, crop=check_crop(crop))


def read_positions(
    source: Source, positions: Sequence[int], size: int, progress: Callable[[int, int], None] | None = None
) -> Dataset:
    """The images of `source` at `positions`, in that order, as squares of side `size`."""

    def read(position: int) -> tuple[np.ndarray, int, str]:
        example = source.read(position)
        return to_square(example.image, size, source.crop), example.label, example.name

    Image.init()  # Pillow loads its plugins here once; doing it in several threads at a time is not safe
    images = np.empty((len(positions), size, size, 3), np.float32)
    labels = np.empty(len(positions), np.int32)
    names = []
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for i, (image, label, image_name) in enumerate(pool.map(read, positions)):
            images[i] = from_uint8(image)
            labels[i] = label
            names.append(image_name)
            if progress is not None:
                progress(i + 1, len(positions))
    return Dataset(images, labels, tuple(names), np.array(positions, np.int32), source.class_names)


def load(
    name: str,
    *,
    size: int,
    crop: str | None = None,
    offset: int = 0,
    limit: int | None = None,
    selection: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
    **options: object,
) -> Dataset:
    """Read a data set into memory.

    Parameters
    ----------
    name : str
        One of `list_names()`.
    size : int
        Height and width of the images, in pixels.
    crop : {"center", "none"}, optional
        "center": the evaluation crop of the classifiers, a centre square of size/(size + 32) of the
        shorter side; "none": the whole image, resized to a square. Default: what the data set's own
        page says ("none" for `nips2017`, whose images are square and cropped, "center" otherwise).
        Both resize with Pillow's bicubic filter to 8-bit levels.
    offset, limit : int
        Leave out the first `offset` images, then take at most `limit` (default: all).
    selection : path, optional
        A list of images that `srdef.datasets.selection` saved: only these, in its order; `offset` and
        `limit` count in the list. None or "": all images.
    progress : callable, optional
        Called after each image with the number of images read and the number to read.
    **options
        Options of the data set, see `srdef.datasets.folder` and the other modules.

    Returns
    -------
    Dataset
        Also unpacks: `images, labels = load(...)`.

    Raises
    ------
    InputError
        For an unknown name or option, missing or damaged files, wrong labels, or a selection that was
        made of other images or at another size.
    """
    if limit is not None and limit < 1:
        raise InputError(f"limit must be at least 1 image, not {limit}")
    source = open_source(name, size, crop, **options)
    chosen = Selection.read(selection) if selection else None
    positions: Sequence[int] = range(source.length)
    if chosen is not None and selection:
        chosen.check(selection, name, size, source.crop, source.length)
        positions = chosen.positions
    if not 0 <= offset < len(positions):
        raise InputError(
            f"offset {offset} is outside the data set {name!r}, which has {len(positions)} images"
        )
    stop = len(positions) if limit is None else min(offset + limit, len(positions))
    dataset = read_positions(source, positions[offset:stop], size, progress)
    if chosen is not None and selection:
        chosen.check_images(selection, dataset.names, dataset.labels.tolist(), offset)
    return dataset
