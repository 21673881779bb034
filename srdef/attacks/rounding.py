"""Round adversarial images to 8 bits so that what is saved still is what the attack promises.

Distances of minimal-norm attacks lie far below one level, and plain rounding gives the clean image
back; an attack with a budget must not leave it by rounding. Each function works on one image.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from srdef.images import from_uint8
from srdef.validation import Scalar

# In levels. Keeps 255 * (x + 16/255) from falling just below the whole level it stands for.
_SLACK = 1e-3

_VALUES = from_uint8(np.arange(256, dtype=np.uint8))


def from_levels(levels: jax.Array) -> jax.Array:
    """Whole levels in [0, 255] as the very float32 values that reading an 8-bit file gives.

    A table, because a compiler may turn the division by 255 into a multiplication, which is off by
    one ulp for some levels.
    """
    return jnp.asarray(_VALUES)[levels.astype(jnp.int32)]


def within_linf(original: jax.Array, attacked: jax.Array, epsilon: Scalar) -> jax.Array:
    """Round each value to the nearest level that lies within `epsilon` of the original value.

    Where there is no such level (an original off the 8-bit grid and a small ε), the value becomes
    the level nearest to the original.

    Parameters
    ----------
    original, attacked : arrays (height, width, 3)
        In [0, 1].
    epsilon : scalar
        In units of the [0, 1] range.

    Returns
    -------
    array (height, width, 3)
        Multiples of 1/255 in [0, 1].
    """
    low = jnp.ceil(255 * (original - epsilon) - _SLACK)
    high = jnp.floor(255 * (original + epsilon) + _SLACK)
    levels = jnp.clip(jnp.round(255 * attacked), low, high)
    levels = jnp.where(low <= high, levels, jnp.round(255 * original))
    return from_levels(jnp.clip(levels, 0, 255))


def within_l2(original: jax.Array, attacked: jax.Array, epsilon: Scalar) -> jax.Array:
    """Round to the nearest levels, or towards the original where that would leave the L2 ball.

    Parameters, result: as `within_linf`.
    """
    nearest = from_levels(jnp.clip(jnp.round(255 * attacked), 0, 255))
    inside = jnp.linalg.norm((nearest - original).ravel()) <= epsilon
    levels = 255 * original
    towards = jnp.where(
        attacked > original,
        jnp.maximum(jnp.floor(255 * attacked + _SLACK), jnp.round(levels)),
        jnp.minimum(jnp.ceil(255 * attacked - _SLACK), jnp.round(levels)),
    )
    return jnp.where(inside, nearest, from_levels(jnp.clip(towards, 0, 255)))


def within_l1(original: jax.Array, attacked: jax.Array, epsilon: Scalar) -> jax.Array:
    """Round to the nearest levels, or towards the original where that would leave the L1 ball.

    Parameters, result: as `within_linf`.
    """
    levels, base = 255 * attacked, jnp.round(255 * original)
    nearest = from_levels(jnp.clip(jnp.round(levels), 0, 255))
    inside = jnp.abs(nearest - original).sum() <= epsilon
    # A value within a thousandth of a level is that level, off by rounding.
    towards = jnp.where(
        levels > base, jnp.maximum(jnp.floor(levels + 1e-3), base), jnp.minimum(jnp.ceil(levels - 1e-3), base)
    )
    return jnp.where(inside, nearest, from_levels(jnp.clip(towards, 0, 255)))


# How an attack with a budget rounds, by the norm of its ball.
WITHIN: dict[str, Callable[[jax.Array, jax.Array, Scalar], jax.Array]] = {
    "linf": within_linf,
    "l2": within_l2,
    "l1": within_l1,
}


def smallest_surviving(
    original: jax.Array,
    attacked: jax.Array,
    adversarial: Callable[[jax.Array], jax.Array],
    *,
    doublings: int = 10,
    halvings: int = 5,
) -> jax.Array:
    """Scale a perturbation up, as little as makes the rounded image adversarial.

    Scales 1, 2, 4, ... are tried, then the interval below the first that works is halved. An image
    equal to the original stays what it is, rounded; if no scale works, so does the attacked one.

    Parameters
    ----------
    original, attacked : arrays (height, width, 3)
        In [0, 1].
    adversarial : callable
        Whether an image does what the attack aims at.
    doublings, halvings : int
        Of the search; `1 + doublings + halvings` images are tried.

    Returns
    -------
    array (height, width, 3)
        Multiples of 1/255 in [0, 1].
    """

    def rounded(scale: jax.Array) -> jax.Array:
        image = jnp.clip(original + scale * (attacked - original), 0, 1)
        return from_levels(jnp.round(255 * image))

    def double(carry: tuple[jax.Array, jax.Array], scale: jax.Array) -> tuple[Any, None]:
        found, high = carry
        works = ~found & adversarial(rounded(scale))
        return (found | works, jnp.where(works, scale, high)), None

    scales = jnp.asarray(2 ** np.arange(doublings + 1), jnp.float32)  # also where JAX has 64 bits
    (found, high), _ = jax.lax.scan(double, (jnp.bool_(False), jnp.float32(1)), scales)

    def halve(_: int, interval: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = interval
        middle = (low + high) / 2
        works = adversarial(rounded(middle))
        return jnp.where(works, low, middle), jnp.where(works, middle, high)

    # At scale 1 the interval is a point: a smaller perturbation than the attack's is not wanted.
    low = jnp.where(high > 1, high / 2, high)
    _, high = jax.lax.fori_loop(0, halvings, halve, (low, high))
    return rounded(jnp.where(found, high, 1.0))
