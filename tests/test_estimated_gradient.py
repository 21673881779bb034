"""A gradient that is estimated from logits alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from srdef import attacks, models, victims
from srdef.errors import InputError
from srdef.victims import EstimatedGradient, expected

SHAPE = (2, 3, 2)
KEY = jax.random.key(0)
WEIGHTS = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
INSIDE = np.random.default_rng(1).uniform(0.2, 0.8, SHAPE).astype(np.float32)


@struct.dataclass
class Linear(victims.Victim):
    weights: jax.Array

    def __call__(self, image, key):
        return image.ravel() @ self.weights


@struct.dataclass
class Square(victims.Victim):
    """Of an image with one value; without noise."""

    noise: float = 0.0

    def __call__(self, image, key):
        value = image[0, 0, 0]
        return jnp.stack([value**2 + self.noise * jax.random.normal(key), 0 * value])


@struct.dataclass
class Outside(victims.Victim):
    """A linear classifier that JAX cannot differentiate; it notes what it is asked."""

    asked: list = struct.field(pytree_node=False)

    def __call__(self, image, key):
        def compute(image):
            self.asked.append(np.asarray(image))
            return np.asarray(image).reshape(-1) @ WEIGHTS

        return jax.pure_callback(
            compute, jax.ShapeDtypeStruct((3,), jnp.float32), image, vmap_method="sequential"
        )

    def __hash__(self):
        return id(self.asked)


def jacobian(victim, image, key=KEY):
    """Of the logits: (values, classes)."""
    return np.asarray(jax.jacrev(lambda x: victim(x, key))(jnp.asarray(image))).reshape(-1, image.size).T


@pytest.mark.parametrize("place", ["inside", "border"])
@pytest.mark.parametrize(("directions", "own"), [("sign", 0), ("gaussian", 2)])
def test_of_a_linear_victim_it_is_the_gradient_and_its_noise(directions, own, place):
    """Its variance is Σ_k w_k² / n without the value's own w², and for normal directions with it twice.

    At the border one side of a direction is cut off. The bound is 5 standard deviations, there twice as many.
    """
    image = INSIDE if place == "inside" else (INSIDE > 0.5).astype(np.float32)
    samples = 2000
    found = jacobian(EstimatedGradient(Linear(WEIGHTS), samples, 0.01, directions, 500), image)
    variance = ((WEIGHTS**2).sum(axis=0) - WEIGHTS**2 + own * WEIGHTS**2) / samples
    bound = 5 * np.sqrt(variance) * (1 if place == "inside" else 2)
    assert (np.abs(found - WEIGHTS) < bound).all()
    assert np.abs(found - WEIGHTS).max() > 0.1 * bound.min()  # it is an estimate


def test_differences_on_both_sides_are_exact_for_a_square():
    """(x + δ)² - (x - δ)² = 4 δ x, and one value has one direction; rounding of the squares remains."""
    for value in (0.3, 0.7):
        image = jnp.full((1, 1, 1), value)
        found = jacobian(EstimatedGradient(Square(), 3, 0.1), image)
        np.testing.assert_allclose(found, [[2 * value, 0]], rtol=1e-5)


def test_logits_and_losses_are_those_of_the_victim():
    victim = Linear(WEIGHTS)
    estimated = EstimatedGradient(victim, 5)
    np.testing.assert_array_equal(estimated(INSIDE, KEY), victim(INSIDE, KEY))
    np.testing.assert_array_equal(
        expected(estimated, lambda z: z.max(), INSIDE, KEY), victim(INSIDE, KEY).max()
    )
    assert victims.check_victim(estimated, SHAPE) == 3


def test_directions_may_be_computed_together():
    one = jacobian(EstimatedGradient(Linear(WEIGHTS), 10, chunk=1), INSIDE)
    for chunk in (3, 10, 40, None):
        some = jacobian(EstimatedGradient(Linear(WEIGHTS), 10, chunk=chunk), INSIDE)
        np.testing.assert_allclose(some, one, rtol=1e-4, atol=1e-5)


def test_only_images_are_asked_for_and_nothing_is_differentiated():
    asked = []
    victim = EstimatedGradient(Outside(asked), 6, 0.3)
    image = INSIDE.copy()
    image[0, 0], image[1, 1] = 0, 1
    found = jacobian(victim, image)
    assert np.isfinite(found).all()
    assert np.abs(found).min() > 0
    assert min(x.min() for x in asked) >= 0
    assert max(x.max() for x in asked) <= 1
    assert len({x.tobytes() for x in asked}) == 13


def test_a_random_victim_draws_anew_at_each_point():
    """With the same draw on both sides its noise would be gone."""
    image = jnp.full((1, 1, 1), 0.5)
    assert abs(jacobian(EstimatedGradient(Square(noise=1.0), 4), image)[0, 0] - 1) > 1


def test_masked_classes_have_no_slope():
    @struct.dataclass
    class Masked(victims.Victim):
        def __call__(self, image, key):
            return jnp.append(image.ravel()[:2], -jnp.inf)

    found = jacobian(EstimatedGradient(Masked(), 4), INSIDE)
    assert np.isfinite(found).all()
    assert (found[:, 2] == 0).all()
    assert (found[:, 0] != 0).any()


def test_logits_alone_are_one_question():
    asked = []
    victim = EstimatedGradient(Outside(asked), 6)
    logits = jax.block_until_ready(jax.jit(lambda x: victim(x, KEY))(INSIDE))
    assert len(asked) == 1
    asked.clear()
    value, gradient = jax.jit(jax.value_and_grad(lambda x: victim(x, KEY)[0]))(INSIDE)
    jax.block_until_ready(gradient)
    assert len(asked) == 13
    np.testing.assert_array_equal(value, logits[0])


def test_nan_beside_an_image_is_reported_and_not_in_its_logits():
    """The second image is where the victim has no answer on one side."""

    @struct.dataclass
    class Half(victims.Victim):
        def __call__(self, image, key):
            logits = image.ravel() @ WEIGHTS
            return jnp.where(image.ravel()[0] > 0.55, jnp.nan, logits)

    images = np.stack([INSIDE, INSIDE])
    images[0, 0, 0, 0], images[1, 0, 0, 0] = 0.3, 0.545
    labels = (images.reshape(2, -1) @ WEIGHTS).argmax(axis=-1)
    victim = EstimatedGradient(Half(), 8, 0.01)
    assert np.isfinite(jax.vmap(lambda x: victim(x, KEY))(images)).all()
    with pytest.warns(UserWarning, match="not finite"):
        result = attacks.perturb(attacks.ifgsm(0.001, steps=2), victim, images, labels, key=KEY)
    assert result.nonfinite.tolist() == [False, True]


def test_every_gradient_attack_takes_it():
    """Rounded to four levels a linear model has no gradient, and I-FGSM stands still; with estimates not."""
    network = models.from_function(
        lambda w, x: jnp.round(3 * x).reshape(len(x), -1) @ w, jnp.asarray(WEIGHTS), num_classes=3
    )
    victim = victims.Undefended(network)
    images = np.random.default_rng(2).uniform(size=(6, *SHAPE)).astype(np.float32)
    labels = np.asarray(network(images).argmax(axis=-1))
    options = {"key": KEY}
    with pytest.warns(UserWarning, match="gradient of exactly zero"):
        blind = attacks.perturb(attacks.ifgsm(0.3, steps=10), victim, images, labels, **options)
    assert not blind.success.any()
    for directions in ("sign", "gaussian"):
        estimated = EstimatedGradient(victim, 64, 0.2, directions)
        for attack in (attacks.ifgsm(0.3, steps=10), attacks.apgd(0.3, steps=10)):
            assert attacks.perturb(attack, estimated, images, labels, **options).success.mean() > 0.8


def test_a_radius_that_is_a_whole_number_is_checked_too():
    with pytest.raises(InputError, match="radius must be greater than 0"):
        attacks.spsa(radius=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 0}, "samples must be an integer of at least 1, not 0"),
        ({"radius": 0.0}, "radius must be greater than 0"),
        ({"directions": "uniform"}, "unknown directions 'uniform'; choose from: sign, gaussian"),
        ({"chunk": 0}, "chunk must be an integer of at least 1, not 0"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(InputError, match=message):
        EstimatedGradient(Linear(WEIGHTS), **options)
    with pytest.raises(InputError, match=message):
        attacks.spsa(**options)
