"""The gradient-sign family against closed forms and a NumPy transcription of the paper."""

import jax
import jax.numpy as jnp
import linear_victims
import numpy as np
import pytest

from srdef import attacks
from srdef.attacks.losses import cross_entropy
from srdef.errors import InputError
from srdef.victims import DiverseInputs, Undefended

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
    expected = [
        transcription(classifier, x, y, 0.06, alpha, mu, steps) for x, y in zip(images, labels, strict=True)
    ]
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
        np.testing.assert_allclose(
            result.images, np.clip(images + np.float32(0.1) * direction, 0, 1), atol=1e-7
        )


def test_targeted_steps_towards_the_label():
    classifier = linear_victims.linear(classes=2)
    images = linear_victims.images(4)
    labels = np.array([0, 1, 0, 1])
    away = attacks.perturb(attacks.fgsm(0.05), Undefended(classifier), images, 1 - labels, key=KEY)
    towards = attacks.perturb(
        attacks.fgsm(0.05, targeted=True), Undefended(classifier), images, labels, key=KEY
    )
    np.testing.assert_array_equal(away.images, towards.images)


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


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: attacks.fgsm(-0.1), "epsilon must be finite and not negative"),
        (lambda: attacks.ifgsm(float("nan")), "epsilon must be finite and not negative"),
        (lambda: attacks.fgsm("8/255"), "epsilon must be a number, not '8/255'"),
        (lambda: attacks.mdi2fgsm(diversity="often"), "diversity must be a number"),
        (lambda: attacks.fgsm(8), r"epsilon is in units of the \[0, 1\] range \(write 8 / 255\)"),
        (lambda: attacks.mdi2fgsm(diversity=5.0), r"diversity must lie in \[0, 1\]"),
        (lambda: attacks.apgd(shrinking=True), "shrinking is for the norm l1"),
        (lambda: attacks.ifgsm(steps=0), "steps must be an integer of at least 1, not 0"),
        (lambda: attacks.mifgsm(step_size=-1.0), "step_size must not be negative"),
        (lambda: attacks.mifgsm(momentum=-1.0), "momentum must not be negative"),
        (lambda: attacks.create("fgsm", eps=1), r"attack 'fgsm'.*its options are: epsilon"),
        (lambda: attacks.create("fgms"), r"unknown attack 'fgms'; choose from: .*fgsm, ifgsm, mifgsm"),
    ],
)
def test_bad_options_are_named(make, message):
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.parametrize("mu", [0.0, 1.0])
def test_diverse_inputs_equal_the_equations_of_the_paper(mu):
    """Equations (8) and (9), with τ from `DiverseInputs` and the rest in NumPy."""
    classifier = linear_victims.linear(classes=5)
    image, label = linear_victims.images(1)[0], 2
    attack = attacks.mdi2fgsm(0.06, step_size=0.01, steps=8, momentum=mu)
    victim = Undefended(classifier)
    result = attack(victim, image, label, KEY)

    x, g = image.astype(np.float64), 0
    for m in range(8):
        diverse = DiverseInputs(victim, 0.5)
        logits, pull = jax.vjp(lambda x, m=m, d=diverse: d(x, jax.random.fold_in(KEY, m + 1)), jnp.float32(x))
        error = softmax(np.asarray(logits, np.float64))
        error[label] -= 1
        gradient = np.asarray(pull(jnp.float32(error))[0], np.float64)
        g = mu * g + gradient / np.abs(gradient).sum()
        x = np.clip(np.clip(x + 0.01 * np.sign(g), image - 0.06, image + 0.06), 0, 1)
    np.testing.assert_allclose(result, x, atol=1e-6)


@pytest.mark.parametrize("momentum", [0.0, 1.0])
def test_diverse_inputs_of_the_same_size_suit_a_model_of_one_size(momentum):
    """And are what the views give for the same draws."""
    classifier = linear_victims.Smooth(np.random.default_rng(0))
    images = linear_victims.images(6)
    labels = linear_victims.predictions(classifier, images)
    options = {"step_size": 0.02, "steps": 6, "momentum": momentum}
    attack = attacks.mdi2fgsm(0.06, **options, same_size=True)
    plain = attacks.mifgsm(0.06, **options)
    through_view = plain.replace(views=(DiverseInputs(same_size=True),))
    found, expected, other = (
        attacks.perturb(one, Undefended(classifier), images, labels, key=KEY).images
        for one in (attack, through_view, plain)
    )
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert np.abs(found - other).max() > 0.01
    with pytest.raises(InputError, match="same_size=True"):
        attacks.perturb(attack.replace(same_size=False), Undefended(classifier), images, labels, key=KEY)


def test_pgd_in_l2_goes_to_the_border_along_the_gradient():
    classifier = linear_victims.linear(classes=2)
    images = linear_victims.images(6)
    labels = linear_victims.predictions(classifier, images)
    attack = attacks.pgd(0.3, norm="l2", steps=20, random_start=False)
    result = attacks.perturb(attack, Undefended(classifier), images, labels, key=KEY)
    weights = np.asarray(classifier.weights[...])
    direction = (weights[:, 1] - weights[:, 0]) / np.linalg.norm(weights[:, 1] - weights[:, 0])
    sign = np.where(labels == 0, 1, -1)[:, None, None, None]
    np.testing.assert_allclose(
        result.images, images + 0.3 * sign * direction.reshape(linear_victims.SHAPE), atol=1e-5
    )
    assert result.l2.max() <= 0.3 + 1e-6


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_random_starts_fill_the_ball(norm):
    victim = Undefended(linear_victims.Constant([1.0, 0.0]))
    images = np.full((200, *linear_victims.SHAPE), 0.5, np.float32)
    attack = attacks.pgd(0.2, norm=norm, steps=1)
    result = attacks.perturb(attack, victim, images, np.zeros(200, int), key=KEY)
    distance = getattr(result, norm)
    assert distance.max() <= 0.2 + 1e-6
    assert distance.max() > 0.19
    assert len(np.unique(distance)) == 200
    assert abs((result.images - images).mean()) < 0.005


def test_restarts_keep_the_best_run_and_stop_at_success():
    """An image that one run leaves right is saved by another, never the other way round."""
    classifier = linear_victims.linear(classes=5)
    images = linear_victims.images(40)
    labels = linear_victims.predictions(classifier, images)
    victim = Undefended(classifier)
    results = [
        attacks.perturb(
            attacks.pgd(0.05, steps=1, step_size=0.003, restarts=n), victim, images, labels, key=KEY
        )
        for n in (1, 2, 8)
    ]
    one, two, eight = (result.success for result in results)
    assert (one <= two).all()
    assert (two <= eight).all()
    assert one.sum() < eight.sum() < 40
    # The first run is the only one where it succeeds.
    np.testing.assert_allclose(results[2].images[one], results[0].images[one], atol=1e-6)
    # Where nothing succeeds, the run with the largest margin of a wrong class is kept.
    margins = []
    for result in results[1:]:
        logits = np.asarray(classifier(jnp.asarray(result.images))).copy()
        own = logits[np.arange(40), labels]
        logits[np.arange(40), labels] = -np.inf
        margins.append(logits.max(axis=1) - own)
    assert (margins[1] >= margins[0] - 1e-5)[~eight].all()
