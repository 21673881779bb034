"""C&W L2 against exact distances and foolbox."""

import foolbox
import jax
import jax.numpy as jnp
import linear_victims
import numpy as np
import pytest
import scipy.optimize
from test_deepfool import exact_distances

from srdef import attacks
from srdef.errors import InputError
from srdef.victims import Undefended

KEY = jax.random.key(0)


@pytest.mark.parametrize("classes", [2, 10])
def test_linear_distances_are_nearly_exact(classes):
    classifier = linear_victims.linear(classes)
    images = linear_victims.images(12)
    labels = linear_victims.predictions(classifier, images)
    attack = attacks.carlini_wagner(search_steps=9, steps=300, learning_rate=1e-3, constant=1e-3)
    result = attacks.perturb(attack, Undefended(classifier), images, labels, key=KEY)
    assert result.success.all()
    ratio = result.l2 / exact_distances(classifier, images, labels, 2)
    assert ratio.min() > 0.999
    # With more than two classes the objective is not convex: the largest other logit may belong to
    # a class other than the nearest one, and one of these images ends at 1.12.
    assert (ratio < 1.05).sum() >= (12 if classes == 2 else 11)


def distance_to_class(classifier, image, target):
    """The distance of an image to where a linear classifier says `target`: a quadratic program."""
    weights = np.asarray(classifier.weights[...], np.float64)
    bias = np.asarray(classifier.bias[...], np.float64)
    others = np.delete(np.arange(weights.shape[1]), target)
    normals = weights[:, [target]] - weights[:, others]  # of the half-spaces in which target leads
    offsets = image.ravel() @ normals + bias[target] - bias[others]
    # The dual: minimise ||normals λ||² / 2 + offsets λ over λ >= 0.
    lipschitz = np.linalg.norm(normals, 2) ** 2
    solution = scipy.optimize.minimize(
        lambda v: 0.5 * np.sum((normals @ v) ** 2) / lipschitz + offsets @ v / np.sqrt(lipschitz),
        np.zeros(len(others)),
        jac=lambda v: normals.T @ (normals @ v) / lipschitz + offsets / np.sqrt(lipschitz),
        bounds=[(0, None)] * len(others),
        method="L-BFGS-B",
        options={"ftol": 1e-15, "gtol": 1e-10, "maxiter": 10000},
    )
    return np.linalg.norm(normals @ solution.x / np.sqrt(lipschitz))


def test_targeted_linear_distances_are_nearly_exact():
    """With a target the objective is convex, so every distance must come close to the exact one."""
    classifier = linear_victims.linear(10)
    images = linear_victims.images(12)
    targets = (linear_victims.predictions(classifier, images) + 1) % 10
    attack = attacks.carlini_wagner(
        search_steps=9, steps=400, learning_rate=1e-3, constant=1e-3, targeted=True
    )
    result = attacks.perturb(attack, Undefended(classifier), images, targets, key=KEY)
    exact = [distance_to_class(classifier, *pair) for pair in zip(images, targets, strict=True)]
    assert result.success.all()
    assert (result.l2 / exact).min() > 0.999
    assert (result.l2 / exact).max() < 1.05


@pytest.mark.slow
def test_as_good_as_foolbox():
    classifier = linear_victims.Smooth(np.random.default_rng(1), classes=8)
    images = linear_victims.images(12)
    labels = linear_victims.predictions(classifier, images)
    options = {"steps": 200, "abort_early": False}
    ours = attacks.perturb(
        attacks.carlini_wagner(search_steps=4, **options), Undefended(classifier), images, labels, key=KEY
    )
    model = foolbox.JAXModel(jax.jit(classifier.__call__), bounds=(0, 1), data_format="channels_last")
    attack = foolbox.attacks.L2CarliniWagnerAttack(
        binary_search_steps=4, stepsize=5e-3, initial_const=1e-2, **options
    )
    attacked, _, success = attack(model, jnp.asarray(images), jnp.asarray(labels), epsilons=None)
    theirs = np.linalg.norm((np.asarray(attacked) - images).reshape(12, -1), axis=1)
    assert ours.success.all()
    assert np.asarray(success).all()
    # The same search, so the same distances, but for rounding and the order of "keep" and "step".
    np.testing.assert_allclose(ours.l2, theirs, rtol=0.02)


def test_confidence_is_the_lead_of_the_wrong_class():
    classifier = linear_victims.linear(5)
    images = linear_victims.images(8)
    labels = linear_victims.predictions(classifier, images)
    attack = attacks.carlini_wagner(confidence=1.0, steps=200)
    result = attacks.perturb(attack, Undefended(classifier), images, labels, key=KEY)
    logits = np.asarray(classifier(jnp.asarray(result.images)))
    assert result.success.all()
    for row, label in zip(logits, labels, strict=True):
        lead = np.delete(row, label).max() - row[label]
        assert lead >= 1 - 1e-4
        assert lead < 1.5


def test_what_cannot_be_attacked_is_returned_unchanged():
    result = attacks.perturb(
        attacks.carlini_wagner(search_steps=2, steps=5),
        Undefended(linear_victims.Constant([1.0, 2.0, 0.0])),
        linear_victims.images(2),
        np.array([1, 1]),
        key=KEY,
    )
    np.testing.assert_array_equal(result.images, linear_victims.images(2))
    assert not result.success.any()


def test_presets():
    paper, original = attacks.carlini_wagner(), attacks.carlini_wagner("original")
    assert (paper.search_steps, paper.steps, paper.learning_rate, paper.constant) == (5, 1000, 5e-3, 1e-2)
    assert (original.search_steps, original.steps) == (9, 10000)
    assert (original.learning_rate, original.constant) == (1e-2, 1e-3)
    assert attacks.carlini_wagner(steps=60).steps == 60


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "carlini"}, "unknown preset 'carlini'; choose from: paper, original"),
        ({"steps": 0}, "steps must be an integer of at least 1"),
        ({"search_steps": -1}, "search_steps must be an integer of at least 1"),
        ({"learning_rate": -1.0}, "learning_rate must not be negative"),
        ({"confidence": float("nan")}, "confidence must not be negative or NaN"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(InputError, match=message):
        attacks.carlini_wagner(**options)
