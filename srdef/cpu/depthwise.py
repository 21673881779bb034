"""Depthwise convolution, fast on a CPU too, and soon compiled for a GPU."""

from collections.abc import Iterator
from functools import lru_cache, partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from srdef.cpu.platforms import Ways, by_platform

Padding = tuple[tuple[int, int], tuple[int, int]]


def same_padding(height: int, width: int, kernel: int, stride: int) -> Padding:
    """Rows and columns of zeros that TensorFlow's `SAME` puts before and after an image.

    Where their number is odd, the one more stands after: at stride 2 an even side gets none before
    and one after (3x3), and PyTorch's symmetric padding samples other pixels.
    """
    rows, columns = lax.padtype_to_pads((height, width), (kernel, kernel), (stride, stride), "SAME")
    return rows, columns


def _pad(x: jax.Array, padding: Padding) -> jax.Array:
    return lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), (*padding[0], 0), (*padding[1], 0), (0, 0, 0)))


def _shifts(x: jax.Array, size: int, stride: int) -> Iterator[tuple[int, int, jax.Array]]:
    """For each tap `(dy, dx)` of the kernel, the pixels of the padded `x` that it is multiplied with."""
    n, height, width, channels = x.shape
    last_row, last_column = (height - size) // stride * stride, (width - size) // stride * stride
    for dy in range(size):
        for dx in range(size):
            end = (n, dy + last_row + 1, dx + last_column + 1, channels)
            yield dy, dx, lax.slice(x, (0, dy, dx, 0), end, (1, stride, stride, 1))


def _sums(dtype: Any) -> Any:
    """The type in which numbers are added up, as XLA's convolutions do: at least float32."""
    return jnp.promote_types(dtype, jnp.float32)


def _shifted_sum(x: jax.Array, kernel: jax.Array, stride: int, padding: Padding) -> jax.Array:
    """Depthwise convolution as the sum of the k² shifted images, each times its weights.

    XLA's CPU back end fuses it into one pass; its grouped convolution takes 10 to 40 times as long.
    """
    # With `lax` alone: a network has hundreds of these shifts, and jnp's conveniences are slow to trace.
    exact = _sums(x.dtype)
    weights = lax.convert_element_type(kernel, exact)
    products = []
    for dy, dx, shifted in _shifts(_pad(x, padding), kernel.shape[0], stride):
        weight = lax.slice(weights, (dy, dx, 0, 0), (dy + 1, dx + 1, 1, kernel.shape[-1]))
        spread = lax.broadcast_in_dim(lax.squeeze(weight, (0, 1, 2)), shifted.shape, (3,))
        products.append(lax.mul(lax.convert_element_type(shifted, exact), spread))
    return lax.convert_element_type(reduce(lax.add, products), x.dtype)


def _shifted_input_gradient(
    g: jax.Array, kernel: jax.Array, stride: int, padding: Padding, shape: tuple[int, ...]
) -> jax.Array:
    """Spread `g` by the stride and convolve it with the flipped kernel; again a sum of shifts."""
    size = kernel.shape[0]
    config = [(0, 0, 0)]
    for axis in (1, 2):
        before = size - 1 - padding[axis - 1][0]
        spread = stride * (g.shape[axis] - 1) + 1
        config.append((before, shape[axis] + size - 1 - before - spread, stride - 1))
    spread_g = lax.pad(g, jnp.zeros((), g.dtype), (*config, (0, 0, 0)))
    return _shifted_sum(spread_g, kernel[::-1, ::-1], 1, ((0, 0), (0, 0)))


def _shifted_kernel_gradient(
    x: jax.Array, g: jax.Array, stride: int, padding: Padding, size: int
) -> jax.Array:
    """For each shift, the sum over images and pixels of the shifted image times `g`.

    One image after the other: the k² sums over a whole batch read it k² times from memory, which is
    five times slower.
    """

    exact = _sums(x.dtype)

    def add_image(total: jax.Array, image: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        x, g = (array.astype(exact) for array in image)
        sums = [jnp.sum(shifted[0] * g, axis=(0, 1)) for _, _, shifted in _shifts(x[None], size, stride)]
        return total + jnp.stack(sums), None

    start = jnp.zeros((size * size, x.shape[-1]), exact)
    total, _ = lax.scan(add_image, start, (_pad(x, padding), g))
    return total.reshape(size, size, 1, x.shape[-1]).astype(x.dtype)


def _native(x: jax.Array, kernel: jax.Array, stride: int, padding: Padding) -> jax.Array:
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


# The same functions each time for the same layer: see `Ways`.
@lru_cache(None)
def _convolution(stride: int, padding: Padding) -> Ways:
    shifted = partial(_shifted_sum, stride=stride, padding=padding)
    return Ways(partial(_native, stride=stride, padding=padding), cpu=shifted, gpu=shifted)


@lru_cache(None)
def _input_gradient(stride: int, padding: Padding, shape: tuple[int, ...]) -> Ways:
    """Of the result's cotangent and the kernel."""
    shifted = partial(_shifted_input_gradient, stride=stride, padding=padding, shape=shape)

    def native(g: jax.Array, kernel: jax.Array) -> jax.Array:
        x = jax.ShapeDtypeStruct(shape, g.dtype)
        return jax.linear_transpose(lambda x: _native(x, kernel, stride, padding), x)(g)[0]

    return Ways(native, cpu=shifted, gpu=shifted)


@lru_cache(None)
def _kernel_gradient(stride: int, padding: Padding, size: int) -> Ways:
    """Of the input and the result's cotangent. On a GPU one image after the other would leave it idle."""
    shifted = partial(_shifted_kernel_gradient, stride=stride, padding=padding, size=size)

    def native(x: jax.Array, g: jax.Array) -> jax.Array:
        kernel = jax.ShapeDtypeStruct((size, size, 1, x.shape[-1]), x.dtype)
        return jax.linear_transpose(lambda kernel: _native(x, kernel, stride, padding), kernel)(g)[0]

    return Ways(native, cpu=shifted)


def depthwise_conv(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    """Depthwise convolution with TensorFlow's `SAME` padding.

    The same numbers as `lax.conv_general_dilated(..., feature_group_count=channels)`, up to
    rounding. On CPUs and GPUs it is computed as a sum of shifted images, on other back ends as that
    convolution; the back end is the one the program is compiled for, so it need not be known here.

    A GPU spends half of the compilation of an EfficientNet on trying out cuDNN's kernels for these
    convolutions, and seconds of each process's first call on preparing what it chose. That is a little faster
    in the end, or many times slower if kernels were timed while something else ran: some of cuDNN's launch
    one for every channel.

    Parameters
    ----------
    x : (N, H, W, C)
    kernel : (k, k, 1, C)
        The axes of a grouped convolution: `HWIO` with C groups.
    stride : int

    Returns
    -------
    (N, ceil(H / stride), ceil(W / stride), C)
        Of the wider type of the two. Differentiable in reverse mode only.
    """
    dtype = jnp.promote_types(x.dtype, kernel.dtype)
    return _depthwise_conv(x.astype(dtype), kernel.astype(dtype), stride)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _depthwise_conv(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    padding = same_padding(x.shape[1], x.shape[2], kernel.shape[0], stride)
    return by_platform(_convolution(stride, padding), x, kernel)


def _forward(x: jax.Array, kernel: jax.Array, stride: int) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _depthwise_conv(x, kernel, stride), (x, kernel)


def _backward(
    stride: int, residuals: tuple[jax.Array, jax.Array], g: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = residuals
    padding = same_padding(x.shape[1], x.shape[2], kernel.shape[0], stride)
    return (
        by_platform(_input_gradient(stride, padding, x.shape), g, kernel),
        by_platform(_kernel_gradient(stride, padding, kernel.shape[0]), x, g),
    )


_depthwise_conv.defvjp(_forward, _backward)


class DepthwiseConv(nnx.Module):
    """Depthwise convolution layer without bias, `SAME` padding; see `depthwise_conv`.

    Parameters
    ----------
    features : int
        Number of channels, in and out.
    kernel_size : int
        Side of the kernel, usually 3 or 5.
    stride : int
    """

    def __init__(self, features: int, kernel_size: int, stride: int = 1, *, rngs: nnx.Rngs) -> None:
        shape = (kernel_size, kernel_size, 1, features)
        self.kernel = nnx.Param(
            nnx.initializers.variance_scaling(2.0, "fan_in", "normal")(rngs.params(), shape)
        )
        self.stride = stride

    def __call__(self, x: jax.Array) -> jax.Array:
        return depthwise_conv(x, self.kernel[...], self.stride)
