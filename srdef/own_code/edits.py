"""Edits of the user's code between two calls, which programs that are compiled already would not see.

A compiled program serves a class of attacks, defenses or victims, and has in it what their functions were.
A cell of a notebook that runs again, and IPython's autoreload, change the functions and numbers that these
read, and leave the class. So do an assignment to an entry of a dictionary and more training of a network.
"""

import dis
from argparse import Namespace
from collections.abc import Mapping, MutableMapping, MutableSequence, MutableSet, Sequence, Set
from functools import cached_property, lru_cache, partial
from types import CodeType, FunctionType, MethodType, ModuleType, SimpleNamespace
from typing import Any
from weakref import WeakKeyDictionary

import jax
import numpy as np
from flax import nnx

from srdef.own_code.reach import called, codes, instructions, is_own, names_read

_PLAIN = (bool, int, float, complex, str, bytes, type(None))
# Objects of these packages have no code of the user's in them.
_CLOSED = ("jax", "jaxlib", "numpy", "torch", "keras")
# What changes a container.
_CHANGES = {"sort", *dir(MutableSequence), *dir(MutableMapping), *dir(MutableSet)}
_CHANGES -= {*dir(Sequence), *dir(Mapping), *dir(Set)}

# What a class or function was made of when it was last used. Those that nobody has any more go.
_known: WeakKeyDictionary[Any, list[Any]] = WeakKeyDictionary()


def notice_edits(*objects: Any) -> None:
    """Let go of all compiled programs if code of the user's that objects depend on is not what it was.

    That is the code of their classes and functions, and the functions, classes, numbers and objects that it
    reads from its modules: another value under the same name is an edit, and so is another one in a container
    or an object of the user's. What the code itself writes, as a count of its calls, is none.

    Parameters
    ----------
    *objects : pytree
        Attacks, defenses and victims.
    """
    edited = False
    for value in _of_the_user(objects):
        made_of = _Made(value).of
        edited |= _known.get(value, made_of) != made_of
        _known[value] = made_of
    if edited:
        jax.clear_caches()


def _of_the_user(objects: tuple[Any, ...]) -> list[Any]:
    """The user's classes and functions in objects.

    srdef's own networks, which have thousands of parts, are not looked into.
    """
    found: dict[int, Any] = {}
    seen: set[int] = set()
    waiting = [*objects]
    while waiting:
        value = waiting.pop()
        if isinstance(value, _PLAIN) or id(value) in seen:
            continue
        seen.add(id(value))
        kind = value if isinstance(value, type | FunctionType) else type(value)
        package = (kind.__module__ or "").split(".")[0]
        if is_own(kind.__module__):
            found[id(kind)] = kind
        if isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, list | tuple):
            waiting += value
        elif isinstance(value, partial):
            waiting += [value.func, value.args, value.keywords]
        elif isinstance(value, MethodType):
            waiting += [value.__self__, value.__func__]
        elif isinstance(value, FunctionType):
            waiting += [value.__defaults__, value.__kwdefaults__, *_closure(value)]
        elif isinstance(value, type | ModuleType) or package in _CLOSED:
            waiting += filter(None, [_wrapped(value)])
        elif package != "srdef" or not isinstance(value, nnx.Module):
            waiting += getattr(value, "__dict__", {}).values()
    return [*found.values()]


class _Same:
    """Something that is equal to itself only."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.value is other.value

    __hash__ = None  # type: ignore[assignment]


class _Made:
    """What a class or function of the user's, and all of the user's that these read, are made of.

    Attributes
    ----------
    of : list
        By the names under which they are read: instructions of functions, numbers, and other objects.
    """

    def __init__(self, start: Any) -> None:
        self.of: list[tuple[str, Any]] = []
        self.seen: dict[int, Any] = {}
        self.written: set[str] = set()
        self.filled: set[str] = set()
        self.attributes: set[str] = set()  # that are read, and may be functions of modules
        self.modules: list[ModuleType] = []
        self.waiting: list[tuple[str, Any]] = [("", start)]
        looked_up: set[tuple[str, str]] = set()
        while self.waiting:
            while self.waiting:
                self.visit(*self.waiting.pop())
            for module in self.modules:
                for name in sorted(self.attributes & vars(module).keys()):
                    if (module.__name__, name) not in looked_up:
                        looked_up.add((module.__name__, name))
                        self.waiting.append((name, vars(module)[name]))
        left_out = self.written | {f"{name}[]" for name in self.filled | self.written}
        self.of = [(name, value) for name, value in self.of if name not in left_out]

    def visit(self, name: str, value: Any) -> None:
        if isinstance(value, (*_PLAIN, frozenset)):
            self.of.append((name, (type(value), repr(value))))
            return
        if id(value) in self.seen:
            return
        self.seen[id(value)] = value
        if isinstance(value, tuple):
            self.waiting += [(name, part) for part in value]
        elif isinstance(value, classmethod | staticmethod | property):
            self.waiting.append(("", called(value)))
        elif isinstance(value, FunctionType) and is_own(value.__module__):
            self.function(value)
        elif isinstance(value, type) and is_own(value.__module__):
            self.waiting += [("", base) for base in value.__bases__]
            self.waiting += [pair for pair in vars(value).items() if _is_code(*pair)]
        elif isinstance(value, ModuleType) and is_own(value.__name__):
            self.modules.append(value)
        else:
            self.of.append((name, _Same(value)))
            if isinstance(value, partial):
                self.waiting.append(("", value.func))
            elif (inner := _wrapped(value)) is not None:
                self.waiting.append(("", inner))
            elif is_own(type(value).__module__):
                self.waiting.append(("", type(value)))
            self.waiting += _within(name, value)

    def function(self, function: FunctionType) -> None:
        """What it reads; of what its closure holds only code, as no edit changes the rest."""
        code = function.__code__
        self.of.append(("", _text(code)))
        names, attributes = names_read(code)
        self.attributes |= attributes
        self.written |= _names_written(code)
        self.filled |= _names_filled(code)
        given = function.__globals__
        self.waiting += [(name, given[name]) for name in names if name in given]
        self.waiting += [("", value) for value in function.__defaults__ or ()]
        self.waiting += (function.__kwdefaults__ or {}).items()
        self.waiting += [
            ("", value) for value in _closure(function) if isinstance(value, FunctionType | type)
        ]


def _within(name: str, value: Any) -> list[tuple[str, Any]]:
    """What is in an object whose items or attributes may be set, by name: `name[]` for items."""
    items = name if name.endswith("[]") else f"{name}[]"
    if isinstance(value, np.ndarray) and value.dtype != object:
        return [(items, hash(value.tobytes()))]
    if isinstance(value, nnx.Variable):
        return [(items, value.get_raw_value())]
    if isinstance(value, dict):
        return [(items, part) for pair in [*value.items()] for part in pair]
    if isinstance(value, list | set):
        return [(items, part) for part in [*value]]
    if isinstance(value, nnx.Module | SimpleNamespace | Namespace) or is_own(type(value).__module__):
        return [pair for pair in [*getattr(value, "__dict__", {}).items()] if _is_set(value, pair[0])]
    return []


def _is_set(value: Any, name: str) -> bool:
    """Whether an attribute is none that an object keeps for itself."""
    kept = isinstance(getattr(type(value), name, None), cached_property)
    return not kept and not name.startswith("_pytree__")


def _closure(function: FunctionType) -> list[Any]:
    found = []
    for cell in function.__closure__ or ():
        try:
            found.append(cell.cell_contents)
        except ValueError:  # nothing in it yet
            continue
    return found


def _wrapped(value: Any) -> Any:
    """The function that is compiled by `jax.jit`, say; None in other objects."""
    return None if isinstance(value, type) else getattr(value, "__dict__", {}).get("__wrapped__")


def _is_code(name: str, value: Any) -> bool:
    """Whether a member of a class has to do with what it computes: it is no note about the class."""
    return not name.startswith("__") or isinstance(called(value), FunctionType)


@lru_cache(maxsize=4096)
def _text(code: CodeType) -> str:
    """The instructions as text, in which 2 and 2.0 differ."""
    return repr(instructions(code))


@lru_cache(maxsize=4096)
def _names_written(code: CodeType) -> frozenset[str]:
    """The global variables and attributes that a function and those within it set; not of what they make."""
    found = set()
    for part in codes(code):
        made = part.co_varnames[:1] if part.co_name in ("__init__", "__post_init__") else ()
        on: Any = None
        for instruction in dis.get_instructions(part):
            sets = {"STORE_GLOBAL"} if on in made else {"STORE_GLOBAL", "STORE_ATTR"}
            if instruction.opname in sets:
                found.add(instruction.argval)
            # Python 3.13 loads two variables at once.
            on = instruction.argval
            on = on[-1] if on and isinstance(on, tuple) else on
    return frozenset(found)


@lru_cache(maxsize=4096)
def _names_filled(code: CodeType) -> frozenset[str]:
    """The global variables and attributes that may hold containers which a function changes.

    These are all that it reads beside an assignment to an item or a method as `append`.
    """
    found: set[str] = set()
    for part in codes(code):
        steps = [(x.opname, x.argval) for x in dis.get_instructions(part)]
        read = {x for name, x in steps if name in ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_ATTR", "LOAD_METHOD")}
        if read & _CHANGES or {"STORE_SUBSCR", "DELETE_SUBSCR", "STORE_SLICE"} & {name for name, _ in steps}:
            found |= read
    return frozenset(found)
