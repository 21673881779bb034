"""FAB, Square and HopSkipJump on victims whose nearest adversarial points are known."""

import functools

import jax
import jax.numpy as jnp
import linear_victims
import numpy as np
import pytest
import torch
import torchattacks
from flax import struct

from srdef import attacks
from srdef.attacks.square import _humps
from srdef.victims import Undefended

KEY = jax.random.key(0)
DUAL = {"linf": 1, "l2": 2, "l1": np.inf}


@functools.cache
def linear(classes=5, count=4):
    classifier = linear_victims.linear(classes)
    images = linear_victims.images(count)
    return classifier, images, linear_victims.predictions(classifier, images)


def exact_distances(norm, classes=5):
    """min over classes of |lead| / dual norm; these images are too far from 0 and 1 for the box to matter."""
    classifier, images, labels = linear(classes)
    weights = np.asarray(classifier.weights[...], np.float64)
    logits = images.reshape(len(images), -1) @ weights + np.asarray(classifier.bias[...])
    distances = []
    for row, label in zip(logits, labels, strict=True):
        others = [k for k in range(classes) if k != label]
        normals = [np.linalg.norm(weights[:, k] - weights[:, label], DUAL[norm]) for k in others]
        distances.append(min((row[label] - row[k]) / n for k, n in zip(others, normals, strict=True)))
    return np.array(distances)


def length(change, norm):
    order = {"linf": np.inf, "l2": 2, "l1": 1}[norm]
    return np.linalg.norm(change.reshape(len(change), -1).astype(np.float64), order, axis=1)


@pytest.mark.parametrize(
    ("name", "norm"), [("fab_t", "linf"), ("fab_t", "l2"), ("fab_t", "l1"), ("fab", "l2")]
)
def test_fab_finds_the_nearest_point_of_a_linear_victim(name, norm):
    classifier, images, labels = linear()
    attack = attacks.create(name, norm=norm, steps=30)
    result = attacks.perturb(attack, Undefended(classifier), images, labels, key=KEY)
    assert result.success.all()
    ratio = length(result.images - images, norm) / exact_distances(norm)
    assert ratio.min() >= 1 - 1e-4
    # It oversteps by 5 % and comes back by a tenth of that at a time; 2 % in L1, where a single
    # value may reach the end of [0, 1] for images far from their boundary.
    assert ratio.max() <= (1.02 if norm == "l1" else 1.01)


def test_fab_stops_where_it_is_near_enough():
    classifier, images, labels = linear()
    exact = exact_distances("linf")
    plain = attacks.perturb(attacks.fab_t(steps=30), Undefended(classifier), images, labels, key=KEY)
    attack = attacks.fab_t(steps=30, enough=2 * exact)
    quick = attacks.perturb(attack, Undefended(classifier), images, labels, key=KEY)
    assert (length(quick.images - images, "linf") <= 2 * exact * (1 + 1e-5)).all()
    assert quick.steps.max() < 10
    assert (plain.steps == 4 * 30).all()  # 4 targets


def test_humps_against_torchattacks():
    reference = torchattacks.Square(torch.nn.Linear(1, 1), norm="L2")
    reference.device = "cpu"
    for side in (3, 4, 7, 20, 33):
        first = reference.eta_rectangles(side // 2, side)
        second = reference.eta_rectangles(side - side // 2, side)
        expected = np.concatenate([first.numpy(), -second.numpy()])
        rows, columns = jnp.arange(40)[:, None, None] - 5, jnp.arange(40)[None, :, None] - 2
        for turned in (False, True):
            found = _humps(rows, columns, jnp.int32(side), jnp.bool_(turned))[..., 0]
            window = found[5 : 5 + side, 2 : 2 + side]
            np.testing.assert_allclose(window, expected.T if turned else expected, atol=1e-6)
            assert jnp.sum(found**2) == pytest.approx(float(jnp.sum(window**2)), rel=1e-5)


@pytest.mark.parametrize("rescale", [False, True])
def test_area_schedule_against_torchattacks(rescale):
    reference = torchattacks.Square(torch.nn.Linear(1, 1), n_queries=5000, resc_schedule=rescale)
    attack = attacks.square(queries=5000, rescale=rescale)
    turns = np.arange(0, 5000, 7)
    found = jax.vmap(attack._area)(turns)
    np.testing.assert_allclose(found, [reference.p_selection(int(turn)) for turn in turns], rtol=1e-6)


def test_square_l2_keeps_within_the_ball_and_uses_it():
    classifier, images, labels = linear()
    epsilon = 4 * exact_distances("l2")
    attack = attacks.square(epsilon, norm="l2", queries=300)
    result = attacks.perturb(attack, Undefended(classifier), images, labels, key=KEY)
    assert (result.l2 <= epsilon * (1 + 1e-5)).all()
    assert (result.l2 > 0.9 * epsilon).all()
    assert result.success.mean() >= 0.75
    assert result.steps[result.success].max() < 300
    assert (result.steps[~result.success] == 300).all()


@struct.dataclass
class Scaled:
    """The classifier with its logits on another scale: the order of the classes is the same."""

    classifier: linear_victims.Linear
    factor: float

    num_classes = 2

    def __call__(self, image, key):
        return self.factor * self.classifier(image[None])[0] ** 3


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_hop_skip_jump_comes_near_the_nearest_point_and_sees_nothing_but_the_class(norm):
    # Two classes: with more, a search along one boundary may miss a nearer one.
    classifier, images, labels = linear(2)
    attack = attacks.hop_skip_jump(norm=norm, steps=20)
    result = attacks.perturb(attack, Scaled(classifier, 1.0), images, labels, key=KEY)
    assert result.success.all()
    ratio = length(result.images - images, norm) / exact_distances(norm, 2)
    assert ratio.min() >= 1 - 1e-4
    assert np.median(ratio) <= 1.1
    assert ratio.max() <= 1.25
    other = attacks.perturb(attack, Scaled(classifier, 100.0), images, labels, key=KEY)
    np.testing.assert_array_equal(other.images, result.images)
