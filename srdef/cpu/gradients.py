"""Values and gradients of losses and of logits, compiled so that a CPU is as fast as it can be."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

from srdef.cpu.jaxprs import equations, shape


def value_and_grad(loss: Callable[[jax.Array], tuple[jax.Array, Any]], x: jax.Array) -> Any:
    """`jax.value_and_grad(loss, has_aux=True)(x)`, faster on a CPU.

    When forward and backward pass stand in one computation, XLA on a CPU is slower than with each compiled
    apart. The branches of a conditional are, so there the backward pass is the branch that is always taken:
    with EfficientNet-Lite an eighth faster. Convolutions whose gradient would be slow there stay in the main
    computation (`srdef.cpu.convolution` says which; srdef's own networks have none).
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
    return (value, auxiliary), _pulled(pull, jnp.ones_like(value), x)


def values_and_grads(function: Callable[[jax.Array], jax.Array], x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A vector and the gradient of each of its entries.

    Parameters
    ----------
    function : callable
        From an array to a vector.
    x : float array

    Returns
    -------
    values : float array (n,)
    gradients : float array (n, *x.shape)
    """
    values, pull = jax.vjp(function, x)
    if len(values) == 1:
        # No loop, for the convolutions that are as slow in one as in a branch.
        return values, _pulled(pull, jnp.ones_like(values), x)[None]
    # One entry after the other: all at once would need the memory of as many batches.
    return values, jax.lax.map(lambda one: pull(one)[0], jnp.eye(len(values), dtype=values.dtype))


def _pulled(pull: Callable, cotangent: jax.Array, x: jax.Array) -> jax.Array:
    """`pull(cotangent)[0]`, on a CPU in a branch where that is faster: see `value_and_grad`."""
    leaves, structure = jax.tree.flatten(pull)

    def pulled(*leaves: jax.Array) -> jax.Array:
        return jax.tree.unflatten(structure, leaves)(cotangent)[0]

    traced = jax.make_jaxpr(pulled)(*leaves)
    backward = core.jaxpr_as_fun(traced)
    if any(map(_slow_in_a_branch, equations(traced.jaxpr))):
        return backward(*leaves)[0]

    def in_a_branch(*leaves: Any) -> jax.Array:
        # Behind a barrier, as a constant condition would be decided when the program is compiled.
        always = jax.lax.optimization_barrier(jnp.bool_(True))
        return jax.lax.cond(always, backward, lambda *leaves: [jnp.zeros_like(x)], *leaves)[0]

    return jax.lax.platform_dependent(*leaves, cpu=in_a_branch, default=lambda *leaves: backward(*leaves)[0])


def _slow_in_a_branch(equation: core.JaxprEqn) -> bool:
    """Whether this is a dense convolution over several pixels whose kernel is not in the order HWIO.

    That from or to an RGB image is a small part of any network.
    """
    if equation.primitive.name != "conv_general_dilated" or equation.params["feature_group_count"] > 1:
        return False
    kernel = shape(equation.invars[1])
    layout = equation.params["dimension_numbers"].rhs_spec
    channels, window = [kernel[i] for i in layout[:2]], [kernel[i] for i in layout[2:]]
    fast = layout == (3, 2, 0, 1)
    return not fast and min(channels) > 3 and max(window) > 1
