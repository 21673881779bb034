"""A result is stale when any source that it depends on has changed, and only then."""

import functools
import importlib
import sys
from typing import Any

import flax.struct
import jax
import numpy as np
import pytest
from flax import nnx
from toys import make_experiment

from srdef import attacks, models
from srdef.evaluation.run import Run
from srdef.storage.fingerprint import code_digest, digest

ATTACK = """
from my_package import helpers

class Attack:
    steps = 1
"""


def forget():
    for name in [name for name in sys.modules if name.startswith("my_package")]:
        del sys.modules[name]


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write the package `my_package`, import it, and give the digest of its attack."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "my_package").mkdir()

    def package(attack=ATTACK, helpers="def step(x):\n    return x\n"):
        (tmp_path / "my_package" / "attack.py").write_text(attack)
        (tmp_path / "my_package" / "helpers.py").write_text(helpers)
        importlib.invalidate_caches()
        forget()
        return code_digest(importlib.import_module("my_package.attack").Attack())

    yield package
    forget()


@pytest.mark.parametrize(
    "change",
    [
        {"attack": ATTACK.replace("1", "2")},
        {"helpers": "def step(x):\n    return 2 * x\n"},
    ],
    ids=["own source", "a helper that it imports"],
)
def test_changes_with(write, change):
    before = write()
    assert write() == before
    assert write(**change) != before


SETTINGS = """
TEMPERATURE = 20.0

def steeper(x):
    return 2 * x
"""


@pytest.fixture
def settled(write, tmp_path):
    """Write `my_package` with an attack of the given source and with settings; give the digest of a value."""

    def package(attack, value="Attack()", settings=SETTINGS):
        (tmp_path / "my_package" / "settings.py").write_text(settings)
        write(attack)
        return code_digest(eval(value, vars(sys.modules["my_package.attack"])))

    return package


CLASS = "class Attack:\n    steps = 1\n"
OTHER_SETTINGS = SETTINGS.replace("20.0", "0.5").replace("2 * x", "3 * x")


@pytest.mark.parametrize(
    ("attack", "value"),
    [
        ("from my_package.settings import TEMPERATURE\n" + CLASS, "Attack()"),
        ("from .settings import TEMPERATURE as HOT\n" + CLASS, "Attack()"),
        ("from my_package.settings import *\n" + CLASS, "Attack()"),
        ("import my_package.settings\n" + CLASS, "Attack()"),
        (CLASS + "    def step(self):\n        from my_package.settings import TEMPERATURE\n", "Attack()"),
        (
            "import functools\nfrom my_package.settings import steeper\n" + CLASS,
            "functools.partial(steeper, 1)",
        ),
        ("from my_package.settings import steeper\n" + CLASS, "{'loss': steeper}"),
        ("import jax\nfrom my_package.settings import steeper\n" + CLASS, "jax.jit(steeper)"),
        (
            "from my_package.settings import steeper\nclosed = lambda f: lambda x: f(x)\n" + CLASS,
            "closed(steeper)",
        ),
    ],
    ids=["number", "relative", "star", "module", "within a function", "partial", "dict", "jit", "closure"],
)
def test_sees_what_has_no_module_of_its_own(settled, attack, value):
    before = settled(attack, value)
    assert settled(attack, value) == before
    assert settled(attack, value, OTHER_SETTINGS) != before


READS = """
import json
from pathlib import Path
import numpy as np
FOLDER = Path(__file__).parent
TABLE = {"s": json.loads((FOLDER / "table.json").read_text())}
KERNEL = np.load(FOLDER / "kernel.npy")
UNREAD = object()

class Base:
    def scale(self):
        return TABLE["s"]

def blur(x):
    return KERNEL * x

class Attack(Base):
    def step(self, x):
        return blur(x) * self.scale()
"""


def test_sees_what_modules_have_read_from_files(write, tmp_path):
    folder = tmp_path / "my_package"

    def package(number=0.5, kernel=(1.0, 2.0)):
        (folder / "table.json").write_text(str(number))
        np.save(folder / "kernel.npy", np.array(kernel))
        return write(READS)

    before = package()
    assert package() == before
    assert package(number=0.25) != before
    assert package(kernel=(2.0, 1.0)) != before


def test_sees_a_number_that_srdef_imports():
    """`CPU_BATCH`, say: it has no module of its own either."""
    from srdef.evaluation import batch_sizes
    from srdef.own_code.sources import files_of

    assert {"srdef.memory", "srdef.evaluation.schema"} <= {*files_of(batch_sizes)}


def test_what_is_installed_does_not_count_but_where_it_is_editable(tmp_path, monkeypatch):
    """An editable package has its `.dist-info` in one folder and its source in another."""
    from srdef.own_code import sources

    for folder, place in (("site", "site"), ("venv", "checkout")):
        name = f"my_{place}_package"
        (tmp_path / place).mkdir(exist_ok=True)
        (tmp_path / place / f"{name}.py").write_text("class Attack:\n    pass\n")
        info = tmp_path / folder / f"{name}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "RECORD").write_text(f"{info.name}/METADATA,,\n")
        (info / "top_level.txt").write_text(name + "\n")
    for folder in ("site", "venv", "checkout"):
        monkeypatch.syspath_prepend(tmp_path / folder)
    sources._packages.cache_clear()
    try:
        for place, own in (("site", False), ("checkout", True)):
            name = f"my_{place}_package"
            assert (name in sources.files_of(importlib.import_module(name).Attack())) == own
            assert name in sources._packages()
    finally:
        sources._packages.cache_clear()
        sources._folders.cache_clear()


def test_does_not_change_with_comments_and_docstrings(write):
    documented = ATTACK.replace("class Attack:", '# Why.\nclass Attack:\n    """What."""\n')
    assert write(attack=documented) == write()


def test_sees_objects_inside_others(write):
    alone = write()
    from my_package.attack import Attack

    assert code_digest([Attack()]) == alone
    assert code_digest((Attack(), attacks.fgsm(0.1))) != alone


def test_attacks_have_digests_of_their_own():
    assert code_digest(attacks.fgsm(0.1)) == code_digest(attacks.fgsm(0.2))
    assert code_digest(attacks.fgsm(0.1)) != code_digest(attacks.deepfool())


def test_the_digest_of_a_pytorch_model_is_that_of_its_weights():
    """They are no leaves of the classifier, and results for other weights must not be used again."""
    import torch

    def classifier(seed):
        torch.manual_seed(seed)
        return models.from_torch(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3)).eval())

    assert digest(classifier(0)) == digest(classifier(0))
    assert digest(classifier(0)) != digest(classifier(1))


def scaled(factor):
    return lambda logits, label: factor * logits[label]


class Scale:
    def __init__(self, factor):
        self.factor = factor

    def __call__(self, x):
        return self.factor * x


@flax.struct.dataclass
class Holds:
    static: Any = flax.struct.field(pytree_node=False)


@jax.tree_util.register_pytree_node_class
class Registered(Scale):
    def tree_flatten(self):
        return (), self.factor

    @classmethod
    def tree_unflatten(cls, factor, leaves):
        return cls(factor)


class Network(nnx.Module):
    def __init__(self, static):
        self.static = static


def made_with(factor):
    @flax.struct.dataclass
    class Made:
        def __call__(self, x):
            return factor * x

    return Made()


@pytest.mark.parametrize(
    "value",
    [
        lambda factor: attacks.fgsm(0.1, loss=scaled(factor)),
        lambda factor: attacks.fgsm(0.1, loss=functools.partial(scaled(factor))),
        lambda factor: Holds(Scale(factor)),
        lambda factor: Holds((Scale(np.full(3, factor)), "name")),
        lambda factor: Holds(Scale(factor).__call__),
        lambda factor: Registered(Scale(factor)),
        lambda factor: Network(Scale(factor)),
        lambda factor: Network(scaled(factor)),
        lambda factor: [Network(scaled(factor))],
        made_with,
    ],
)
def test_static_functions_and_objects_count_with_what_they_hold(value):
    """Their text and their source is the same."""
    assert digest(value(1.0)) == digest(value(1.0))
    assert digest(value(1.0)) != digest(value(2.0))


def test_no_attack_gets_the_images_of_another_one(tmp_path):
    """A function of the user's has made both, with other options, which only a closure knows."""
    made = {"up": attacks.fgsm(0.1, loss=scaled(1.0)), "down": attacks.fgsm(0.1, loss=scaled(-1.0))}
    storage = dict.fromkeys(made, "float32")
    run = Run(experiment := make_experiment(attacks=made, storage=storage), experiment.dataset, tmp_path)
    changes = {label: run.adversarial(label).read("images") - run.pixels("clean") for label in made}
    assert (changes["up"] * changes["down"]).sum() < 0


def test_a_static_pytorch_model_keeps_its_digest_when_it_is_used():
    """Graphs that wait for their backward pass are no part of it."""
    import torch

    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3)).eval()
    model = models.from_torch(module, channels_first=False)
    before = digest(Holds(model))
    jax.vjp(model, np.zeros((1, 2, 2, 3), np.float32))
    assert digest(Holds(model)) == before
    with torch.no_grad():
        module[1].bias += 1
    assert digest(Holds(model)) != before
