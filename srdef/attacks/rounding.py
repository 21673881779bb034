"""Round attacked images to 8 bits so that what is saved still is what the attack promises.

Distances of minimal-norm attacks lie far below one level, and plain rounding gives the clean image
back; an attack with a budget must not leave it by rounding. Each function works on one image.
"""

import jax
import jax.numpy as jnp

Scalar = jax.Array | float

# In levels. Keeps 255 * (x + 16/255) from falling just below the whole level it stands for.
_SLACK = 1e-3


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
    return jnp.clip(levels, 0, 255) / 255
