"""Keys of JAX's other generators stand for keys of the one that srdef draws with."""

import jax
import numpy as np
import pytest

from srdef import attacks, defenses, models, victims
from srdef.attacks import targets
from srdef.errors import InputError
from srdef.evaluation.loss_surface import loss_landscape
from srdef.keys import check_key, of_seed
from srdef.robustness import evaluate_robustness

OTHERS = ("rbg", "unsafe_rbg")
IMAGES = np.random.default_rng(0).uniform(size=(5, 6, 6, 3)).astype(np.float32)


def same(one, other):
    return np.array_equal(jax.random.key_data(one), jax.random.key_data(other))


@pytest.fixture(scope="module")
def network():
    weights = np.random.default_rng(1).normal(size=(108, 4)).astype(np.float32)
    return models.from_function(lambda weights, images: images.reshape(len(images), -1) @ weights, weights)


@pytest.mark.parametrize("generator", OTHERS)
def test_a_key_stands_for_that_of_its_seed(generator):
    assert same(check_key(jax.random.key(7, impl=generator)), of_seed(7))
    with jax.default_prng_impl(generator):
        assert same(check_key(jax.random.key(7)), of_seed(7))
    own = jax.random.fold_in(of_seed(7), 1)
    assert check_key(own) is own


@pytest.mark.parametrize("generator", OTHERS)
def test_other_keys_stand_for_others(generator):
    first = jax.random.key(0, impl=generator)
    keys = [first, *jax.random.split(first, 20), *(jax.random.fold_in(first, i) for i in range(20))]
    data = {np.asarray(jax.random.key_data(check_key(key))).tobytes() for key in keys}
    assert len(data) == len({np.asarray(jax.random.key_data(key)).tobytes() for key in keys})


def test_no_keys():
    with pytest.raises(InputError, match=r"key must be made with jax.random.key\(seed\), not int"):
        check_key(0)
    with pytest.raises(InputError, match=r"not an array of shape \(2,\)"):
        check_key(jax.random.split(jax.random.key(0, impl="rbg")))


@pytest.mark.parametrize("generator", OTHERS)
def test_results_are_those_of_the_seed_whatever_the_batch(generator, network):
    """With keys of these generators numbers under `jax.vmap` depend on the whole batch."""
    victim = victims.Undefended(network)
    labels = np.asarray(network(IMAGES).argmax(axis=-1))
    square, resize = attacks.square(8 / 255, queries=20), defenses.create("resize_pad", low=1.1, canvas=1.5)
    noise = attacks.create("uniform_noise", epsilon=8 / 255)
    repeated = attacks.pgd(2 / 255, steps=1).repeat(2)

    def perturb(attack):
        return lambda k, size: attacks.perturb(attack, victim, IMAGES, labels, key=k, batch_size=size).images

    every = {
        "perturb": perturb(square),
        "noise": perturb(noise),
        "repeat": perturb(repeated),
        "one": lambda k, size: square(victim, IMAGES[0], labels[0], k),
        "apply": lambda k, size: defenses.apply(resize, IMAGES, key=k, batch_size=size),
        "random": lambda k, size: targets.random(labels, 4, k),
        "robustness": lambda k, size: evaluate_robustness(
            network, IMAGES, labels, [noise], [8 / 255], key=k, batch_size=size
        ).to_markdown(),
        "landscape": lambda k, size: loss_landscape(victim, IMAGES[0], 1, key=k, points=3),
    }
    key = jax.random.fold_in(jax.random.key(3, impl=generator), 5)
    for name, compute in every.items():
        expected = compute(check_key(key), 5)
        for size in (5, 2):
            np.testing.assert_array_equal(compute(key, size), expected, err_msg=f"{name}, {size}")
