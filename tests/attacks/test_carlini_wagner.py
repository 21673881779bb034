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
from srdef.attacks.carlini_wagner import _moved
from srdef.errors import InputError
from srdef.victims import Undefended

KEY = jax.random.key(0)


@pytest.mark.parametrize("classes", [2, 10])
def test_linear_distances_are_nearly_exact(classes):
    classifier = linear_victims.linear(classes)
    images = linear_victims.images(12)
    labels = linear_victims.predictions(classifier, images)
    attack = attacks.carlini_wagner(
        binary_search_steps=9, max_iterations=300, learning_rate=1e-3, initial_const=1e-3
    )
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
        binary_search_steps=9, max_iterations=400, learning_rate=1e-3, initial_const=1e-3, targeted=True
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
    iterations = 200
    ours = attacks.perturb(
        attacks.carlini_wagner(binary_search_steps=4, max_iterations=iterations, abort_early=False),
        Undefended(classifier),
        images,
        labels,
        key=KEY,
    )
    model = foolbox.JAXModel(jax.jit(classifier.__call__), bounds=(0, 1), data_format="channels_last")
    attack = foolbox.attacks.L2CarliniWagnerAttack(
        binary_search_steps=4, steps=iterations, stepsize=5e-3, initial_const=1e-2, abort_early=False
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
    attack = attacks.carlini_wagner(confidence=1.0, max_iterations=200)
    result = attacks.perturb(attack, Undefended(classifier), images, labels, key=KEY)
    logits = np.asarray(classifier(jnp.asarray(result.images)))
    assert result.success.all()
    for row, label in zip(logits, labels, strict=True):
        lead = np.delete(row, label).max() - row[label]
        assert lead >= 1 - 1e-4
        assert lead < 1.5


def black_and_white(name):
    """Six images of nothing but 0 and 1."""
    rng = np.random.default_rng(0)
    rows, columns = np.indices(linear_victims.SHAPE[:2])
    images = {
        "noise": rng.integers(0, 2, (6, *linear_victims.SHAPE)),
        "grey noise": np.repeat(rng.integers(0, 2, (6, *linear_victims.SHAPE[:2], 1)), 3, axis=-1),
        "shapes": np.stack(
            [np.zeros_like(rows), np.ones_like(rows), rows % 2, columns % 2, (rows + columns) % 2, rows > 2]
        )[..., None].repeat(3, axis=-1),
    }
    return images[name].astype(np.float32)


@pytest.mark.parametrize("name", ["noise", "grey noise", "shapes"])
def test_black_and_white_move(name):
    """They lie where tanh is flat, and still end as near as DeepFool's, also with small gradients."""
    classifier = linear_victims.linear(4)
    faint = linear_victims.Linear(0.02 * classifier.weights[...], 0.02 * classifier.bias[...])
    images = black_and_white(name)
    labels = linear_victims.predictions(classifier, images)
    nearest = attacks.perturb(attacks.deepfool(), Undefended(classifier), images, labels, key=KEY)
    assert nearest.success.all()
    for victim in (Undefended(classifier), Undefended(faint)):
        attack = attacks.carlini_wagner(max_iterations=400, learning_rate=1e-2, binary_search_steps=7)
        result = attacks.perturb(attack, victim, images, labels, key=KEY)
        assert result.success.all()
        assert (result.l2 <= 1.03 * nearest.l2 + 1e-3).all()
        assert result.images.min() >= 0
        assert result.images.max() <= 1


def test_the_curve_of_a_value():
    """The paper's for what is neither black nor white; through the value itself, and steep there, for all."""
    levels = jnp.arange(256) / 255
    moves = jnp.linspace(-3, 3, 61)[:, None]
    plain = (jnp.tanh(jnp.arctanh(0.999999 * (2 * levels - 1))[None] + moves) + 1) / 2
    found = _moved(levels[None], moves)
    np.testing.assert_allclose(found[:, 2:-2], plain[:, 2:-2], atol=1e-6)
    assert found.min() >= 0
    assert found.max() <= 1
    np.testing.assert_allclose(_moved(levels, jnp.zeros(256)), levels, atol=1e-6)
    slope = jax.vmap(jax.grad(_moved))(levels, jnp.zeros(256))
    assert slope.min() > 5e-3
    # Pushed out of [0, 1] a value still has a gradient to come back by.
    assert jax.vmap(jax.grad(_moved))(levels, jnp.where(levels > 0.5, 2.0, -2.0)).min() > 0


def test_no_constant_is_left_early_before_anything_is_found():
    """The first constants are too small here; a search that has found something may leave one early."""
    classifier = linear_victims.linear(4)
    images = linear_victims.images(4)
    labels = linear_victims.predictions(classifier, images)
    attack = attacks.carlini_wagner(binary_search_steps=2, max_iterations=100, initial_const=1e-9)
    result = attacks.perturb(attack, Undefended(classifier), images, labels, key=KEY)
    assert not result.success.any()
    assert (result.steps == 200).all()
    attack = attacks.carlini_wagner(binary_search_steps=4, max_iterations=300, initial_const=10.0)
    result = attacks.perturb(attack, Undefended(classifier), images, labels, key=KEY)
    assert result.success.all()
    assert (result.steps < 1200).all()


def test_what_cannot_be_attacked_is_returned_unchanged():
    result = attacks.perturb(
        attacks.carlini_wagner(binary_search_steps=2, max_iterations=5),
        Undefended(linear_victims.Constant([1.0, 2.0, 0.0])),
        linear_victims.images(2),
        np.array([1, 1]),
        key=KEY,
    )
    np.testing.assert_array_equal(result.images, linear_victims.images(2))
    assert not result.success.any()


def test_presets():
    paper, original = attacks.carlini_wagner(), attacks.carlini_wagner("original")
    assert (paper.binary_search_steps, paper.max_iterations, paper.learning_rate, paper.initial_const) == (
        5,
        1000,
        5e-3,
        1e-2,
    )
    assert (original.binary_search_steps, original.max_iterations) == (9, 10000)
    assert (original.learning_rate, original.initial_const) == (1e-2, 1e-3)
    assert attacks.carlini_wagner(max_iterations=60).max_iterations == 60


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "carlini"}, "unknown preset 'carlini'; choose from: paper, original"),
        ({"max_iterations": 0}, "max_iterations must be an integer of at least 1"),
        ({"binary_search_steps": -1}, "binary_search_steps must be an integer of at least 1"),
        ({"learning_rate": -1.0}, "learning_rate must not be negative"),
        ({"confidence": float("nan")}, "confidence must not be negative, NaN or infinite"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(InputError, match=message):
        attacks.carlini_wagner(**options)
