"""Random keys, all of one generator.

With JAX's other generators (`rbg`, which some choose on TPUs) the numbers of one key depend on the keys that
are beside it in a `jax.vmap`, and so the result of an image on its batch.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from srdef.errors import InputError

_GENERATOR = "threefry2x32"


def of_seed(seed: Any) -> jax.Array:
    """The key of a seed, whatever generator `jax_default_prng_impl` names."""
    return jax.random.key(seed, impl=_GENERATOR)


def check_key(key: Any) -> jax.Array:
    """The key of srdef's generator that `key` stands for: itself, if it is of that generator.

    The key of a seed stands for `of_seed` of it.

    Raises
    ------
    InputError
        If `key` is not one typed key.
    """
    if not isinstance(key, jax.Array) or not jax.dtypes.issubdtype(key.dtype, jax.dtypes.prng_key):
        raise InputError(f"key must be made with jax.random.key(seed), not {type(key).__name__}")
    if key.shape != ():
        raise InputError(f"key must be a single key, not an array of shape {key.shape}")
    if isinstance(key, jax.core.Tracer) or jax.random.key_impl(key) == _GENERATOR:
        return key
    words = np.asarray(jax.random.key_data(key), np.uint32).ravel()
    made = jax.random.wrap_key_data(jnp.asarray(words[:2]), impl=_GENERATOR)
    # That of a seed says the same twice.
    for other in words[2:] if not np.array_equal(words[:2], words[2:]) else ():
        made = jax.random.fold_in(made, other)
    return made
