"""Photographs, and random patches of them: decoded once, cropped on the device or by threads of the host."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import flax.struct
import grain
import jax
import jax.numpy as jnp
import numpy as np

from srdef.datasets.files import SUFFIXES, existing_folder, list_images
from srdef.datasets.reading import read_array, read_image
from srdef.datasets.tfds import open_builder
from srdef.errors import InputError, warn
from srdef.paths import expanded

# Low-resolution pixels cut off around each patch, so that its border is made from real neighbours.
MARGIN = 4

# That make batches ahead.
THREADS = 4

TFDS = "tfds:"
HELD_OUT = ("validation", "test")

# Of each image file, what `digest_of_folder` looks at beside its name and size.
_FIRST_BYTES = 1 << 16


def read_folder(folder: str | Path, *, held_out: bool = False) -> list[np.ndarray]:
    """All images below `folder` as RGB uint8 `(H, W, 3)`, decoded once, in the order of their paths.

    Parameters
    ----------
    folder : path
        Or `tfds:NAME`, the training split of a prepared data set of TensorFlow Datasets (`tfds:div2k`).
    held_out : bool
        Whether the images are to say how good a training was: of a data set its validation split, or else
        that for tests.

    Raises
    ------
    InputError
        If there is no such folder, data set or split, no image in it, or one that cannot be read.
    """
    if str(folder).startswith(TFDS):
        return _read_tfds(str(folder).removeprefix(TFDS), HELD_OUT if held_out else ("train",))
    paths = list_images(existing_folder(folder))
    if not paths:
        raise InputError(f"no images ({', '.join(SUFFIXES)}) in {folder}")
    return [np.asarray(read_image(path)) for path in paths]


def _read_tfds(name: str, splits: tuple[str, ...]) -> list[np.ndarray]:
    """The high-resolution images (`hr`, or else `image`) of the first split there is, without TensorFlow."""
    where = f"data set {TFDS}{name}"
    builder = open_builder(name, where)
    feature = "hr" if "hr" in builder.info.features else "image"
    if feature not in builder.info.features:
        raise InputError(f"{where}: has neither hr nor image; it has: {', '.join(builder.info.features)}")
    known = list(builder.info.splits)
    split = next((split for split in splits if split in known or not known), None)
    if split is None:
        raise InputError(f"{where}: has no split {' or '.join(splits)}; it has: {', '.join(known)}")
    try:
        records = builder.as_data_source(split)
    except (NotImplementedError, KeyError, ValueError, OSError):
        raise InputError(
            f"{where}: not prepared as array_record in {builder.data_path.parent}; prepare it (with "
            f"tensorflow-cpu installed) by tfds.builder({name!r}, file_format='array_record')"
            ".download_and_prepare()"
        ) from None
    return [
        np.asarray(read_array(record[feature], f"{where}: example {position}"))
        for position, record in enumerate(records)
    ]


def short_names(folders: Sequence[str]) -> list[str]:
    """For each folder its name, with as many of the folders above it as tell it from the others."""
    parts = [Path(os.path.abspath(folder)).parts for folder in folders]
    names = []
    for own in parts:
        others = {other for other in parts if other != own}
        lengths = range(1, len(own))
        length = next((n for n in lengths if all(own[-n:] != other[-n:] for other in others)), len(own))
        names.append(Path(*own[-length:]).as_posix())
    return names


def digest_of_folder(folder: str) -> str:
    """A hash of the images below a folder: their names, sizes and first bytes; "" if it is not there."""
    if not expanded(folder).is_dir():
        return ""
    sha, root = hashlib.sha256(), existing_folder(folder)
    for path in list_images(root):
        try:
            size = path.stat().st_size
            with path.open("rb") as file:
                start = file.read(_FIRST_BYTES)
        except OSError as error:
            raise InputError(f"image {path}: cannot be read ({error.strerror})") from None
        sha.update(f"{path.relative_to(root).as_posix()}\n{size}\n".encode())
        sha.update(hashlib.sha256(start).digest())
    return sha.hexdigest()


def count_shared(photographs: Iterable[np.ndarray], others: Iterable[np.ndarray]) -> int:
    """How many of `others` are, pixel for pixel, one of the photographs, whatever their files are called."""
    others = list(others)
    shapes = {image.shape for image in others}
    known = {_hash(image) for image in photographs if image.shape in shapes}
    return sum(_hash(image) in known for image in others) if known else 0


def _hash(image: np.ndarray) -> bytes:
    return hashlib.sha256(repr(image.shape).encode() + np.ascontiguousarray(image).tobytes()).digest()


def warn_of_shared(folder: str, shared: int, total: int) -> None:
    """Say in one line how many of the images of a folder for validation or tests are trained on."""
    if shared:
        warn(
            f"{shared} of the {total} images in {folder} are among the training images: PSNR and SSIM there "
            "say how well they are remembered"
        )


def cut_to_multiple(image: np.ndarray, scale: int) -> np.ndarray:
    """Cut the bottom and right edges so that both sides are multiples of `scale`."""
    height, width = image.shape[:2]
    return image[: height - height % scale, : width - width % scale]


@dataclass(frozen=True)
class PatchSource:
    """Random high-resolution patches; patch `index` depends on `seed` and `index` alone.

    An image is drawn with probability proportional to its area. Patches are uint8
    `(scale·(patch + 2·MARGIN),) * 2 + (3,)`, turned and flipped at random.
    """

    photographs: list[np.ndarray]
    patch: int
    scale: int
    seed: int
    # Cumulative shares of the photographs in the whole area.
    shares: np.ndarray = field(repr=False)

    @classmethod
    def create(cls, photographs: list[np.ndarray], patch: int, scale: int, seed: int) -> "PatchSource":
        side, margin = scale * patch, scale * MARGIN
        large = [cut_to_multiple(image, scale) for image in photographs if min(image.shape[:2]) >= side]
        if not large:
            raise InputError(f"no training image has both sides of at least {side} pixels")
        if len(large) < len(photographs):
            left = len(photographs) - len(large)
            warn(
                f"{left} of {len(photographs)} training images have a side of less than {side} pixels, "
                "and are left out"
            )
        pad = ((margin, margin), (margin, margin), (0, 0))
        padded = [np.pad(image, pad, mode="symmetric") for image in large]
        shares = np.cumsum([float(image.shape[0] * image.shape[1]) for image in padded])
        return cls(padded, patch, scale, seed, shares / shares[-1])

    @property
    def side(self) -> int:
        """Pixels of a patch with its margins."""
        return self.scale * (self.patch + 2 * MARGIN)

    def draw(self, index: int) -> np.ndarray:
        """Patch `index` in numbers: photograph, top, left, quarter turns, whether flipped; int32 `(5,)`."""
        rng = np.random.default_rng((self.seed, index))
        number = int(self.shares.searchsorted(rng.random(), side="right"))
        height, width = self.photographs[number].shape[:2]
        # Corners on the low-resolution grid, as if the whole image had been made small.
        top = self.scale * rng.integers((height - self.side) // self.scale + 1)
        left = self.scale * rng.integers((width - self.side) // self.scale + 1)
        return np.array([number, top, left, rng.integers(4), rng.integers(2)], np.int32)

    def __call__(self, index: int) -> np.ndarray:
        number, top, left, turns, flipped = self.draw(index)
        square = self.photographs[number][top : top + self.side, left : left + self.side]
        return np.ascontiguousarray(_oriented(square, turns, flipped))


def _oriented(square: np.ndarray, turns: int, flipped: int) -> np.ndarray:
    turned = np.rot90(square, turns)
    return turned[:, ::-1] if flipped else turned


def batches(
    make: Callable[[int], np.ndarray], batch_size: int, first_step: int, steps: int, rows: range | None = None
) -> Iterator[np.ndarray]:
    """Stacked `make(index)` of the steps `first_step` … `steps - 1`, made ahead in threads.

    Index `i` is in row `i % batch_size` of step `i // batch_size`. With `rows` only those of each batch.
    """
    rows = range(batch_size) if rows is None else rows
    share = len(rows)

    def row(number: int) -> np.ndarray:
        step, place = divmod(int(number), share)
        return make(step * batch_size + rows[place])

    stream = grain.MapDataset.range(first_step * share, steps * share).map(row).batch(share)
    return iter(stream.to_iter_dataset(grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=64)))


@flax.struct.dataclass
class PhotographsOnDevice:
    """All photographs of a `PatchSource` in one array, from which `crop` cuts the patches on the device.

    Parameters
    ----------
    pixels : (P, 3) uint8
        Row by row, one photograph after the other.
    first, widths : (N,) int32
        Of each photograph, the index of its first pixel, and its width.
    """

    pixels: jax.Array | np.ndarray
    first: jax.Array | np.ndarray
    widths: jax.Array | np.ndarray
    side: int = flax.struct.field(pytree_node=False)

    @classmethod
    def create(cls, source: PatchSource) -> "PhotographsOnDevice":
        """Gather what `source` draws from; InputError if 32 bits cannot count its pixels."""
        counts = [image.shape[0] * image.shape[1] for image in source.photographs]
        if sum(counts) >= 2**31:
            raise InputError(
                f"{sum(counts)} pixels of training images are too many for crop='device'; choose crop='host'"
            )
        pixels = np.concatenate([image.reshape(-1, 3) for image in source.photographs])
        first = np.cumsum([0, *counts[:-1]]).astype(np.int32)
        widths = np.array([image.shape[1] for image in source.photographs], np.int32)
        return cls(pixels, first, widths, source.side)

    def crop(self, draws: jax.Array) -> jax.Array:
        """The patches `(N, side, side, 3)` that `PatchSource.draw` described in `(N, 5)` numbers."""
        square = np.arange(self.side**2, dtype=np.int32).reshape(self.side, self.side)
        orders = jnp.asarray(np.stack([_oriented(square, t, f) for t in range(4) for f in range(2)]))

        def one(draw: jax.Array) -> jax.Array:
            number, top, left, turns, flipped = draw
            order = orders[2 * turns + flipped]
            rows, columns = top + order // self.side, left + order % self.side
            return self.pixels[self.first[number] + rows * self.widths[number] + columns]

        return jax.vmap(one)(draws)
