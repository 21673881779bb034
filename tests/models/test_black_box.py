"""Classifiers that are only asked for scores."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from srdef import attacks, models, victims
from srdef.errors import InputError
from srdef.robustness import evaluate_robustness
from srdef.storage.fingerprint import digest

KEY = jax.random.key(0)
SHAPE = (5, 4, 3)
WEIGHTS = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
IMAGES = np.random.default_rng(1).uniform(size=(7, *SHAPE)).astype(np.float32)


def scores(images):
    return images.reshape(len(images), -1) @ WEIGHTS


LABELS = scores(IMAGES).argmax(axis=1)


def test_scores_are_those_of_the_function():
    model = models.from_black_box(scores)
    np.testing.assert_allclose(model(IMAGES), scores(IMAGES), rtol=1e-6)
    np.testing.assert_allclose(jax.vmap(model)(IMAGES[:, None])[:, 0], scores(IMAGES), rtol=1e-6)
    assert victims.check_victim(victims.Undefended(model), SHAPE) == 4


def test_images_are_given_as_the_function_takes_them():
    asked = []

    def levels(images):
        asked.append(images)
        return images.mean(axis=(2, 3))

    model = models.from_black_box(
        levels, channels_first=True, bounds=(0, 255), mean=[1.0, 2, 3], num_classes=3
    )
    found = model(IMAGES)
    assert asked[-1].shape == (7, 3, 5, 4)
    assert asked[-1].dtype == np.float32
    np.testing.assert_allclose(found, 255 * IMAGES.mean(axis=(1, 2)) - [1, 2, 3], rtol=1e-5)


def test_a_model_of_scikit_learn_is_attacked():
    """Its probabilities are those of a softmax, so their logarithms differ by the same constant."""
    fitted = LogisticRegression().fit(IMAGES.reshape(7, -1), np.arange(7) % 3)

    def predict(images):
        return fitted.predict_proba(images.reshape(len(images), -1))

    model = models.from_black_box(predict, probabilities=True)
    expected = IMAGES.reshape(7, -1) @ fitted.coef_.T + fitted.intercept_
    found = np.asarray(model(IMAGES))
    np.testing.assert_allclose(found - found[:, :1], expected - expected[:, :1], atol=1e-5)
    labels = expected.argmax(axis=1)
    tried = [attacks.square(0.3, queries=300), attacks.spsa(0.3, steps=30, samples=32, learning_rate=0.05)]
    result = evaluate_robustness(model, IMAGES, labels, tried, (0.3,), key=KEY)
    assert result.clean_accuracy.value == 1
    for attack in result.correct:
        assert result.accuracy(attack)[0].value < 0.5


def test_attacks_that_need_a_gradient_say_so():
    victim = victims.Undefended(models.from_black_box(scores))
    message = "^scores is a black box, which has no gradient: attack victims.EstimatedGradient"
    for attack in (attacks.pgd(8 / 255), attacks.deepfool(), attacks.apgd(8 / 255)):
        with pytest.raises(InputError, match=message):
            attacks.perturb(attack, victim, IMAGES, LABELS, key=KEY)
    estimated = victims.EstimatedGradient(victim, 64, 0.05)
    assert attacks.perturb(attacks.pgd(0.3), estimated, IMAGES, LABELS, key=KEY).success.all()


def test_results_do_not_depend_on_the_batch():
    victim = victims.Undefended(models.from_black_box(scores))
    attack = attacks.spsa(8 / 255, steps=3, samples=4)
    some = [
        attacks.perturb(attack, victim, IMAGES, LABELS, key=KEY, batch_size=size).images for size in (7, 2)
    ]
    np.testing.assert_allclose(*some, atol=1e-6)


def test_a_function_may_count_and_keep_what_it_is_asked():
    kept = {}

    def remembering(images):
        kept[len(kept)] = images
        return scores(images)

    victim = victims.Undefended(models.from_black_box(remembering))
    for seed in (0, 1):
        found = attacks.perturb(
            attacks.square(0.3, queries=50), victim, IMAGES, LABELS, key=jax.random.key(seed)
        )
        assert found.success.any()
    assert len(kept) > 10


def test_results_are_kept_for_what_it_holds():
    def model(weights):
        return models.from_black_box(lambda images: images.reshape(len(images), -1) @ weights)

    assert digest(model(WEIGHTS)) == digest(model(WEIGHTS.copy()))
    assert digest(model(WEIGHTS)) != digest(model(2 * WEIGHTS))
    both = (models.from_black_box(scores, probabilities=on) for on in (False, True))
    assert len({digest(one) for one in both}) == 2


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x.mean(axis=(1, 2, 3)), r"must return scores \(N, num_classes\), not .* float32 \(2,\)"),
        (lambda x: x.mean(axis=(1, 2))[:1], r"not an array of float32 \(1, 3\) for 2 images"),
        (lambda x: x.mean(axis=(1, 2)).astype(str), "must return scores"),
        (lambda x: np.asarray(jnp.mean(x, axis=(1, 2))), "uses JAX, .*: give it to models.from_function"),
        (WEIGHTS, "from_black_box needs a function of images, not ndarray"),
    ],
)  # fmt: skip
def test_what_is_no_classifier(function, message):
    with pytest.raises(InputError, match=message):
        models.from_black_box(function)


def test_what_are_no_probabilities():
    model = models.from_black_box(lambda x: 2 + x.mean(axis=(1, 2)), probabilities=True, num_classes=3)
    with pytest.raises(InputError, match=r"probabilities must lie in \[0, 1\]"):
        victims.check_victim(victims.Undefended(model), SHAPE)


@pytest.mark.parametrize("before", [22, 30])
def test_what_the_function_raises_on_the_way_is_raised(before):
    asked = []

    def until_the_server_goes(images):
        asked.append(len(images))
        if len(asked) > before:
            raise ConnectionError("the server is gone")
        return scores(images)

    victim = victims.Undefended(models.from_black_box(until_the_server_goes))
    with pytest.raises(ConnectionError, match="the server is gone"):
        attacks.perturb(attacks.square(0.01, queries=100), victim, IMAGES, LABELS, key=KEY)
