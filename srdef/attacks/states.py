"""The types of an attack's state, which the loop over its steps keeps."""

from typing import Any

import jax
import jax.numpy as jnp

from srdef.errors import InputError


def strong_types(state: Any) -> Any:
    """A state of arrays that keep their types; those of Python numbers change with what they meet."""

    def strong(leaf: Any) -> Any:
        leaf = jnp.asarray(leaf)
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return leaf
        return jax.lax.convert_element_type(leaf, leaf.dtype)

    return jax.tree.map(strong, state)


def same_types(state: Any, like: Any) -> Any:
    """A state with the types of another: a loop's must not widen where 32-bit and 64-bit numbers meet.

    Raises
    ------
    InputError
        Where that would cut off what stands behind the point, or make truth values of numbers.
    """

    def cast(path: Any, new: Any, old: Any) -> Any:
        if new.dtype == old.dtype:
            return new
        if _kind(new) > _kind(old):
            part = jax.tree_util.keystr(path) or "itself"
            raise InputError(
                f"the attack's step gives its state {part} the type {new.dtype}, which {old.dtype}, its type "
                "in init, cannot hold; begin with a number of the type that it will have, as 1.0 and not 1"
            )
        return new.astype(old.dtype)

    return jax.tree_util.tree_map_with_path(cast, state, like)


def _kind(array: Any) -> int:
    """Kinds of numbers, each of which holds those before it."""
    kinds = (jnp.bool_, jnp.integer, jnp.floating, jnp.complexfloating)
    return next((i for i, kind in enumerate(kinds) if jnp.issubdtype(array.dtype, kind)), len(kinds))
