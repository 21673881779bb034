"""Rounding adversarial images to 8 bits."""

import jax
import jax.numpy as jnp
import numpy as np

from srdef.attacks import rounding
from srdef.images import from_uint8, to_uint8


def grid(*shape):
    return from_uint8(np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8))


def test_levels_are_what_a_file_gives():
    values = np.asarray(rounding.from_levels(jnp.arange(256.0)))
    np.testing.assert_array_equal(values, from_uint8(np.arange(256, dtype=np.uint8)))


def test_l2_never_leaves_the_ball(rng):
    original = grid(8, 8, 3)
    outside = 0
    for _ in range(20):
        direction = rng.normal(size=original.shape)
        epsilon = rng.uniform(0.01, 0.3)
        attacked = original + epsilon * direction / np.linalg.norm(direction)
        attacked = np.clip(attacked, 0, 1).astype(np.float32)
        outside += np.linalg.norm(from_uint8(to_uint8(attacked)) - original) > epsilon
        rounded = np.asarray(rounding.within_l2(original, attacked, epsilon))
        np.testing.assert_array_equal(from_uint8(to_uint8(rounded)), rounded)
        assert np.linalg.norm(rounded - original) <= epsilon + 1e-6
    assert outside > 0  # plain rounding does


def test_smallest_surviving_scale():
    """Adversarial from a sum of changes of 10 levels on: the search gets close to just that."""
    original = np.full((4, 4, 3), 100 / 255, np.float32)
    attacked = original + np.linspace(0, 0.2 / 255, 48, dtype=np.float32).reshape(4, 4, 3)

    def adversarial(image):
        return (image - original).sum() * 255 > 9.5

    assert not adversarial(from_uint8(to_uint8(attacked)))
    rounded = np.asarray(rounding.smallest_surviving(original, attacked, adversarial))
    changes = np.round((rounded - original) * 255)
    np.testing.assert_array_equal(from_uint8(to_uint8(rounded)), rounded)
    assert 10 <= changes.sum() <= 12
    assert changes.max() == 1


def test_smallest_surviving_where_jax_has_64_bits():
    original = np.full((2, 2, 3), 0.5, np.float32)
    attacked = original + np.float32(0.001)

    def adversarial(image):
        return jnp.abs(image - original).max() > 0.01

    expected = rounding.smallest_surviving(original, attacked, adversarial)
    with jax.enable_x64(True):
        found = rounding.smallest_surviving(original, attacked, adversarial)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)


def test_smallest_surviving_keeps_what_survives_as_it_is():
    original = grid(4, 4, 3)
    attacked = np.clip(original + 3.2 / 255, 0, 1).astype(np.float32)
    rounded = rounding.smallest_surviving(original, attacked, lambda image: jnp.bool_(True))
    np.testing.assert_array_equal(rounded, from_uint8(to_uint8(attacked)))
    # And what never survives is rounded as it is too.
    rounded = rounding.smallest_surviving(original, attacked, lambda image: jnp.bool_(False))
    np.testing.assert_array_equal(rounded, from_uint8(to_uint8(attacked)))
