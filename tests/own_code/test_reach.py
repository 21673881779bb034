"""What a function computes with tells it from another one of the same name."""

import pytest

from srdef.own_code.reach import reach_of


def resize(images, *options, **more):
    return images


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
    ],
)
def test_constants_tell_functions_without_a_name_apart(one, other):
    assert reach_of(one) != reach_of(other)
    assert reach_of(one) == reach_of(one)


def test_a_docstring_does_not_count():
    explained.__qualname__ = plain.__qualname__
    assert reach_of(plain) == reach_of(explained)
