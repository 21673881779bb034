"""Depthwise convolution, fast on a CPU too, and soon compiled for a GPU."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from srdef.programs import jit

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


@partial(jit, static_argnames=("stride", "padding"))
def _shifted_sum(x: jax.Array, kernel: jax.Array, stride: int, padding: Padding) -> jax.Array:
    """Depthwise convolution as the sum of the k² shifted images, each times its weights.

    XLA's CPU back end fuses it into one pass; its grouped convolution takes 10 to 40 times as long.
    Jitted so that it is one pass outside of a larger program too.
    """
    exact = _sums(x.dtype)
    total = jnp.zeros((), exact)
    for dy, dx, shifted in _shifts(_pad(x, padding), kernel.shape[0], stride):
        total = total + shifted.astype(exact) * kernel[dy, dx, 0].astype(exact)
    return total.astype(x.dtype)


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


def _by_platform(shifted: Any, native: Any, *operands: jax.Array) -> jax.Array:
    """The first function on CPUs and GPUs, the second elsewhere."""
    return lax.platform_dependent(*operands, cpu=shifted, cuda=shifted, rocm=shifted, default=native)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
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
        Differentiable in reverse mode only.
    """
    padding = same_padding(x.shape[1], x.shape[2], kernel.shape[0], stride)

    def shifted(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return _shifted_sum(x, kernel, stride, padding)

    def native(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return _native(x, kernel, stride, padding)

    return _by_platform(shifted, native, x, kernel)


def _forward(x: jax.Array, kernel: jax.Array, stride: int) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return depthwise_conv(x, kernel, stride), (x, kernel)


def _backward(
    stride: int, residuals: tuple[jax.Array, jax.Array], g: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = residuals
    padding = same_padding(x.shape[1], x.shape[2], kernel.shape[0], stride)

    # One switch for each gradient, so that the one nobody asks for is not computed. A GPU has its own for the
    # kernel's: one image after the other would leave it idle.
    def shifted_input(x: jax.Array, kernel: jax.Array, g: jax.Array) -> jax.Array:
        return _shifted_input_gradient(g, kernel, stride, padding, x.shape)

    def shifted_kernel(x: jax.Array, kernel: jax.Array, g: jax.Array) -> jax.Array:
        return _shifted_kernel_gradient(x, g, stride, padding, kernel.shape[0])

    def native_input(x: jax.Array, kernel: jax.Array, g: jax.Array) -> jax.Array:
        return jax.vjp(lambda x: _native(x, kernel, stride, padding), x)[1](g)[0]

    def native_kernel(x: jax.Array, kernel: jax.Array, g: jax.Array) -> jax.Array:
        return jax.vjp(lambda kernel: _native(x, kernel, stride, padding), kernel)[1](g)[0]

    return (
        _by_platform(shifted_input, native_input, x, kernel, g),
        lax.platform_dependent(x, kernel, g, cpu=shifted_kernel, default=native_kernel),
    )


depthwise_conv.defvjp(_forward, _backward)


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
