"""What the user's code computes with, as one number: its instructions, and the values that they read.

Unlike `reach` this sees all of the user's classes, also those in files, which autoreload edits, and looks at
nothing that their code does not read. It tells two moments of one process apart, and no more.
"""

import dis
import hashlib
import inspect
import weakref
from argparse import Namespace
from collections import UserDict, UserList, deque
from functools import cached_property, lru_cache, partial
from itertools import count
from types import CodeType, FunctionType, MethodType, ModuleType, SimpleNamespace
from typing import Any

import jax
import numpy as np
from flax import nnx

from srdef.own_code.reach import called, codes, instructions, is_own, names_read, slots
from srdef.own_code.sources import closure

_PLAIN = (bool, int, float, complex, str, bytes, type(None), np.generic)
_SEQUENCES = (list, tuple, deque, UserList)
# What srdef asks networks and victims for, beside the members that its own base classes have.
_ASKED_FOR = frozenset(
    {"classifier", "draws", "endpoints", "expected", "features", "image_size", "layers", "num_classes"}
    | {"one_by_one", "scale", "victim", "victims"}
)
# Where code reads one of these it may read any attribute.
_ANY = frozenset({"vars", "getattr", "asdict", "astuple", "__dict__"})
# The function that evaluates a class's annotations holds all of the class (since Python 3.14).
_ANNOTATIONS = frozenset({"__annotate_func__"})
# What dataclasses write themselves names all fields, and computes nothing.
_OF_DATACLASSES = frozenset(
    {"__init__", "__repr__", "__eq__", "__hash__", "__lt__", "__le__", "__gt__", "__ge__"}
    | {"__setattr__", "__delattr__", "__getstate__", "__setstate__", "__replace__"}
    | _ANNOTATIONS
)

_serial = count()
# JAX's arrays, which do not change, and what is not looked into have numbers of their own for as long as they
# live; an address may be another's later.
_numbers: dict[int, tuple[weakref.ref[Any], int]] = {}


def snapshot(*values: Any) -> str:
    """A number for what functions, classes or objects of the user's compute with.

    Of containers, arrays and objects that they read that is what is in them: of objects the attributes that
    some function reads, and of a dictionary that one reads by constant keys alone what is under those.
    """
    taken = _Snapshot()
    taken.go(values)
    return taken.sha.hexdigest()


class _Snapshot:
    def __init__(self) -> None:
        self.sha = hashlib.blake2b(digest_size=16)
        self.seen: dict[int, tuple[int, Any]] = {}
        self.attributes: set[str] = set()
        self.any = False
        self.owners: list[Any] = []  # whose attributes count, where code reads them
        self.waiting: list[Any] = []
        # By the place of an owner.
        self.looked_up: set[tuple[int, str]] = set()

    def go(self, values: Any) -> None:
        self.waiting += values
        while self.waiting:
            while self.waiting:
                self.visit(self.waiting.pop())
            for index, owner in enumerate(self.owners):
                held = _attributes(owner)
                names = held.keys() if self.any and _is_instance(owner) else self.attributes & held.keys()
                for name in sorted(names):
                    if (index, name) not in self.looked_up:
                        self.looked_up.add((index, name))
                        self.note(index, name)
                        self.waiting.append(_called(held[name]))

    def note(self, *words: Any) -> None:
        self.sha.update(repr(words).encode())

    def visit(self, value: Any) -> None:
        if isinstance(value, _PLAIN):
            self.note(type(value).__name__, value)
            return
        if id(value) in self.seen:
            self.note("again", self.seen[id(value)][0])
            return
        self.seen[id(value)] = len(self.seen), value
        kind = type(value)
        self.note(kind.__module__, kind.__qualname__)
        if isinstance(value, jax.Array):
            self.note(_number(value))
        elif isinstance(value, np.ndarray) and value.dtype != object:
            self.note(value.dtype, value.shape, hash(value.tobytes()))
        elif isinstance(value, FunctionType):
            self.function(value)
        elif isinstance(value, type):
            self.note(value.__module__, value.__qualname__)
            if is_own(value.__module__):
                self.class_of_the_user(value)
        elif isinstance(value, ModuleType):
            self.note(value.__name__)
            if is_own(value.__name__):
                self.owners.append(value)
        else:
            self.waiting += self.parts(value)

    def function(self, function: FunctionType) -> None:
        self.note(function.__module__, function.__qualname__)
        held = [*closure(function), *(function.__defaults__ or ())]
        held += (function.__kwdefaults__ or {}).values()
        if is_own(function.__module__):
            self.note(_text(function.__code__))
            names, attributes = names_read(function.__code__)
            self.attributes |= attributes
            self.any |= not _ANY.isdisjoint({*names, *attributes})
            keys, given = _constant_keys(function.__code__), function.__globals__
            for name in names:
                if name in given:
                    self.note(name)
                    held += self.of_keys(given[name], keys[name]) if keys.get(name) else [given[name]]
            held += [part for pair in vars(function).items() for part in pair]
        self.waiting += held

    def of_keys(self, value: Any, keys: frozenset[Any]) -> list[Any]:
        """What is under some keys of a dictionary; else the value itself."""
        if type(value) is not dict:
            return [value]
        return [value.get(key) for key in sorted(keys, key=repr)]

    def class_of_the_user(self, kind: type) -> None:
        """Of all that a class has those members that Python, srdef or the user's code itself asks for."""
        self.owners.append(kind)
        self.waiting += kind.__bases__
        asked = _asked_for(kind)
        written = _OF_DATACLASSES if "__dataclass_fields__" in vars(kind) else _ANNOTATIONS
        for name, member in sorted(vars(kind).items()):
            special = name.startswith("__") and isinstance(_called(member), FunctionType)
            if name in asked or (special and name not in written):
                self.note(name)
                self.waiting.append(_called(member))

    def parts(self, value: Any) -> list[Any]:
        """What is in a value that is no array, function, class or module."""
        kind = type(value)
        if isinstance(value, partial):
            return [value.func, value.args, value.keywords]
        if isinstance(value, MethodType):
            return [value.__self__, value.__func__]
        if isinstance(value, nnx.Variable):
            return [value.get_raw_value()]
        if isinstance(value, np.ndarray):  # of objects
            return [value.shape, value.tolist()]
        found: list[Any] = []
        if isinstance(value, set | frozenset):
            found = [len(value), *sorted(value, key=repr)]
        elif isinstance(value, _SEQUENCES):
            found = [len(value), *value]
        elif isinstance(value, dict | UserDict) or kind.__module__.startswith("ml_collections."):
            found = [len(value), *(part for pair in [*value.items()] for part in pair)]
        if is_own(kind.__module__):
            self.owners.append(value)
            return [*found, kind]
        if isinstance(value, nnx.Module | SimpleNamespace | Namespace):
            return [part for pair in _attributes(value).items() for part in pair]
        if kind.__module__.startswith("torch"):
            return [_number(value), getattr(value, "_version", None)]  # of a tensor, which counts its changes
        wrapped = getattr(value, "__dict__", {}).get("__wrapped__")  # a function, under jax.jit
        if wrapped is not None:
            return [wrapped]
        if kind.__hash__ not in (None, object.__hash__):  # a value, as a path or a fraction
            found.append(repr(value))
        return found or [_number(value)]


@lru_cache(maxsize=4096)
def _text(code: CodeType) -> str:
    """The instructions as text, in which 2 and 2.0 differ."""
    return repr(instructions(code))


@lru_cache(maxsize=256)
def _asked_for(kind: type) -> frozenset[str]:
    """The names that a class has from classes that are not the user's, as those of srdef."""
    others = [base for base in kind.__mro__ if base is not object and not is_own(base.__module__)]
    return _ASKED_FOR.union(*(vars(base).keys() | inspect.get_annotations(base).keys() for base in others))


def _number(value: Any) -> Any:
    known = _numbers.get(id(value))
    if known is None or known[0]() is not value:
        key = id(value)
        try:
            known = weakref.ref(value, lambda gone: _forget(key, gone)), next(_serial)
        except TypeError:  # of a few classes of Python's, as iterators
            return repr(value)
        _numbers[key] = known
    return known[1]


def _forget(key: int, gone: Any) -> None:
    if key in _numbers and _numbers[key][0] is gone:
        del _numbers[key]


def _called(member: Any) -> Any:
    """What a member of a class calls; other objects are not asked, as they may raise anything."""
    if isinstance(member, cached_property):
        return member.func
    return called(member) if isinstance(member, classmethod | staticmethod | property) else member


def _is_instance(owner: Any) -> bool:
    return not isinstance(owner, ModuleType | type)


def _attributes(value: Any) -> dict[str, Any]:
    """The attributes of an object, class or module, but for those that an object keeps for itself."""
    held = dict(getattr(value, "__dict__", {}))
    if not _is_instance(value):
        return held
    kind = type(value)
    held |= {name: getattr(value, name) for name in slots(kind) if hasattr(value, name)}
    return {
        name: part
        for name, part in held.items()
        if not (name.startswith("_pytree__") or isinstance(getattr(kind, name, None), cached_property))
    }


@lru_cache(maxsize=4096)
def _constant_keys(code: CodeType) -> dict[str, frozenset[Any]]:
    """Of global variables that a function reads as `NAME["key"]` alone, with constants: the keys."""
    keys: dict[str, set[Any] | None] = {}
    for part in codes(code):
        steps = [*dis.get_instructions(part)]
        for place, step in enumerate(steps):
            if step.opname not in ("LOAD_GLOBAL", "LOAD_NAME"):
                continue
            key, then = [*steps[place + 1 : place + 3], step, step][:2]
            so_far = keys.setdefault(step.argval, set())
            constant = key.opname in ("LOAD_CONST", "LOAD_SMALL_INT")
            # Since Python 3.14 it is one of the binary operations.
            read = then.opname == "BINARY_SUBSCR" or (then.opname, then.argrepr) == ("BINARY_OP", "[]")
            if so_far is None or not (constant and read):
                keys[step.argval] = None
            else:
                so_far.add(key.argval)
    return {name: frozenset(found) for name, found in keys.items() if found}
