"""Targets by name, and the names by which people look for attacks."""

import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import linear_victims
import numpy as np
import pytest

from srdef import attacks
from srdef.attacks import targets
from srdef.attacks.aliases import ALIASES
from srdef.errors import InputError
from srdef.robustness import evaluate_robustness
from srdef.victims import Undefended

KEY = jax.random.key(0)


def problem(count=12, classes=5):
    classifier = linear_victims.linear(classes)
    images = linear_victims.images(count)
    return classifier, images, linear_victims.predictions(classifier, images)


def expected(classifier, images):
    order = np.argsort(np.asarray(classifier(jnp.asarray(images))), axis=1)
    return {"least_likely": order[:, 0], "second": order[:, -2]}


def test_by_rank():
    classifier, images, _ = problem()
    for name, classes in expected(classifier, images).items():
        choose = getattr(targets, name)
        np.testing.assert_array_equal(choose(classifier, images), classes)
        np.testing.assert_array_equal(choose(Undefended(classifier), images, batch_size=5), classes)


def test_random_targets_are_every_other_class_alike():
    labels = np.tile(np.arange(4), 500)
    found = targets.random(labels, 4, KEY)
    shares = np.bincount((found - labels) % 4, minlength=4) / len(labels)
    assert shares[0] == 0
    # Standard error of 2000 draws: 0.011.
    np.testing.assert_allclose(shares[1:], 1 / 3, atol=0.045)
    order = np.random.default_rng(0).permutation(len(labels))
    np.testing.assert_array_equal(targets.random(labels[order], 4, KEY, ids=order), found[order])
    np.testing.assert_array_equal(targets.random(np.array([0, 1]), 2, KEY), [1, 0])
    with pytest.raises(InputError, match="num_classes must be at least 2"):
        targets.random(np.zeros(3, int), 1, KEY)


@pytest.mark.parametrize("name", ["least_likely", "second", "random"])
def test_perturb_reaches_them(name):
    classifier, images, labels = problem()
    attack = attacks.pgd(0.2, steps=10, targeted=True)
    result = attacks.perturb(attack, Undefended(classifier), images, labels, key=KEY, targets=name)
    reached = linear_victims.predictions(classifier, result.images)
    wanted = expected(classifier, images) | {"random": targets.random(labels, 5, KEY)}
    np.testing.assert_array_equal(reached, wanted[name])
    assert result.success.all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": "third"}, "unknown targets 'third'; choose from: least_likely, random, second"),
        ({"attack": attacks.pgd(), "targets": "second"}, "targets are for targeted attacks"),
        ({"attack": attacks.autoattack(), "targets": "second"}, "targets: not of AutoAttack"),
        ({"attack": attacks.autoattack(), "trace": True}, "trace: not of AutoAttack"),
        ({"attack": attacks.sparse_rs(), "start": np.zeros((6, 5, 3))}, "SparseRS takes no start; .*fgsm"),
        ({"start": np.zeros((6, 5, 4))}, "start must be one image"),
        ({"start": np.full((6, 5, 3), 2.0)}, r"start must lie in \[0, 1\]"),
        ({"start": np.zeros((6, 5, 3), np.uint8)}, "start must be floats .* divide 8-bit images by 255"),
        (
            {"targets": np.zeros(3, int)},
            "targets must be one of least_likely, random, second; classes of your",
        ),
    ],
)
def test_mistakes_are_one_line(options, message):
    classifier, images, labels = problem()
    attack = options.pop("attack", attacks.pgd(targeted=True))
    with pytest.raises(InputError, match=message):
        attacks.perturb(attack, Undefended(classifier), images, labels, key=KEY, **options)


@pytest.mark.parametrize("name", ["least_likely", "second"])
def test_the_label_of_a_misclassified_image_is_no_target(name):
    classifier, images, _ = problem()
    logits = np.asarray(classifier(images))
    labels = np.argsort(logits, axis=1)[:, {"least_likely": 0, "second": -2}[name]]  # would be chosen
    found = getattr(targets, name)(classifier, images, labels)
    others = np.where(np.arange(5) == labels[:, None], np.nan, logits)
    expected = np.nanargmin(others, axis=1) if name == "least_likely" else np.nanargmax(others, axis=1)
    np.testing.assert_array_equal(found, expected)
    attack = attacks.pgd(0.0, targeted=True)
    result = attacks.perturb(attack, Undefended(classifier), images, labels, key=KEY, targets=name)
    # "second" is what the classifier predicts of these images as they are.
    assert (result.success == (name == "second")).all()


def test_a_class_that_can_never_be_reached_is_not_the_least_likely():
    def masked(images):
        logits = jnp.array([3.0, 1.0, 2.0, -jnp.inf])
        return jnp.broadcast_to(logits, (len(images), 4))

    images = linear_victims.images(2)
    assert targets.least_likely(masked, images).tolist() == [1, 1]
    with pytest.raises(InputError, match="returns 1 logit"):
        targets.second(lambda images: images.mean((1, 2, 3))[:, None], images)


def test_in_an_evaluation():
    classifier, images, labels = problem()
    entry = {"name": "PGD-Linf", "steps": 3}
    second, least = (
        evaluate_robustness(classifier, images, labels, [entry], (0.02,), key=KEY, targets=name)
        for name in ("second", "least_likely")
    )
    assert second.attacks == ("pgd",)
    assert second.correct["pgd"].sum() < least.correct["pgd"].sum()
    with pytest.raises(InputError, match="attack 'fab' is not for targets"):
        evaluate_robustness(classifier, images, labels, ["fab"], (0.02,), key=KEY, targets="second")


def test_the_guide_has_every_alias():
    guide = Path(__file__).parents[2] / "docs" / "guides" / "which-attack.md"
    table = guide.read_text(encoding="utf-8").partition("## Other names")[2]
    for alias, (name, _) in ALIASES.items():
        assert any(f"`{alias}`" in line and f"`{name}" in line for line in table.splitlines()), alias


@pytest.mark.parametrize("alias", ALIASES)
def test_aliases_make_registered_attacks(alias):
    name, options = ALIASES[alias]
    assert name in attacks.list_names()
    assert alias not in attacks.list_names()
    assert attacks.create(alias) == attacks.create(name, **options)


@pytest.mark.parametrize(
    ("written", "attack"),
    [
        ("PGD-L2", attacks.pgd(norm="l2")),
        ("MI-FGSM", attacks.mifgsm()),
        ("auto_attack", attacks.autoattack()),
        ("C&W", attacks.carlini_wagner()),
        ("HopSkipJump", attacks.hop_skip_jump()),
        ("APGD-T", attacks.apgd_t()),
    ],
)
def test_capitals_hyphens_and_underscores_do_not_matter(written, attack):
    assert attacks.create(written) == attack


def test_own_options_come_after_those_of_an_alias():
    attack = attacks.create("apgd_dlr", epsilon=0.5, norm="l2", steps=3)
    assert attack == attacks.apgd(0.5, norm="l2", steps=3, loss="dlr")
    assert attacks.REGISTRY.takes("bim", "steps")
    assert attacks.REGISTRY.resolve("bim") == ("ifgsm", {})


def test_a_misspelling_is_answered_with_the_nearest_name():
    with pytest.raises(InputError, match=r"unknown attack 'mifgms'; choose from: .*; did you mean mifgsm\?$"):
        attacks.create("mifgms")
    with pytest.raises(InputError, match=r"of your own$"):
        attacks.create("zzz")


@pytest.mark.parametrize(("off", "warned"), [(0, True), (1, False)])
def test_labels_given_as_targets_are_warned_of(off, warned):
    """An attack towards the classes that the images have succeeds everywhere, and says nothing."""
    classifier, images, labels = problem()
    labels = (linear_victims.predictions(classifier, images) + off) % 5
    attack = attacks.pgd(0.02, steps=2, targeted=True)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        attacks.perturb(attack, Undefended(classifier), images, labels, key=KEY)
    told = [one for one in caught if "12 of 12 images are classified as their target" in str(one.message)]
    assert bool(told) == warned
