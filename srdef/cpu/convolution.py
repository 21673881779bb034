"""A convolution layer whose gradient is as fast in a loop as anywhere."""

from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.custom_derivatives import SymbolicZero


def convolve(
    x: jax.Array,
    kernel: jax.Array,
    window_strides: Any,
    padding: Any,
    *,
    dimension_numbers: Any,
    feature_group_count: int = 1,
    **options: Any,
) -> jax.Array:
    """`lax.conv_general_dilated` with another way of writing the gradient of its input.

    The same numbers, in forward and reverse mode, at any order. JAX writes the input's gradient as a
    convolution with a kernel whose last two axes are (outputs, inputs). For that order XLA has no fast
    routine on a CPU; it changes the order, but in the main computation of a program alone: in the body of a
    loop and in a branch of a conditional (EOT in chunks, the classes of DeepFool) the gradient of a dense
    convolution takes several times as long (whole networks: docs/results/benchmarks.md). Here the kernel's
    axes are exchanged before, so that it is in the order (inputs, outputs) everywhere. On other devices
    that costs a copy of the kernel.

    Parameters
    ----------
    x : (N, H, W, inputs)
    kernel : (h, w, inputs / groups, outputs)
    window_strides, padding, dimension_numbers, feature_group_count, options
        As for `lax.conv_general_dilated`. Convolutions in groups are left to it.

    Returns
    -------
    (N, H', W', outputs)
    """

    def direct(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return lax.conv_general_dilated(
            x,
            kernel,
            window_strides,
            padding,
            dimension_numbers=numbers,
            feature_group_count=feature_group_count,
            **options,
        )

    numbers = lax.conv_dimension_numbers(x.shape, kernel.shape, dimension_numbers)
    if feature_group_count > 1:
        return direct(x, kernel)
    outputs, inputs, *window = numbers.rhs_spec

    def exchanged(x: jax.Array, kernel: jax.Array) -> jax.Array:
        """`direct`, slow itself; its transpose, which JAX writes by exchanging the axes again, is not."""
        return lax.conv_general_dilated(
            x,
            jnp.swapaxes(kernel, inputs, outputs),
            window_strides,
            padding,
            dimension_numbers=numbers._replace(rhs_spec=(inputs, outputs, *window)),
            **options,
        )

    @jax.custom_jvp
    def value(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return direct(x, kernel)

    def tangent(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
        (x, kernel), (along_x, along_kernel) = primals, tangents
        terms = []
        if not isinstance(along_x, SymbolicZero):
            terms.append(exchanged(along_x, kernel))
        if not isinstance(along_kernel, SymbolicZero):
            terms.append(direct(x, along_kernel))
        return value(x, kernel), reduce(jnp.add, terms)

    value.defjvp(tangent, symbolic_zeros=True)
    return value(x, kernel)


class Conv(nnx.Conv):
    """`nnx.Conv` that computes with `convolve`; the same arguments."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, conv_general_dilated=convolve, **options)
