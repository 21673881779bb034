"""Noise, contrast, blur, salt and pepper, and Sparse-RS, beside foolbox, SciPy and their definitions."""

import functools

import foolbox
import jax
import jax.numpy as jnp
import linear_victims
import numpy as np
import pytest
import scipy.ndimage
from flax import nnx, struct

from srdef import attacks
from srdef.attacks.corruptions import GaussianBlur
from srdef.errors import InputError
from srdef.victims import Undefended

KEY = jax.random.key(0)


class Contrasts(nnx.Module):
    """Class 0 while neighbouring values differ by more than a threshold of the image's own mean difference.

    Less contrast and blur lower the differences; salt and pepper raise them, over twice the mean.
    """

    num_classes = 3

    def __call__(self, images):
        roughness = jnp.abs(jnp.diff(images, axis=1)).mean(axis=(1, 2, 3))
        return jnp.stack([jnp.full_like(roughness, 0.1), 0.17 - roughness, roughness - 0.15], axis=1)


def images(count=4):
    return np.random.default_rng(0).uniform(0.2, 0.8, (count, 12, 10, 3)).astype(np.float32)


def run(attack, classifier, x, **options):
    labels = np.asarray(classifier(jnp.asarray(x)).argmax(-1))
    return attacks.perturb(attack, Undefended(classifier), x, labels, key=KEY, **options)


def by_foolbox(attack, classifier, x):
    model = foolbox.JAXModel(jax.jit(lambda x: classifier(x)), bounds=(0, 1), data_format="channels_last")
    labels = classifier(jnp.asarray(x)).argmax(-1)
    attacked, _, success = attack(model, jnp.asarray(x), labels, epsilons=None)
    return np.asarray(attacked), np.asarray(success)


CORRUPTIONS = {
    "contrast_reduction": lambda d: foolbox.attacks.LinearSearchContrastReductionAttack(distance=d, steps=50),
    "gaussian_blur": lambda d: foolbox.attacks.GaussianBlurAttack(distance=d, steps=50),
}


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_contrast_and_blur_are_those_of_foolbox(name):
    x = images()
    classifier = Contrasts()
    ours = run(attacks.create(name, steps=50), classifier, x)
    theirs, success = by_foolbox(CORRUPTIONS[name](foolbox.distances.l2), classifier, x)
    assert ours.success.all()
    assert success.all()
    np.testing.assert_allclose(ours.images, theirs, atol=2e-6)


def test_salt_and_pepper_is_as_near_as_that_of_foolbox():
    x = images()
    classifier = Contrasts()
    ours = run(attacks.salt_and_pepper(steps=200), classifier, x)
    theirs, success = by_foolbox(foolbox.attacks.SaltAndPepperNoiseAttack(steps=200), classifier, x)
    assert ours.success.all()
    assert success.all()
    changed = ours.images != x
    assert set(np.unique(ours.images[changed])) <= {0.0, 1.0}
    # Whole pixels; a value that is black or white already cannot change.
    assert (changed.all(axis=-1) == changed.any(axis=-1)).all()
    # Both are the best of 200 draws.
    l2 = np.linalg.norm((theirs - x).reshape(len(x), -1), axis=1)
    assert np.median(ours.l2) <= 1.2 * np.median(l2)


@pytest.mark.parametrize("sigma", [0.16, 1.0, 2.7, 12.0])
@pytest.mark.parametrize("shape", [(12, 10, 3), (5, 16, 3), (2, 2, 3)])
def test_blur_is_that_of_scipy(sigma, shape):
    image = np.random.default_rng(0).uniform(0, 1, shape).astype(np.float32)
    # A kernel wider than the longer side is cut there.
    sigma = min(sigma, max(shape[:2]))
    blurred = GaussianBlur(max_sigma=sigma).corrupted(jnp.asarray(image), jnp.float32(1))
    expected = scipy.ndimage.gaussian_filter(image.astype(np.float64), [sigma, sigma, 0])
    np.testing.assert_allclose(blurred, expected, atol=2e-6)
    nothing = GaussianBlur(max_sigma=0.0).corrupted(jnp.asarray(image), jnp.float32(1))
    np.testing.assert_allclose(nothing, image, atol=1e-7)


@functools.cache
def linear():
    classifier = linear_victims.linear(5)
    return classifier, linear_victims.images(8)


@pytest.mark.parametrize("name", ["uniform_noise", "gaussian_noise"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_noise_keeps_the_best_draw_within_the_ball(name, norm):
    classifier, x = linear()
    radius = 0.1 if norm == "linf" else 1.0

    def make(tries, **options):
        return attacks.create(name, epsilon=radius, norm=norm, tries=tries, **options)

    def leads(result):
        logits = np.asarray(classifier(jnp.asarray(result.images)))
        own = np.eye(5, dtype=bool)[linear_victims.predictions(classifier, x)]
        return logits[own] - np.where(own, -np.inf, logits).max(axis=1)

    few, many = (run(make(tries, stop_early=False), classifier, x) for tries in (2, 64))
    size = many.linf if norm == "linf" else many.l2
    assert size.max() <= radius * (1 + 1e-5)
    assert size.min() >= 0.9 * radius
    # The draws of a longer search begin with those of a shorter one.
    assert (leads(many) <= leads(few) + 1e-5).all()
    assert leads(many).mean() < leads(few).mean() - 0.1
    # Stopping early, an image that is fooled by its first draws takes no more.
    stopped = run(make(64), classifier, x)
    np.testing.assert_array_equal(stopped.success, many.success)
    assert (stopped.steps[~stopped.success] == 64).all()
    assert stopped.success.any()
    assert (stopped.steps[stopped.success] < 64).any()


def test_uniform_and_gaussian_noise_have_their_moments():
    x = np.full((1, 64, 64, 3), 0.5, np.float32)
    constant = linear_victims.Constant([1.0, 0.0])
    # 12288 values: the standard deviation is known to 1 %.
    for name, deviation in (("uniform_noise", 0.1 / np.sqrt(3)), ("gaussian_noise", 0.048)):
        noise = run(attacks.create(name, epsilon=0.1, tries=1), constant, x).images - x
        assert noise.std() == pytest.approx(deviation, rel=0.03)
        assert abs(noise.mean()) < 0.003


@struct.dataclass
class Ones:
    """Class 1 wins where enough of twelve given pixels are white."""

    num_classes = 2

    def __call__(self, image, key):
        white = image.reshape(-1, 3)[::10].mean()
        return jnp.stack([jnp.float32(0.6), white])


def test_sparse_rs_finds_the_pixels_that_count_and_changes_no_more():
    x = np.full((3, 12, 10, 3), 0.3, np.float32)

    def attack(**options):
        options = {"pixels": 12, "queries": 3000} | options
        return attacks.perturb(attacks.sparse_rs(**options), Ones(), x, np.zeros(3, int), key=KEY)

    found = attack()
    assert found.success.all()
    assert (found.steps < 3000).all()
    changed = (found.images != x).any(axis=-1).sum(axis=(1, 2))
    assert (changed <= 12).all()
    assert set(np.unique(found.images[found.images != x])) <= {0.0, 1.0}
    # At most 4 of the 12 pixels white are not enough, however long the search.
    few = attack(pixels=4, queries=300)
    assert not few.success.any()
    assert ((few.images != x).any(axis=-1).sum(axis=(1, 2)) == 4).all()
    # Half of the places, all but one, and all of them.
    for pixels in (60, 119, 120):
        assert ((attack(pixels=pixels, queries=20).images != x).any(axis=-1).sum(axis=(1, 2)) <= pixels).all()
    with pytest.raises(InputError, match="pixels must be at most 120, all of the image's, not 121"):
        attack(pixels=121)


def test_sparse_rs_moves_as_many_pixels_as_the_schedule_says():
    """The shares of the authors' code at 10000 queries, `p_selection`."""
    attack = attacks.sparse_rs(queries=10_000, alpha_init=0.3)
    divisors = {
        0: 1,
        1: 2,
        50: 2,
        51: 4,
        200: 4,
        201: 5,
        501: 6,
        1001: 8,
        2001: 10,
        4001: 12,
        8000: 15,
        8001: 20,
    }
    for iteration, divisor in divisors.items():
        share = attack._share(jnp.int32(iteration), jnp.int32(1))
        assert float(share) == pytest.approx(0.3 / divisor)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: attacks.uniform_noise(norm="l1"), "unknown norm 'l1'; choose from: linf, l2"),
        (lambda: attacks.gaussian_noise(tries=0), "tries must be an integer of at least 1"),
        (lambda: attacks.contrast_reduction(level=2), r"level must lie in \[0, 1\]"),
        (lambda: attacks.gaussian_blur(max_sigma=-1), "max_sigma must not be negative"),
        (lambda: attacks.sparse_rs(pixels=0), "pixels must be an integer of at least 1"),
    ],
)
def test_bad_options(make, message):
    with pytest.raises(InputError, match=message):
        make()
