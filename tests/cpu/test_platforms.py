"""One function of two arrays, with a way of its own for some platforms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from srdef.cpu.jaxprs import equations
from srdef.cpu.platforms import Ways, by_platform


def contraction(x, y):
    return jnp.einsum("ij,jk->ik", x, y)


def by_rows(x, y):
    return lax.map(lambda row: contraction(row[None], y)[0], x)


def summed(x, y):
    return jnp.sum(x[:, :, None] * y[None], axis=1)


WAYS = Ways(contraction, cpu=by_rows, gpu=summed)


def ours(x, y):
    return by_platform(WAYS, x, y)


@pytest.fixture
def operands(rng):
    return tuple(jnp.asarray(rng.normal(size=size), jnp.float32) for size in ((3, 4), (4, 2)))


TRANSFORMS = {
    "value": lambda f: f,
    "gradients": lambda f: jax.grad(lambda x, y: jnp.sum(jnp.sin(f(x, y))), (0, 1)),
    "forward": lambda f: lambda x, y: jax.jvp(f, (x, y), (jnp.cos(x), jnp.sin(y))),
    "hessian": lambda f: jax.hessian(lambda x, y: jnp.sum(jnp.sin(f(x, y)))),
    "gradient of gradients": lambda f: jax.grad(
        lambda x, y: jnp.sum(jnp.sin(jax.grad(lambda y: jnp.sum(f(x, y) ** 2))(y)))
    ),
    "first batched": lambda f: lambda x, y: jax.vmap(f, (0, None))(jnp.stack([x, 2 * x]), y),
    "second batched": lambda f: lambda x, y: jax.vmap(f, (None, 1), 1)(x, jnp.stack([y, 2 * y], 1)),
    "both batched twice": lambda f: (
        lambda x, y: jax.vmap(jax.vmap(f, (0, None)), (1, 2))(
            jnp.stack([x, 2 * x])[:, None], jnp.stack([y], 2)
        )
    ),
    "gradients of a batch": lambda f: (
        lambda x, y: jax.grad(lambda y: jnp.sum(jax.vmap(f, (0, None))(jnp.stack([x, 2 * x]), y) ** 3))(y)
    ),
    "kept for later": lambda f: jax.grad(lambda x, y: jnp.sum(jax.checkpoint(f)(x, y) ** 2)),
    "in a loop": lambda f: lambda x, y: lax.fori_loop(0, 3, lambda _, x: f(f(x, y), y.T), x),
}


@pytest.mark.parametrize("how", ["jitted", "eager", "without jit"])
@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
def test_the_same_as_the_plain_function(transform, how, operands):
    """Sums of few float32 products, in another order."""
    with jax.disable_jit(how == "without jit"):
        found = (jax.jit(transform(ours)) if how == "jitted" else transform(ours))(*operands)
    expected = transform(contraction)(*operands)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(b).max())


@pytest.mark.parametrize("transform", ["value", "gradients", "first batched"])
def test_each_platform_gets_its_way_alone(transform, operands):
    traced = jax.jit(TRANSFORMS[transform](ours)).trace(*operands)
    found = {}
    for platform in ("cpu", "cuda", "rocm", "tpu"):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        found[platform] = ("stablehlo.while" in text, "stablehlo.dot_general" in text)
    assert found == {
        "cpu": (True, True),
        "cuda": (False, False),
        "rocm": (False, False),
        "tpu": (False, True),
    }


def test_one_program_for_several_platforms(operands):
    exported = jax.export.export(jax.jit(ours), platforms=("cpu", "cuda", "tpu"))(*operands)
    np.testing.assert_allclose(exported.call(*operands), contraction(*operands), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("transform", ["value", "gradients", "first batched"])
def test_the_precision_is_that_of_where_it_was_traced(transform, operands):
    """And not that of where the program is lowered."""

    def precise(f):
        with jax.default_matmul_precision("highest"):
            return jax.jit(TRANSFORMS[transform](f)).trace(*operands)

    def products(traced):
        text = traced.lower(lowering_platforms=("tpu",)).as_text()
        return text.count("stablehlo.dot_general"), text.count("precision = [HIGHEST, HIGHEST]")

    count, exact = products(precise(ours))
    assert count == exact == products(precise(contraction))[1] > 0
    assert products(jax.jit(TRANSFORMS[transform](ours)).trace(*operands)) == (count, 0)


def test_a_traced_program_has_one_operation_whose_default_can_be_read(operands):
    traced = jax.make_jaxpr(jax.vmap(ours, (0, None)))(jnp.ones((5, 3, 4)), operands[1])
    assert len(traced.jaxpr.eqns) == 1
    assert sum(equation.primitive.name == "dot_general" for equation in equations(traced.jaxpr)) == 1
