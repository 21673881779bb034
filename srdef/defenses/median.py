"""Median smoothing (Xu, Evans and Qi 2018, "Feature squeezing")."""

from typing import ClassVar

import flax.struct
import jax
import jax.numpy as jnp

from srdef.defenses.base import REGISTRY
from srdef.defenses.options import check_integer


def _sorted(values: list[jax.Array]) -> list[jax.Array]:
    """Sort arrays elementwise by odd-even transposition, which a CPU does far faster than jnp.sort."""
    values = list(values)
    for turn in range(len(values)):
        for i in range(turn % 2, len(values) - 1, 2):
            low, high = values[i], values[i + 1]
            values[i], values[i + 1] = jnp.minimum(low, high), jnp.maximum(low, high)
    return values


@REGISTRY.register("median")
@flax.struct.dataclass
class Median:
    """Replace each value by the median of a square window, each channel by itself.

    Deterministic, differentiable (the gradient goes to the pixel that is the median), same size. A
    sensible surrogate is the identity. As `scipy.ndimage.median_filter` in mode "reflect": an even
    window reaches one pixel further to the upper left, and takes the upper of its two medians.

    Parameters
    ----------
    size : int
        Side of the window; feature squeezing uses 2 and 3.

    Raises
    ------
    InputError
        If the size is no whole number or below 1.
    """

    size: int = flax.struct.field(pytree_node=False, default=3)

    random: ClassVar[bool] = False
    differentiable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_integer("median", "size", self.size, 1)

    def __call__(self, image: jax.Array, key: jax.Array) -> jax.Array:
        """Filter one image, (H, W, channels) in [0, 1]."""
        height, width, _ = image.shape
        before, after = self.size // 2, (self.size - 1) // 2
        padded = jnp.pad(image, ((before, after), (before, after), (0, 0)), mode="symmetric")
        window = [padded[y : y + height, x : x + width] for y in range(self.size) for x in range(self.size)]
        return _sorted(window)[self.size**2 // 2]
