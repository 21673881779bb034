"""The kinds of fields that a configuration can have: each checks a value and says what it wants."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from srdef import models
from srdef.errors import InputError
from srdef.evaluation.plain_data import (
    LARGEST,
    brief,
    check_annotated,
    is_number,
    is_whole,
    parameters_of,
    refuse,
    rest_of,
    short,
)
from srdef.registry import Registry

Check = Callable[[Any, str], None]


@dataclass(frozen=True)
class Field:
    """One field of a configuration.

    Attributes
    ----------
    text : str
        What it means, in one sentence without a full stop.
    check : callable
        Takes a value and where it was found; InputError if it is none that the field may have.
    optional : bool
        Whether it may be left out.
    fields : mapping
        The fields inside, of a section.
    """

    text: str
    check: Check
    optional: bool = False
    fields: Mapping[str, "Field"] | None = None


def whole(text: str, low: int = 1, high: int = LARGEST, optional: bool = False) -> Field:
    """A whole number in [low, high]."""
    wanted = f"a whole number of at least {low}" + (f" and at most {high}" if high < LARGEST else "")

    def check(value: Any, where: str) -> None:
        if not (is_whole(value) and low <= value <= high):
            refuse(where, wanted, value)

    return Field(text, check, optional)


def number(
    text: str, low: float = 0.0, high: float = math.inf, *, above: bool = False, below: bool = False
) -> Field:
    """A number in [low, high]; `above`, `below`: without these ends."""
    wanted = f"a number {'above' if above else 'of at least'} {low:g}"
    if high < math.inf:
        wanted += f" and {'below' if below else 'at most'} {high:g}"

    def check(value: Any, where: str) -> None:
        good = is_number(value) and (low < value if above else low <= value)
        if not (good and (value < high if below else value <= high)):
            refuse(where, wanted, value)

    return Field(text, check)


def word(text: str, *choices: str, optional: bool = False) -> Field:
    """A string, or one of `choices`."""

    def check(value: Any, where: str) -> None:
        if not isinstance(value, str):
            refuse(where, "a string", value)
        if choices and value not in choices:
            raise InputError(f"{where} is {brief(value)}; choose from: {', '.join(choices)}")

    return Field(text, check, optional)


def or_word(choice: str, text: str, field: Field) -> Field:
    """What `field` takes, or one word."""

    def check(value: Any, where: str) -> None:
        if isinstance(value, str) and value != choice:
            refuse(where, f"a whole number or {choice!r}", value)
        if value != choice:
            field.check(value, where)

    return Field(text, check)


def items(text: str, each: Field, least: int = 0, most: int | None = None, optional: bool = False) -> Field:
    """A list of values that `each` checks."""

    def check(value: Any, where: str) -> None:
        if not isinstance(value, list | tuple) or len(value) < least:
            refuse(where, f"a list of at least {least}" if least else "a list", value)
        if most is not None and len(value) > most:
            refuse(where, f"a list of at most {most}", value)
        for index, item in enumerate(value):
            each.check(item, f"{where}[{index}]")

    return Field(text, check, optional)


def rising(text: str) -> Field:
    """A list of positive ε, each larger than the one before."""
    each = number("", 0, above=True)

    def check(value: Any, where: str) -> None:
        items("", each, least=1).check(value, where)
        if any(a >= b for a, b in pairwise(value)):
            raise InputError(f"{where} must be positive and rising, not {brief(list(value))}")

    return Field(text, check)


def section(text: str, fields: Mapping[str, Field], optional: bool = False) -> Field:
    """A dictionary of exactly these fields."""

    def check(value: Any, where: str) -> None:
        if not isinstance(value, dict):
            refuse(where, f"a dictionary with the fields {', '.join(fields)}", value)
        check_fields(value, fields, where)

    return Field(text, check, optional, fields)


def check_fields(value: Mapping[str, Any], fields: Mapping[str, Field], where: str) -> None:
    """InputError for a field that is unknown or missing, or has a value that it may not have."""
    for name in value:
        if name not in fields:
            raise InputError(f"unknown field {where}.{short(name)}; choose from: {', '.join(fields)}")
    for name, field in fields.items():
        if name in value:
            field.check(value[name], f"{where}.{name}")
        elif not field.optional:
            raise InputError(f"field {where}.{name} is missing")


def labelled(text: str, each: Field, least: int = 1) -> Field:
    """A dictionary of labels of the user's own."""

    def check(value: Any, where: str) -> None:
        if not isinstance(value, dict) or len(value) < least:
            refuse(where, "a dictionary of at least one entry" if least else "a dictionary", value)
        for label, entry in value.items():
            if not label.isprintable() or not label.strip():
                raise InputError(f"{where}: a label must be printable, not {brief(label)}")
            each.check(entry, f'{where}["{short(label)}"]')

    return Field(text, check)


def either(text: str, first: Field, second: Field, decide: Callable[[Any], bool]) -> Field:
    """`first` where `decide` says so of the value, `second` otherwise."""
    return Field(text, lambda value, where: (first if decide(value) else second).check(value, where))


def named(
    text: str,
    registry: Registry,
    extra: Mapping[str, Field],
    given: tuple[str, ...] = (),
    optional: bool = False,
) -> Field:
    """`{"name": NAME, **options}` of something registered.

    Parameters
    ----------
    registry : Registry
        Where the names are.
    extra : mapping
        Fields beside the builder's options.
    given : tuple of str
        Options of the builder that are not the configuration's to give.
    """

    def check(value: Any, where: str) -> None:
        if not isinstance(value, dict) or not isinstance(value.get("name"), str):
            refuse(where, "a dictionary with a `name`", value)
        builder = registry.builder(value["name"])
        parameters = {name: hint for name, hint in parameters_of(builder).items() if name not in given}
        anything = parameters.pop(rest_of(builder), None) is not None
        for option, chosen in value.items():
            if option == "name":
                continue
            if option in extra:
                extra[option].check(chosen, f"{where}.{option}")
            elif option in parameters:
                check_annotated(parameters[option], chosen, f"{where}.{option}")
            elif not anything:
                known = ", ".join([*parameters, *extra]) or "none"
                raise InputError(
                    f"{where}: {registry.kind} {value['name']!r} has no option {short(option)!r}; "
                    f"its options are: {known}"
                )
        for option, field in extra.items():
            if option not in value and not field.optional:
                raise InputError(f"field {where}.{option} is missing")

    return Field(text, check, optional)


def keeps(registry: Registry, extra: Mapping[str, Field], name: str) -> set[str]:
    """The fields that an entry may have beside its name once it is called `name`."""
    known = {*parameters_of(registry.builder(name)), *extra}
    # A model of the user's own has weights of its own.
    own = registry is models.REGISTRY and ":" in name
    return known - ({"pretrained", "weights"} - {*parameters_of(registry.builder(name))} if own else set())
