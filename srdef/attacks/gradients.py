"""The value and the gradient of a loss, compiled so that a CPU is as fast as it can be."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def value_and_grad(loss: Callable[[jax.Array], tuple[jax.Array, Any]], x: jax.Array) -> Any:
    """`jax.value_and_grad(loss, has_aux=True)(x)`, faster on a CPU.

    When forward and backward pass stand in one computation, XLA on a CPU is slower than with each compiled
    apart. The branches of a conditional are, so there the backward pass is the branch that is always taken.
    `experiments/benchmark.py attacks` shows it: its floor is the pace of the one computation.

    Parameters
    ----------
    loss : callable
        From an array to a scalar and anything else.
    x : float array

    Returns
    -------
    (value, auxiliary), gradient
    """
    value, pull, auxiliary = jax.vjp(loss, x, has_aux=True)
    one = jnp.ones_like(value)
    if jax.default_backend() != "cpu":
        return (value, auxiliary), pull(one)[0]
    leaves, structure = jax.tree.flatten(pull)

    def backward(*leaves: jax.Array) -> jax.Array:
        return jax.tree.unflatten(structure, leaves)(one)[0]

    # Behind a barrier, as a constant condition would be decided when the program is compiled.
    always = jax.lax.optimization_barrier(jnp.bool_(True))
    gradient = jax.lax.cond(always, backward, lambda *leaves: jnp.zeros_like(x), *leaves)
    return (value, auxiliary), gradient
