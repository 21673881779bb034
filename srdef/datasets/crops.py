"""Crops of large images: many images of one size from few files, as much of each as is wanted."""

import math
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from srdef.datasets.base import REGISTRY, Entry, Example, Source
from srdef.datasets.files import SUFFIXES, existing_folder, list_images, stamp, warn_of_left_out
from srdef.datasets.imagenet_classes import imagenet_class_names
from srdef.datasets.reading import read_image
from srdef.errors import InputError
from srdef.validation import check_count


@REGISTRY.register("crops")
def crops(
    paths: tuple[str, ...],
    side: int,
    *,
    per_image: int = 2,
    strides: tuple[int, ...] | None = None,
    num_classes: int = 1000,
) -> Source:
    """Square crops of the images in some folders, at their own resolution, without labels.

    Each row and column of crops leaves out at most a quarter of a side; crops overlap where that needs it
    (321 pixels give two of 160, 299 pixels two of 160 or of 224). An image with more than `per_image` of them
    gives those at even distances in reading order. Images that are shorter than `side` are left out, which a
    warning says: nothing is enlarged.

    A crop is called FOLDER/FILE#NUMBER, from which `source_image` tells what it was cut from. Its label is
    -1, which an evaluation replaces by what the classifier predicts for it.

    Parameters
    ----------
    paths : sequence of str
        The folders; images are looked for in their subfolders, too.
    side : int
        Side of the crops in pixels.
    per_image : int
        At most so many crops of an image.
    strides : sequence of int, optional
        For each folder: take every so-manieth image of it, sorted by name. Default: all.
    num_classes : int
        Number of classes of the classifier. With 1000 they are taken to be ImageNet's.

    Raises
    ------
    InputError
        If a folder is missing or has no images, two have the same name, an image is damaged, a number is
        below 1, or no image is large enough.
    """
    if not isinstance(paths, list | tuple) or not paths:
        raise InputError(f"data set 'crops': paths must be a list of folders, not {paths!r}")
    for option, value in (("side", side), ("per_image", per_image), ("num_classes", num_classes)):
        check_count(f"data set 'crops': {option}", value)
    if not all(isinstance(path, str | Path) for path in paths):
        raise InputError(f"data set 'crops': paths must be a list of folders, not {paths!r}")
    every = [1] * len(paths) if strides is None else strides
    if not isinstance(every, list | tuple) or not all(isinstance(s, int) for s in every):
        raise InputError(f"data set 'crops': strides must be a list of whole numbers, not {strides!r}")
    if len(every) != len(paths) or min(every) < 1:
        raise InputError(
            f"data set 'crops': strides must be {len(paths)} numbers of at least 1, one for each folder, "
            f"not {every}"
        )
    cut: list[tuple[Path, str, tuple[int, int]]] = []
    folders: set[str] = set()
    resolved: list[Path] = []
    for path, stride in zip(paths, every, strict=True):
        folder = existing_folder(path)
        name = folder.resolve().name
        if name in folders:
            raise InputError(f"data set 'crops': two folders are called {name!r}, so that names would clash")
        folders.add(name)
        for other in resolved:
            if folder.resolve().is_relative_to(other) or other.is_relative_to(folder.resolve()):
                raise InputError(
                    f"data set 'crops': of the folders {other} and {folder.resolve()} one lies in the other, "
                    "so that images would come twice"
                )
        resolved.append(folder.resolve())
        cut += _of_folder(folder, name, stride, side, per_image)
    if not cut:
        raise InputError(
            f"data set 'crops': no image in {', '.join(map(str, paths))} has {side}x{side} pixels"
        )

    def entry(position: int) -> Entry:
        file, name, corner = cut[position]
        return Entry(-1, name, f"{stamp(file)}, {side} pixels at {corner}")

    def read(position: int) -> Example:
        file, name, (left, top) = cut[position]
        return Example(read_image(file).crop((left, top, left + side, top + side)), -1, name)

    names = imagenet_class_names()
    if num_classes != len(names):
        names = tuple(f"class {index}" for index in range(num_classes))
    return Source(len(cut), read, names, crop="none", entry=entry)


def source_image(name: str) -> str:
    """What a crop was cut from, given its name; the name itself of an image that is no crop."""
    return re.sub(r"#\d+$", "", name)


def of_same_images(names: Iterable[str], others: Iterable[str]) -> list[bool]:
    """For each of the names whether one of the others is of the same image, a crop of it perhaps.

    A data set has the paths below its folder, `crops` the folder's name before them: of two paths the one may
    be the end of the other. Images of one name in different folders cannot be told apart then.
    """
    sources = set(map(source_image, others))
    ends = {end for source in sources for end in _ends(source)}
    found = ((source, _ends(source)) for source in map(source_image, names))
    return [source in ends or not sources.isdisjoint(its) for source, its in found]


def _ends(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[i:]) for i in range(len(parts))]


def _of_folder(
    folder: Path, name: str, stride: int, side: int, per_image: int
) -> list[tuple[Path, str, tuple[int, int]]]:
    """File, name and upper left corner of each crop of the images in a folder."""
    files = list_images(folder)[::stride]
    if not files:
        raise InputError(f"data set 'crops': folder {folder} has no images ({', '.join(SUFFIXES)})")
    Image.init()  # Pillow loads its plugins here once; doing it in several threads at a time is not safe
    with ThreadPoolExecutor() as pool:
        sizes = list(pool.map(lambda file: read_image(file).size, files))
    small = [file for file, size in zip(files, sizes, strict=True) if min(size) < side]
    warn_of_left_out(folder, small, f"a side is shorter than {side} pixels")
    found = []
    for file, size in zip(files, sizes, strict=True):
        for number, corner in enumerate(_corners(size, side, per_image)):
            found.append((file, f"{name}/{file.relative_to(folder).as_posix()}#{number}", corner))
    return found


def _corners(size: tuple[int, int], side: int, per_image: int) -> list[tuple[int, int]]:
    """The upper left corners `(left, top)` of the crops of an image of `size` (width, height)."""
    if min(size) < side:
        return []
    lefts, tops = (_places(length, side) for length in size)
    grid = [(left, top) for top in tops for left in lefts]
    chosen = np.linspace(0, len(grid) - 1, min(per_image, len(grid))) if per_image > 1 else [len(grid) // 2]
    return [grid[round(index)] for index in chosen]


def _places(length: int, side: int) -> list[int]:
    """Where crops begin along one axis: one in the middle, or several from end to end."""
    count = max(math.ceil((length - side / 4) / side), 1)
    if count == 1:
        return [(length - side) // 2]
    return [round(start) for start in np.linspace(0, length - side, count)]
