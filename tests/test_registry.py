import pytest

from srdef.errors import InputError
from srdef.registry import Registry


@pytest.fixture
def registry():
    registry = Registry("fruit")

    @registry.register("apple")
    def apple(size=1, *, colour="red"):
        return ("apple", size, colour)

    return registry


def test_create_passes_options(registry):
    assert registry.create("apple", size=2, colour="green") == ("apple", 2, "green")
    assert registry.names() == ["apple"]


def test_unknown_name_lists_the_names(registry):
    with pytest.raises(InputError, match=r"unknown fruit 'pear'; choose from: apple"):
        registry.create("pear")


def test_unknown_option_lists_the_options(registry):
    with pytest.raises(InputError, match=r"fruit 'apple': .*'taste'; its options are: size, colour"):
        registry.create("apple", taste="sour")


def test_an_error_inside_the_builder_is_not_an_option_error(registry):
    @registry.register("stone")
    def stone():
        raise TypeError("inside")

    with pytest.raises(TypeError, match="inside"):
        registry.create("stone")


def test_registering_again_replaces(registry):
    """As when a notebook's cell is run again."""
    registry.register("apple")(lambda: "another apple")
    assert registry.create("apple") == "another apple"
    assert registry.names() == ["apple"]
