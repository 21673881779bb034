"""An edit of code in a notebook takes effect in the next call, and nothing else compiles programs again."""

import gc
import sys
import weakref
from types import ModuleType

import jax
import numpy as np
import pytest
from flax import nnx

from srdef import attacks, defenses, models, victims
from srdef.interpret.features import last_hidden_layer
from srdef.own_code.edits import notice_edits

NAME = "cells_that_are_edited"

CELLS = """
import functools
import types

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from srdef import attacks

SCALE = 0.5
MASK = jnp.full((4, 4, 3), 0.5)
traced = []
calls = 0
counted = {}
SETTINGS = {"by": {"factor": 0.5}}
TABLE = [0.5]
NUMBERS = np.full(3, 0.5, np.float32)
SPACE = types.SimpleNamespace(factor=1.0)

class Plan:
    def __init__(self):
        self.factor = 0.5

PLAN = Plan()

class Network(nnx.Module):
    def __init__(self):
        self.scale = nnx.Param(jnp.float32(0.5))

NETWORK = Network()

def scaled(x):
    return x * 0.5

FUNCTIONS = {"scaled": scaled}

def helper(x):
    return x * 0.5

@jax.jit
def compiled(x):
    return x * 0.5

def given(x, factor=0.5):
    return x * factor

half = functools.partial(given, factor=0.5)

def named(x):
    return x * SCALE

class Other:
    factor = 0.5
    calls = 0

    @staticmethod
    def apply(x):
        Other.calls += 1
        return x * Other.factor

def count():
    global calls
    calls += 1
    traced.append(calls)
    counted["calls"] = calls

@flax.struct.dataclass
class Defense:
    kind: str = flax.struct.field(pytree_node=False, default="helper")
    random = False
    differentiable = True

    def __call__(self, image, key):
        count()
        return globals_of[self.kind](self, image)

    def helper(self, image):
        return helper(image)

    def compiled(self, image):
        return compiled(image)

    def given(self, image):
        return half(image)

    def number(self, image):
        return named(image)

    def array(self, image):
        return image * MASK

    def other(self, image):
        return Other.apply(image)

    def settings(self, image):
        return image * SETTINGS["by"]["factor"]

    def table(self, image):
        return image * TABLE[0]

    def numbers(self, image):
        return image * NUMBERS

    def plan(self, image):
        return image * PLAN.factor * SPACE.factor

    def network(self, image):
        return image * NETWORK.scale[...]

    def function(self, image):
        return FUNCTIONS["scaled"](image)

kinds = (
    *("helper", "compiled", "given", "number", "array", "other"),
    *("settings", "table", "numbers", "plan", "network", "function"),
)
globals_of = {name: getattr(Defense, name) for name in kinds}
"""

EDITS = {
    "helper": "def helper(x):\n    return x * 0.25\n",
    "compiled": "@jax.jit\ndef compiled(x):\n    return x * 0.25\n",
    "given": "half = functools.partial(given, factor=0.25)\n",
    "number": "SCALE = 0.25\n",
    "array": "MASK = jnp.full((4, 4, 3), 0.25)\n",
    "other": "Other.factor = 0.25\n",
    "settings": "SETTINGS['by']['factor'] = 0.25\n",
    "table": "TABLE[0] = 0.25\n",
    "numbers": "NUMBERS[:] = 0.25\n",
    "plan": "PLAN.factor = 0.25\n",
    "network": "NETWORK.scale[...] = 0.25\n",
    "function": "FUNCTIONS['scaled'].__code__ = (lambda x: x * 0.25).__code__\n",
}


@pytest.fixture
def notebook():
    module = sys.modules[NAME] = ModuleType(NAME)
    exec(CELLS, vars(module))
    yield module
    del sys.modules[NAME]


@pytest.fixture
def images():
    return np.full((2, 4, 4, 3), 0.8, np.float32)


def apply(defense, images):
    return float(np.mean(defenses.apply(defense, images, key=jax.random.key(0))))


@pytest.mark.parametrize("kind", EDITS)
def test_what_a_defense_reads_is_edited(notebook, images, kind):
    defense = notebook.Defense(kind)
    assert apply(defense, images) == pytest.approx(0.4)
    exec(EDITS[kind], vars(notebook))
    assert apply(defense, images) == pytest.approx(0.2)


def test_an_equal_number_of_another_type_is_an_edit(notebook, images):
    exec("def helper(x):\n    return x / 2 / len(str(2))\n", vars(notebook))
    defense = notebook.Defense("helper")
    assert apply(defense, images) == pytest.approx(0.4)
    exec("def helper(x):\n    return x / 2 / len(str(2.0))\n", vars(notebook))
    assert apply(defense, images) == pytest.approx(0.4 / 3)


def test_arguments_change_their_places(notebook, images):
    exec("def part(x, y):\n    return x - y\ndef helper(x):\n    return part(x, x / 2)\n", vars(notebook))
    defense = notebook.Defense("helper")
    assert apply(defense, images) == pytest.approx(0.4)
    exec("def part(y, x):\n    return x - y\n", vars(notebook))
    assert apply(defense, images) == pytest.approx(0.0)


def test_an_attribute_of_a_namespace_is_edited(notebook, images):
    exec("SPACE.factor = 0.5", vars(notebook))
    defense = notebook.Defense("plan")
    assert apply(defense, images) == pytest.approx(0.2)
    exec("SPACE.factor = 1.0", vars(notebook))
    assert apply(defense, images) == pytest.approx(0.4)


def test_a_class_is_edited_in_place(notebook, images):
    """As IPython's autoreload does."""
    defense = notebook.Defense("helper")
    assert apply(defense, images) == pytest.approx(0.4)
    notebook.Defense.__call__ = lambda self, image, key: image * 0.25
    assert apply(defense, images) == pytest.approx(0.2)


def test_a_function_of_a_module_is_edited(notebook, images, monkeypatch):
    other = ModuleType(f"{NAME}_imported")
    exec("def go(x):\n    return x * 0.5\n", vars(other))
    monkeypatch.setitem(sys.modules, other.__name__, other)
    vars(notebook)["imported"] = other
    exec("def helper(x):\n    return imported.go(x)\n", vars(notebook))
    defense = notebook.Defense("helper")
    assert apply(defense, images) == pytest.approx(0.4)
    exec("def go(x):\n    return x * 0.25\n", vars(other))
    assert apply(defense, images) == pytest.approx(0.2)


def test_nothing_is_compiled_again_without_an_edit(notebook, images):
    """Neither for what the code itself counts, nor for what it does not read."""
    defense = notebook.Defense("other")
    apply(defense, images)
    traced = len(notebook.traced)
    assert traced == notebook.calls
    apply(defense, images)
    exec("unused = 1\ndef unread(x):\n    return x\n", vars(notebook))
    apply(notebook.Defense("other"), images)
    assert len(notebook.traced) == traced


def test_an_attack_is_edited(notebook, images):
    exec(
        """
from srdef import models

SIGN = 1.0

def direction(gradient):
    return SIGN * jnp.sign(gradient)

@flax.struct.dataclass
class Step(attacks.Attack):
    epsilon: float = 0.1
    max_steps = 1

    def init(self, victim, image, label, key):
        return image, image, label

    def step(self, victim, state):
        start, x, label = state
        gradient = jax.grad(lambda x: victim(x, jax.random.key(0))[label])(x)
        return start, start - self.epsilon * direction(gradient), label

    def result(self, state):
        return state[1]

def network(images):
    mean = images.mean((1, 2, 3))
    return GAIN * jnp.stack([mean, -mean], axis=-1)

GAIN = 1.0
model = models.from_function(network, num_classes=2)
""",
        vars(notebook),
    )
    victim = victims.Undefended(notebook.model)
    labels = np.zeros(2, int)

    def change():
        found = attacks.perturb(notebook.Step(), victim, images, labels, key=jax.random.key(0))
        return float(np.mean(found.images - images))

    assert change() == pytest.approx(-0.1, abs=1e-6)
    exec("SIGN = -1.0", vars(notebook))
    assert change() == pytest.approx(0.1, abs=1e-6)
    exec("GAIN = -1.0", vars(notebook))
    assert change() == pytest.approx(-0.1, abs=1e-6)


def test_a_loss_is_edited(notebook, images):
    exec("WEIGHT = 1.0\ndef loss(logits, label):\n    return -WEIGHT * logits[label]\n", vars(notebook))
    model = models.from_function(lambda x: x.mean((1, 2))[:, :2], num_classes=2)
    attack = attacks.fgsm(0.1, loss=notebook.loss)

    def change():
        found = attacks.perturb(
            attack, victims.Undefended(model), images, np.zeros(2, int), key=jax.random.key(0)
        )
        return float(np.mean(found.images[..., 0] - images[..., 0]))

    assert change() == pytest.approx(-0.1, abs=1e-6)
    exec("WEIGHT = -1.0", vars(notebook))
    assert change() == pytest.approx(0.1, abs=1e-6)


def test_a_network_within_a_model_is_edited(notebook, images):
    exec(
        """
class Block(nnx.Module):
    def __call__(self, x):
        return x * 0.5

class Network(nnx.Module):
    def __init__(self):
        self.blocks = nnx.List([Block()])
        self.num_classes = 3

    def features(self, x):
        return self.blocks[0](x)
""",
        vars(notebook),
    )
    network = notebook.Network()
    assert last_hidden_layer(network, images)[0, 0] == pytest.approx(0.4)
    notebook.Block.__call__ = lambda self, x: x * 0.25
    assert last_hidden_layer(network, images)[0, 0] == pytest.approx(0.2)


@pytest.mark.parametrize("kind", ["layer", "function"])
def test_a_layer_of_the_user_in_a_network_of_srdef_is_edited(notebook, images, kind):
    exec(
        """
FACTOR = 0.1

class Layer(nnx.Module):
    def __call__(self, x):
        return 1 + x * FACTOR

def function(x):
    return 1 + x * FACTOR
""",
        vars(notebook),
    )
    network = models.create("squeezenet")
    part = notebook.Layer() if kind == "layer" else nnx.Sequential(nnx.identity, notebook.function)
    network.classifier, network.num_classes = part, 512
    victim = victims.Undefended(network)
    images = np.random.default_rng(0).random((2, 32, 32, 3), np.float32)

    def change():
        result = attacks.perturb(attacks.fgsm(0.1), victim, images, [0, 0], key=jax.random.key(0))
        return np.sign(result.images - images)

    first = change()
    exec("FACTOR = -0.1", vars(notebook))
    assert (change() != first).mean() > 0.5


def test_code_is_not_kept():
    def network(images):
        return images.mean((1, 2))

    model = models.from_function(network, num_classes=3)
    notice_edits(victims.Undefended(model))
    gone = weakref.ref(network)
    del network, model
    gc.collect()
    assert gone() is None
