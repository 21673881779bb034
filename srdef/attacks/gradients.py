"""The value and the gradient of a loss, compiled so that a CPU is as fast as it can be."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

from srdef.programs import equations, shape


def value_and_grad(loss: Callable[[jax.Array], tuple[jax.Array, Any]], x: jax.Array) -> Any:
    """`jax.value_and_grad(loss, has_aux=True)(x)`, faster on a CPU.

    When forward and backward pass stand in one computation, XLA on a CPU is slower than with each compiled
    apart. The branches of a conditional are, so there the backward pass is the branch that is always taken:
    with EfficientNet-Lite an eighth faster. But XLA brings convolutions into the form for which it has a
    fast routine in the main computation alone, and what convolves backwards in a branch (or a loop) takes
    up to thirteen times as long (EDSR). So only what has no such convolution goes there.
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

    def pulled(*leaves: jax.Array) -> jax.Array:
        return jax.tree.unflatten(structure, leaves)(one)[0]

    traced = jax.make_jaxpr(pulled)(*leaves)
    backward = core.jaxpr_as_fun(traced)
    if any(map(_slow_in_a_branch, equations(traced.jaxpr))):
        return (value, auxiliary), backward(*leaves)[0]
    # Behind a barrier, as a constant condition would be decided when the program is compiled.
    always = jax.lax.optimization_barrier(jnp.bool_(True))
    gradient = jax.lax.cond(always, backward, lambda *leaves: [jnp.zeros_like(x)], *leaves)[0]
    return (value, auxiliary), gradient


def _slow_in_a_branch(equation: core.JaxprEqn) -> bool:
    """Whether this is a convolution over several pixels, dense, and between feature maps.

    That from or to an RGB image is a small part of any network.
    """
    if equation.primitive.name != "conv_general_dilated" or equation.params["feature_group_count"] > 1:
        return False
    kernel = shape(equation.invars[1])
    layout = equation.params["dimension_numbers"].rhs_spec
    channels, window = [kernel[i] for i in layout[:2]], [kernel[i] for i in layout[2:]]
    return min(channels) > 3 and max(window) > 1
