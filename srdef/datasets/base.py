"""What a data set is, and how one is read by name."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from srdef import cores
from srdef.datasets.dataset import Dataset
from srdef.datasets.on_disk import ImagesOnDisk, write_shape
from srdef.datasets.reading import Crop, check_crop, fit
from srdef.datasets.selection import Selection
from srdef.errors import InputError
from srdef.images import from_uint8
from srdef.registry import Registry
from srdef.validation import check_count, check_flags

REGISTRY = Registry("data set")

# Up to so many bytes of float32 the images are kept in memory also where they need not be.
LARGEST_IN_MEMORY = 2**27


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
class Entry:
    """What is known of an image without reading it.

    Attributes
    ----------
    label, name
        As those of its `Example`.
    stamp : str
        Another one whenever the image may be another one: size and time of modification of its file (see
        `srdef.datasets.files.stamp`), or a hash of what it is made of.
    """

    label: int
    name: str
    stamp: str


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
    entry : callable, optional
        The `Entry` of the image at a position. With it a data set may be larger than the memory; without, its
        images are read into memory.
    least_classes : bool
        Whether the labels alone say how many classes there are: a model may have more.
    """

    length: int
    read: Callable[[int], Example]
    class_names: tuple[str, ...]
    crop: Crop
    entry: Callable[[int], Entry] | None = None
    least_classes: bool = False


def list_names() -> list[str]:
    """The names that `load` knows."""
    return REGISTRY.names()


# What `load` takes itself, of every data set.
_OWN_OPTIONS = ("size", "crop", "offset", "limit", "selection", "keep", "progress")


def open_source(name: str, size: int | None = None, crop: str | None = None, **options: object) -> Source:
    """A data set before its images are read, with the crop that they will be read with.

    A function of the user's own may also return `images, labels`.

    Raises
    ------
    InputError
        As `load`.
    """
    if size is not None:
        check_count("size", size)
    if crop is not None:
        check_crop(crop)
    if ":" in name:
        for option in _OWN_OPTIONS:
            if REGISTRY.takes(name, option):
                raise InputError(
                    f"data set {name!r}: its parameter {option!r} is never given, as every data set has an "
                    "option of that name; rename it"
                )
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
    with ThreadPoolExecutor(min(8, cores.usable())) as pool:
        for i, (image, label, image_name) in enumerate(pool.map(read, positions)):
            if images is None:
                images = np.empty((len(positions), *image.shape), np.float32)
            if image.shape != images.shape[1:]:
                raise InputError(
                    f"image {image_name} is {write_shape(image.shape)}, and {names[0]} is "
                    f"{write_shape(images[0].shape)}: say size=, in pixels"
                )
            images[i] = from_uint8(image) if image.dtype == np.uint8 else image
            labels[i] = label
            names.append(image_name)
            if progress is not None:
                progress(i + 1, len(positions))
    if images is None:
        raise InputError("there are no images")
    ids = np.array(positions, np.int32)
    return Dataset(images, labels, tuple(names), ids, source.class_names, source.least_classes)


def leave_on_disk(source: Source, positions: Sequence[int], size: int | None) -> Dataset | None:
    """As `read_positions`, but images are read when they are needed; None if they may as well be kept."""
    entry = source.entry
    if entry is None:
        return None
    Image.init()

    def read(row: int) -> np.ndarray:
        return fit(source.read(positions[row]).image, size, source.crop)

    first = read(0)
    if 4 * first.size * len(positions) <= LARGEST_IN_MEMORY:
        return None
    with ThreadPoolExecutor(min(8, cores.usable())) as pool:  # a file system may take its time
        entries = list(pool.map(entry, positions))
    names = tuple(found.name for found in entries)
    stamps = [found.stamp for found in entries]
    images = ImagesOnDisk(read, names, first.shape, stamps, f"size {size}, crop {source.crop}")
    labels = np.array([found.label for found in entries], np.int32)
    ids = np.array(positions, np.int32)
    return Dataset(images, labels, names, ids, source.class_names, source.least_classes)


def load(
    name: str,
    *,
    size: int | None = None,
    crop: str | None = None,
    offset: int = 0,
    limit: int | None = None,
    selection: str | Path | None = None,
    keep: bool = True,
    progress: Callable[[int, int], None] | None = None,
    **options: object,
) -> Dataset:
    """Read a data set.

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
    keep : bool
        Whether all images are read into memory. False: those of a large data set (above `LARGEST_IN_MEMORY`)
        stay where they are, if its source allows it, and are read when `dataset.batch` asks for them.
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
    if limit is not None:
        check_count("limit", limit)
    check_count("offset", offset, least=0)
    check_flags(keep=keep)
    source = open_source(name, size, crop, **options)
    chosen = Selection.read(selection) if selection else None
    positions: Sequence[int] = range(source.length)
    if chosen is not None and selection:
        chosen.check(selection, name, size, source.crop, source.length)
        positions = chosen.positions
    if offset >= len(positions):
        raise InputError(
            f"offset {offset} is outside the data set {name!r}, which has {len(positions)} images"
        )
    stop = len(positions) if limit is None else min(offset + limit, len(positions))
    chosen_positions = positions[offset:stop]
    dataset = None if keep else leave_on_disk(source, chosen_positions, size)
    if dataset is None:
        dataset = read_positions(source, chosen_positions, size, progress)
    if chosen is not None and selection:
        chosen.check_images(selection, dataset.names, dataset.labels.tolist(), offset)
    return dataset
