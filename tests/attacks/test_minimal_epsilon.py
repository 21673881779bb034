"""The search for the smallest ε: closed forms, and the rules of foolbox 1.8.

Foolbox 1.8.0 itself, which runs on no Python of today without help, was asked once: I-FGSM and MI-FGSM from ε
0.3, I-FGSM also without an early stop, and FGSM on its grid. On the smooth network of these tests the images
were the same to 3e-8; on EfficientNet-Lite0 at 96 pixels (4 images) all L∞ distances were the same to 2e-4.
"""

import jax
import jax.numpy as jnp
import linear_victims
import numpy as np
import pytest
from flax import struct

from srdef import attacks
from srdef.attacks import programs
from srdef.errors import InputError
from srdef.images import from_uint8, to_uint8
from srdef.victims import Undefended

KEY = jax.random.key(0)


def run(attack, classifier, images, labels, **options):
    return attacks.perturb(attack, Undefended(classifier), images, labels, key=KEY, **options)


def smooth(count=6):
    classifier, images = linear_victims.Smooth(np.random.default_rng(3)), linear_victims.images(count)
    return classifier, images, linear_victims.predictions(classifier, images)


INNER = {
    "fgsm": {"name": "fgsm", "epsilon": 0.2},
    "mifgsm": {"name": "mifgsm", "epsilon": 0.2},
    "l2": {"name": "pgd", "epsilon": 2.0, "norm": "l2", "random_start": False, "steps": 10},
    "apgd": {"name": "apgd", "epsilon": 0.2, "steps": 10},
}


@pytest.mark.parametrize("name", ["fgsm", "mifgsm", "l2", pytest.param("apgd", marks=pytest.mark.slow)])
def test_the_distance_to_a_hyperplane(name):
    """With two classes the gradient has one direction, and |lead| / ||w||_dual is the smallest ε there is."""
    classifier, images = linear_victims.linear(2), linear_victims.images(6)
    labels = linear_victims.predictions(classifier, images)
    logits = np.asarray(classifier(jnp.asarray(images)), np.float64)
    lead = np.abs(logits[:, 0] - logits[:, 1])
    weights = np.asarray(classifier.weights[...], np.float64)
    normal = weights[:, 0] - weights[:, 1]
    smallest = lead / (np.linalg.norm(normal) if name == "l2" else np.abs(normal).sum())
    largest = INNER[name]["epsilon"]
    result = run(attacks.minimal_epsilon(INNER[name], tolerance=largest / 1000), classifier, images, labels)
    assert result.success.all()
    found = result.l2 if name == "l2" else result.linf
    # Rounding of float32 below, the tolerance of the search above.
    assert (found >= smallest * (1 - 1e-4)).all()
    assert (found <= smallest + largest / 1000 + 1e-5).all()


def foolbox(gradient, predict, image, label, *, epsilon, step_size, momentum, early):
    """The nearest adversarial image by the rule of foolbox 1.8's iterative attacks, and the steps taken."""
    found, steps = [], 0

    def fools(radius):
        nonlocal steps
        x, g, hit = image, 0.0, False
        for _ in range(10):
            steps += 1
            slope = gradient(x, label)
            g = momentum * g + slope / max(1e-12, np.abs(slope).mean())
            x = x + radius * step_size / epsilon * np.sign(g)
            x = np.clip(np.clip(x, image - radius, image + radius), 0, 1)
            if predict(x) != label:
                found.append(x)
                hit = True
                if early:
                    break
        return hit

    radius = epsilon
    for _ in range(20):
        if fools(radius):
            break
        radius *= 1.5
    else:
        return None, steps
    low, high = 0.0, radius
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (low, middle) if fools(middle) else (middle, high)
    return min(found, key=lambda x: np.linalg.norm(x - image)), steps


def foolbox_grid(gradient, predict, image, label):
    """The image by the rule of foolbox 1.8's FGSM; and the ε tried."""
    direction, tried = np.sign(gradient(image, label)), 0
    grid = np.arange(1, 1001) / 1000
    for _ in range(2):
        for number, epsilon in enumerate(grid):
            tried += 1
            x = np.clip(image + epsilon * direction, 0, 1)
            if predict(x) != label:
                if number >= 20 or len(grid) == 20:
                    return x, tried
                break
        grid = epsilon * np.arange(1, 21) / 20
    return None, tried


def functions(classifier):
    """Gradient of cross-entropy and prediction of one image, as NumPy has them."""

    def loss(x, label):
        return -jax.nn.log_softmax(classifier(x[None])[0])[label]

    slope, logits = jax.jit(jax.grad(loss)), jax.jit(lambda x: classifier(x[None])[0])
    return (
        lambda x, label: np.asarray(slope(jnp.float32(x), label), np.float64),
        lambda x: int(np.asarray(logits(jnp.float32(x))).argmax()),
    )


@pytest.mark.parametrize(
    ("epsilon", "momentum", "early"),
    # From ε 0.01 it has to grow first.
    [(0.3, 1.0, True), (0.01, 0.0, True), pytest.param(0.01, 1.0, False, marks=pytest.mark.slow)],
)
def test_the_rule_of_foolbox_1_8(epsilon, momentum, early):
    classifier, images, labels = smooth()
    step_size = epsilon / 5
    inner = {"name": "mifgsm", "epsilon": epsilon, "step_size": step_size, "momentum": momentum}
    attack = attacks.minimal_epsilon(inner, search="foolbox", return_early=early)
    result = run(attack, classifier, images, labels)
    for image, label, ours, steps in zip(images, labels, result.images, result.steps, strict=True):
        theirs, taken = foolbox(
            *functions(classifier),
            image.astype(np.float64),
            label,
            epsilon=epsilon,
            step_size=step_size,
            momentum=momentum,
            early=early,
        )
        # The last halvings are finer than float32 tells apart.
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
        assert abs(steps - taken) <= 20


@pytest.mark.parametrize("scale", [1.0, 0.05])
def test_the_grid_of_foolbox_1_8(scale):
    """Small logits with small weights: there the first thousandths do not fool."""
    classifier, images, labels = smooth()
    classifier.first[...] = classifier.first[...] * scale
    attack = attacks.minimal_epsilon({"name": "fgsm", "epsilon": 1.0}, search="foolbox_grid")
    labels = linear_victims.predictions(classifier, images)
    result = run(attack, classifier, images, labels)
    for image, label, ours, steps in zip(images, labels, result.images, result.steps, strict=True):
        theirs, tried = foolbox_grid(*functions(classifier), image.astype(np.float64), label)
        assert tried == steps
        np.testing.assert_allclose(ours, image if theirs is None else theirs, atol=1e-5)


def test_at_the_epsilon_found_the_attack_fools_and_a_little_below_it_does_not():
    """All runs draw from the image's key: the run at some ε is the attack with that ε."""
    classifier, images = linear_victims.linear(5), linear_victims.images(12)
    labels = linear_victims.predictions(classifier, images)
    options = {"diversity": 0.5, "steps": 5}
    inner = {"name": "mdi2fgsm", "epsilon": 0.1, "step_size": 0.02, **options}
    # Without an early stop, so that the result of a run is its last image.
    attack = attacks.minimal_epsilon(inner, tolerance=1e-5, return_early=False)
    found = run(attack, classifier, images, labels)
    assert found.success.all()

    def fools(epsilon):
        attack = attacks.mdi2fgsm(epsilon, step_size=epsilon / 5, **options)
        return run(attack, classifier, images, labels).success

    assert fools(found.linf + 2e-5).mean() > 0.8
    assert fools(found.linf * 0.8).mean() < 0.3


def test_one_program_for_all_epsilons():
    classifier, images, labels = smooth(3)
    run(attacks.minimal_epsilon(attacks.ifgsm(0.1, steps=3), tolerance=1e-3), classifier, images, labels)
    before = programs.steps._jitted._cache_size()
    for epsilon in (0.05, 0.08, np.array([0.02, 0.05, 0.07], np.float32)):
        attack = attacks.minimal_epsilon(attacks.ifgsm(epsilon, steps=3), tolerance=np.max(epsilon) / 100)
        run(attack, classifier, images, labels)
    assert programs.steps._jitted._cache_size() == before


def test_an_image_that_is_not_fooled_at_the_largest_epsilon_comes_back():
    classifier, images, labels = smooth()
    inner = {"name": "ifgsm", "epsilon": 1e-4}
    result = run(attacks.minimal_epsilon(inner), classifier, images, labels)
    assert not result.success.any()
    np.testing.assert_array_equal(result.images, images)
    # The search of foolbox looks further.
    assert run(attacks.minimal_epsilon(inner, search="foolbox"), classifier, images, labels).success.all()


def test_rounding_afterwards_is_rounding_at_once():
    classifier = linear_victims.linear(5)
    images = from_uint8(to_uint8(linear_victims.images(6)))
    labels = linear_victims.predictions(classifier, images)
    victim, attack = Undefended(classifier), attacks.minimal_epsilon(attacks.ifgsm(64 / 255, steps=3))
    exact = attacks.perturb(attack, victim, images, labels, key=KEY)
    later = attacks.round_result(attack, victim, images, exact.images, labels, key=KEY)
    at_once = attacks.perturb(attack, victim, images, labels, key=KEY, storage="uint8")
    np.testing.assert_array_equal(later.images, at_once.images)
    assert later.success.all()


def test_targeted():
    classifier, images, labels = smooth()
    targets = (labels + 1) % 5
    attack = attacks.minimal_epsilon(attacks.ifgsm(1.0, targeted=True), search="foolbox")
    result = run(attack, classifier, images, targets)
    assert result.success.all()
    np.testing.assert_array_equal(linear_victims.predictions(classifier, result.images), targets)


@struct.dataclass
class Blind:
    """A victim whose gradient is zero."""

    num_classes = 5

    def __call__(self, image, key):
        return jnp.arange(5.0) + 0 * image.sum()


def test_diagnostics_of_all_runs_count():
    images = linear_victims.images(2)
    with pytest.warns(match="gradient of exactly zero"):
        result = attacks.perturb(attacks.minimal_epsilon("ifgsm"), Blind(), images, np.array([4, 4]), key=KEY)
    assert result.zero_gradient.all()
    assert not result.success.any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attack": "deepfool"}, "deepfool has no epsilon to search for"),
        ({"attack": "minimal_epsilon"}, "minimal_epsilon has no epsilon to search for"),
        ({"attack": "fab"}, "fab has no epsilon to search for"),
        ({"attack": "autoattack"}, "an attack on one image"),
        ({"attack": "sparse_rs"}, "sparse_rs has no epsilon to search for"),
        ({"attack": "nothing"}, "unknown attack 'nothing'; choose from: "),
        ({"attack": {"steps": 3}}, "attack must have a `name`"),
        ({"attack": {"name": "ifgsm", "step": 3}}, "its options are: epsilon"),
        ({"attack": 0.3}, "an attack like"),
        ({"attack": {"name": "ifgsm", "epsilon": 0.0}}, "epsilon must be positive"),
        ({"search": "binary"}, "unknown search 'binary'; choose from: bisection, foolbox, foolbox_grid"),
        ({"search": "foolbox", "tolerance": 0.1}, 'tolerance is for the search "bisection"'),
        ({"tolerance": 0.0}, "tolerance must lie between 0 and the attack's epsilon"),
        ({"tolerance": float("nan")}, "tolerance must not be negative, NaN or infinite"),
        ({"distance": "l3"}, "unknown distance 'l3'"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(InputError, match=message):
        attacks.create("minimal_epsilon", **options)


@pytest.mark.parametrize("inner", ["ifgsm", "apgd"])
def test_with_a_random_victim_no_run_ends_at_its_first_success(inner):
    attack = attacks.without_early_stop(attacks.minimal_epsilon(inner))
    assert not attack.return_early
    assert not getattr(attack.attack, "stop_early", False)
