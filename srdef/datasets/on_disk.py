"""Images that stay where they are until they are needed: data sets that are larger than the memory."""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import PIL

from srdef import cores
from srdef.errors import InputError
from srdef.images import from_uint8

# How many images are read at a time where more are wanted than any batch has.
_MANY = 256
_LARGEST_BATCH = 4096


@cache
def _readers() -> ThreadPoolExecutor:
    """The threads that read, decode and resize; Pillow lets others run meanwhile."""
    return ThreadPoolExecutor(min(8, cores.usable()), thread_name_prefix="images")


class _Known:
    """The SHA-256 of each image of a data set, as far as they have been read."""

    def __init__(self, count: int) -> None:
        self.hashes = np.zeros((count, 32), np.uint8)
        self.there = np.zeros(count, bool)


class ImagesOnDisk:
    """What looks like a float32 array `(N, height, width, channels)` in [0, 1], read when it is indexed.

    Images are kept as they come, in 8 bits, for as long as the batch at hand and the next one need them; only
    what is asked for becomes float32. The hash of an image is taken whenever it is read; another one than
    before is an error.

    Parameters
    ----------
    read : callable
        Reads the image at a position as an array `(height, width, channels)` of uint8, or float32 in [0, 1];
        called from several threads.
    names : sequence of str
        What each image is called.
    shape : tuple of int
        Height, width and channels of every image.
    stamps : sequence of str
        For each image what is known of its file without reading it: when they are equal, so are the images.
    how : str
        How images are made of files: size and crop.
    """

    dtype = np.dtype(np.float32)
    ndim = 4

    def __init__(
        self,
        read: Callable[[int], np.ndarray],
        names: Sequence[str],
        shape: tuple[int, ...],
        stamps: Sequence[str],
        how: str,
    ) -> None:
        self._read, self._names, self._image_shape = read, names, shape
        digests = [hashlib.sha256(stamp.encode()).digest()[:16] for stamp in stamps]
        self._stamps = np.frombuffer(b"".join(digests), np.uint8).reshape(len(names), 16)
        # Another Pillow may decode and resize differently.
        self._how = f"{how}, Pillow {PIL.__version__}"
        self._known = _Known(len(names))
        self._rows = np.arange(len(names))
        self._recent: OrderedDict[int, Future[np.ndarray]] = OrderedDict()
        self._room = 0

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def shape(self) -> tuple[int, ...]:
        """`(N, height, width, channels)`."""
        return (len(self), *self._image_shape)

    def pick(self, positions: np.ndarray) -> "ImagesOnDisk":
        """Some of the images, still not read."""
        picked = object.__new__(ImagesOnDisk)
        vars(picked).update(vars(self), _rows=self._rows[positions], _recent=OrderedDict(), _room=0)
        return picked

    def __getitem__(self, rows: Any) -> np.ndarray:
        """The images that an index, slice, mask or array of positions picks, as float32."""
        wanted = self._rows[rows]
        if np.ndim(wanted) == 0:
            return self[np.flatnonzero(self._rows == wanted)[:1]][0]
        return self._pixels(wanted, len(wanted) if len(wanted) <= _LARGEST_BATCH else _MANY)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """All images, in memory."""
        images = self._pixels(self._rows, _MANY)
        return images if dtype is None else images.astype(dtype, copy=False)

    def ahead(self, rows: slice) -> None:
        """Begin to read what is going to be asked for next."""
        self._begin(self._rows[rows])

    def _begin(self, wanted: np.ndarray) -> "list[Future[np.ndarray]]":
        """Read images in other threads, and keep those of the last two batches."""
        self._room = max(self._room, 2 * len(wanted))
        futures = []
        for row in wanted.tolist():
            if row not in self._recent or _failed(self._recent[row]):
                self._recent[row] = _readers().submit(self._checked, row)
            self._recent.move_to_end(row)
            futures.append(self._recent[row])
        while len(self._recent) > self._room:
            self._recent.popitem(last=False)
        return futures

    def _pixels(self, wanted: np.ndarray, at_a_time: int) -> np.ndarray:
        images = np.empty((len(wanted), *self._image_shape), np.float32)
        for start in range(0, len(wanted), max(at_a_time, 1)):
            for i, future in enumerate(self._begin(wanted[start : start + at_a_time]), start):
                image = future.result()
                images[i] = from_uint8(image) if image.dtype == np.uint8 else image
        return images

    def _checked(self, row: int) -> np.ndarray:
        """One image, of the right shape and the same as before."""
        image, name = self._read(row), self._names[row]
        if image.shape != self._image_shape:
            raise InputError(
                f"image {name} is {write_shape(image.shape)}, and {self._names[0]} is "
                f"{write_shape(self._image_shape)}: say size=, in pixels"
            )
        sha = hashlib.sha256(image.dtype.str.encode())
        sha.update(np.ascontiguousarray(image).data)
        self._know(row, np.frombuffer(sha.digest(), np.uint8))
        return image

    def _know(self, row: int, found: np.ndarray) -> None:
        known = self._known
        if known.there[row] and not np.array_equal(known.hashes[row], found):
            raise InputError(
                f"image {self._names[row]} is no longer what it was when it was first read; restore it, or "
                "give it another time of modification, by which the run knows that it has changed"
            )
        known.hashes[row] = found
        known.there[row] = True

    @property
    def all_known(self) -> bool:
        """Whether the hash of every image is known."""
        return bool(self._known.there[self._rows].all())

    def hashes(self, rows: slice = slice(None)) -> np.ndarray:
        """The SHA-256 of each image, uint8 `(N, 32)`; those that have not been read are read now."""
        wanted = self._rows[rows]
        unknown = wanted[~self._known.there[wanted]]
        for start in range(0, len(unknown), _MANY):
            self._pixels(unknown[start : start + _MANY], _MANY)
        return self._known.hashes[wanted]

    def know(self, hashes: np.ndarray) -> None:
        """Take the hashes from whoever has read the images; InputError if they were others."""
        for row, found in zip(self._rows, hashes, strict=True):
            self._know(int(row), found)

    def signature(self) -> str:
        """A hash of what is known without reading: files and how images are made of them."""
        names = [self._names[row] for row in self._rows.tolist()]
        sha = hashlib.sha256(repr((self.shape, self._how, names)).encode())
        sha.update(self._stamps[self._rows].tobytes())
        return sha.hexdigest()


def _failed(reading: "Future[np.ndarray]") -> bool:
    """Whether an image could not be read, and may be by now."""
    return reading.done() and reading.exception() is not None


def write_shape(shape: tuple[int, ...]) -> str:
    """A shape in words: 299x299x3."""
    return "x".join(map(str, shape))
