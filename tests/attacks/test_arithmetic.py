"""Steps in a lower precision, judged in float32.

XLA multiplies in float32 on a CPU whatever is asked for, so these victims look up what was asked for when
they are compiled, and then answer otherwise.
"""

import jax
import jax.numpy as jnp
import linear_victims
import numpy as np
import pytest
from flax import nnx

from srdef import attacks, evaluate_robustness
from srdef.attacks import batch, judging
from srdef.errors import InputError
from srdef.victims import Undefended

KEY = jax.random.key(0)
LABELS = np.arange(12) % 5


def asked():
    return jax.config.jax_default_matmul_precision


class Rounding(nnx.Module):
    """Rounds the images to bfloat16 where products are asked for in it."""

    def __init__(self, inner):
        self.inner, self.num_classes = inner, inner.num_classes

    def __call__(self, images):
        if asked() == "bfloat16":
            images = images.astype(jnp.bfloat16).astype(jnp.float32)
        return self.inner(images)


class Two(nnx.Module):
    """One classifier where products are asked for in TF32, and another elsewhere."""

    def __init__(self, lower, exact):
        self.lower, self.exact, self.num_classes = lower, exact, exact.num_classes

    def __call__(self, images):
        return (self.lower if asked() == "tensorfloat32" else self.exact)(images)


LOWER, EXACT = linear_victims.linear(5, seed=1), linear_victims.linear(5, seed=2)
IMAGES = linear_victims.images(12)


def perturb(attack, classifier, labels=LABELS, images=IMAGES, **options):
    return attacks.perturb(attack, Undefended(classifier), images, labels, key=KEY, **options)


@pytest.mark.parametrize("storage", ["float32", "uint8"])
def test_steps_see_the_lower_precision_and_judging_sees_float32(storage):
    attack = attacks.ifgsm(0.05, steps=4)
    result = perturb(attack, Two(LOWER, EXACT), storage=storage, arithmetic="tensorfloat32", batch_size=5)
    images = perturb(attack, LOWER, storage=storage).images
    np.testing.assert_array_equal(result.images, images)
    judged = attacks.round_result if storage == "uint8" else _judge
    expected = judged(attack, Undefended(EXACT), IMAGES, images, LABELS, key=KEY)
    for name in ("success", "success_rate", "linf", "l2", "l1", "l0"):
        np.testing.assert_array_equal(getattr(result, name), getattr(expected, name))
    lower = perturb(attack, LOWER, storage=storage).success
    assert (result.success != lower).any()


def _judge(attack, victim, images, adversarial, labels, *, key):
    images, ids, key, attack, _ = batch.check_arguments(attack, victim, images, None, key)
    return judging.judge(attack, victim, images, adversarial, labels, key, ids, 1, {})


def test_float32_is_float32_in_a_program_that_computes_in_less():
    attack = attacks.repeat(attacks.pgd(0.02, steps=3), 2)
    plain = perturb(attack, Two(LOWER, EXACT), trace=True)
    with jax.default_matmul_precision("tensorfloat32"):
        same = perturb(attack, Two(LOWER, EXACT), trace=True, arithmetic="float32")
        other = perturb(attack, Two(LOWER, EXACT))
    jax.tree.map(np.testing.assert_array_equal, same, plain)
    assert (other.images != plain.images).any()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("deepfool", {}),
        ("carlini_wagner", {"binary_search_steps": 3, "max_iterations": 30}),
        ("fmn", {"steps": 40}),
        ("fab", {"steps": 40}),
    ],
)
def test_what_the_lower_precision_misjudged_is_attacked_in_float32(name, options, monkeypatch):
    network = linear_victims.Smooth(np.random.default_rng(0))
    images = linear_victims.images(24)
    labels = linear_victims.predictions(network, images)
    attack = attacks.create(name, **options)
    found = []
    looked = batch.misjudged
    monkeypatch.setattr(batch, "misjudged", lambda *given: found.append(looked(*given)) or found[-1])
    result = perturb(attack, Rounding(network), labels, images, arithmetic="bfloat16")
    assert result.success.all()
    np.testing.assert_array_equal(linear_victims.predictions(network, result.images) != labels, True)
    (rows,) = found
    if len(rows):
        size = batch.smaller_batch(len(images), len(rows))
        exact = perturb(attack, network, labels[rows], images[rows], ids=rows, batch_size=size)
        # The same program, but for the victim's name.
        np.testing.assert_allclose(result.images[rows], exact.images, atol=1e-6)
        assert (result.steps[rows] >= exact.steps).all()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("carlini_wagner", {"binary_search_steps": 2, "max_iterations": 5}),
        ("fmn", {"steps": 6}),
        ("simba", {"queries": 6}),
    ],
)
@pytest.mark.filterwarnings("ignore:3 of 3 images had a gradient of exactly zero")
def test_images_that_nothing_fools_are_attacked_once(name, options, monkeypatch):
    """All but the third, which the lower precision alone takes for adversarial as it is."""
    images, labels = IMAGES[:3], np.zeros(3, int)
    never, third = linear_victims.Constant([9.0, 0, 0, 0, 0]), jnp.asarray(images[2])

    class Wrong(nnx.Module):
        num_classes = 5

        def __call__(self, images):
            same = (jnp.abs(images - third[None]) < 1e-6).all(axis=(1, 2, 3))
            return jnp.where(same[:, None], jnp.roll(never(images), 1, axis=1), never(images))

    found = []
    looked = batch.misjudged
    monkeypatch.setattr(batch, "misjudged", lambda *given: found.append(looked(*given)) or found[-1])
    attack = attacks.create(name, **options)
    result = perturb(attack, Two(Wrong(), never), labels, images, arithmetic="tensorfloat32")
    assert not result.success.any()
    assert list(found.pop()) == [2]


def test_rounding_misjudges_some_images():
    """What the test above needs to see anything."""
    network = linear_victims.Smooth(np.random.default_rng(0))
    images = linear_victims.images(100)
    labels = linear_victims.predictions(network, images)
    with jax.default_matmul_precision("bfloat16"):
        lower = perturb(attacks.fmn(steps=40), Rounding(network), labels, images).images
    assert 0 < (linear_victims.predictions(network, lower) == labels).sum() < 100


def test_an_attack_that_stopped_early_by_mistake_goes_on():
    blind = linear_victims.Constant(
        [0.0, 0, 0, 0, 1]
    )  # to it all images but those of class 4 are adversarial
    labels = linear_victims.predictions(EXACT, IMAGES)
    attack = attacks.apgd(0.02, steps=5)
    exact = perturb(attack, EXACT, labels)
    result = perturb(attack, Two(blind, EXACT), labels, arithmetic="tensorfloat32", trace=True)
    rows = labels != 4
    # Alike up to the size of the batch, with which sums are rounded otherwise.
    np.testing.assert_allclose(result.images[rows], exact.images[rows], atol=1e-6)
    np.testing.assert_array_equal(result.success[rows], exact.success[rows])
    np.testing.assert_array_equal(result.trace.success[-1], result.success)
    assert exact.success[rows].any()
    options = {"arithmetic": "tensorfloat32", "on_device": True}
    kept = perturb(attack, Two(blind, EXACT), labels, images=jnp.asarray(IMAGES), **options)
    np.testing.assert_array_equal(kept.images, result.images)


def test_ensembles_and_robustness_pass_it_on():
    attack = {"name": "repeat", "attack": "pgd", "n": 2, "steps": 3}
    made = attacks.create("repeat", attack="pgd", n=2, epsilon=0.05, steps=3)
    images = perturb(made, Two(LOWER, EXACT), arithmetic="tensorfloat32").images
    assert (images != perturb(made, EXACT).images).any()

    labels = linear_victims.predictions(EXACT, IMAGES)
    with jax.default_matmul_precision("tensorfloat32"):  # of which no accuracy may depend
        robust = evaluate_robustness(
            Two(LOWER, EXACT), IMAGES, labels, [attack, "autoattack"], [0.05], key=KEY, arithmetic="float32"
        )
        lower = evaluate_robustness(
            Two(LOWER, EXACT), IMAGES, labels, attack, [0.05], key=KEY, arithmetic="tensorfloat32"
        )
    expected = evaluate_robustness(EXACT, IMAGES, labels, [attack, "autoattack"], [0.05], key=KEY)
    assert robust.clean.all()
    jax.tree.map(np.testing.assert_array_equal, robust.correct, expected.correct)
    assert lower.clean.all()
    assert "in tensorfloat32" in lower.to_markdown()
    assert "float32" not in robust.to_markdown()


def test_transfer_is_judged_in_float32():
    attack = attacks.ifgsm(0.05, steps=4)
    source, target = Undefended(Two(LOWER, EXACT)), Undefended(Two(EXACT, LOWER))
    result = attacks.transfer(attack, source, target, IMAGES, LABELS, key=KEY, arithmetic="tensorfloat32")
    expected = perturb(attack, LOWER)
    np.testing.assert_array_equal(result.images, expected.images)
    np.testing.assert_array_equal(result.success, expected.success)


def test_an_unknown_arithmetic_is_named():
    with pytest.raises(InputError, match="'fp8'; choose from: float32, tensorfloat32, bfloat16"):
        perturb(attacks.fgsm(0.05), EXACT, arithmetic="fp8")
