"""Image quilting (Efros and Freeman 2001) as a defense (Guo et al. 2018)."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, UnidentifiedImageError

from srdef.defenses.base import REGISTRY
from srdef.errors import InputError
from srdef.images import to_uint8

# The search compares all patches of an image with this many of the bank at a time.
_CHUNK = 4096


@flax.struct.dataclass
class PatchBank:
    """Patches of clean images, and the codes that are compared in the search for the nearest.

    Parameters
    ----------
    patches : uint8 array (P, size, size, 3)
    codes : float32 array (P, D)
        The patches in [0, 1], flat, minus `mean`, times `components`.
    mean : float32 array (size * size * 3,)
    components : float32 array (size * size * 3, D)
        Principal components, or the identity matrix for the exact distance.
    """

    patches: jax.Array | np.ndarray
    codes: jax.Array | np.ndarray
    mean: jax.Array | np.ndarray
    components: jax.Array | np.ndarray

    @property
    def patch_size(self) -> int:
        """The side of the patches."""
        return self.patches.shape[1]

    def save(self, path: str | Path) -> None:
        """Write a NumPy archive, from which `load_bank` reads."""
        np.savez(path, patches=self.patches, mean=self.mean, components=self.components)


def _with_codes(patches: np.ndarray, mean: np.ndarray, components: np.ndarray) -> PatchBank:
    flat = patches.reshape(len(patches), -1).astype(np.float32) / 255
    return PatchBank(patches, (flat - mean) @ components, mean, components)


def build_bank(
    images: Iterable[np.ndarray],
    count: int,
    *,
    patch_size: int = 5,
    principal_components: int | None = None,
    seed: int = 0,
) -> PatchBank:
    """Draw patches at random places of images, equally many from each.

    Parameters
    ----------
    images : iterable of uint8 arrays (H, W, 3)
        Images smaller than a patch are skipped.
    count : int
        Number of patches, rounded up to a multiple of the number of images.
    patch_size : int
    principal_components : int, optional
        Compare patches by so many principal components; default: by all values, exactly.
    seed : int

    Raises
    ------
    InputError
        If no image is as large as a patch, or a number is out of range.
    """
    values = patch_size**2 * 3
    if patch_size < 2 or count < 1:
        raise InputError(f"patch bank: needs count >= 1 and patch_size >= 2, not {count} and {patch_size}")
    if principal_components is not None and not 1 <= principal_components <= values:
        raise InputError(
            f"patch bank: principal_components must be 1 to {values}, not {principal_components}"
        )
    usable = [image for image in images if min(image.shape[:2]) >= patch_size]
    if not usable:
        raise InputError(f"patch bank: no image has {patch_size} pixels along each side")
    rng = np.random.default_rng(seed)
    each = -(-count // len(usable))
    drawn = []
    for image in usable:
        windows = np.lib.stride_tricks.sliding_window_view(image, (patch_size, patch_size), axis=(0, 1))
        rows = rng.integers(windows.shape[0], size=each)
        columns = rng.integers(windows.shape[1], size=each)
        drawn.append(windows[rows, columns].transpose(0, 2, 3, 1))
    patches = np.concatenate(drawn)
    mean, components = np.zeros(values, np.float32), np.eye(values, dtype=np.float32)
    if principal_components is not None:
        flat = patches.reshape(len(patches), -1).astype(np.float32) / 255
        mean = flat.mean(axis=0)
        _, vectors = np.linalg.eigh(np.cov(flat.T.astype(np.float64)))
        components = vectors[:, ::-1][:, :principal_components].astype(np.float32)
    return _with_codes(patches, mean, components)


def bank_from_folder(
    folder: str | Path, count: int, *, pattern: str = "*", **options: int | None
) -> PatchBank:
    """`build_bank` from the images in a folder whose names match `pattern`.

    Do not evaluate on the images that the bank is made of: the nearest patch of an attacked image
    would be its own clean one.

    Raises
    ------
    InputError
        If there is no such folder, no readable image in it, or as `build_bank`.
    """
    if not Path(folder).is_dir():
        raise InputError(f"patch bank: {folder} is not a folder")
    images = []
    for path in sorted(Path(folder).glob(pattern)):
        try:
            with Image.open(path) as image:
                images.append(np.asarray(image.convert("RGB")))
        except (UnidentifiedImageError, IsADirectoryError):
            continue  # a folder of images often holds labels and notes as well
        except OSError as error:
            raise InputError(f"patch bank: cannot read {path}: {error}") from None
    if not images:
        raise InputError(f"patch bank: no image in {folder} matches {pattern!r}")
    return build_bank(images, count, **options)  # type: ignore[arg-type]


def bank_from_dataset(dataset: Mapping[str, Any], count: int, **options: int | None) -> PatchBank:
    """`build_bank` from a data set, as plain data: `{"name": "imagenet_samples", "size": 160}`.

    The patches are those of the images as they are read, so their size should be that of the images
    which will be defended. These must be others: see `bank_from_folder`.

    Raises
    ------
    InputError
        As `srdef.datasets.load` and `build_bank`.
    """
    from srdef import datasets  # here, so that defenses without a bank load no reading code

    if not isinstance(dataset, Mapping) or not {"name", "size"} <= set(dataset):
        raise InputError(f"patch bank: dataset must have the fields name and size, not {dataset!r}")
    return build_bank(to_uint8(datasets.load(**dataset).images), count, **options)  # type: ignore[arg-type]


def load_bank(path: str | Path) -> PatchBank:
    """Read what `PatchBank.save` wrote.

    Raises
    ------
    InputError
        If there is no such file or it is no patch bank.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            patches, mean, components = (archive[name] for name in ("patches", "mean", "components"))
    except FileNotFoundError:
        raise InputError(f"patch bank: there is no file {path}") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"patch bank: {path} is no patch bank: {error}") from None
    return _with_codes(patches, mean, components)


def nearest_patches(bank: PatchBank, queries: jax.Array, count: int) -> jax.Array:
    """The numbers of the `count` nearest patches of the bank, nearest first.

    Parameters
    ----------
    bank : PatchBank
    queries : array (Q, size * size * 3) in [0, 1]
    count : int

    Returns
    -------
    integer array (Q, count)
    """
    wanted = (queries - bank.mean) @ bank.components
    codes = jnp.asarray(bank.codes)
    size, dimension = codes.shape
    # Of the squared distance, the part that depends on the patch; infinite for the padding.
    offsets = jnp.pad(jnp.sum(codes**2, axis=1), (0, -size % _CHUNK), constant_values=jnp.inf)
    codes = jnp.pad(codes, ((0, -size % _CHUNK), (0, 0)))

    def search(best: tuple[jax.Array, jax.Array], chunk: tuple) -> tuple[tuple[jax.Array, jax.Array], None]:
        codes, offsets, first = chunk
        distances = offsets - 2 * jnp.matmul(wanted, codes.T, precision="highest")
        if count == 1:  # much cheaper than top_k
            numbers = jnp.argmin(distances, axis=1)[:, None]
            nearness = -jnp.take_along_axis(distances, numbers, axis=1)
        else:
            nearness, numbers = jax.lax.top_k(-distances, count)
        nearness = jnp.concatenate([best[0], nearness], axis=1)
        numbers = jnp.concatenate([best[1], first + numbers], axis=1)
        nearness, order = jax.lax.top_k(nearness, count)
        return (nearness, jnp.take_along_axis(numbers, order, axis=1)), None

    start = (jnp.full((len(queries), count), -jnp.inf), jnp.zeros((len(queries), count), jnp.int32))
    chunks = (
        codes.reshape(-1, _CHUNK, dimension),
        offsets.reshape(-1, _CHUNK),
        jnp.arange(0, len(codes), _CHUNK, dtype=jnp.int32),
    )
    (_, numbers), _ = jax.lax.scan(search, start, chunks)
    return numbers


def boundary_cut(error: jax.Array) -> jax.Array:
    """The minimum-error path from the first to the last row of (length, width): a column per row."""
    length, width = error.shape
    totals = [error[0]]
    for row in range(1, length):
        sides = jnp.pad(totals[-1], 1, constant_values=jnp.inf)
        totals.append(error[row] + jnp.minimum(jnp.minimum(sides[:-2], sides[1:-1]), sides[2:]))
    columns = jnp.arange(width)
    path = [jnp.argmin(totals[-1])]
    for row in range(length - 2, -1, -1):
        near = jnp.abs(columns - path[-1]) <= 1
        path.append(jnp.argmin(jnp.where(near, totals[row], jnp.inf)))
    return jnp.stack(path[::-1])


def _quilt(patches: jax.Array, rows: int, columns: int, overlap: int) -> jax.Array:
    """Lay (rows * columns, size, size, 3) in reading order, cutting where they overlap."""
    size = patches.shape[1]
    stride = size - overlap
    across = jnp.arange(size)

    def lay(canvas: jax.Array, item: tuple) -> tuple[jax.Array, None]:
        patch, row, column = item
        corner = (row * stride, column * stride, 0)
        old = jax.lax.dynamic_slice(canvas, corner, patch.shape)
        error = jnp.sum((old - patch) ** 2, axis=-1)
        left = across[None, :] >= boundary_cut(error[:, :overlap])[:, None]
        top = across[:, None] >= boundary_cut(error[:overlap].T)[None, :]
        new = (left | (column == 0)) & (top | (row == 0))
        return jax.lax.dynamic_update_slice(canvas, jnp.where(new[..., None], patch, old), corner), None

    canvas = jnp.zeros((rows * stride + overlap, columns * stride + overlap, 3))
    row, column = jnp.divmod(jnp.arange(rows * columns), columns)
    return jax.lax.scan(lay, canvas, (patches, row, column))[0]


@flax.struct.dataclass
class Quilting:
    """Rebuild the image from patches of clean images.

    The image is cut into overlapping patches, each is replaced by its nearest in the bank, and
    neighbours are joined along the path of least difference in their overlap.

    Deterministic with `neighbours=1`, random otherwise; same size. Its gradient is zero; the
    sensible surrogate is the identity.

    Parameters
    ----------
    bank : PatchBank
        The original has a million patches of 5x5 pixels.
    overlap : int
        Of neighbouring patches, 1 to patch size - 1.
    neighbours : int
        Draw each patch from so many nearest ones (the original uses 1, Athalye et al. 10).

    Raises
    ------
    InputError
        If overlap or neighbours is below 1; when called, if the overlap is not below the patch
        size, or the bank has fewer patches than neighbours.
    """

    bank: PatchBank
    overlap: int = flax.struct.field(pytree_node=False, default=2)
    neighbours: int = flax.struct.field(pytree_node=False, default=1)

    differentiable: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for name in ("overlap", "neighbours"):
            if getattr(self, name) < 1:
                raise InputError(f"quilting: {name} must be at least 1, not {getattr(self, name)}")

    @property
    def random(self) -> bool:
        """Whether patches are drawn from several neighbours."""
        return self.neighbours > 1

    def __call__(self, image: jax.Array, key: jax.Array) -> jax.Array:
        """Rebuild one image, (H, W, 3) in [0, 1]."""
        height, width, _ = image.shape
        size = self.bank.patch_size
        stride = size - self.overlap
        if stride < 1:
            raise InputError(f"quilting: overlap must be below the patch size {size}, not {self.overlap}")
        most = min(len(self.bank.patches), _CHUNK)
        if self.neighbours > most:
            raise InputError(f"quilting: neighbours must be at most {most}, not {self.neighbours}")
        rows = max(-(-(height - self.overlap) // stride), 1)
        columns = max(-(-(width - self.overlap) // stride), 1)
        below, beside = rows * stride + self.overlap - height, columns * stride + self.overlap - width
        padded = jnp.pad(image, ((0, below), (0, beside), (0, 0)), mode="edge")
        y = (jnp.arange(rows) * stride)[:, None, None, None] + jnp.arange(size)[None, None, :, None]
        x = (jnp.arange(columns) * stride)[None, :, None, None] + jnp.arange(size)[None, None, None, :]
        queries = padded[y, x].reshape(rows * columns, -1)

        numbers = nearest_patches(self.bank, queries, self.neighbours)
        choice = jax.random.randint(key, (rows * columns, 1), 0, self.neighbours)
        numbers = jnp.take_along_axis(numbers, choice, axis=1)[:, 0]
        patches = jnp.asarray(self.bank.patches)[numbers].astype(jnp.float32) / 255
        return _quilt(patches, rows, columns, self.overlap)[:height, :width]


def _make_bank(bank: PatchBank | str | Path | Mapping[str, Any]) -> PatchBank:
    if isinstance(bank, PatchBank):
        return bank
    if not isinstance(bank, Mapping):
        return load_bank(bank)
    known = ("dataset", "count", "patch_size", "principal_components", "seed")
    for name in bank:
        if name not in known:
            raise InputError(f"patch bank: unknown field {name!r}; choose from: {', '.join(known)}")
    if not {"dataset", "count"} <= set(bank):
        raise InputError(f"patch bank: needs the fields dataset and count, not {dict(bank)!r}")
    return bank_from_dataset(**bank)


@REGISTRY.register("quilting")
def create_quilting(
    bank: PatchBank | str | Path | Mapping[str, Any], overlap: int = 2, neighbours: int = 1
) -> Quilting:
    """Build `Quilting` with a patch bank, the path of a saved one, or what to build one of.

    The last is plain data, for configurations: `{"dataset": {"name": "imagenet_samples", "size": 160},
    "count": 50_000}`, and the options of `build_bank`.

    Raises
    ------
    InputError
        If the bank cannot be read or built, and as `Quilting`.
    """
    return Quilting(_make_bank(bank), overlap, neighbours)
