"""Non-local means (Buades, Coll and Morel 2005), one of feature squeezing's filters."""

from typing import ClassVar

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from srdef.defenses.base import REGISTRY
from srdef.defenses.options import check_integer, check_number
from srdef.errors import InputError


def _patch_mean(image: jax.Array, size: int) -> jax.Array:
    """Means over the windows of side `size` that fit into (H, W), with a Gaussian's weights."""
    distance = np.arange(size) - size // 2
    weights = np.exp(-(distance**2) / (2 * (max(size - 1, 1) / 4) ** 2))
    weights /= weights.sum()
    height, width = image.shape[0] - size + 1, image.shape[1] - size + 1
    tall = jnp.stack([float(w) * image[i : i + height] for i, w in enumerate(weights)]).sum(axis=0)
    return jnp.stack([float(w) * tall[:, i : i + width] for i, w in enumerate(weights)]).sum(axis=0)


@REGISTRY.register("non_local_means")
@flax.struct.dataclass
class NonLocalMeans:
    """Average each pixel with the pixels nearby whose surroundings look alike.

    out(p) = sum_q w(p, q) x(q) / sum_q w(p, q), w = exp(-max(d(p, q) - 2 sigma^2, 0) / strength^2),
    where d is the mean squared difference of the patches around p and q, over all channels and with
    Gaussian weights of deviation (patch_size - 1) / 4.

    Deterministic, differentiable, same size. A sensible surrogate is the identity. As scikit-image's
    `denoise_nl_means(fast_mode=False)`, which approximates the exponential.

    Parameters
    ----------
    strength : float
        h, in units of the [0, 1] range; above 0. Leaf.
    sigma : float
        Deviation of the noise that the distances are corrected for. Leaf.
    patch_size : int
        Side of the patches, odd.
    patch_distance : int
        The other pixel lies at most so far away along each axis.

    Raises
    ------
    InputError
        If strength is not positive, sigma is negative, patch_size is not odd or patch_distance is below 1.
    """

    strength: float | jax.Array = 0.05
    sigma: float | jax.Array = 0.0
    patch_size: int = flax.struct.field(pytree_node=False, default=3)
    patch_distance: int = flax.struct.field(pytree_node=False, default=6)

    random: ClassVar[bool] = False
    differentiable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_number("non_local_means", "strength", self.strength, 0, open_low=True)
        check_number("non_local_means", "sigma", self.sigma, 0)
        check_integer("non_local_means", "patch_size", self.patch_size, 1)
        check_integer("non_local_means", "patch_distance", self.patch_distance, 1)
        if self.patch_size % 2 == 0:
            raise InputError(f"non_local_means: patch_size must be odd, not {self.patch_size}")

    def __call__(self, image: jax.Array, key: jax.Array) -> jax.Array:
        """Filter one image, (H, W, channels) in [0, 1]."""
        height, width, channels = image.shape
        reach, half = self.patch_distance, self.patch_size // 2
        margin = reach + half
        padded = jnp.pad(image, ((margin, margin), (margin, margin), (0, 0)), mode="reflect")
        size = (height + 2 * half, width + 2 * half, channels)
        centre = jax.lax.dynamic_slice(padded, (reach, reach, 0), size)

        rows, columns = jnp.arange(height)[:, None], jnp.arange(width)[None, :]

        def add_offset(sums: tuple[jax.Array, jax.Array], offset: jax.Array) -> tuple:
            total, weights = sums
            moved = jax.lax.dynamic_slice(padded, (reach + offset[0], reach + offset[1], 0), size)
            distance = _patch_mean(jnp.mean((centre - moved) ** 2, axis=-1), self.patch_size)
            exponent = jnp.maximum(distance - 2 * self.sigma**2, 0) / self.strength**2
            y, x = rows + offset[0], columns + offset[1]
            inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
            weight = jnp.where(inside, jnp.exp(-exponent), 0)
            values = moved[half : half + height, half : half + width]
            return (total + weight[..., None] * values, weights + weight), None

        steps = jnp.arange(-reach, reach + 1)
        offsets = jnp.stack(jnp.meshgrid(steps, steps, indexing="ij"), axis=-1).reshape(-1, 2)
        start = (jnp.zeros_like(image), jnp.zeros_like(image[..., 0]))
        (total, weights), _ = jax.lax.scan(add_offset, start, offsets)
        return jnp.clip(total / weights[..., None], 0, 1)
