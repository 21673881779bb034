"""DeepFool against exact distances and foolbox."""

import foolbox
import jax
import jax.numpy as jnp
import linear_victims
import numpy as np
import pytest

from srdef import attacks
from srdef.errors import InputError
from srdef.victims import Undefended

KEY = jax.random.key(0)


def exact_distances(classifier, images, labels, dual):
    """The distance of each image to the nearest boundary of a linear classifier, by formula."""
    weights = np.asarray(classifier.weights[...], np.float64)
    logits = images.reshape(len(images), -1) @ weights + np.asarray(classifier.bias[...])
    distances = np.full((len(images), weights.shape[1]), np.inf)
    for i, label in enumerate(labels):
        for k in range(weights.shape[1]):
            if k != label:
                norm = np.linalg.norm(weights[:, label] - weights[:, k], ord=dual)
                distances[i, k] = (logits[i, label] - logits[i, k]) / norm
    return distances.min(axis=1)


@pytest.mark.parametrize(("norm", "dual"), [("l2", 2), ("linf", 1)])
@pytest.mark.parametrize("classes", [2, 10])
def test_linear_distances_are_exact(norm, dual, classes):
    """On a linear classifier one step suffices, and it is as long as the overshoot says."""
    classifier = linear_victims.linear(classes)
    images = linear_victims.images(20)
    labels = linear_victims.predictions(classifier, images)
    result = attacks.perturb(
        attacks.deepfool(norm=norm, margin=0), Undefended(classifier), images, labels, key=KEY
    )
    assert result.success.all()
    ratio = getattr(result, norm) / exact_distances(classifier, images, labels, dual)
    # Float32: a logit of about 5 is known to 1e-6, the smallest distance here is 0.003.
    np.testing.assert_allclose(ratio, 1.02, rtol=1e-3)


def test_the_margin_is_added_to_the_step():
    classifier = linear_victims.linear(2)
    images = linear_victims.images(6)
    labels = linear_victims.predictions(classifier, images)
    result = attacks.perturb(
        attacks.deepfool(margin=0.01, overshoot=0.5), Undefended(classifier), images, labels, key=KEY
    )
    expected = 1.5 * (exact_distances(classifier, images, labels, 2) + 0.01)
    np.testing.assert_allclose(result.l2, expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("norm", "theirs"),
    [("l2", foolbox.attacks.L2DeepFoolAttack), ("linf", foolbox.attacks.LinfDeepFoolAttack)],
)
def test_equals_foolbox(norm, theirs):
    """The same perturbations as foolbox, image for image, on a smooth network of 8 classes."""
    classifier = linear_victims.Smooth(np.random.default_rng(1), classes=8)
    images = linear_victims.images(12)
    labels = linear_victims.predictions(classifier, images)
    ours = attacks.perturb(
        attacks.deepfool(norm=norm, candidates=5), Undefended(classifier), images, labels, key=KEY
    )
    model = foolbox.JAXModel(jax.jit(classifier.__call__), bounds=(0, 1), data_format="channels_last")
    attack = theirs(steps=50, candidates=5, overshoot=0.02)
    attacked, _, success = attack(model, jnp.asarray(images), jnp.asarray(labels), epsilons=None)
    assert ours.success.all()
    assert np.asarray(success).all()
    # Both compute in float32; each step divides by a small gradient norm.
    np.testing.assert_allclose(ours.images, attacked, atol=2e-5)


def test_fewer_candidates_give_larger_perturbations():
    classifier = linear_victims.linear(10)
    images = linear_victims.images(20)
    labels = linear_victims.predictions(classifier, images)
    l2 = [
        attacks.perturb(attacks.deepfool(candidates=k), Undefended(classifier), images, labels, key=KEY).l2
        for k in (2, 4, 10)
    ]
    assert (l2[0] >= l2[1] - 1e-6).all()
    assert (l2[1] >= l2[2] - 1e-6).all()
    assert l2[0].sum() > l2[2].sum()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"candidates": 1}, "candidates must be at least 2"),
        ({"candidates": 2.5}, "candidates must be an integer"),
        ({"steps": 0}, "steps must be an integer of at least 1"),
        ({"norm": "l1"}, "unknown norm 'l1'; choose from: l2, linf"),
        ({"overshoot": -0.1}, "overshoot must not be negative"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(InputError, match=message):
        attacks.deepfool(**options)
