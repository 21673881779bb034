"""A model gets its own answers: no program or stored result of another, or of itself before a training."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import linen, nnx

from srdef import attacks, models, victims
from srdef.errors import InputError
from srdef.storage.fingerprint import digest

SIDE, CLASSES = 4, 5
KEY = jax.random.key(0)
IMAGES = np.random.default_rng(0).uniform(0.1, 0.9, (4, SIDE, SIDE, 3)).astype(np.float32)


def answers(first, second, count=2):
    """The logits of both from one jitted function, which compiles `count` programs for them."""
    call = jax.jit(lambda model, images: model(images))
    found = [np.asarray(call(model, IMAGES)) for model in (first, second)]
    assert call._cache_size() == count
    for model, logits in zip((first, second), found, strict=True):
        np.testing.assert_allclose(logits, model(IMAGES), rtol=1e-4, atol=1e-4 * np.abs(logits).max())
    return found


def attack(victim):
    return attacks.perturb(attacks.fgsm(0.01), victim, IMAGES, "predicted", key=KEY)


def weights(seed):
    return np.random.default_rng(seed).normal(size=(SIDE * SIDE * 3, CLASSES)).astype(np.float32)


# Equinox


def equinox_network(activation=jax.nn.relu, scale=1.0, negated=False, mean=0.0):
    equinox = pytest.importorskip("equinox")

    class Network(equinox.Module):
        layers: list
        activation: object
        scale: float
        negated: bool
        mean: np.ndarray

        def __call__(self, image):
            hidden = self.activation(self.layers[0](jnp.ravel(image) - self.mean))
            logits = self.scale * self.layers[1](hidden)
            return -logits if self.negated else logits

    equinox_network.kind = getattr(equinox_network, "kind", Network)  # one class, as in a file
    keys = jax.random.split(KEY)
    layers = [equinox.nn.Linear(SIDE * SIDE * 3, 8, key=keys[0]), equinox.nn.Linear(8, CLASSES, key=keys[1])]
    return models.wrap(
        equinox_network.kind(layers, activation, scale, negated, np.full(48, mean, np.float32))
    )


@pytest.mark.parametrize(
    "other",
    [{"activation": jnp.tanh}, {"scale": -1.0}, {"negated": True}],
    ids=["activation", "float", "flag"],
)
def test_an_equinox_network_that_differs_in_no_array_has_its_own_program(other):
    first, second = answers(equinox_network(), equinox_network(**other))
    assert np.abs(first - second).max() > 0


def test_an_equinox_network_that_is_built_again_shares_the_program():
    answers(equinox_network(), equinox_network(), count=1)
    answers(equinox_network(), equinox_network(mean=0.5), count=1)
    assert digest(equinox_network()) == digest(equinox_network())
    assert digest(equinox_network()) != digest(equinox_network(mean=0.5))


# Functions that hold their weights


class Holder:
    def __init__(self, weights):
        self.weights = weights

    def __call__(self, images):
        return self.logits(images)

    def logits(self, images):
        return images.reshape(len(images), -1) @ self.weights


GLOBAL = weights(0)


def reads_a_global(images):
    return images.reshape(len(images), -1) @ GLOBAL


class ReadsAGlobal:
    def __call__(self, images):
        return self.logits(images)

    def logits(self, images):
        return images.reshape(len(images), -1) @ GLOBAL


def with_parameters(scale, images):
    return scale * (images.reshape(len(images), -1) @ GLOBAL)


def holders():
    """Models without parameters, and how each gets other weights in place."""

    def in_global(values):
        globals()["GLOBAL"] = values

    box = [weights(0)]
    yield "closure", lambda x: x.reshape(len(x), -1) @ box[0], functools.partial(box.__setitem__, 0)

    held = Holder(weights(0))
    yield "object", held, functools.partial(setattr, held, "weights")
    bound = Holder(weights(0))
    yield "bound method", bound.logits, functools.partial(setattr, bound, "weights")

    given = {"w": weights(0)}
    part = functools.partial(lambda w, x: x.reshape(len(x), -1) @ w["w"], given)
    yield "partial", part, functools.partial(given.__setitem__, "w")

    def default(x, w=box[0]):
        return x.reshape(len(x), -1) @ w

    yield "default", default, lambda values: setattr(default, "__defaults__", (values,))
    yield "global", reads_a_global, in_global
    yield "global in a method", ReadsAGlobal(), in_global
    yield "beside parameters", with_parameters, in_global

    module = nnx.Linear(SIDE * SIDE * 3, CLASSES, use_bias=False, rngs=nnx.Rngs(0))
    module.kernel[...] = jnp.asarray(weights(0))
    yield "nnx", lambda x: module(x.reshape(len(x), -1)), functools.partial(module.kernel.__setitem__, ...)


HOLDERS = ["closure", "object", "bound method", "partial", "default", "global", "global in a method", "nnx"]
HOLDERS.append("beside parameters")


@pytest.fixture(params=HOLDERS)
def held(request):
    """A function to wrap it, and one that sets the weights."""
    globals()["GLOBAL"] = weights(0)
    model, change = {name: (model, change) for name, model, change in holders()}[request.param]
    parameters = 2.0 if request.param == "beside parameters" else None
    return lambda: models.from_function(model, parameters, num_classes=CLASSES), change


def test_a_function_that_was_trained_does_not_get_its_first_answers(held):
    wrap, change = held
    before = wrap()
    call = jax.jit(lambda model, images: model(images))
    old = call(before, IMAGES)
    np.testing.assert_array_equal(call(wrap(), IMAGES), old)
    assert call._cache_size() == 1
    change(jnp.asarray(-weights(0)))
    np.testing.assert_allclose(call(wrap(), IMAGES), -old, rtol=1e-4, atol=1e-4 * np.abs(old).max())
    assert digest(wrap()) != digest(before)
    with pytest.raises(InputError, match="have changed since it was wrapped, in training perhaps"):
        attack(victims.Undefended(before))


def test_the_digest_of_a_function_is_that_of_what_it_holds():
    def build(seed):
        held = jnp.asarray(weights(seed))
        return models.wrap(lambda images: images.reshape(len(images), -1) @ held)

    assert digest(build(0)) == digest(build(0)) != digest(build(1))
    assert digest(models.wrap(Holder(weights(0)))) == digest(models.wrap(Holder(weights(0))))
    assert digest(models.wrap(Holder(weights(0)))) != digest(models.wrap(Holder(weights(1))))


def test_a_model_that_counts_its_calls_is_attacked_again_and_again():
    class Counting(Holder):
        calls = 0

        def __call__(self, images):
            self.calls += 1
            return super().__call__(images)

    victim = victims.Undefended(Counting(weights(0)))
    np.testing.assert_array_equal(attack(victim).images, attack(victim).images)


def test_weights_that_a_training_step_has_taken_are_named():
    given = {"w": jnp.asarray(weights(0))}
    model = models.from_function(lambda p, x: x.reshape(len(x), -1) @ p["w"], given, num_classes=CLASSES)
    given["w"].delete()
    with pytest.raises(InputError, match="weights have been given away, in training perhaps"):
        attack(victims.Undefended(model))


# PyTorch


class Blocks(torch.nn.Module):
    """Its blocks are in no state_dict."""

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.blocks = [torch.nn.Linear(SIDE * SIDE * 3, CLASSES)]
        self.scale = torch.full((), float(seed + 1))

    def forward(self, images):
        return self.scale * self.blocks[0](images.flatten(1))


def test_the_digest_of_a_torch_model_is_that_of_all_its_tensors():
    first, again, other = (models.wrap(Blocks(seed).eval()) for seed in (0, 0, 1))
    assert digest(first) == digest(again) != digest(other)
    scaled = Blocks(0).eval()
    scaled.scale = scaled.scale * 2
    assert digest(models.wrap(scaled)) != digest(first)


class OwnDropout(torch.nn.Module):
    def forward(self, features):
        return torch.nn.functional.dropout(features, training=self.training)


def torch_network(*head):
    layers = *head, torch.nn.Flatten(), torch.nn.Linear(SIDE * SIDE * 3, CLASSES)
    return torch.nn.Sequential(torch.nn.Sequential(*layers)).eval()


@pytest.mark.parametrize("layer", [torch.nn.BatchNorm2d(3), torch.nn.Dropout(), OwnDropout()], ids=repr)
def test_a_torch_layer_in_training_mode_is_named(layer):
    network = torch_network(layer)
    layer.train()
    name = rf"Sequential is in training mode \(layer 0\.0: {type(layer).__name__}\); call .eval\(\) first"
    with pytest.raises(InputError, match=name):
        models.wrap(network)
    wrapped = models.wrap(network.eval())
    layer.train()
    with pytest.raises(InputError, match=name):
        attack(victims.Undefended(wrapped))


def test_a_torch_layer_without_a_mode_may_have_its_flag_set():
    network = torch_network(torch.nn.ReLU())
    network[0].append(torch.nn.Sequential(torch.nn.Identity()))  # in training mode, as all that is new
    assert models.wrap(network)(IMAGES).shape == (len(IMAGES), CLASSES)


# flax


class Centred(linen.Module):
    mean: object

    @linen.compact
    def __call__(self, images):
        return linen.Dense(CLASSES)((images - jnp.asarray(self.mean)).reshape(len(images), -1))


@pytest.mark.parametrize("kind", [np.asarray, jnp.asarray, tuple, list])
def test_a_linen_module_may_hold_an_array(kind):
    first, again, other = (Centred(kind(np.full(3, mean, np.float32))) for mean in (0.2, 0.2, 0.7))
    variables = first.init(KEY, IMAGES)
    wrapped = [models.from_linen(module, variables) for module in (first, again, other)]
    answers(*wrapped[:2], count=1)
    assert np.abs(np.subtract(*answers(wrapped[0], wrapped[2]))).max() > 0
    assert digest(wrapped[0]) == digest(wrapped[1]) != digest(wrapped[2])
    attack(victims.Undefended(wrapped[0]))
    attack(victims.Undefended(wrapped[2]))


class TrainArgument(nnx.Module):
    def __init__(self, num_classes=None):
        rngs = nnx.Rngs(0)
        self.norm, self.drop = nnx.BatchNorm(3, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)
        self.dense = nnx.Linear(SIDE * SIDE * 3, CLASSES, rngs=rngs)
        self.norm.mean[...] = jnp.array([0.2, 0.5, 0.7])
        if num_classes:
            self.num_classes = num_classes

    def __call__(self, images, train=True):
        features = self.drop(self.norm(images, use_running_average=not train), deterministic=not train)
        return self.dense(features.reshape(len(images), -1))


@pytest.mark.parametrize("num_classes", [None, CLASSES])
def test_an_nnx_module_with_an_argument_for_its_mode_is_evaluated(num_classes):
    module = TrainArgument(num_classes)
    module.eval()
    expected = module(IMAGES, train=False)
    np.testing.assert_allclose(models.wrap(module)(IMAGES), expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(models.wrap(module, mean=0.0)(IMAGES), expected, rtol=1e-4, atol=1e-4)
    assert np.isfinite(attack(victims.Undefended(module)).images).all()


class Plain(nnx.Module):
    def __init__(self, num_classes=None):
        self.norm = nnx.BatchNorm(3, rngs=nnx.Rngs(0))
        self.dense = nnx.Linear(SIDE * SIDE * 3, CLASSES, rngs=nnx.Rngs(0))
        if num_classes:
            self.num_classes = num_classes

    def __call__(self, images):
        return self.dense(self.norm(images).reshape(len(images), -1))


@pytest.mark.parametrize("options", [{}, {"mean": 0.5}])
@pytest.mark.parametrize("num_classes", [None, CLASSES])
def test_an_nnx_module_in_training_mode_is_refused_also_after_wrapping(num_classes, options):
    message = r"Plain is in training mode \(norm: use_running_average=False\); call .eval\(\) first"
    module = Plain(num_classes)
    with pytest.raises(InputError, match=message):
        models.wrap(module, **options)
    module.eval()
    victim = victims.Undefended(models.wrap(module, **options))
    module.train()
    with pytest.raises(InputError, match=message):
        attack(victim)


# Keras


@pytest.fixture
def keras():
    return pytest.importorskip("keras_reference").keras


def test_a_keras_model_that_was_changed_in_place_has_its_own_program(keras):
    dense = keras.layers.Dense(CLASSES, activation="relu")
    model = keras.Sequential([keras.Input((SIDE, SIDE, 3)), keras.layers.Flatten(), dense])
    before, again = models.wrap(model), models.wrap(model)
    answers(before, again, count=1)
    call = jax.jit(lambda model, images: model(images))
    call(before, IMAGES)
    first = digest(before)
    assert digest(again) == first
    dense.activation = keras.activations.tanh
    after = models.wrap(model)
    expected = np.asarray(model(IMAGES, training=False))
    np.testing.assert_allclose(call(after, IMAGES), expected, rtol=1e-4, atol=1e-5)
    assert digest(after) != first
    with pytest.raises(InputError, match="the Keras model has been changed since it was wrapped"):
        attack(victims.Undefended(before))


def test_a_keras_model_whose_call_takes_no_training(keras):
    class Subclass(keras.Model):
        def __init__(self):
            super().__init__()
            self.flat, self.dense = keras.layers.Flatten(), keras.layers.Dense(CLASSES)

        def call(self, images):
            return self.dense(self.flat(images))

    model = Subclass()
    expected = np.asarray(model(IMAGES))
    np.testing.assert_allclose(models.wrap(model)(IMAGES), expected, rtol=1e-4, atol=1e-5)
