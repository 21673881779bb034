"""What a function computes with tells it from another one of the same name."""

import operator
import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from flax import nnx

from srdef.own_code.reach import reach_of


def resize(images, *options, **more):
    return images


def go_on_within(x):
    try:
        y = resize(x)
        z = resize(y)
    except ValueError:
        return x
    return z


def go_on_after(x):
    try:
        y = resize(x)
    except ValueError:
        return x
    else:
        z = resize(y)
    return z


def holding(*values):
    return lambda x: values


class Network(nnx.Module):
    def __init__(self, static):
        self.static = static


class Named(dict):
    def __init__(self, name):
        self.name = name


ONE, OTHER = np.zeros(2), np.ones(2)


def plain(images):
    return resize(images, "cubic")


def explained(images):
    """The same, with a docstring."""
    return resize(images, "cubic")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda x: resize(x, "nearest"), lambda x: resize(x, "cubic")),
        (lambda x: "nearest", lambda x: "cubic"),
        (lambda x: [resize(x, "nearest") for _ in x], lambda x: [resize(x, "cubic") for _ in x]),
        (lambda x: ["nearest" for _ in x], lambda x: ["cubic" for _ in x]),
        (lambda x: 1 in {1, 2}, lambda x: 1 in {1, 3}),
        (lambda x: x * 1j, lambda x: x * 2j),
        (lambda x: x * 1.5, lambda x: x * 2.5),
        (lambda x: x[1:2], lambda x: x[1:3]),
        (lambda x: resize(x, size=2), lambda x: resize(x, scale=2)),
        (lambda x: b"a", lambda x: b"b"),
        (lambda x: lambda: "nearest", lambda x: lambda: "cubic"),
        (lambda x, y: x - y, lambda y, x: x - y),
        (lambda x: resize(x), lambda *x: resize(x)),
        (lambda *x: resize(x), lambda **x: resize(x)),
        (lambda x, *, y: x - y, lambda y, *, x: x - y),
        (go_on_within, go_on_after),
    ],
)
def test_constants_tell_functions_without_a_name_apart(one, other):
    other.__qualname__ = one.__qualname__
    assert reach_of(one) != reach_of(other)
    assert reach_of(one) == reach_of(one)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([[1], 2], [[1, 2]]),
        ([1, [2]], [[1, 2]]),
        ([ONE, ONE, OTHER], [ONE, OTHER, OTHER]),
        ([ONE, 1.0], [1.0, ONE]),
        (Fraction(1, 2), Fraction(1, 3)),
        (Path("one"), Path("other")),
        (re.compile("one"), re.compile("other")),
        (operator.itemgetter(1), operator.itemgetter(2)),
        (Network(holding(1)), Network(holding(2))),
        (Network(Named("one")), Network(Named("other"))),
        (Named("one"), Named("other")),
        (np.array([None] * 2000 + [1] + [None] * 2000), np.array([None] * 2000 + [2] + [None] * 2000)),
    ],
)
def test_what_is_held_tells_functions_apart(one, other):
    assert reach_of(holding(one)) != reach_of(holding(other))
    assert reach_of(holding(one)) == reach_of(holding(one))


def test_an_array_in_the_place_of_another_one_counts():
    """A model that was wrapped looks at the arrays alone: numbers may count its calls."""
    held = [ONE, ONE, OTHER]
    before = reach_of(holding(held))
    held[1] = OTHER
    assert reach_of(holding(held)).arrays != before.arrays


def test_a_docstring_does_not_count():
    explained.__qualname__ = plain.__qualname__
    assert reach_of(plain) == reach_of(explained)
