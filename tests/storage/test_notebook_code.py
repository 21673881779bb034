"""Results depend on code that is in no file, as that of a notebook's cells."""

import os
import subprocess
import sys
from types import ModuleType

import pytest

from srdef.storage.fingerprint import code_digest

CELLS = """
import flax.struct
import jax.numpy as jnp
from flax import nnx

SCALE = 2.0

class Helper:
    offset = 1
    @staticmethod
    def add(x):
        return x + 3

def darker(x):
    return x * 4

@flax.struct.dataclass
class Defense:
    factor: float = 0.5

    @property
    def twice(self):
        return 5 * self.factor

    def __call__(self, image, key):
        image = nnx.relu(image, mode="same") if self.factor is None else image
        return darker(Helper.add(image)) * SCALE * self.twice + Helper().offset

class Derived(Defense):
    \"\"\"The same.\"\"\"

class Network(nnx.Module):
    def __init__(self):
        self.weight = nnx.Param(jnp.ones(2))

    def __call__(self, x):
        return self.weight[...] * x * 6
"""


@pytest.fixture
def run():
    """Run the cells and give the digest of the value of an expression in them."""
    name = "cells_of_a_notebook"

    def digest(cells, expression):
        module = sys.modules[name] = ModuleType(name)
        exec(cells, vars(module))
        return code_digest(eval(expression, vars(module)))

    yield digest
    sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("SCALE = 2.0", "SCALE = 2.5"),
        ("x + 3", "x + 4"),
        ("offset = 1", "offset = 2"),
        ("x * 4", "x / 4"),
        ("5 * self.factor", "6 * self.factor"),
        ("darker(Helper.add(image)) *", "Helper.add(darker(image)) *"),
        ('"same"', '"other"'),
    ],
)
@pytest.mark.parametrize("expression", ["Defense()", "Derived()", "[Defense()]", "Defense().__call__"])
def test_what_a_defense_computes_counts(run, old, new, expression):
    assert old in CELLS
    before = run(CELLS, expression)
    assert run(CELLS, expression) == before
    assert run(CELLS.replace(old, new), expression) != before


def test_what_a_network_computes_counts(run):
    before = run(CELLS, "Network()")
    assert run(CELLS, "Network()") == before
    assert run(CELLS.replace("x * 6", "x * 7"), "Network()") != before


def test_what_explains_and_what_is_not_used_does_not_count(run):
    before = run(CELLS, "Derived()")
    other = (
        CELLS.replace('"""The same."""', '"""Not quite the same, says a longer text."""') + "\nUNUSED = 1\n"
    )
    assert run("# A comment.\n\n" + other, "Derived()") == before


def test_the_same_in_every_process():
    script = f"""
import sys
from types import ModuleType
from srdef.storage.fingerprint import code_digest
module = sys.modules["cells_of_a_notebook"] = ModuleType("cells_of_a_notebook")
exec({CELLS!r}, vars(module))
print(code_digest(module.Derived(), module.Network()))
"""

    def digest(seed):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", script]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    assert digest("1") == digest("2")
