"""What the configurations share: the argument behind the colon, and the folder of the NIPS-2017 images."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ml_collections import ConfigDict

from srdef.errors import InputError


@dataclass(frozen=True)
class Key:
    """One key of an argument.

    Attributes
    ----------
    default
        Its value where the argument does not give it.
    parse : callable
        From text to a value; ValueError for text that is none.
    form : str
        What a value looks like, for messages.
    """

    default: Any
    parse: Callable[[str], Any]
    form: str


def choice(*names: str, default: str | None = None) -> Key:
    """A key that is one of `names`, the first by default."""

    def parse(text: str) -> str:
        if text not in names:
            raise ValueError(text)
        return text

    return Key(names[0] if default is None else default, parse, " | ".join(names))


def pair(text: str) -> tuple[int, int]:
    """Two whole numbers of at least 1, as in "3x60"."""
    first, second = text.split("x")  # ValueError for another number of them
    if not (first.isdecimal() and second.isdecimal() and int(first) > 0 and int(second) > 0):
        raise ValueError(text)
    return int(first), int(second)


def budget(default: tuple[int, int] | None = None) -> Key:
    """The budget of C&W as ROUNDSxSTEPS."""
    return Key(default, pair, "ROUNDSxSTEPS")


def parse_arg(argument: str, **keys: Key | bool) -> ConfigDict:
    """The values in `"key=value,key=value"`.

    The idea is that of big_vision's `parse_arg`. A word without `=` is a flag (a key whose default is False)
    or a value of the first key, in the order given, that takes it and has none yet: `"lite0,3x60,downloads"`
    is `"classifier=lite0,cw=3x60,downloads=true"`.

    Raises
    ------
    InputError
        For an unknown word or key, a value of another form, or a key that is given twice.
    """
    found: dict[str, Any] = {}
    for word in filter(None, (part.strip() for part in argument.split(","))):
        key, equals, text = word.partition("=")
        if not equals:
            key, text = _place(word, keys, found), word if word not in keys else "true"
        if key not in keys:
            raise InputError(f"unknown argument {_brief(word)!r}; choose from: {_describe(keys)}")
        if key in found:
            raise InputError(f"argument {argument!r} gives {key} twice")
        found[key] = _parsed(key, keys[key], text)
    defaults = {key: kind.default if isinstance(kind, Key) else kind for key, kind in keys.items()}
    return ConfigDict(defaults | found)


def _place(word: str, keys: dict[str, Key | bool], found: dict[str, Any]) -> str:
    """The key that a bare word belongs to; "" for none."""
    if isinstance(keys.get(word), bool):
        return word
    for key, kind in keys.items():
        if key not in found and isinstance(kind, Key):
            try:
                kind.parse(word)
            except ValueError:
                continue
            return key
    return ""


def _parsed(key: str, kind: Key | bool, text: str) -> Any:
    if isinstance(kind, bool):
        kind = Key(kind, {"true": True, "false": False}.__getitem__, "true | false")
    try:
        return kind.parse(text)
    except (ValueError, KeyError):
        raise InputError(f"argument {key}={_brief(text)}: choose from: {kind.form}") from None


def _describe(keys: dict[str, Key | bool]) -> str:
    return ", ".join(f"{key}={kind.form}" if isinstance(kind, Key) else key for key, kind in keys.items())


def _brief(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."


def nips2017(size: int, **options: Any) -> dict[str, Any]:
    """The images of the NIPS-2017 competition in the folder that SRDEF_NIPS2017 names, or `data/nips2017`."""
    path = os.environ.get("SRDEF_NIPS2017", "data/nips2017")
    return {
        "name": "nips2017",
        "path": path,
        "size": size,
        "offset": 0,
        "stride": 1,
        "limit": None,
        **options,
    }
