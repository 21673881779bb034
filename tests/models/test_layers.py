import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from srdef.cpu.depthwise import DepthwiseConv, depthwise_conv, same_padding

CHANNELS = 4
SIZES = [(8, 8), (7, 9), (10, 5), (1, 2)]

# Sums of at most 25 (gradients of the kernel: 300) products of numbers near 1, in float32.
TOLERANCE = {"rtol": 1e-5, "atol": 3e-5}


def normal(rng, *shape):
    return jnp.asarray(rng.normal(size=shape), jnp.float32)


def grouped(x, kernel, stride):
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
        precision="highest",
    )


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kernel_size", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
def test_depthwise_conv_equals_the_grouped_convolution(size, kernel_size, stride, rng):
    """The values, the gradient of the input and the gradient of the kernel."""
    x, kernel = normal(rng, 3, *size, CHANNELS), normal(rng, kernel_size, kernel_size, 1, CHANNELS)
    g = normal(rng, 3, *(-(-side // stride) for side in size), CHANNELS)

    def values(convolve):
        y, pullback = jax.vjp(lambda x, kernel: convolve(x, kernel, stride), x, kernel)
        return y, *pullback(g)

    ours = jax.jit(lambda: values(depthwise_conv))()
    for actual, expected in zip(ours, jax.jit(lambda: values(grouped))(), strict=True):
        np.testing.assert_allclose(actual, expected, **TOLERANCE)


@pytest.mark.parametrize(("kernel_size", "stride"), [(3, 2), (5, 1)])
def test_depthwise_conv_under_jit_and_vmap(kernel_size, stride, rng):
    """One image at a time under `vmap`, as the attacks use it; the kernel's gradient is per image."""
    x, kernel = normal(rng, 3, 9, 8, CHANNELS), normal(rng, kernel_size, kernel_size, 1, CHANNELS)

    def gradients(convolve):
        def loss(image, kernel):
            return jnp.sum(jnp.sin(convolve(image[None], kernel, stride)))

        return jax.jit(jax.vmap(jax.value_and_grad(loss, (0, 1)), (0, None)))(x, kernel)

    for ours, theirs in zip(
        jax.tree.leaves(gradients(depthwise_conv)), jax.tree.leaves(gradients(grouped)), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, **TOLERANCE)


@pytest.mark.parametrize("stride", [1, 2])
def test_depthwise_conv_adds_up_in_float32(stride, rng):
    """In bfloat16 as XLA's: the products are exact in float32, and only the sums are rounded."""
    x, kernel = normal(rng, 3, 9, 8, CHANNELS), normal(rng, 5, 5, 1, CHANNELS)
    x, kernel = x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16)
    y, pullback = jax.vjp(lambda *given: depthwise_conv(*given, stride), x, kernel)
    exact = (array.astype(jnp.float32) for array in (x, kernel))
    expected, exact_pullback = jax.vjp(lambda *given: grouped(*given, stride), *exact)
    g = normal(rng, *y.shape).astype(jnp.bfloat16)
    for ours, wide in zip((y, *pullback(g)), (expected, *exact_pullback(g.astype(jnp.float32))), strict=True):
        assert ours.dtype == jnp.bfloat16
        # Half of the last of 8 bits; near 0 the sums' own rounding.
        np.testing.assert_allclose(ours.astype(jnp.float32), wide, rtol=2**-8, atol=1e-5)


def test_depthwise_conv_of_two_types_is_of_the_wider(rng):
    x, kernel = normal(rng, 2, 7, 6, CHANNELS), normal(rng, 3, 3, 1, CHANNELS)
    for a, b in ((x, kernel.astype(jnp.bfloat16)), (x.astype(jnp.bfloat16), kernel)):
        y, pullback = jax.vjp(depthwise_conv, a, b)
        expected = depthwise_conv(a.astype(jnp.float32), b.astype(jnp.float32))
        np.testing.assert_array_equal(y, expected)
        assert y.dtype == jnp.float32
        assert [given.dtype for given in pullback(y)] == [a.dtype, b.dtype]


def test_the_grouped_convolution_is_used_where_it_is_fast(rng):
    x, kernel = normal(rng, 1, 8, 8, CHANNELS), normal(rng, 3, 3, 1, CHANNELS)

    def loss(x, kernel):
        return jnp.sum(jnp.sin(depthwise_conv(x, kernel, 2)))

    traced = jax.jit(jax.grad(loss, (0, 1))).trace(x, kernel)
    convolutions = {
        platform: traced.lower(lowering_platforms=(platform,)).as_text().count("stablehlo.convolution")
        for platform in ("cpu", "cuda", "rocm", "tpu")
    }
    # Forward, gradient of the input, gradient of the kernel: a GPU takes it for the last alone.
    assert convolutions == {"cpu": 0, "cuda": 1, "rocm": 1, "tpu": 3}


def test_same_padding_puts_the_odd_zero_last():
    assert same_padding(224, 225, 3, 2) == ((0, 1), (1, 1))
    assert same_padding(14, 7, 5, 2) == ((1, 2), (2, 2))
    assert same_padding(6, 7, 5, 1) == ((2, 2), (2, 2))


def test_the_layer_has_an_axis_order_that_the_grouped_convolution_reads(rng):
    layer = DepthwiseConv(CHANNELS, 5, 2, rngs=nnx.Rngs(0))
    x = normal(rng, 2, 6, 7, CHANNELS)
    np.testing.assert_allclose(layer(x), grouped(x, layer.kernel[...], 2), **TOLERANCE)
