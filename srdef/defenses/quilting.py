"""Image quilting (Efros and Freeman 2001) as a defense (Guo et al. 2018)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import flax.struct
import jax
import jax.numpy as jnp

from srdef.defenses.base import REGISTRY
from srdef.defenses.options import check_integer, check_rgb
from srdef.defenses.patch_bank import PatchBank, make_bank
from srdef.errors import InputError

# The search compares all patches of an image with this many of the bank at a time.
_CHUNK = 4096


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
    wanted = jnp.matmul(queries - bank.mean, bank.components, precision="highest")
    codes = jnp.asarray(bank.codes)
    size, dimension = codes.shape
    # Of the squared distance, the part that depends on the patch; infinite for the padding.
    offsets = jnp.pad(jnp.sum(codes**2, axis=1), (0, -size % _CHUNK), constant_values=jnp.inf)
    codes = jnp.pad(codes, ((0, -size % _CHUNK), (0, 0)))

    def search(best: tuple[jax.Array, jax.Array], chunk: tuple) -> tuple[tuple[jax.Array, jax.Array], None]:
        codes, offsets, first = chunk
        distances = offsets - 2 * jnp.matmul(wanted, codes.T, precision="highest")
        if count == 1:  # much cheaper than top_k, for which devices wait for one another
            numbers = jnp.argmin(distances, axis=1)[:, None]
            nearness = -jnp.take_along_axis(distances, numbers, axis=1)
            nearer = nearness > best[0]
            return (jnp.where(nearer, nearness, best[0]), jnp.where(nearer, first + numbers, best[1])), None
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
        If overlap or neighbours is no whole number or below 1; when called, if the overlap is not below
        the patch size, or the bank has fewer patches than neighbours.
    """

    bank: PatchBank
    overlap: int = flax.struct.field(pytree_node=False, default=2)
    neighbours: int = flax.struct.field(pytree_node=False, default=1)

    differentiable: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for name in ("overlap", "neighbours"):
            check_integer("quilting", name, getattr(self, name), 1)

    @property
    def random(self) -> bool:
        """Whether patches are drawn from several neighbours."""
        return self.neighbours > 1

    def __call__(self, image: jax.Array, key: jax.Array) -> jax.Array:
        """Rebuild one image, (H, W, 3) in [0, 1]."""
        check_rgb("quilting", image)
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
    return Quilting(make_bank(bank), overlap, neighbours)
