"""The convolution against `lax.conv_general_dilated`, and its use by every network."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from srdef import models
from srdef.cpu.convolution import Conv, convolve
from srdef.cpu.jaxprs import equations, shape
from srdef.models.registry import without_weights

NHWC = ("NHWC", "HWIO", "NHWC")
SETTINGS = {
    "3x3": ((3, 3), (1, 1), "SAME", {}),
    "stride": ((3, 3), (2, 2), "SAME", {}),
    "stride, valid": ((3, 3), (2, 2), "VALID", {}),
    "1x7": ((1, 7), (1, 1), "SAME", {}),
    "5x5, own padding": ((5, 5), (2, 1), ((2, 1), (0, 3)), {}),
    "1x1": ((1, 1), (1, 1), "VALID", {}),
    "1x1, stride": ((1, 1), (2, 3), "SAME", {"rhs_dilation": (2, 2)}),
    "1x1, own padding": ((1, 1), (1, 1), ((0, 0), (0, 0)), {"precision": "highest"}),
    "1x1, zeros around": ((1, 1), (1, 1), ((1, 0), (0, 1)), {}),
    "1x1, spread": ((1, 1), (1, 1), ((0, 0), (0, 0)), {"lhs_dilation": (2, 1)}),
    "1x1, groups": ((1, 1), (1, 1), "SAME", {"feature_group_count": 2}),
    "dilated": ((3, 3), (1, 1), "SAME", {"rhs_dilation": (2, 2)}),
    "groups": ((3, 3), (1, 1), "SAME", {"feature_group_count": 2}),
}


def close(found, expected):
    """Sums of at most 300 float32 products, in another order, relative to the largest."""
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max())


@pytest.fixture(params=SETTINGS.values(), ids=SETTINGS)
def case(request, rng):
    """Ours and JAX's as functions of an input and a kernel, with a direction for each."""
    window, strides, padding, options = request.param
    groups = options.get("feature_group_count", 1)
    x, along_x = (jnp.asarray(rng.normal(size=(2, 9, 8, 6)), jnp.float32) for _ in range(2))
    size = (*window, 6 // groups, 4)
    kernel, along_kernel = (jnp.asarray(rng.normal(size=size), jnp.float32) for _ in range(2))
    ours, theirs = (
        partial(f, window_strides=strides, padding=padding, dimension_numbers=NHWC, **options)
        for f in (convolve, lax.conv_general_dilated)
    )
    return ours, theirs, (x, kernel), (along_x, along_kernel)


def loss_of(f):
    """A scalar whose derivatives of all orders depend on where they are taken."""
    return lambda x, kernel: jnp.sum(jnp.sin(f(x, kernel)))


def each(case, transform):
    """`transform(function)` of ours and of theirs, jitted."""
    ours, theirs, primals, tangents = case
    return (jax.jit(transform(f))(primals, tangents) for f in (ours, theirs))


def test_values_and_gradients(case):
    def transform(f):
        def gradients(primals, tangents):
            loss = loss_of(f)
            both = jax.value_and_grad(loss, (0, 1))(*primals)
            return f(*primals), both, jax.grad(loss)(*primals), jax.grad(loss, 1)(*primals)

        return gradients

    close(*each(case, transform))


def test_forward_mode_and_the_hessian(case):
    """Directional derivatives, and a Hessian-vector product, forward over reverse."""

    def transform(f):
        def derivatives(primals, tangents):
            loss = loss_of(f)
            gradient = jax.grad(loss, (0, 1))
            return jax.jvp(f, primals, tangents), jax.jvp(gradient, primals, tangents)

        return derivatives

    close(*each(case, transform))


def test_images_apart(case):
    """`vmap` over images, and over images with a kernel each."""

    def transform(f):
        def gradients(primals, tangents):
            loss = loss_of(lambda x, kernel: f(x[None], kernel))
            x, kernel = primals
            kernels = jnp.stack([kernel, 2 * kernel])
            gradient = jax.grad(loss, (0, 1))
            return jax.vmap(gradient, (0, None))(x, kernel), jax.vmap(gradient)(x, kernels)

        return gradients

    close(*each(case, transform))


def test_the_layer_is_that_of_flax(rng):
    x = jnp.asarray(rng.normal(size=(2, 9, 8, 3)), jnp.float32)
    options = {"strides": 2, "padding": "SAME", "use_bias": True}
    ours, theirs = (layer(3, 5, (3, 3), **options, rngs=nnx.Rngs(0)) for layer in (Conv, nnx.Conv))
    close(nnx.jit(ours)(x), nnx.jit(theirs)(x))
    assert isinstance(ours, nnx.Conv)


@pytest.mark.parametrize("name", models.list_names())
def test_no_network_has_a_gradient_that_a_cpu_is_slow_with(name):
    """Every dense convolution, forwards and backwards, has its kernel in the order HWIO."""
    network = without_weights(name)
    image = jax.ShapeDtypeStruct((1, 96, 96, 3), jnp.float32)
    traced = jax.make_jaxpr(lambda network, x: jax.vjp(network, x)[1](network(x)))(network, image)
    convolutions = [e for e in equations(traced.jaxpr) if e.primitive.name == "conv_general_dilated"]
    dense = [e for e in convolutions if e.params["feature_group_count"] == e.params["batch_group_count"] == 1]
    assert dense
    for equation in dense:
        assert equation.params["dimension_numbers"].rhs_spec == (3, 2, 0, 1), shape(equation.invars[1])


@pytest.mark.parametrize("strides", [(1, 1), (2, 2)])
def test_a_kernel_of_one_pixel_is_a_product_on_a_cpu_alone(strides):
    """Forward and the gradients of input and kernel, for a batch of images apart, as attacks do it."""
    x, kernel = jnp.ones((4, 6, 6, 8)), jnp.ones((1, 1, 8, 5))

    def loss(x, kernel):
        options = {"window_strides": strides, "padding": "SAME", "dimension_numbers": NHWC}
        return jnp.sum(jnp.sin(convolve(x[None], kernel, **options)))

    traced = jax.jit(jax.vmap(jax.grad(loss, (0, 1)), (0, None))).trace(x, kernel)
    found = {}
    for platform in ("cpu", "cuda", "tpu"):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        found[platform] = [text.count(f"stablehlo.{name}") for name in ("convolution", "dot_general")]
    assert found == {"cpu": [0, 3], "cuda": [3, 0], "tpu": [3, 0]}
