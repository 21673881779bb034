"""Projections against SciPy and NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import brentq, linprog

from srdef.attacks import projections, rounding
from srdef.images import from_uint8, to_uint8

SHAPE = (4, 3, 3)


def case(seed):
    rng = np.random.default_rng(seed)
    image = rng.uniform(0, 1, SHAPE).astype(np.float32)
    image[rng.uniform(size=SHAPE) < 0.2] = rng.integers(2)  # some on the border of the box
    return image, rng.normal(0, 0.5, SHAPE).astype(np.float32), rng


@pytest.mark.parametrize("seed", range(8))
def test_l1_ball_and_box_against_root_finding(seed):
    image, change, _ = case(seed)
    room = np.where(change > 0, 1 - image, image).astype(np.float64)
    size = np.abs(change).astype(np.float64)
    project = jax.jit(projections.project_l1)
    for radius in (0.0, 0.3, 2.0, 50.0):

        def excess(amount, radius=radius):
            return np.clip(size - amount, 0, room).sum() - radius

        amount = 0.0 if excess(0) <= 0 else brentq(excess, 0, size.max(), xtol=1e-14)
        by_hand = np.sign(change) * np.clip(size - amount, 0, room)
        found = np.asarray(project(image, change, radius))
        np.testing.assert_allclose(found, by_hand, atol=2e-6)  # float32 sums of 36 values
        assert np.abs(found).sum() <= radius * (1 + 1e-6)
        assert ((image + found >= 0) & (image + found <= 1 + 1e-7)).all()
    assert (np.asarray(project(image, change, 0.0)) == 0).all()


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("seed", range(6))
def test_hyperplane_and_box_against_solvers(norm, seed):
    """The shortest change: a linear programme in L∞ and L1, a root of the dual in L2."""
    x, normal, rng = case(seed)
    normal[0, 0] = 0
    x64, w = x.astype(np.float64).ravel(), normal.astype(np.float64).ravel()
    # A hyperplane that the box reaches, from the side of one of its points.
    offset = np.float32(w @ rng.uniform(0, 1, x.size))
    found = np.asarray(jax.jit(projections.project_hyperplane, static_argnums=3)(x, normal, offset, norm))
    landed = (x + found).ravel().astype(np.float64)
    assert w @ landed == pytest.approx(offset, abs=2e-5)
    assert landed.min() >= -1e-6
    assert landed.max() <= 1 + 1e-6
    n = x.size
    if norm == "l2":
        c = w @ x64 - offset
        direction = np.sign(c) * w

        def reached(amount):
            return abs(c) - direction @ (x64 - np.clip(x64 - amount * direction, 0, 1))

        amount = brentq(reached, 0, 1e6, xtol=1e-15, rtol=1e-14)
        shortest = np.linalg.norm(np.clip(x64 - amount * direction, 0, 1) - x64)
    else:
        # Variables: the change, and its absolute values (L1) or their bound (L∞).
        extra = n if norm == "l1" else 1
        bound = np.eye(n) if norm == "l1" else np.ones((n, 1))
        programme = linprog(
            np.r_[np.zeros(n), np.ones(extra)],
            A_ub=np.block([[np.eye(n), -bound], [-np.eye(n), -bound]]),
            b_ub=np.zeros(2 * n),
            A_eq=[np.r_[w, np.zeros(extra)]],
            b_eq=[offset - w @ x64],
            bounds=[*zip(-x64, 1 - x64, strict=True), *[(0, None)] * extra],
        )
        assert programme.status == 0
        shortest = programme.fun
    assert float(projections.length(jnp.asarray(found), norm)) == pytest.approx(shortest, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("smallest", [0.0, 1e-30, 3.7e-3, 0.25, 1.0, 2.0])
def test_a_guess_changes_no_result_however_bad(smallest):
    """Exact, a few floats off, far off, of no use at all."""
    few = np.float32(smallest) * (1 + np.float32(2.0**-23) * np.arange(-20, 21))
    guesses = np.append(few, [0, -1, 1e-38, 1e-3, 0.7, 1, 5, np.inf, -np.inf, np.nan]).astype(np.float32)

    def found(guess):
        return projections._smallest(lambda amount: amount >= jnp.float32(smallest), 1.0, guess)

    expected = min(np.float32(smallest), np.float32(1))
    assert found(None) == expected
    np.testing.assert_array_equal(jax.jit(jax.vmap(found))(guesses), expected)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_hyperplane_where_the_change_bends_more_often_than_its_guess(norm):
    """Every value has another room and another weight, so the exact change is behind many bends."""
    weight = np.geomspace(1e-3, 1, 300, dtype=np.float32)[:, None, None]
    for x in (np.geomspace(1e-4, 1, 300), np.geomspace(1, 1e-4, 300), np.full(300, 0.5)):
        x = x.astype(np.float32)[:, None, None]
        for share in (0.01, 0.3, 0.9, 0.999):
            excess = share * (weight * x).sum(dtype=np.float64)
            offset = np.float32((weight * x).sum(dtype=np.float64) - excess)
            pull = (np.ones_like(weight) if norm == "linf" else weight).astype(np.float64)

            def undone(amount, x=x, pull=pull, excess=excess):
                return (weight * np.minimum(amount * pull, x)).sum() - excess

            amount = brentq(undone, 0, 1e4, xtol=1e-14)
            found = projections.project_hyperplane(x, weight, offset, norm)
            # float32 sums of 300 products, of which the excess is the small difference of two.
            np.testing.assert_allclose(found, -np.minimum(amount * pull, x), rtol=2e-4, atol=2e-6)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_hyperplane_out_of_reach_and_without_a_normal(norm):
    x, normal, _ = case(0)
    found = projections.project_hyperplane(x, normal, jnp.float32(1e4), norm)
    np.testing.assert_allclose(x + found, np.where(normal > 0, 1, 0), atol=1e-6)
    found = projections.project_hyperplane(x, jnp.zeros_like(x), jnp.float32(1), norm)
    assert (np.asarray(found) == 0).all()


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_ball(norm):
    image, change, _ = case(1)
    x = projections.project(image, image + change, 0.4, norm)
    assert float(projections.length(x - image, norm)) <= 0.4 + 1e-6
    inside = projections.project(image, np.clip(image + change / 1000, 0, 1), 0.4, norm)
    np.testing.assert_allclose(inside, np.clip(image + change / 1000, 0, 1), atol=1e-7)
    assert (projections.project(image, image + change, 0.0, norm) == image).all()


def test_rounding_within_l1():
    image, change, _ = case(2)
    image = from_uint8(to_uint8(image))
    attacked = np.asarray(projections.project(image, image + change, 1.5, "l1"))
    rounded = np.asarray(rounding.within_l1(image, attacked, 1.5))
    np.testing.assert_array_equal(from_uint8(to_uint8(rounded)), rounded)
    assert 1.3 < np.abs(rounded - image).sum() <= 1.5 + 1e-6


@pytest.mark.parametrize("seed", range(3))
def test_order_statistic_is_that_of_a_sorted_array(seed):
    rng = np.random.default_rng(seed)
    values = np.float32(np.abs(rng.normal(size=SHAPE)) * 10.0 ** rng.integers(-30, 30))
    values[rng.uniform(size=SHAPE) < 0.3] = values[0, 0, 0]  # equal ones
    values[0, 1] = 0
    found = [projections.order_statistic(values, place) for place in (0, 1, 17, values.size - 1)]
    np.testing.assert_array_equal(found, np.sort(values.ravel())[[0, 1, 17, -1]])
