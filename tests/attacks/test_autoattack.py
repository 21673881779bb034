"""The ensemble: order, worst case, few classes, random victims, masked gradients; and transfer."""

import functools
import importlib
import warnings

import jax
import jax.numpy as jnp
import linear_victims
import numpy as np
import pytest
from flax import struct

from srdef import attacks
from srdef.attacks.masked_gradients import is_random
from srdef.errors import InputError, SrdefWarning
from srdef.victims import Undefended

KEY = jax.random.key(0)


@functools.cache
def linear(classes=5):
    classifier = linear_victims.linear(classes)
    images = linear_victims.images(4)
    return classifier, images, linear_victims.predictions(classifier, images)


def run(victim, images, labels, epsilon, norm="linf", version="standard", *, key=KEY, draws=20, **options):
    attack = attacks.autoattack(epsilon, norm, version, attacks=options.pop("attacks", None), draws=draws)
    return attacks.perturb(attack, victim, images, labels, key=key, **options)


def quick(epsilon, **options):
    return {
        "apgd-ce": attacks.apgd(epsilon, steps=5),
        "fab-t": attacks.fab_t(steps=5, targets=2, epsilon=epsilon),
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
    result = run(
        Undefended(classifier),
        images,
        labels,
        epsilon,
        key=KEY,
        attacks=quick(epsilon),
        progress=seen.append,
    )
    robust = exact_linf() > epsilon
    assert result.clean_accuracy == 1
    assert result.final_accuracy == robust.mean() == 0.5
    np.testing.assert_array_equal(result.accuracy, robust)
    assert list(result.robust_accuracy) == ["apgd-ce", "fab-t"]
    assert seen == [round(4 * (1 - accuracy)) for accuracy in result.robust_accuracy.values()]
    assert np.abs(result.images - images).max() <= epsilon + 1e-6
    np.testing.assert_array_equal(result.images[robust], images[robust])
    np.testing.assert_array_equal([name is None for name in result.broken_by], robust)
    predictions = linear_victims.predictions(classifier, result.images)
    np.testing.assert_array_equal(predictions == labels, robust)


def test_the_result_is_one_of_perturb():
    classifier, images, labels = linear()
    epsilon = float(np.median(exact_linf()))
    result = run(Undefended(classifier), images, labels, epsilon, attacks=quick(epsilon))
    assert isinstance(result, attacks.AttackResult)
    np.testing.assert_array_equal(
        result.success, linear_victims.predictions(classifier, result.images) != labels
    )
    change = (result.images - images).reshape(4, -1)
    np.testing.assert_allclose(result.linf, np.abs(change).max(axis=1), rtol=1e-6)
    np.testing.assert_allclose(result.l2, np.linalg.norm(change, axis=1), rtol=1e-6)
    assert (result.steps > 0).all()
    assert repr(result) == (
        "AutoAttackResult(4 images: clean 1.000, apgd-ce 0.500, fab-t 0.500, final 0.500; 0 warnings)"
    )


def test_each_attack_runs_on_what_the_last_one_has_left(monkeypatch):
    """In batches that hold little else: on a CPU rows that fill a batch up cost as much as images."""
    classifier, images, labels = linear()
    epsilon = float(np.median(exact_linf()))
    sizes = []
    module = importlib.import_module("srdef.attacks.autoattack")
    run_attack = module.perturb

    def watched(attack, victim, images, *arguments, **options):
        sizes.append((len(images), options["batch_size"]))
        return run_attack(attack, victim, images, *arguments, **options)

    monkeypatch.setattr(module, "perturb", watched)
    run(Undefended(classifier), images, labels, epsilon, attacks=quick(epsilon))
    assert sizes == [(4, 4), (2, 2)]
    sizes.clear()
    images, labels = np.concatenate([images] * 2)[1:], np.concatenate([labels] * 2)[1:]
    robust = np.concatenate([exact_linf() > epsilon] * 2)[1:]
    run(Undefended(classifier), images, labels, epsilon, attacks=quick(epsilon), batch_size=7)
    assert sizes == [(7, 7), (robust.sum(), 5 if robust.sum() > 3 else 3)]


def test_made_by_name():
    attack = attacks.create("autoattack", epsilon=0.5, norm="l2", version="plus")
    assert attack.names == ("apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t")
    assert {member.epsilon for member in attack.members} == {0.5}
    with pytest.raises(InputError, match="epsilon must be finite"):
        attacks.create("autoattack", epsilon=float("nan"))
    classifier, images, _ = linear()
    with pytest.raises(InputError, match="needs the labels"):
        attacks.perturb(attack, Undefended(classifier), images, "predicted", key=KEY)


def test_perturbations_beyond_epsilon_do_not_count_and_misclassified_images_are_left_out():
    classifier, images, labels = linear()
    wrong = labels.copy()
    wrong[0] = (wrong[0] + 1) % 5
    epsilon = float(exact_linf()[1:].min()) / 2
    # FAB finds the nearest points, which lie further away.
    only_fab = {"fab-t": attacks.fab_t(steps=5, targets=2)}
    result = run(Undefended(classifier), images, wrong, epsilon, key=KEY, attacks=only_fab)
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
    # Radii as they are used: that of L1 is none that Square, which has no L1, would take for L∞.
    plus = attacks.ensemble("plus", {"linf": 0.03, "l2": 0.5, "l1": 12.0}[norm], norm)
    names = ["apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"]
    assert list(plus) == [name for name in names if (name, norm) != ("square", "l1")]
    assert plus["apgd-dlr"].restarts == plus["fab"].restarts == 5
    assert all(attack.norm == norm for attack in plus.values())
    if norm != "l1":
        assert (standard["square"].queries, standard["square"].p_init) == (5000, 0.8)
    assert list(attacks.ensemble("rand", 0.1, norm)) == ["apgd-ce", "apgd-dlr"]


def test_few_classes():
    classifier, images, labels = linear(2)
    ratio = {"apgd-dlr": attacks.apgd(0.1, loss="dlr")}
    with pytest.raises(InputError, match="apgd-dlr needs at least 3 classes, and the victim has 2"):
        run(Undefended(classifier), images, labels, 0.1, key=KEY, attacks=ratio)
    classifier, images, labels = linear(3)
    result = run(Undefended(classifier), images, labels, 0.1, key=KEY, attacks=quick(0.1))
    assert result.final_accuracy == 0


def test_bad_version():
    with pytest.raises(InputError, match="unknown version"):
        attacks.ensemble("best", 0.1)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({}, "attacks must be a dictionary of at least one"),
        ([attacks.apgd()], "attacks must be a dictionary of at least one"),
        (attacks.apgd(), "attacks must be a dictionary of at least one"),
        ({"a": "apgd"}, r"'a' must be one attack like attacks.apgd\(epsilon\), not 'apgd'"),
        ({"a": attacks.autoattack()}, "'a' must be one attack"),
        ({"b": attacks.apgd(), "a": attacks.pgd(targeted=True)}, "'a' is targeted"),
        ({"a": attacks.pgd(targeted=True).repeat(2)}, "'a' is targeted"),
    ],
)
def test_members_that_are_none_are_refused(members, message):
    with pytest.raises(InputError, match=message):
        attacks.autoattack(attacks=members)


@pytest.mark.parametrize("place", ["ensemble", "member"])
def test_as_many_radii_as_images(place):
    classifier, images, labels = linear()
    three = np.full(3, 0.1, np.float32)
    epsilon, own = (three, 0.1) if place == "ensemble" else (0.1, three)
    with pytest.raises(InputError, match=r"a scalar or 4 values, one per image, not \(3,\)"):
        run(Undefended(classifier), images, labels, epsilon, attacks={"a": attacks.apgd(own, steps=1)})


@pytest.mark.parametrize("each", [False, True])
def test_a_member_with_a_start_of_its_own(each):
    """One image for all, or one for each; some of them are left out as they are misclassified."""
    classifier, images, labels = linear()
    labels = np.where(np.arange(4) == 1, (labels + 1) % 5, labels)
    start = 1 - images if each else 1 - images[0]
    member = attacks.hop_skip_jump(steps=2, init_num_evals=5, start=start)
    result = run(Undefended(classifier), images, labels, 5.0, "l2", attacks={"a": member})
    assert result.broken_by[1] is None
    alone = attacks.perturb(member, Undefended(classifier), images, labels, key=KEY)
    np.testing.assert_array_equal(result.success, alone.success)


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
    result = run(
        Lottery(classifier), images, labels, epsilon, version="rand", key=KEY, attacks=small, draws=100
    )
    # 400 draws with a deviation of 0.02.
    assert result.final_accuracy == pytest.approx(0.8, abs=0.08)
    assert result.robust_accuracy["apgd-ce"] <= result.clean_accuracy


@pytest.mark.parametrize("version", ["standard", "plus"])
def test_random_victims_need_their_version(version):
    classifier, images, labels = linear()
    with pytest.raises(InputError, match=r'version .* would count lucky draws; use "rand"'):
        run(Lottery(classifier), images, labels, 0.1, version=version, key=KEY, attacks=quick(0.1))


def test_the_random_version_does_not_stop_at_a_lucky_draw():
    """Also with attacks that stop early elsewhere: every image is attacked to the end."""
    classifier, images, labels = linear()
    small = {"apgd-ce": attacks.apgd(0.2, steps=5), "square": attacks.square(0.2, queries=5)}
    result = run(Lottery(classifier), images, labels, 0.2, version="rand", key=KEY, attacks=small, draws=20)
    assert result.final_accuracy < 0.3  # what is fooled for sure is still right in the draws of the lottery
    assert np.abs(result.images - images).max(axis=(1, 2, 3)).min() > 0


@struct.dataclass
class Mirrored:
    """The classifier behind a mirror in one draw of two."""

    classifier: linear_victims.Linear

    num_classes = 5

    def __call__(self, image, key):
        return self.classifier(jnp.where(jax.random.bernoulli(key), image[:, ::-1], image)[None])[0]


@pytest.mark.parametrize("count", [1, 4])
def test_a_random_victim_is_always_seen_to_be_random(count):
    classifier, images, _ = linear()
    victim = Mirrored(classifier)
    assert all(is_random(victim, images[:count], jax.random.key(trial)) for trial in range(40))
    assert all(is_random(Lottery(classifier), images, jax.random.key(trial)) for trial in range(40))


@struct.dataclass
class Shaken:
    """The classifier with noise on its logits, which are 1 to 100 in size, and after some function."""

    classifier: linear_victims.Linear
    noise: float
    after: object = struct.field(pytree_node=False, default=lambda logits: logits)

    num_classes = 5

    def __call__(self, image, key):
        logits = self.classifier(image[None])[0]
        return self.after(logits * (1 + self.noise * jax.random.normal(key, logits.shape)))


def with_nan(logits):
    return logits * jnp.nan


def with_masked_class(logits):
    return logits.at[3].set(-jnp.inf)


def test_neither_rounding_nor_nan_is_randomness():
    classifier, images, _ = linear()
    assert is_random(Shaken(classifier, 1e-2), images, KEY)
    assert is_random(Shaken(classifier, 1e-2, with_masked_class), images, KEY)
    for victim in (
        Shaken(classifier, 1e-6),
        Shaken(classifier, 0.0, with_nan),
        Shaken(classifier, 0.0, with_masked_class),
    ):
        assert not is_random(victim, images, KEY)


def test_a_deterministic_victim_needs_no_random_version():
    classifier, images, labels = linear()
    small = {"apgd-ce": attacks.apgd(0.1, steps=5)}
    with pytest.warns(SrdefWarning, match="the victim is deterministic"):
        result = run(Undefended(classifier), images, labels, 0.1, version="rand", attacks=small, draws=3)
    assert result.final_accuracy == 0


@struct.dataclass
class Altered:
    """The classifier with functions before and after it."""

    classifier: linear_victims.Linear
    before: object = struct.field(pytree_node=False, default=lambda image: image)
    after: object = struct.field(pytree_node=False, default=lambda logits: logits)

    num_classes = 5

    def __call__(self, image, key):
        return self.after(self.classifier(self.before(image)[None])[0])


def rounded(image):
    return jnp.round(image * 16) / 16


def all_kinds(epsilon, queries=300):
    return quick(epsilon, square=attacks.square(epsilon, queries=queries))


def test_probabilities_are_no_logits():
    classifier, images, labels = linear()
    with pytest.warns(SrdefWarning, match="outputs are probabilities.*without its softmax"):
        result = run(Altered(classifier, after=jax.nn.softmax), images, labels, 0.02, attacks=all_kinds(0.02))
    assert len(result.warnings) >= 1
    assert result.warnings[0].startswith("the victim's outputs are probabilities")


def test_masked_gradients_are_seen():
    """An image rounded on its way in has a gradient of zero, and Square needs none."""
    classifier, images, labels = linear()
    epsilon = 0.05
    with pytest.warns(SrdefWarning, match="autoattack: "):
        result = run(Altered(classifier, before=rounded), images, labels, epsilon, attacks=all_kinds(epsilon))
    assert result.robust_accuracy["fab-t"] > result.robust_accuracy["square"]
    text = "; ".join(result.warnings)
    assert "4 of 4 images have a zero gradient of the cross-entropy" in text
    assert "4 of 4 images have a zero gradient of the DLR loss" in text
    assert "square, which sees no gradient, lowers the accuracy by" in text


def overflowing(logits):
    """The logits; their gradient is NaN."""
    return logits + 0 * jnp.sqrt(jnp.maximum(logits - 1e9, 0))


def test_one_warning_says_that_gradients_are_not_finite():
    classifier, images, labels = linear()
    with pytest.warns(SrdefWarning) as caught:
        result = run(Altered(classifier, after=overflowing), images, labels, 0.02, attacks=quick(0.02))
    assert len(caught) == 1
    assert result.final_accuracy == 1
    assert result.nonfinite.all()
    assert any("4 of 4 images had gradients or logits that are not finite" in x for x in result.warnings)


def test_no_warning_without_a_reason():
    classifier, images, labels = linear()
    epsilon = float(np.median(exact_linf()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = run(Undefended(classifier), images, labels, epsilon, attacks=all_kinds(epsilon, 50))
        random = run(
            Lottery(classifier), images, labels, epsilon, version="rand", attacks=quick(epsilon), draws=5
        )
    assert result.warnings == random.warnings == ()


def test_epsilon_of_each_image_stays_with_it():
    """Only those that can be broken are, though others leave the batch after the first attack."""
    classifier, images, labels = linear()
    exact = exact_linf()
    epsilon = (exact * np.array([2.0, 0.5, 2.0, 0.5])).astype(np.float32)
    small = {"apgd-ce": attacks.apgd(epsilon, steps=5), "fab-t": attacks.fab_t(steps=5, epsilon=epsilon)}
    result = run(Undefended(classifier), images, labels, epsilon, key=KEY, attacks=small)
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
    with pytest.raises(InputError, match="transfer is for one attack; AutoAttack runs several"):
        attacks.transfer(
            attacks.autoattack(0.01), Undefended(source), Undefended(target), images, labels, key=KEY
        )
    with pytest.raises(InputError, match="needs the labels"):
        attacks.transfer(attack, Undefended(source), Undefended(target), images, "predicted", key=KEY)
