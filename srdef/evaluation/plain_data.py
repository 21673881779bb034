"""What plain data, as a configuration holds it, can be; compared with the annotations of builders."""

import ast
import inspect
import json
import math
import re
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import PurePath
from typing import Any, Literal, Union, get_args, get_origin

from srdef.errors import InputError

# What JAX's keys and NumPy's arrays can hold.
LARGEST = 2**63 - 1
# `jax.random.key` forgets what is above 32 bits: the key of 2^32 is that of 0.
LARGEST_SEED = 2**32 - 1
DEEPEST = 16
LONGEST_TEXT = 4096

_MISSING = object()


def brief(value: Any) -> str:
    """The repr of a value, shortened to what fits into a message."""
    try:
        text = repr(value)
    except ValueError:  # an integer with more digits than Python writes
        text = "a number of many digits"
    return text if len(text) <= 60 else f"{text[:57]}..."


@dataclass(frozen=True)
class Optionally:
    """The kind of a field that may be missing: see `other_than`."""

    kind: Any


def other_than(kind: Any, value: Any, where: str) -> str:
    """What is not of its kind in plain data that a file holds; empty if all is.

    A kind is a type; a dictionary, which says what the fields are that it needs (or may have: `Optionally`),
    and beside `...` what all are; or a list of one kind, that of every item.
    """
    kind = kind.kind if isinstance(kind, Optionally) else kind
    plain: Any = kind if isinstance(kind, type | types.UnionType) else type(kind)
    if not isinstance(value, plain) or (isinstance(value, bool) and plain is not bool):
        return f"{where} is {brief(value)}"
    if isinstance(kind, dict):
        fields = {**dict.fromkeys(value, kind[...]), **kind} if ... in kind else kind
        parts: Any = ((fields[name], value.get(name, _MISSING), name) for name in fields if name is not ...)
    elif isinstance(kind, list):
        parts = ((kind[0], item, f"an item of {where}") for item in value)
    else:
        return ""
    for inner, item, name in parts:
        if item is _MISSING:
            if isinstance(inner, Optionally):
                continue
            return f"{name} is missing"
        if problem := other_than(inner, item, name):
            return problem
    return ""


def refuse(where: str, wanted: str, value: Any) -> typing.NoReturn:
    raise InputError(f"{where} must be {wanted}, not {brief(value)}")


def is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    return isinstance(value, float) or is_whole(value)


def short(name: Any) -> str:
    """A name that a user gave, for a message."""
    text = str(name)
    return text if len(text) <= 60 else f"{text[:57]}..."


def check_plain(value: Any, where: str = "config", depth: int = 0) -> None:
    """InputError for what JSON cannot hold, numbers not finite or beyond 64 bits, and endless texts."""
    if depth > DEEPEST:
        raise InputError(f"{where[:60]}... is nested too deeply")
    if isinstance(value, dict):
        for name, item in value.items():
            if not isinstance(name, str):
                raise InputError(f"{where}: names must be strings, not {brief(name)}")
            check_plain(item, f"{where}.{short(name)}", depth + 1)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            check_plain(item, f"{where}[{index}]", depth + 1)
    elif isinstance(value, str):
        if len(value) > LONGEST_TEXT:
            raise InputError(f"{where} must be at most {LONGEST_TEXT} characters, not {len(value)}")
        if "\0" in value or any("\ud800" <= c <= "\udfff" for c in value):
            raise InputError(f"{where} holds a character that no text has")
    elif isinstance(value, float):
        if not math.isfinite(value):
            refuse(where, "a finite number", value)
    elif is_whole(value):
        if abs(value) > LARGEST:
            refuse(where, "a number within 64 bits", value)
    elif value is not None and not isinstance(value, bool):
        refuse(where, "a number, a string, a list or a dictionary", value)


@cache
def parameters_of(builder: Any) -> dict[str, Any]:
    """The parameters of a builder with their annotations, `Any` where it says nothing that can be read."""
    try:
        hints = typing.get_type_hints(builder)
    except (NameError, TypeError, AttributeError):
        hints = {}
    return {name: hints.get(name, Any) for name in inspect.signature(builder).parameters}


def rest_of(builder: Any) -> str:
    """What a builder calls its `**options`, which take any; "" for a builder without."""
    kinds = inspect.signature(builder).parameters.items()
    return next((name for name, parameter in kinds if parameter.kind is parameter.VAR_KEYWORD), "")


def check_annotated(annotation: Any, value: Any, where: str) -> None:
    """InputError if plain data cannot be of an annotated type; other types are let through."""
    if not _fits(annotation, value):
        refuse(where, _words(annotation), value)


# What an annotation wants of plain data: who fits, in words.
_KINDS: dict[Any, tuple[Callable[[Any], bool], str]] = {
    bool: (lambda value: isinstance(value, bool), "true or false"),
    int: (is_whole, "a whole number"),
    float: (is_number, "a number"),
    str: (lambda value: isinstance(value, str), "a string"),
    type(None): (lambda value: value is None, "none"),
}


def _kind(annotation: Any) -> Any:
    """`annotation` as one of `_KINDS`, `list`, `dict`, or None for what plain data cannot say."""
    origin = get_origin(annotation) or annotation
    if origin in _KINDS:
        return origin
    if isinstance(origin, type):
        if issubclass(origin, PurePath):
            return str
        if issubclass(origin, list | tuple):
            return list
        if issubclass(origin, Mapping):
            return dict
    return None


def _fits(annotation: Any, value: Any) -> bool:
    origin = get_origin(annotation)
    if annotation is None:
        return value is None
    if origin in (Union, types.UnionType):
        # Arrays and objects stand there for callers in Python; a configuration gives one of the others.
        plain = [part for part in get_args(annotation) if _kind(part) or get_origin(part) is Literal]
        return not plain or any(_fits(part, value) for part in plain)
    if origin is Literal:
        return any(value == choice and type(value) is type(choice) for choice in get_args(annotation))
    kind = _kind(annotation)
    if kind is list:
        parts = get_args(annotation)
        good = isinstance(value, list | tuple)
        if good and len(parts) == 2 and parts[1] is Ellipsis:
            return all(_fits(parts[0], item) for item in value)
        if good and origin is tuple and parts:
            return len(parts) == len(value) and all(map(_fits, parts, value))
        return good and all(_fits(parts[0], item) for item in value) if parts else good
    if kind is dict:
        return isinstance(value, dict)
    return _KINDS[kind][0](value) if kind else True


def _words(annotation: Any) -> str:
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_words(part) for part in get_args(annotation) if _words(part)))
    if origin is Literal:
        return f"one of {', '.join(map(str, get_args(annotation)))}"
    kind = _kind(annotation)
    if kind in _KINDS:
        return _KINDS[kind][1]
    return {list: "a list of values of its kind", dict: "a dictionary"}.get(kind, "")


def literal(text: str) -> Any:
    """A number, fraction, truth value, list or dictionary; None for any other text.

    Zeros before a whole number do not count: `04/255` is 4/255.
    """
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for read in (_python, json.loads, _without_zeros):
        try:
            return read(text)
        except (ValueError, SyntaxError, TypeError, ArithmeticError, MemoryError, RecursionError):
            continue
    return None


def _python(text: str) -> Any:
    """What Python reads in the text, in which fractions are computed."""
    return ast.literal_eval(_Fractions().visit(ast.parse(text.strip(), mode="eval")))


def _without_zeros(text: str) -> Any:
    """What Python reads in numbers that begin with zeros, for which it has no meaning; not within texts."""
    if "'" in text or '"' in text:
        raise ValueError(text)
    return _python(re.sub(r"(?<![\w.])0+(?=\d)", "", text, flags=re.ASCII))


class _Fractions(ast.NodeTransformer):
    """A number in the place of each fraction of numbers, such as 8/255."""

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        """Divide."""
        if not isinstance(node.op, ast.Div):
            return node
        above, below = (ast.literal_eval(self.visit(part)) for part in (node.left, node.right))
        if not (is_number(above) and is_number(below)):
            raise ValueError("no fraction of numbers")
        return ast.Constant(float(above) / float(below))
