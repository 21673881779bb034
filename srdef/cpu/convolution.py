"""A convolution layer that is fast on a CPU too, and whose gradient is so in a loop as well."""

from functools import lru_cache, partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.custom_derivatives import SymbolicZero

from srdef.cpu.platforms import Way, Ways, by_platform


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
    """`lax.conv_general_dilated`, written in other ways that are faster on a CPU.

    The same numbers up to rounding, in forward and reverse mode, at any order. A dense convolution by a
    kernel of one pixel is a product of matrices there, which XLA makes of it in some places only: the
    gradients are several times as fast. For larger kernels JAX writes the input's gradient as a
    convolution with a kernel whose last two axes are (outputs, inputs). For that order XLA has no fast
    routine on a CPU; it changes the order, but in the main computation of a program alone: in the body of a
    loop and in a branch of a conditional (EOT in chunks, the classes of DeepFool) such a gradient
    takes several times as long (whole networks: docs/results/benchmarks.md). Here the kernel's
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
    numbers = lax.conv_dimension_numbers(x.shape, kernel.shape, dimension_numbers)
    how = {"window_strides": window_strides, "padding": padding, **options}
    if feature_group_count > 1:
        how |= {"dimension_numbers": numbers, "feature_group_count": feature_group_count}
        return lax.conv_general_dilated(x, kernel, **how)
    direct: Way
    exchanged: Way
    if _is_pointwise(x, kernel, numbers, padding, **options):
        kept = {name: options.get(name) for name in ("precision", "preferred_element_type")}
        direct, exchanged = _pointwise(numbers, tuple(window_strides), **kept)
    else:
        direct, exchanged = partial(_direct, numbers, how), partial(_exchanged, numbers, how)

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


def _direct(
    numbers: lax.ConvDimensionNumbers, how: dict[str, Any], x: jax.Array, kernel: jax.Array
) -> jax.Array:
    return lax.conv_general_dilated(x, kernel, dimension_numbers=numbers, **how)


def _exchanged(
    numbers: lax.ConvDimensionNumbers, how: dict[str, Any], x: jax.Array, kernel: jax.Array
) -> jax.Array:
    """`_direct`, slow itself; its transpose, which JAX writes by exchanging the axes again, is not."""
    outputs, inputs, *window = numbers.rhs_spec
    numbers = numbers._replace(rhs_spec=(inputs, outputs, *window))
    return _direct(numbers, how, x, jnp.swapaxes(kernel, inputs, outputs))


@lru_cache(None)
def _pointwise(
    numbers: lax.ConvDimensionNumbers, strides: tuple[int, ...], **options: Any
) -> tuple[Way, Way]:
    """A convolution by kernels of one pixel, and the other way to write it: on a CPU one product is both."""
    outputs, inputs = numbers.rhs_spec[:2]
    how = {"window_strides": strides, "padding": "VALID", **options}

    def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
        picked = lax.slice(x, (0,) * x.ndim, x.shape, (1, *strides, 1))
        matrix = jnp.moveaxis(kernel, (inputs, outputs), (-2, -1)).reshape(x.shape[-1], -1)
        return lax.dot_general(picked, matrix, (((x.ndim - 1,), (0,)), ((), ())), **options)

    ways = (Ways(partial(way, numbers, how), cpu=product) for way in (_direct, _exchanged))
    direct, exchanged = (partial(by_platform, way) for way in ways)
    return direct, exchanged


def _is_pointwise(
    x: jax.Array,
    kernel: jax.Array,
    numbers: lax.ConvDimensionNumbers,
    padding: Any,
    *,
    lhs_dilation: Any = None,
    batch_group_count: int = 1,
    **options: Any,
) -> bool:
    """Whether every result is a product of one pixel, its channels last, with the kernel."""
    window = [kernel.shape[axis] for axis in numbers.rhs_spec[2:]]
    pads = padding if isinstance(padding, str) else [amount for pair in padding for amount in pair]
    return (
        set(window) == {1}
        and (pads in ("SAME", "VALID") or not any(pads))
        and set(lhs_dilation or (1,)) == {1}
        and batch_group_count == 1
        and numbers.lhs_spec == numbers.out_spec == (0, x.ndim - 1, *range(1, x.ndim - 1))
        and x.dtype == kernel.dtype
    )


class Conv(nnx.Conv):
    """`nnx.Conv` that computes with `convolve`; the same arguments."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, conv_general_dilated=convolve, **options)
