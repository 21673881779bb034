"""What the user's code computes with: an edit of it is seen, and nothing else."""

import re
import sys
import threading
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from types import ModuleType

import jax
import numpy as np
import pytest

from srdef.own_code import edits
from srdef.own_code.snapshot import snapshot

NAME = "cells_that_are_looked_at"

CELLS = """
import collections
import dataclasses
import functools
import heapq
import random

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
from srdef import defenses

CONFIG = {"s": 0.5, "scales": [0.5, 0.25], "unread": 1, "by": {"t": 1}}
TABLE = np.array([0.5, 0.2])
GROUPED = ((0.1, 0.2), 0.3)
QUEUE = collections.deque([1])
FIELDS = ml_collections.ConfigDict({"s": 0.5})
CACHE = {}
history = []
ORDER = [1, 2, 3, 4, 5]

@dataclasses.dataclass(slots=True)
class Slots:
    s: float = 0.5

@dataclasses.dataclass
class Fields:
    s: float = 0.5
    round: int = 0

class Schedule:
    def __init__(self):
        self.sigma = 0.5
        self.calls = 0
        self.rows = []

    def set(self, sigma):
        self.sigma = sigma

    def at(self, x):
        self.calls += 1
        return x * self.sigma

    def best(self):
        return max(self.rows)

    @property
    def doubled(self):
        return 2 * self.sigma

    @functools.cached_property
    def kept(self):
        return TABLE[1]

class Child(Schedule):
    def quadrupled(self):
        return 2 * super().doubled

child = Child()
slots, schedule, other, fields = Slots(), Schedule(), Schedule(), Fields()
method = other.at
optimizer = optax.sgd(0.5)

class Named(dict):
    def __init__(self, **items):
        super().__init__(items)
        self.factor = 0.5

named = Named(factor=1)

def smooth(x):
    return x

def sharpen(x):
    return -x

def make(config):
    return lambda x: x * config["s"]

made = make(CONFIG)
bound = functools.partial(lambda config, x: x, CONFIG)
active = smooth
both = {"smooth": smooth, "sharpen": sharpen}

@functools.wraps(smooth)
def decorated(x):
    return x * CONFIG["s"]

def record(where, value):
    where.append(value)

class Code(defenses.Defense):
    def __call__(self, image, key):
        return BODY

    def summary(self):
        return history, TABLE, CONFIG["unread"]
"""

# The body of `__call__`, and an edit that its results depend on.
EDITED = {
    "at_add": ("image.at[0].add(CONFIG['s'])", "CONFIG['s'] = 0.2"),
    "add": ("jnp.add(image, TABLE[0])", "TABLE[0] = 0.2"),
    "item_of_its_own": ("[dict(x=1).update(x=CONFIG['s']) for _ in (1,)]", "CONFIG['s'] = 0.2"),
    "list": ("[image * w for w in CONFIG['scales']]", "CONFIG['scales'][0] = 0.2"),
    "nested": ("image * CONFIG['by']['t']", "CONFIG['by']['t'] = 2"),
    "super": ("image * child.quadrupled()", "Schedule.doubled = property(lambda self: self.sigma)"),
    "property": ("image * schedule.doubled", "schedule.sigma = 0.25"),
    "cached_property": ("image * schedule.kept", "TABLE[1] = 0.25"),
    "setter": ("image * schedule.sigma", "schedule.set(0.25)"),
    "slots": ("image * slots.s", "slots.s = 0.25"),
    "dataclass": ("image * fields.s", "fields.s = 0.25"),
    "all_fields": ("sum(dataclasses.asdict(fields).values())", "fields.round = 1"),
    "by_name": ("image * getattr(schedule, 'sig' + 'ma')", "schedule.sigma = 0.25"),
    "items_and_attributes": ("image * named.factor", "named.factor = 0.25"),
    "items_beside_attributes": ("image * named.factor * named['factor']", "named['factor'] = 2"),
    "fields": ("image * FIELDS.s", "FIELDS.s = 0.25"),
    "queue": ("image * QUEUE[0]", "QUEUE[0] = 2"),
    "cache": ("CACHE.setdefault(3, 1) * image", "CACHE[3] = 0.01"),
    "closure": ("made(image)", "CONFIG['s'] = 0.2"),
    "partial": ("bound(image)", "CONFIG['s'] = 0.2"),
    "method": ("method(image)", "other.sigma = 0.2"),
    "decorated": ("decorated(image)", "CONFIG['s'] = 0.2"),
    "tuples": ("GROUPED", "GROUPED = ((0.1,), (0.2, 0.3))"),
    "shape": ("image * TABLE", "TABLE.shape = (2, 1)"),
    "swapped": ("active(both['smooth'](both['sharpen'](image)))", "active = sharpen"),
    "optimizer": ("optimizer.update(image, None)", "optimizer = optax.sgd(0.25)"),
    "class": ("image", "Code.__call__ = lambda self, image, key: -image"),
}

# The body, and what happens between two calls that does not change what it computes.
UNCHANGED = {
    "appended": ("image", "history.append(1)"),
    "table_of_summary": ("image", "TABLE[0] = 0.3"),
    "another_key": ("image * CONFIG['s']", "CONFIG['unread'] = 2; CONFIG['new'] = []"),
    "another_attribute": ("schedule.at(image)", "schedule.rows.append(1); schedule.new = 2"),
    "another_field": ("image * fields.s", "fields.round += 1"),
    "equal_array": ("image * TABLE[0]", "TABLE = np.array([0.5, 0.2])"),
    "equal_config": ("image * slots.s", "slots = Slots()"),
    "same_cell": ("smooth(image)", "def smooth(x):\n    return x\n"),
    "another_function": ("image", "def smooth(x):\n    return 2 * x\n"),
}

# What the code itself changes.
WRITING = {
    "append": "history.append(1)",
    "record": "record(history, 1)",
    "push": "heapq.heappush(ORDER, 0)",
    "shuffle": "random.shuffle(ORDER)",
    "copy": "np.copyto(TABLE, np.random.default_rng(len(history)).random(2)), history.append(1)",
    "attribute": "setattr(schedule, 'sigma', schedule.sigma + 1)",
    "counter": "schedule.at(1)",
    "cache": "CACHE.setdefault(len(CACHE), np.ones(2))",
    "key": "CONFIG.update(s=CONFIG['s'] + 1)",
    "variables": "vars(schedule).update(calls=schedule.calls + 1)",
}


@pytest.fixture
def cells(request):
    module = sys.modules[NAME] = ModuleType(NAME)
    exec(CELLS.replace("BODY", request.param), vars(module))
    yield module
    del sys.modules[NAME]


def with_body(cases):
    return pytest.mark.parametrize(("cells", "happens"), [*cases.values()], ids=[*cases], indirect=["cells"])


@with_body(EDITED)
def test_an_edit_of_what_code_reads_is_seen(cells, happens):
    before = snapshot(cells.Code)
    assert snapshot(cells.Code) == before
    exec(happens, vars(cells))
    assert snapshot(cells.Code) != before


@with_body(UNCHANGED)
def test_what_code_does_not_read_is_no_edit(cells, happens):
    before = snapshot(cells.Code)
    exec(happens, vars(cells))
    assert snapshot(cells.Code) == before


@pytest.fixture
def alarms(monkeypatch):
    found = []
    monkeypatch.setattr(jax, "clear_caches", lambda: found.append(1))
    return found


@edits.watched
def call(code):
    edits.notice_edits(code)
    within(code)


@edits.watched
def within(code):
    """As a program that `perturb` calls."""
    code(2.0, None)
    edits.notice_edits(code)


@pytest.mark.parametrize("cells", [*WRITING.values()], ids=[*WRITING], indirect=True)
def test_what_code_changes_itself_is_no_edit(cells, alarms):
    for _ in range(3):
        call(cells.Code())
    assert not alarms
    cells.Code.__call__ = lambda self, image, key: image
    call(cells.Code())
    assert alarms == [1]


def test_a_call_that_fails_is_over(alarms):
    @edits.watched
    def failing(code):
        edits.notice_edits(code)
        raise ValueError

    values = [1]

    def code(image, key):
        return values[0]

    with pytest.raises(ValueError, match=r"^$"):
        failing(code)
    values[0] = 2
    call(code)
    assert alarms == [1]


def test_an_array_that_takes_the_place_of_another():
    """JAX's arrays are told apart as long as they live, and not by their address."""

    def code():
        return array

    array = jax.numpy.ones(3)
    before = snapshot(code)
    assert snapshot(code) == before
    for _ in range(3):
        array = jax.numpy.zeros(3)
        assert snapshot(code) != before
        before = snapshot(code)


@pytest.mark.parametrize("kind", [Path, Fraction, re.compile, Decimal, str])
def test_values_of_other_classes_count(kind):
    def code():
        return value

    value = kind("1")
    before = snapshot(code)
    value = kind("1")
    assert snapshot(code) == before
    value = kind("2")
    assert snapshot(code) != before


def test_an_object_that_takes_the_place_of_another():
    """Often at the same address."""

    def code():
        return value

    value = threading.Lock()
    before = snapshot(code)
    assert snapshot(code) == before
    for _ in range(5):
        value = None
        value = threading.Lock()
        assert snapshot(code) != before
        before = snapshot(code)


def test_strange_objects_are_no_errors():
    class Raises:
        def __getattr__(self, name):
            raise RuntimeError

    class Holds:
        raises = Raises()

    loop: list = []
    loop.append({"loop": loop})
    held = [Raises(), loop, iter([1]), None, sys, ModuleType("empty"), object(), np.array([None]), type]

    def code():
        return held, Holds.raises, Holds().raises

    assert snapshot(code) == snapshot(code)
