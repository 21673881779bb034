"""The gradient-sign family against closed forms and a NumPy transcription of the paper."""

import jax
import jax.numpy as jnp
import linear_victims
import numpy as np
import pytest

from srdef import attacks
from srdef.attacks.gradient_sign import cross_entropy, normalize_l1
from srdef.errors import InputError
from srdef.victims import Undefended

KEY = jax.random.key(0)


def softmax(logits):
    e = np.exp(logits - logits.max())
    return e / e.sum()


def smooth_gradient(classifier, x, label):
    """The gradient of -log softmax(tanh(x W1) W2)[label] by hand, in float64."""
    first = np.asarray(classifier.first[...], np.float64)
    second = np.asarray(classifier.second[...], np.float64)
    hidden = np.tanh(x.ravel() @ first)
    error = softmax(hidden @ second)
    error[label] -= 1
    return (first @ ((second @ error) * (1 - hidden**2))).reshape(x.shape)


def transcription(classifier, image, label, epsilon, alpha, mu, steps):
    """Equations (2) to (5) of the paper in NumPy, float64."""
    image = image.astype(np.float64)
    x, g = image.copy(), np.zeros_like(image)
    for _ in range(steps):
        gradient = smooth_gradient(classifier, x, label)
        g = mu * g + gradient / np.abs(gradient).sum()
        x = x + alpha * np.sign(g)
        x = np.clip(np.clip(x, image - epsilon, image + epsilon), 0, 1)
    return x


@pytest.mark.parametrize(
    ("attack", "alpha", "mu", "steps"),
    [
        (attacks.fgsm(0.06), 0.06, 0, 1),
        (attacks.ifgsm(0.06), 0.006, 0, 10),
        (attacks.ifgsm(0.06, step_size=0.02, steps=7), 0.02, 0, 7),
        (attacks.mifgsm(0.06), 0.006, 1, 10),
        (attacks.mifgsm(0.06, momentum=0.5, step_size=0.03, steps=6), 0.03, 0.5, 6),
    ],
)
def test_equals_the_equations_of_the_paper(attack, alpha, mu, steps):
    classifier = linear_victims.Smooth(np.random.default_rng(1))
    images = np.random.default_rng(2).uniform(0, 1, (6, *linear_victims.SHAPE)).astype(np.float32)
    labels = np.arange(6) % 5
    result = attacks.perturb(attack, Undefended(classifier), images, labels, key=KEY)
    expected = [transcription(classifier, x, y, 0.06, alpha, mu, steps) for x, y in zip(images, labels, strict=True)]
    # Float32 against float64; a sign that differed anywhere would show as at least 2 alpha.
    np.testing.assert_allclose(result.images, expected, atol=1e-6)


def test_momentum_accumulates_gradients_not_signs():
    """One large gradient must outvote several small ones of the other sign (foolbox sums signs)."""
    classifier = linear_victims.Smooth(np.random.default_rng(1))
    image = linear_victims.images(1)[0]
    x, g, signs = image.astype(np.float64), 0, 0
    differ = 0
    for _ in range(8):
        gradient = smooth_gradient(classifier, x, 0)
        g = g + gradient / np.abs(gradient).sum()
        signs = signs + np.sign(gradient)
        differ += (np.sign(g) != np.sign(signs)).sum()
        x = np.clip(x + 0.1 * np.sign(g), 0, 1)
    assert differ > 0  # so the comparison below tells the two apart
    result = attacks.mifgsm(1.0, step_size=0.1, steps=8)(Undefended(classifier), image, 0, KEY)
    np.testing.assert_allclose(result, x, atol=1e-6)


def test_fgsm_on_a_linear_victim_equals_the_closed_form():
    classifier = linear_victims.linear(classes=2)
    images = np.random.default_rng(3).uniform(0, 1, (5, *linear_victims.SHAPE)).astype(np.float32)
    weights = np.asarray(classifier.weights[...])
    for label in (0, 1):
        labels = np.full(5, label)
        result = attacks.perturb(attacks.fgsm(0.1), Undefended(classifier), images, labels, key=KEY)
        direction = np.sign(weights[:, 1 - label] - weights[:, label]).reshape(linear_victims.SHAPE)
        np.testing.assert_allclose(result.images, np.clip(images + np.float32(0.1) * direction, 0, 1), atol=1e-7)


def test_targeted_steps_towards_the_label():
    classifier = linear_victims.linear(classes=2)
    images = linear_victims.images(4)
    labels = np.array([0, 1, 0, 1])
    away = attacks.perturb(attacks.fgsm(0.05), Undefended(classifier), images, 1 - labels, key=KEY)
    towards = attacks.perturb(attacks.fgsm(0.05, targeted=True), Undefended(classifier), images, labels, key=KEY)
    np.testing.assert_array_equal(away.images, towards.images)


@pytest.mark.parametrize("unroll", [2, 10])
def test_unrolling_changes_nothing(unroll):
    victim = Undefended(linear_victims.Smooth(np.random.default_rng(1)))
    images, labels = linear_victims.images(4), np.arange(4)
    rolled = attacks.perturb(attacks.mifgsm(), victim, images, labels, key=KEY)
    unrolled = attacks.perturb(attacks.mifgsm(unroll=unroll), victim, images, labels, key=KEY)
    np.testing.assert_allclose(unrolled.images, rolled.images, atol=1e-6)


def test_cross_entropy_equals_log_softmax():
    logits = jax.random.normal(KEY, (50, 7)) * 5
    labels = jnp.arange(50) % 7
    expected = -jax.nn.log_softmax(logits)[jnp.arange(50), labels]
    np.testing.assert_allclose(jax.vmap(cross_entropy)(logits, labels), expected, rtol=1e-5, atol=1e-5)


def test_cross_entropy_gradient_survives_saturation():
    """At a probability that rounds to 1 the gradient must still point away from the label."""
    logits = jnp.array([30.0, 0.0, 1.0])
    assert jax.nn.softmax(logits)[0] == 1
    gradient = np.asarray(jax.grad(cross_entropy)(logits, 0), np.float64)
    p = np.exp([0.0, -30.0, -29.0])
    p /= p.sum()
    expected = np.array([-(p[1] + p[2]), p[1], p[2]])
    np.testing.assert_allclose(gradient, expected, rtol=1e-5)


def test_normalize_l1():
    gradient = jnp.array([3.0, -1.0])
    np.testing.assert_allclose(normalize_l1(gradient), [0.75, -0.25])
    np.testing.assert_array_equal(normalize_l1(jnp.zeros(3)), np.zeros(3))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: attacks.fgsm(-0.1), "epsilon must not be negative"),
        (lambda: attacks.ifgsm(float("nan")), "epsilon must not be negative or NaN"),
        (lambda: attacks.ifgsm(steps=0), "steps must be an integer of at least 1, not 0"),
        (lambda: attacks.mifgsm(step_size=-1.0), "step_size must not be negative"),
        (lambda: attacks.mifgsm(momentum=-1.0), "momentum must not be negative"),
        (lambda: attacks.create("fgsm", eps=1), r"attack 'fgsm'.*its options are: epsilon"),
        (lambda: attacks.create("bim"), r"unknown attack 'bim'; choose from: fgsm, ifgsm, mifgsm"),
    ],
)
def test_bad_options_are_named(make, message):
    with pytest.raises(InputError, match=message):
        make()
