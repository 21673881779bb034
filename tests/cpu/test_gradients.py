"""The loss's gradient against `jax.value_and_grad`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from srdef.cpu import convolution
from srdef.cpu.gradients import value_and_grad, values_and_grads


def loss(x):
    hidden = jax.nn.relu(jnp.cos(jnp.arange(35.0)).reshape(7, 5) @ x)
    return jnp.sum(jax.nn.softplus(hidden) ** 2), (hidden, jnp.argmax(hidden))


@pytest.mark.parametrize(
    ("transform", "shape"),
    [(lambda f: f, (5,)), (jax.jit, (5,)), (lambda f: jax.jit(jax.vmap(f)), (4, 5))],
    ids=["eager", "jit", "vmap"],
)
def test_equals_jax(transform, shape):
    """The same operations, compiled otherwise: 1e-5 of the largest entry, for sums in another order."""
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    found = transform(lambda x: value_and_grad(loss, x))(x)
    expected = transform(jax.value_and_grad(loss, has_aux=True))(x)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * np.abs(b).max())


@pytest.mark.parametrize("count", [1, 3])
def test_gradients_of_a_vector(count):
    """Against the Jacobian; 1e-5 of the largest entry."""
    x = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)

    def function(x):
        return jnp.cos(jnp.arange(5.0 * count)).reshape(count, 5) @ jnp.sin(x)

    found = jax.jit(jax.vmap(lambda x: values_and_grads(function, x)))(x)
    expected = jax.vmap(function)(x), jax.vmap(jax.jacobian(function))(x)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max())


def test_backward_pass_is_a_computation_of_its_own():
    """What makes it faster: the compiled program still has the conditional."""
    compiled = jax.jit(lambda x: value_and_grad(loss, x)).lower(jnp.ones(5)).compile()
    assert ("conditional(" in compiled.as_text()) == (jax.default_backend() == "cpu")


@pytest.mark.parametrize(
    ("convolve", "channels", "window", "apart"),
    [
        (jax.lax.conv_general_dilated, 8, 3, False),
        (jax.lax.conv_general_dilated, 8, 1, True),
        (jax.lax.conv_general_dilated, 3, 3, True),
        (convolution.convolve, 8, 3, True),
    ],
    ids=["dense", "1x1", "RGB", "srdef"],
)
def test_no_slow_convolution_goes_backwards_in_a_branch(convolve, channels, window, apart):
    """JAX's dense one, for which XLA on a CPU has no fast routine there: thirteen times slower with EDSR."""
    if jax.default_backend() != "cpu":
        pytest.skip("only on a CPU is the backward pass compiled apart")
    kernel = jnp.ones((window, window, channels, 8))

    def convolved(x):
        y = convolve(x[None], kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return jnp.sum(y**2), None

    def gradient_of_one(x):
        return values_and_grads(lambda x: convolved(x)[0][None], x)[1]

    gradients = [lambda x, f=f: value_and_grad(f, x)[1] for f in (convolved, jax.jit(convolved))]
    for gradient in (*gradients, gradient_of_one):
        lowered = jax.jit(gradient).lower(jnp.ones((4, 4, channels)))
        assert ("conditional(" in lowered.compile().as_text()) == apart
