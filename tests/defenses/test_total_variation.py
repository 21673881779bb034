"""Total variation minimisation against scikit-image and SciPy, by the objective reached."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sample_photographs import photograph
from scipy.optimize import minimize
from skimage.restoration import denoise_tv_chambolle

from srdef import defenses
from srdef.defenses import total_variation

ITERATIONS = defenses.TotalVariation().iterations
solve = jax.jit(total_variation.minimise, static_argnums=3)


def differences(u):
    down, right = np.zeros_like(u), np.zeros_like(u)
    down[:-1], right[:, :-1] = u[1:] - u[:-1], u[:, 1:] - u[:, :-1]
    return down, right


def objective(u, image, kept, weight, smoothing=0.0):
    u = np.asarray(u, np.float64)
    down, right = differences(u)
    lengths = np.sqrt(down**2 + right**2 + smoothing**2)
    return 0.5 * (kept * (u - image) ** 2).sum() + weight * lengths.sum()


def slope(u, image, kept, weight, smoothing):
    down, right = differences(u)
    lengths = np.sqrt(down**2 + right**2 + smoothing**2)
    down, right = down / lengths, right / lengths
    result = kept * (u - image) - weight * (down + right)
    result[1:] += weight * down[:-1]
    result[:, 1:] += weight * right[:, :-1]
    return result


@pytest.mark.parametrize("weight", [0.03, 0.1])
def test_reaches_scikit_images_objective_without_drop(weight):
    image = photograph(0, 64, 80)
    kept = np.ones_like(image)
    expected = denoise_tv_chambolle(
        image.astype(np.float64), weight=weight, eps=1e-8, max_num_iter=2000, channel_axis=-1
    )
    reached = objective(solve(image, kept, weight, ITERATIONS), image, kept, weight)
    assert reached < 1.01 * objective(expected, image, kept, weight)


def test_reaches_scipys_objective_with_drop():
    image = photograph(1, 28, 36).astype(np.float64)
    kept = (np.random.default_rng(0).random(image.shape) < 0.5).astype(np.float64)
    start = np.where(kept > 0, image, image.mean())
    for smoothing in (1e-2, 1e-3, 1e-4):  # L-BFGS needs a smooth problem; each start is the last result
        arguments = (image, kept, 0.03, smoothing)
        fit = minimize(
            lambda u, *a: objective(u.reshape(image.shape), *a),
            start.ravel(),
            args=arguments,
            jac=lambda u, *a: slope(u.reshape(image.shape), *a).ravel(),
            method="L-BFGS-B",
            options={"maxiter": 3000, "maxfun": 3500},
        )
        start = fit.x.reshape(image.shape)
    result = solve(jnp.asarray(image, jnp.float32), jnp.asarray(kept, jnp.float32), 0.03, ITERATIONS)
    reached, expected = (objective(u, image, kept, 0.03) for u in (result, start))
    assert abs(reached - expected) < 0.01 * expected


def test_what_is_dropped_does_not_matter():
    image = jnp.asarray(photograph(1, 20, 24))
    kept = (jax.random.uniform(jax.random.key(0), image.shape) < 0.5).astype(jnp.float32)
    other = jnp.where(kept > 0, image, 1 - image)
    np.testing.assert_array_equal(solve(image, kept, 0.03, 20), solve(other, kept, 0.03, 20))


def test_drops_as_many_as_it_says():
    # Where nothing is smoothed, kept values stay as they are.
    image = jnp.asarray(np.random.default_rng(0).random((40, 50, 3)), jnp.float32)
    result = defenses.TotalVariation(weight=1e-6, drop_rate=0.3)(image, jax.random.key(0))
    dropped = float((jnp.abs(result - image) > 1e-4).mean())
    assert abs(dropped - 0.3) < 0.03  # five standard deviations
