"""The ensemble: order, worst case, few classes, random victims; and transfer."""

import functools

import jax
import linear_victims
import numpy as np
import pytest
from flax import struct

from srdef import attacks
from srdef.errors import InputError
from srdef.victims import Undefended

KEY = jax.random.key(0)


@functools.cache
def linear(classes=5):
    classifier = linear_victims.linear(classes)
    images = linear_victims.images(4)
    return classifier, images, linear_victims.predictions(classifier, images)


def quick(epsilon, **options):
    return {
        "apgd-ce": attacks.apgd(epsilon, steps=5),
        "fab-t": attacks.fab_t(steps=5, targets=2, enough=epsilon),
    } | options


@functools.cache
def exact_linf():
    classifier, images, labels = linear()
    weights = np.asarray(classifier.weights[...], np.float64)
    logits = images.reshape(4, -1) @ weights + np.asarray(classifier.bias[...])
    return np.array(
        [
            min((z[y] - z[k]) / np.abs(weights[:, k] - weights[:, y]).sum() for k in range(5) if k != y)
            for z, y in zip(logits, labels, strict=True)
        ]
    )


def test_robust_accuracy_of_a_linear_victim_is_exact():
    classifier, images, labels = linear()
    epsilon = float(np.median(exact_linf()))
    seen = []
    result = attacks.autoattack(
        Undefended(classifier),
        images,
        labels,
        epsilon,
        key=KEY,
        attacks=quick(epsilon),
        progress=lambda name, value: seen.append((name, value)),
    )
    robust = exact_linf() > epsilon
    assert result.clean_accuracy == 1
    assert result.final_accuracy == robust.mean() == 0.5
    np.testing.assert_array_equal(result.accuracy, robust)
    assert seen == list(result.robust_accuracy.items())
    assert [name for name, _ in seen] == ["apgd-ce", "fab-t"]
    assert np.abs(result.images - images).max() <= epsilon + 1e-6
    np.testing.assert_array_equal(result.images[robust], images[robust])
    np.testing.assert_array_equal([name is None for name in result.broken_by], robust)
    predictions = linear_victims.predictions(classifier, result.images)
    np.testing.assert_array_equal(predictions == labels, robust)


def test_perturbations_beyond_epsilon_do_not_count_and_misclassified_images_are_left_out():
    classifier, images, labels = linear()
    wrong = labels.copy()
    wrong[0] = (wrong[0] + 1) % 5
    epsilon = float(exact_linf()[1:].min()) / 2
    # FAB finds the nearest points, which lie further away.
    only_fab = {"fab-t": attacks.fab_t(steps=5, targets=2)}
    result = attacks.autoattack(Undefended(classifier), images, wrong, epsilon, key=KEY, attacks=only_fab)
    assert result.clean_accuracy == result.final_accuracy == 3 / 4
    np.testing.assert_array_equal(result.images, images)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_versions_are_those_of_the_reference(norm):
    names = list(attacks.ensemble("standard", 0.1, norm))
    assert names == ["apgd-ce", "apgd-t", "fab-t", "square"][: 3 if norm == "l1" else 4]
    standard = attacks.ensemble("standard", 0.1, norm)
    assert standard["apgd-ce"].steps == standard["fab-t"].steps == 100
    assert standard["apgd-ce"].restarts == (5 if norm == "l1" else 1)
    assert standard["apgd-t"].targets == (5 if norm == "l1" else 9)
    assert standard["apgd-t"].shrinking == (norm == "l1")
    assert standard["fab-t"].targets == 9
    if norm != "l1":
        assert (standard["square"].queries, standard["square"].p_init) == (5000, 0.8)
        plus = attacks.ensemble("plus", 0.1, norm)
        assert list(plus) == ["apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"]
        assert plus["apgd-dlr"].restarts == plus["fab"].restarts == 5
        assert all(attack.norm == norm for attack in plus.values())
    assert list(attacks.ensemble("rand", 0.1, norm)) == ["apgd-ce", "apgd-dlr"]


def test_few_classes():
    classifier, images, labels = linear(3)
    with pytest.raises(InputError, match="apgd-t needs at least 4 classes, and the victim has 3"):
        attacks.autoattack(Undefended(classifier), images, labels, 0.1, key=KEY)
    result = attacks.autoattack(Undefended(classifier), images, labels, 0.1, key=KEY, attacks=quick(0.1))
    assert result.final_accuracy == 0


def test_bad_version():
    with pytest.raises(InputError, match="unknown version"):
        attacks.ensemble("best", 0.1)


@struct.dataclass
class Lottery:
    """The classifier, but in one draw of five another class wins, whatever the image."""

    classifier: linear_victims.Linear

    num_classes = 5

    def __call__(self, image, key):
        logits = self.classifier(image[None])[0]
        return jax.numpy.where(jax.random.bernoulli(key, 0.2), -logits, logits)


def test_a_lucky_draw_is_no_success():
    classifier, images, labels = linear()
    epsilon = float(exact_linf().min()) / 2  # nothing can be fooled
    small = {"apgd-ce": attacks.apgd(epsilon, steps=5, stop_early=False)}
    result = attacks.autoattack(
        Lottery(classifier), images, labels, epsilon, version="rand", key=KEY, attacks=small, draws=100
    )
    # 400 draws with a deviation of 0.02.
    assert result.final_accuracy == pytest.approx(0.8, abs=0.08)
    assert result.robust_accuracy["apgd-ce"] <= result.clean_accuracy


@pytest.mark.parametrize("version", ["standard", "plus"])
def test_random_victims_need_their_version(version):
    classifier, images, labels = linear()
    with pytest.raises(InputError, match=r'version .* would count lucky draws; use "rand"'):
        attacks.autoattack(
            Lottery(classifier), images, labels, 0.1, version=version, key=KEY, attacks=quick(0.1)
        )


def test_the_random_version_does_not_stop_at_a_lucky_draw():
    """Also with attacks that stop early elsewhere: every image is attacked to the end."""
    classifier, images, labels = linear()
    small = {"apgd-ce": attacks.apgd(0.2, steps=5), "square": attacks.square(0.2, queries=5)}
    result = attacks.autoattack(
        Lottery(classifier), images, labels, 0.2, version="rand", key=KEY, attacks=small, draws=20
    )
    assert result.final_accuracy < 0.3  # what is fooled for sure is still right in the draws of the lottery
    assert np.abs(result.images - images).max(axis=(1, 2, 3)).min() > 0


def test_epsilon_of_each_image_stays_with_it():
    """Only those that can be broken are, though others leave the batch after the first attack."""
    classifier, images, labels = linear()
    exact = exact_linf()
    epsilon = (exact * np.array([2.0, 0.5, 2.0, 0.5])).astype(np.float32)
    small = {"apgd-ce": attacks.apgd(epsilon, steps=5), "fab-t": attacks.fab_t(steps=5, enough=epsilon)}
    result = attacks.autoattack(Undefended(classifier), images, labels, epsilon, key=KEY, attacks=small)
    np.testing.assert_array_equal(result.accuracy, [0, 1, 0, 1])
    assert (np.abs(result.images - images).max(axis=(1, 2, 3)) <= epsilon + 1e-6).all()


def test_transfer_is_judged_on_the_target():
    source, images, labels = linear()
    target = linear_victims.Linear(
        np.asarray(source.weights[...]) * (1 + np.arange(90) % 2)[:, None], np.asarray(source.bias[...]) * 1.5
    )
    attack = attacks.mifgsm(0.01, steps=5)
    alone = attacks.perturb(attack, Undefended(source), images, labels, key=KEY)
    result = attacks.transfer(attack, Undefended(source), Undefended(target), images, labels, key=KEY)
    np.testing.assert_array_equal(result.images, alone.images)
    predictions = linear_victims.predictions(target, result.images)
    np.testing.assert_array_equal(result.success, predictions != labels)
    assert (result.success != alone.success).any()
    other = linear_victims.linear(3)
    with pytest.raises(InputError, match="same classes"):
        attacks.transfer(attack, Undefended(source), Undefended(other), images, labels, key=KEY)
    with pytest.raises(InputError, match="needs the labels"):
        attacks.transfer(attack, Undefended(source), Undefended(target), images, "predicted", key=KEY)
