"""What a data set is, and how one is read by name."""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from srdef.datasets.reading import Crop, check_crop, fit
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
    images : (N, height, width, channels) float32
        In [0, 1]; RGB, if the data set does not say otherwise. Each value is one of the 256 levels k/255,
        but for arrays of floats.
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
    """One image as it lies in its file, its label and its name.

    The image is an RGB image of Pillow, or an array `(height, width, channels)` of uint8, or of float32 in
    [0, 1].
    """

    image: Image.Image | np.ndarray
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


def open_source(name: str, size: int | None = None, crop: str | None = None, **options: object) -> Source:
    """A data set before its images are read, with the crop that they will be read with.

    A function of the user's own may also return `images, labels`.

    Raises
    ------
    InputError
        As `load`.
    """
    if size is not None and size < 1:
        raise InputError(f"size must be at least 1 pixel, not {size}")
    if crop is not None:
        check_crop(crop)
    made = REGISTRY.create(name, **options)
    if not isinstance(made, Source):
        from srdef.datasets.arrays import from_pair

        made = from_pair(made, f"data set {name!r}")
    source: Source = made
    if crop is not None:
        source = replace(source, crop=check_crop(crop))
    if size is None:
        if crop == "center":
            raise InputError("crop='center' depends on the size: say size=, in pixels")
        source = replace(source, crop="none")
    return source


def read_positions(
    source: Source,
    positions: Sequence[int],
    size: int | None,
    progress: Callable[[int, int], None] | None = None,
) -> Dataset:
    """The images of `source` at `positions`, in that order, as squares of side `size`, or as they are."""

    def read(position: int) -> tuple[np.ndarray, int, str]:
        example = source.read(position)
        return fit(example.image, size, source.crop), example.label, example.name

    Image.init()  # Pillow loads its plugins here once; doing it in several threads at a time is not safe
    images: np.ndarray | None = None
    labels = np.empty(len(positions), np.int32)
    names: list[str] = []
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for i, (image, label, image_name) in enumerate(pool.map(read, positions)):
            if images is None:
                images = np.empty((len(positions), *image.shape), np.float32)
            if image.shape != images.shape[1:]:
                raise InputError(
                    f"image {image_name} is {_shape(image)}, and {names[0]} is {_shape(images[0])}: "
                    "say size=, in pixels"
                )
            images[i] = from_uint8(image) if image.dtype == np.uint8 else image
            labels[i] = label
            names.append(image_name)
            if progress is not None:
                progress(i + 1, len(positions))
    if images is None:
        raise InputError("there are no images")
    return Dataset(images, labels, tuple(names), np.array(positions, np.int32), source.class_names)


def _shape(image: np.ndarray) -> str:
    return "x".join(map(str, image.shape))


def load(
    name: str,
    *,
    size: int | None = None,
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
        One of `list_names()`, or `MODULE:FUNCTION` of your own, which returns a `Source` or `images, labels`.
    size : int, optional
        Height and width of the images, in pixels. Default: the images as they are, which must all have one
        size then.
    crop : {"center", "none"}, optional
        "center": the evaluation crop of the classifiers, a centre square of size/(size + 32) of the
        shorter side; "none": the whole image, resized to a square. Default: what the data set's own
        page says ("center" for photographs; "none" for `nips2017`, whose images are square and cropped, and
        for small images). Images that keep their size are not cropped.
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
