"""Computations that few steps of a batch need."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap


def where_needed(
    needed: jax.Array, compute: Callable[..., jax.Array], otherwise: jax.Array, *operands: Any
) -> jax.Array:
    """`compute(*operands)` where `needed`, or else `otherwise`.

    Under `vmap`, a conditional computes both sides for every image. Here a CPU computes nothing while no
    image of its batch needs it: noise for a restart takes as long as the gradient of a small network. An
    accelerator, where a decision costs more than the noise, always computes it.

    Parameters
    ----------
    needed : bool array ()
    compute : callable
        Of arrays and pytrees; it must not use arrays that it is not given.
    otherwise : array
        Of the shape and type of the result.
    *operands
        What `compute` is given.
    """

    def choose(needed: jax.Array, otherwise: jax.Array, *operands: Any) -> jax.Array:
        return jnp.where(needed, compute(*operands).astype(otherwise.dtype), otherwise)

    chosen = custom_vmap(choose)

    @chosen.def_vmap
    def _(size: int, batched: Any, needed: jax.Array, otherwise: jax.Array, *operands: Any) -> Any:
        axes = jax.tree.map(lambda is_batched: 0 if is_batched else None, tuple(batched))
        always = jax.vmap(choose, axes, axis_size=size)

        def unless_none(needed: jax.Array, otherwise: jax.Array, *operands: Any) -> jax.Array:
            keep = jax.vmap(lambda _, otherwise, *__: otherwise, axes, axis_size=size)
            return jax.lax.cond(needed.any(), always, keep, needed, otherwise, *operands)

        return jax.lax.platform_dependent(needed, otherwise, *operands, cpu=unless_none, default=always), True

    return chosen(needed, otherwise, *operands)
