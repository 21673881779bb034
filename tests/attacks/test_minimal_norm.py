"""DDN, FMN, EAD, σ-zero and ALMA against exact distances, foolbox and transcriptions of the papers."""

import functools

import foolbox
import jax
import jax.numpy as jnp
import linear_victims
import numpy as np
import pytest

from srdef import attacks
from srdef.attacks.projections import project_l0
from srdef.errors import InputError
from srdef.victims import Undefended

KEY = jax.random.key(0)
ORDER = {"linf": np.inf, "l2": 2, "l1": 1, "l0": 0}


def distances(attacked, images, norm):
    return np.linalg.norm((np.asarray(attacked) - images).reshape(len(images), -1), ord=ORDER[norm], axis=1)


@functools.cache
def linear(classes):
    classifier = linear_victims.linear(classes)
    images = linear_victims.images(12)
    return classifier, images, linear_victims.predictions(classifier, images)


def exact_distance(classifier, image, label, norm):
    """The distance within [0, 1] to the nearest class of a linear classifier."""
    weights = np.asarray(classifier.weights[...], np.float64)
    logits = image.ravel() @ weights + np.asarray(classifier.bias[...], np.float64)
    found = []
    for other in set(range(weights.shape[1])) - {label}:
        normal, lead = weights[:, other] - weights[:, label], logits[label] - logits[other]
        room = np.where(normal > 0, 1 - image.ravel(), image.ravel())
        size = np.abs(normal)
        if norm in ("l1", "l0"):
            # The values that gain most for what they cost, one after the other.
            order = np.argsort(-(size if norm == "l1" else size * room))
            gained = np.cumsum((size * room)[order])
            last = np.searchsorted(gained, lead)
            before = gained[last - 1] if last else 0
            whole = room[order][:last].sum()
            found.append(whole + (lead - before) / size[order][last] if norm == "l1" else last + 1)
        else:  # these images are far enough from 0 and 1
            found.append(lead / np.linalg.norm(normal, 1 if norm == "linf" else 2))
    return min(found)


def ratios(attack, classes, norm):
    """What an attack finds on linear victims, in exact distances."""
    classifier, images, labels = linear(classes)
    result = attacks.perturb(attack, Undefended(classifier), images, labels, key=KEY)
    assert result.success.all()
    exact = [exact_distance(classifier, *pair, norm) for pair in zip(images, labels, strict=True)]
    return distances(result.images, images, norm) / exact


# The attack, its norm, and how much further than the nearest adversarial point the furthest result may be.
ATTACKS = {
    "ddn": (lambda: attacks.ddn(steps=200), "l2", 1.02),
    "fmn l2": (lambda: attacks.fmn(steps=200), "l2", 1.02),
    "fmn linf": (lambda: attacks.fmn(steps=200, norm="linf"), "linf", 1.02),
    "fmn l1": (lambda: attacks.fmn(steps=200, norm="l1"), "l1", 1.02),
    "alma l2": (lambda: attacks.alma(steps=1000, first_distance=0.1), "l2", 1.02),
    # Steps that move every value end in corners of the L1 ball only slowly.
    "alma l1": (lambda: attacks.alma(steps=1000, norm="l1", first_distance=0.5), "l1", 1.25),
    "ead": (lambda: attacks.ead(rule="l1", beta=0.1, initial_const=0.1, max_iterations=300), "l1", 1.05),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_linear_distances_are_exact_to_two_percent(name):
    make, norm, furthest = ATTACKS[name]
    found = ratios(make(), 2, norm)
    assert found.min() > 0.999
    assert np.median(found) < 1.02
    assert found.max() < furthest


class TwoValues(linear_victims.nnx.Module):
    """Looks at two values of the image alone: [0, 1] leaves them little room."""

    num_classes = 3

    def __call__(self, images):
        both = images[:, 0, 0, 0] + images[:, 1, 1, 1]
        return jnp.stack([1.2 - both, both - 0.8, 0.1 * both - 2], axis=1)


FIRST_DISTANCES = {
    **{name: make for name, (make, norm, _) in ATTACKS.items() if norm in ("l2", "l1")},
    "alma l2, first 1": (lambda: attacks.alma(steps=200)),
    "alma l2, first 40": (lambda: attacks.alma(steps=200, first_distance=40.0)),
    "alma l1, first 40": (lambda: attacks.alma(steps=200, norm="l1", first_distance=40.0)),
}


@pytest.mark.parametrize("name", FIRST_DISTANCES)
def test_a_first_distance_for_which_there_is_no_room(name):
    images = np.full((1, 8, 8, 3), 0.45, np.float32)
    result = attacks.perturb(
        FIRST_DISTANCES[name](), Undefended(TwoValues()), images, np.zeros(1, int), key=KEY
    )
    assert result.success.all()
    assert result.l1 <= 1.1 * 0.1  # their sum has to rise from 0.9 to 1


@pytest.mark.parametrize("norm", ["l2", "linf", "l1"])
def test_fmn_comes_to_the_boundary_along_the_edge_of_the_range(norm):
    """Where [0, 1] cuts a perturbation short its radius has to grow all the same."""
    classifier = linear_victims.Smooth(np.random.default_rng(1))
    images = np.random.default_rng(5).uniform(size=(24, *linear_victims.SHAPE)).astype(np.float32)
    images = images.round()  # half of all values have no room on one side
    labels = linear_victims.predictions(classifier, images)
    results = [
        attacks.perturb(attack, Undefended(classifier), images, labels, key=KEY)
        for attack in (attacks.fmn(steps=60, norm=norm), attacks.ddn(steps=60))
    ]
    assert results[1].success.all()
    assert results[0].success.all()
    if norm == "l2":
        assert np.median(results[0].l2 / results[1].l2) < 1.02


@pytest.mark.parametrize("name", ["fmn l2", "fmn linf", "fmn l1", "alma l2"])
def test_of_ten_classes_most_find_the_nearest(name):
    """The lead of the best other class is not convex, so single images may end at another class."""
    make, norm, _ = ATTACKS[name]
    found = ratios(make(), 10, norm)
    assert found.min() > 0.999
    assert np.median(found) < 1.02


@pytest.mark.parametrize("attack", [attacks.fmn(steps=200, norm="l0"), attacks.sigma_zero(steps=200)])
@pytest.mark.parametrize("classes", [2, 10])
def test_the_fewest_values_of_a_linear_victim(attack, classes):
    """One to three values are enough; a search by gradients may need one more on some images."""
    found = ratios(attack, classes, "l0")
    assert found.min() >= 1
    assert np.median(found) == 1
    assert found.max() <= 2


def test_the_largest_values_are_kept_and_of_equal_ones_the_first():
    difference = jnp.array([0.1, -0.5, 0.3, 0.3, 0.0, -0.3]).reshape(2, 3, 1)
    for count, kept in ((0, []), (1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (4, [1, 2, 3, 5]), (6, range(6))):
        expected = np.zeros(6, np.float32)
        expected[list(kept)] = np.asarray(difference).ravel()[list(kept)]
        np.testing.assert_array_equal(project_l0(difference, jnp.float32(count)).ravel(), expected)


@functools.cache
def smooth():
    classifier = linear_victims.Smooth(np.random.default_rng(1), classes=8)
    images = linear_victims.images(12)
    return classifier, images, linear_victims.predictions(classifier, images)


@jax.numpy_rank_promotion("allow")  # foolbox broadcasts
def by_foolbox(attack, classifier, images, labels, *, all_of_them=True):
    model = foolbox.JAXModel(jax.jit(lambda x: classifier(x)), bounds=(0, 1), data_format="channels_last")
    attacked, _, success = attack(model, jnp.asarray(images), jnp.asarray(labels), epsilons=None)
    assert np.asarray(success).all() or not all_of_them
    return attacked


def on_smooth(attack):
    classifier, images, labels = smooth()
    result = attacks.perturb(attack, Undefended(classifier), images, labels, key=KEY)
    assert result.success.all()
    return result.images


def test_ddn_takes_the_steps_of_foolbox():
    theirs = by_foolbox(foolbox.attacks.DDNAttack(steps=60), *smooth())
    images = smooth()[1]
    # The same points but for rounding, which grows along the way.
    found = distances(on_smooth(attacks.ddn(steps=60)), images, "l2") / distances(theirs, images, "l2")
    np.testing.assert_allclose(found, 1, rtol=0.01)


FMN = {
    # foolbox does not project in L2: its result is further away.
    "linf": foolbox.attacks.LInfFMNAttack,
    "l1": foolbox.attacks.L1FMNAttack,
    "l0": foolbox.attacks.L0FMNAttack,
}


@pytest.mark.parametrize("norm", FMN)
def test_fmn_is_as_good_as_foolbox(norm):
    images = smooth()[1]
    ours = distances(on_smooth(attacks.fmn(steps=60, norm=norm)), images, norm)
    theirs = distances(by_foolbox(FMN[norm](steps=60), *smooth(), all_of_them=False), images, norm)
    found = theirs > 0  # on one processor it fools all of them, on another it leaves an image as it is
    assert found.mean() > 0.7
    assert np.median(ours[found]) <= 1.02 * np.median(theirs[found])
    assert ours[found].mean() <= 1.02 * theirs[found].mean()


@pytest.mark.parametrize(("rule", "name"), [("elastic_net", "EN"), ("l1", "L1")])
def test_ead_takes_the_steps_of_foolbox(rule, name):
    images = smooth()[1]
    ours = on_smooth(
        attacks.ead(rule=rule, initial_const=0.1, binary_search_steps=4, max_iterations=60, abort_early=False)
    )
    attack = foolbox.attacks.EADAttack(4, 60, initial_const=0.1, decision_rule=name, abort_early=False)
    theirs = by_foolbox(attack, *smooth())
    for norm in ("l1", "l2"):
        found = distances(ours, images, norm) / distances(theirs, images, norm)
        np.testing.assert_allclose(found, 1, rtol=0.02)


@functools.cache
def program(function):
    """The compiled value and gradient of a function of logits and label, and the prediction."""

    def value(image, classifier, label):
        logits = classifier(image[None])[0]
        return function(logits, label), logits.argmax()

    return jax.jit(jax.value_and_grad(value, has_aux=True))


def pulled(function, classifier, image, label):
    """The value, its gradient in NumPy, and whether the prediction is wrong."""
    (value, predicted), gradient = program(function)(image.astype(np.float32), classifier, label)
    return float(value), np.asarray(gradient, np.float64), int(predicted) != label


def lead(logits, label):
    return logits[label] - jnp.where(jnp.arange(len(logits)) == label, -jnp.inf, logits).max()


def hinge(logits, label):
    return jnp.maximum(lead(logits, label), 0)


def lead_ratio(logits, label):
    ordered = jnp.sort(logits)
    return (lead(logits, label) + 1e-4) / (ordered[-1] - ordered[-3] + 1e-8)


def transcribed_sigma_zero(classifier, image, label, steps, sigma=1e-3, threshold=0.3):
    """Algorithm 1 of the paper, with the order of updates of the authors' code."""
    change, first, second = (np.zeros(image.shape) for _ in range(3))
    fewest, step, size = np.inf, 1.0, image.size
    for i in range(steps):
        _, gradient, fooled = pulled(hinge, classifier, image + change, label)
        if fooled:
            fewest = min(fewest, np.count_nonzero(change))
        gradient += 2 * sigma * change / (change**2 + sigma) ** 2 / size
        gradient /= max(np.abs(gradient).max(), 1e-12)
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        moment = first / (1 - 0.9 ** (i + 1)), second / (1 - 0.999 ** (i + 1))
        change -= step * moment[0] / (np.sqrt(moment[1]) + 1e-8)
        change = np.clip(image + change, 0, 1) - image
        step = 0.1 + 0.9 * (1 + np.cos(np.pi * i / steps)) / 2
        threshold = np.clip(threshold + (0.01 * step if fooled else -0.01 * step), 0, 1)
        change[np.abs(change) < threshold] = 0
    return fewest


def test_sigma_zero_takes_the_steps_of_the_paper():
    classifier, images, labels = smooth()
    ours = distances(on_smooth(attacks.sigma_zero(steps=40)), images, "l0")
    theirs = [transcribed_sigma_zero(classifier, *pair, 40) for pair in zip(images, labels, strict=True)]
    # A threshold that rounding passes decides single values.
    assert (np.abs(ours - theirs) <= 1).all()
    assert (ours == theirs).mean() >= 0.75


def transcribed_alma(classifier, image, label, steps, first_distance):
    """Algorithm 2 of the paper with P2, in L2."""

    def slope(g, rho, mu):
        return mu + 2 * mu * rho * g + rho**2 * g**2 / 2 if g >= 0 else mu / (1 - rho * g) ** 2

    change, momentum, squares = np.zeros(image.shape), np.zeros(image.shape), np.ones(image.shape)
    mu = rho = 1.0
    nearest, found_at = np.inf, steps + 1
    for i in range(steps):
        g, gradient, fooled = pulled(lead_ratio, classifier, image + change, label)
        distance = np.linalg.norm(change)
        if i == 0:
            before = g
        elif (i + 1) % 10 == 0:
            if np.isinf(nearest) and g >= 0.95 * before:
                rho *= 1.2
            before = g
        if i:
            mu = np.clip(0.9 * mu + 0.1 * slope(g, rho, mu), 1e-6, 1e12)
        if fooled:
            nearest, found_at = min(nearest, distance), min(found_at, i)
        gradient = slope(g, rho, mu) * gradient + (change / distance if distance else 0)
        if i == 0:
            rates = np.geomspace(1e-6, 1e6, 100_001)
            low, high = 0, len(rates) - 1
            while high - low > 1:
                middle = (low + high) // 2
                reach = np.linalg.norm(np.clip(image - rates[middle] * gradient, 0, 1) - image)
                low, high = (low, middle) if reach > first_distance else (middle, high)
            rate = rates[low]
        squares = 0.9 * squares + 0.1 * gradient**2
        momentum = 0.9 * momentum + gradient / (np.sqrt(squares) + 1e-8)
        share = max(i - found_at, 0) / (steps - found_at)
        change = np.clip(image + change - rate * 0.01**share * momentum, 0, 1) - image
    return nearest


def test_alma_takes_the_steps_of_the_paper():
    classifier, images, labels = smooth()
    ours = distances(on_smooth(attacks.alma(steps=60, first_distance=0.3)), images, "l2")
    theirs = [transcribed_alma(classifier, *pair, 60, 0.3) for pair in zip(images, labels, strict=True)]
    assert np.median(np.abs(ours / theirs - 1)) < 0.01
    assert np.median(ours) <= 1.02 * np.median(theirs)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: attacks.fmn(norm="l3"), "unknown norm 'l3'; choose from: linf, l2, l1, l0"),
        (lambda: attacks.alma(norm="linf"), "unknown norm 'linf'; choose from: l2, l1"),
        (lambda: attacks.ead(rule="l2"), "unknown rule 'l2'; choose from: elastic_net, l1"),
        (lambda: attacks.ddn(gamma=2), r"gamma must lie in \[0, 1\]"),
        (lambda: attacks.sigma_zero(steps=0), "steps must be an integer of at least 1"),
    ],
)
def test_bad_options(make, message):
    with pytest.raises(InputError, match=message):
        make()


BESIDE_FOOLBOX = {
    "ddn": (lambda: attacks.ddn(steps=20), lambda: foolbox.attacks.DDNAttack(steps=20), "l2"),
    **{
        f"fmn {norm}": (
            lambda norm=norm: attacks.fmn(steps=30, norm=norm),
            lambda norm=norm: FMN[norm](steps=30),
            norm,
        )
        # Not in L0, where foolbox lets one value more change than its radius says.
        for norm in ("linf", "l1")
    },
    "ead": (
        lambda: attacks.ead(initial_const=0.1, binary_search_steps=3, max_iterations=30, rule="l1"),
        lambda: foolbox.attacks.EADAttack(3, 30, initial_const=0.1, decision_rule="L1"),
        "l1",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BESIDE_FOOLBOX)
def test_as_good_as_foolbox_on_a_real_network(name, classifier, photographs):
    images, labels = photographs
    ours, theirs, norm = BESIDE_FOOLBOX[name]
    result = attacks.perturb(ours(), Undefended(classifier), images, labels, key=KEY)
    others = by_foolbox(theirs(), classifier, images, labels, all_of_them=False)
    fooled = np.asarray(jax.jit(lambda c, x: c(x).argmax(-1))(classifier, others)) != labels
    assert result.success.sum() >= fooled.sum() - 1
    assert fooled.sum() >= len(images) // 3
    both = fooled & result.success
    found, others = (distances(x, images, norm)[both] for x in (result.images, others))
    print(f"{name}: {both.sum()} fooled, median {np.median(found):.5g}, foolbox {np.median(others):.5g}")
    # Image by image: of ten images, one on which the two paths part would move the median itself.
    assert np.median(found / others) <= 1.02
