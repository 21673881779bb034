"""What needs the values of arrays says so within `jax.jit`, `jax.grad` and `jax.vmap`; attacks work there."""

import jax
import jax.numpy as jnp
import linear_victims
import numpy as np
import pytest

from srdef import attacks, defenses, evaluate_robustness
from srdef.errors import InputError
from srdef.victims import Undefended

KEY = jax.random.key(0)
IMAGES, LABELS = linear_victims.images(3), np.array([0, 1, 2])
NETWORK = linear_victims.linear(5)
VICTIM, ATTACK = Undefended(NETWORK), attacks.fgsm(0.02)
AFTER = "have none while jax.jit, jax.grad or jax.vmap traces a function; call it outside of them, and within"

CALLS = {
    "perturb": lambda x, y: attacks.perturb(ATTACK, VICTIM, x, y, key=KEY).images,
    "round_result": lambda x, y: attacks.round_result(ATTACK, VICTIM, IMAGES, x, y, key=KEY).images,
    "accuracy_over_draws": lambda x, y: attacks.accuracy_over_draws(VICTIM, x, y, key=KEY),
    "transfer": lambda x, y: attacks.transfer(ATTACK, VICTIM, VICTIM, x, y, key=KEY).images,
    "a target": lambda x, y: attacks.targets.second(NETWORK, x, y),
    "a target drawn at random": lambda x, y: attacks.targets.random(y, 5, KEY),
    "evaluate_robustness": lambda x, y: evaluate_robustness(NETWORK, x, y, "fgsm", key=KEY),
    "defenses.apply": lambda x, y: defenses.apply(defenses.create("identity"), x, key=KEY),
}


@pytest.mark.parametrize("name", [name for name in CALLS if name != "a target drawn at random"])
@pytest.mark.parametrize(
    "transform",
    [
        jax.jit,
        lambda f: jax.grad(lambda x, y: f(x, y).sum()),
        lambda f: lambda x, y: jax.vmap(f)(x[None], y[None]),
    ],
    ids=["jit", "grad", "vmap"],
)
def test_images_are_traced(name, transform):
    with pytest.raises(InputError, match=f"{name} works on the values of arrays, which {AFTER}"):
        transform(CALLS[name])(IMAGES, LABELS)


@pytest.mark.parametrize("name", ["perturb", "accuracy_over_draws", "a target drawn at random"])
def test_labels_are_traced(name):
    with pytest.raises(InputError, match=f"{name} works on the values of arrays"):
        jax.jit(lambda y: CALLS[name](IMAGES, y))(LABELS)


def test_the_state_of_a_network_is_traced():
    """As in the loss of a training step; in `jax.jit` also without any argument that is traced."""
    message = (
        r"perturb works .* within them the attack itself on one image, attack\(victim, image, label, key\)"
    )

    def loss(network):
        return attacks.perturb(ATTACK, Undefended(network), IMAGES, LABELS, key=KEY).images.sum()

    for transform in (jax.jit, jax.grad):
        with pytest.raises(InputError, match=message):
            transform(loss)(NETWORK)
    with pytest.raises(InputError, match=message):
        jax.jit(lambda: loss(NETWORK))()
    with pytest.raises(InputError, match="evaluate_robustness works on the values"):
        jax.jit(lambda network: evaluate_robustness(network, IMAGES, LABELS, "fgsm", key=KEY))(NETWORK)
    with pytest.raises(InputError, match="perturb works on the values"):
        jax.jit(lambda n: attacks.perturb(attacks.repeat("fgsm", 2), Undefended(n), IMAGES, LABELS, key=KEY))(
            NETWORK
        )


def test_what_the_message_proposes_works():
    """In one program for any ε, with the images of `perturb`."""
    keys = jax.vmap(lambda i: jax.random.fold_in(KEY, i))(np.arange(3))

    @jax.jit
    def attacked(network, epsilon):
        attack = attacks.fgsm(epsilon)
        return jax.vmap(lambda *one: attack(Undefended(network), *one))(jnp.asarray(IMAGES), LABELS, keys)

    for epsilon in (0.02, 0.05):
        expected = attacks.perturb(attacks.fgsm(epsilon), VICTIM, IMAGES, LABELS, key=KEY).images
        np.testing.assert_allclose(attacked(NETWORK, epsilon), expected, atol=1e-6)
    assert attacked._cache_size() == 1
    defended = jax.jit(jax.vmap(defenses.create("bit_depth"), (0, None)))(jnp.asarray(IMAGES), KEY)
    expected = defenses.apply(defenses.create("bit_depth"), IMAGES, key=KEY)
    np.testing.assert_allclose(defended, expected, atol=1e-6)


@pytest.mark.parametrize("make", [attacks.fgsm, attacks.square, attacks.simba, attacks.uniform_noise])
def test_attacks_are_made_with_traced_numbers(make):
    found = jax.jit(lambda number: jax.tree.leaves(make(number))[0])(0.03)
    np.testing.assert_array_equal(found, np.float32(0.03))


def test_the_search_for_an_epsilon_needs_its_value():
    with pytest.raises(
        InputError, match="minimal_epsilon: the attack's epsilon decides how many runs there are"
    ):
        jax.jit(lambda epsilon: attacks.minimal_epsilon(attacks.fgsm(epsilon)).rule.runs)(0.1)
