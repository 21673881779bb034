"""Classes of the same fields, which jaxlib 0.10 takes for one another: each must get its own program.

With plain `jax.jit` some of these calls are answered by another class.
"""

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys
from flax import nnx, struct

from srdef import attacks, defenses, models, victims
from srdef.programs import jit, may_overlap

KEY = jax.random.key(0)
COUNT = 40
# Of those that need several programs each.
FEW = 12
IMAGES = np.full((2, 4, 4, 3), 0.5, np.float32)


def value_class(number):
    @struct.dataclass
    class Value:
        value: jax.Array

        def __call__(self):
            return self.value + jnp.zeros(number)

    return Value


def victim_class(number):
    """Victims that see one class each in every image."""

    @struct.dataclass
    class Sees:
        scale: jax.Array
        num_classes = COUNT

        def __call__(self, image, key):
            return jax.nn.one_hot(number, COUNT) * self.scale + image.sum()

    return Sees


def defense_class(number):
    @struct.dataclass
    class Shade(defenses.Defense):
        scale: jax.Array
        random = False
        differentiable = True

        def __call__(self, image, key):
            return jnp.full_like(image, number / COUNT) * self.scale

    return Shade


def attack_class(number):
    @struct.dataclass
    class Paint(attacks.Attack):
        scale: jax.Array
        steps = 1
        norm = "linf"

        def init(self, victim, image, label, key):
            return image

        def step(self, victim, state):
            return jnp.full_like(state, number / COUNT) * self.scale

        def result(self, state):
            return state

    return Paint


def instances(kind, count=COUNT):
    return [kind(number)(jnp.float32(1)) for number in range(count)]


def test_functions():
    function = jit(lambda value: value())
    found = [function(value).shape for value in instances(value_class)]
    assert found == [(number,) for number in range(COUNT)]


def test_shapes_of_functions():
    function = jit(lambda value: value())
    found = [function.eval_shape(value).shape for value in instances(value_class)]
    assert found == [(number,) for number in range(COUNT)]


def test_deep_within_arguments():
    function = jit(lambda *, tree: tree["a"][1]())
    found = [function(tree={"a": [1.0, value]}).shape for value in instances(value_class)]
    assert found == [(number,) for number in range(COUNT)]


def test_lowering():
    function = jit(lambda value: value())
    found = [function.lower(value).out_info.shape for value in instances(value_class)]
    assert found == [(number,) for number in range(COUNT)]


class Holds(nnx.Module):
    """A network of the user's with a dataclass in it, which is looked for there too."""

    def __init__(self, value):
        self.value = nnx.data(value)


def test_within_networks_of_the_user():
    function = jit(lambda network: network.value())
    found = [function(Holds(value)).shape for value in instances(value_class)]
    assert found == [(number,) for number in range(COUNT)]


def test_within_containers_of_flax():
    function = jit(lambda network: network.layers[0]())
    found = [function(nnx.Sequential(nnx.data(value))).shape for value in instances(value_class)]
    assert found == [(number,) for number in range(COUNT)]


@struct.dataclass
class Static:
    value: jax.Array
    static: Any = struct.field(pytree_node=False)


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: (x, "name"), lambda x: ((1, x),)])
def test_static_values_that_are_equal(wrap):
    """1, True and 1.0; both zeros."""
    function = jit(lambda value: jnp.zeros(len(repr(value.static))))
    for static in (1, True, 1.0, 0, False, 0.0, -0.0):
        value = Static(jnp.float32(1), wrap(static))
        assert len(function(value)) == len(repr(value.static))


def test_it_is_compiled_once_for_each_class():
    traced = []
    function = jit(lambda value: traced.append(type(value)) or value.value)
    values = instances(value_class)[:5]
    for value in values * 2:
        function(value.replace(value=jnp.float32(len(traced))))
    assert traced == [type(value) for value in values]


def test_static_arguments_and_options():
    def scaled(x, factor, *, name, **others):
        """Twice the fun."""
        return x * factor + len(name) + sum(others.values())

    function = jit(scaled, static_argnames=("factor", "name"))
    assert function.__doc__ == "Twice the fun."
    assert function(jnp.ones(2), 3, name="ab", more=1).tolist() == [6, 6]
    assert function(jnp.ones(2), factor=3, name="ab").tolist() == [5, 5]
    numbered = jit(scaled, static_argnums=1, static_argnames="name")
    assert numbered(jnp.ones(2), 3, name="ab").tolist() == [5, 5]
    given = jnp.ones(2)
    assert jit(lambda x: x + 1, donate_argnums=0)(given).tolist() == [2, 2]
    assert given.is_deleted()


def test_the_classes_of_models_are_counted():
    def apply(parameters, images):
        return jnp.zeros((len(images), parameters().size))

    found = [models.from_function(apply, value).num_classes for value in instances(value_class)]
    assert found == [*range(COUNT)]


def test_victims():
    attack = attacks.gaussian_noise(1e-3, tries=1)
    fooled = [
        attacks.perturb(attack, victim, IMAGES, [number, number + 1], key=KEY).success
        for number, victim in enumerate(instances(victim_class, FEW))
    ]
    np.testing.assert_array_equal(fooled, [(False, True)] * FEW)


def test_attacks():
    victim = victim_class(0)(jnp.float32(2))
    found = [
        attacks.perturb(attack, victim, IMAGES, [0, 0], key=KEY).images.mean()
        for attack in instances(attack_class, FEW)
    ]
    np.testing.assert_allclose(found, np.arange(FEW) / COUNT, atol=1e-6)


def test_defenses():
    found = [defenses.apply(defense, IMAGES, key=KEY).mean() for defense in instances(defense_class)]
    np.testing.assert_allclose(found, np.arange(COUNT) / COUNT, atol=1e-6)


@pytest.mark.parametrize(("platform", "expected"), [("cpu", True), ("tpu", True), ("gpu", False)])
def test_gpus_time_kernels_to_choose_them_and_must_be_alone(monkeypatch, platform, expected):
    monkeypatch.setattr(jax, "local_devices", lambda: [SimpleNamespace(platform=platform)])
    assert may_overlap() is expected


def test_a_network_is_traced_once_for_all_programs():
    calls = []

    class Counting(toys.Pooled):
        def __call__(self, images):
            calls.append(images.shape)
            return super().__call__(images)

    victim = victims.Undefended(Counting())
    images = np.random.default_rng(0).random((3, 8, 8, 3), np.float32)
    attacks.perturb(attacks.fgsm(0.1), victim, images, "predicted", key=KEY)
    first = len(calls)
    assert attacks.perturb(attacks.deepfool(), victim, images, "predicted", key=KEY).success.any()
    assert len(calls) == first


def test_a_network_in_training_keeps_its_statistics():
    """A trace that programs share would change those of a copy."""

    class Normalised(toys.Pooled):
        def __init__(self):
            super().__init__()
            self.norm = nnx.BatchNorm(toys.CLASSES, rngs=nnx.Rngs(0))

        def __call__(self, images):
            return self.norm(super().__call__(images))

    network, image = Normalised(), np.random.default_rng(0).random((8, 8, 3), np.float32)
    before = network.norm.mean[...]
    nnx.grad(lambda network: victims.Undefended(network)(image, KEY)[0])(network)
    assert (network.norm.mean[...] != before).all()
    with pytest.raises(Exception, match="Cannot mutate"):
        jax.vmap(lambda image: victims.Undefended(network)(image, KEY))(image[None])
