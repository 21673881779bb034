"""What a function computes with beside its arguments: the arrays and values that it can reach, hashed.

A compiled program and a stored result hold what a closure or an object held when they were made. Whether
that is still so, only its values tell: the function itself stays the same when its weights are trained.
"""

import dis
import functools
import hashlib
import re
import sys
from collections.abc import Iterator
from functools import cache, lru_cache
from inspect import CO_VARARGS, CO_VARKEYWORDS
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from srdef.own_code import sources

# Python's own modules whose objects are looked into: others, as loggers and locks, hold no weights.
_TRANSPARENT = ("builtins", "collections", "functools", "operator", "types")
_PLAIN = (bool, int, float, complex, str, bytes, type(None))
# Members of classes that compute nothing; the last two since Python 3.14.
_ABOUT = frozenset(
    {"__dict__", "__weakref__", "__doc__", "__firstlineno__", "__static_attributes__"}
    | {"__annotate_func__", "__annotations_cache__"}
)


class Reach(NamedTuple):
    """Hashes of all arrays, and of all else: numbers, names of functions and classes."""

    arrays: str
    values: str


def reach_of(function: Any) -> Reach:
    """What a function, a bound method or an object that is called can reach.

    That is what closures, defaults, `functools.partial`, attributes and containers hold, and of the user's
    own functions also the global variables that they read. Of classes that are written in a notebook that is
    all that they define. The same in every process.
    """
    walk = _Walk()
    walk.go(function)
    return Reach(walk.arrays.hexdigest(), walk.values.hexdigest())


class _Walk:
    def __init__(self) -> None:
        self.arrays, self.values = hashlib.sha256(), hashlib.sha256()
        # By `id`; the values too, as the number of one that is gone may be given again.
        self.seen_arrays: dict[int, tuple[int, Any]] = {}
        self.seen: dict[int, tuple[int, Any]] = {}
        self.attributes = {"__call__"}  # that functions read, so that methods by these names may be called
        self.classes: dict[type, None] = {}
        self.looked_up: set[tuple[type, str]] = set()
        self.waiting: list[Any] = []

    def go(self, value: Any) -> None:
        self.waiting.append(value)
        while self.waiting:
            while self.waiting:
                self.visit(self.waiting.pop())
            pairs = [(kind, name) for kind in self.classes for name in sorted(self.attributes)]
            for pair in pairs:
                if pair not in self.looked_up:
                    self.looked_up.add(pair)
                    self.waiting += [*_of_class(*pair)]

    def note(self, *words: Any) -> None:
        self.values.update(repr(words).encode())

    def visit(self, value: Any) -> None:
        if isinstance(value, _PLAIN):
            self.note(type(value).__name__, value)
            return
        if id(value) in self.seen_arrays:  # it counts which of them it is
            self.note("array")
            self.arrays.update(f"again {self.seen_arrays[id(value)][0]}".encode())
            return
        if id(value) in self.seen:
            self.note("again", self.seen[id(value)][0])
            return
        array = _as_array(value)
        if array is not None:
            self.seen_arrays[id(value)] = len(self.seen_arrays), value
            self.note("array")
            self.arrays.update(f"{array.dtype}{array.shape}".encode())
            self.arrays.update(np.ascontiguousarray(array).tobytes())
            return
        self.seen[id(value)] = len(self.seen), value
        if isinstance(value, jax.core.Tracer):
            self.note("traced", id(value))
        elif isinstance(value, ModuleType):
            self.note(value.__name__)
        elif isinstance(value, type):
            self.note(value.__module__, value.__qualname__)
            # A class that is made in a function may hold in closures what its source does not say.
            if _is_without_file(value.__module__) or (is_own(value.__module__) and "<" in value.__qualname__):
                self.add([*value.__bases__, members(value)])
        elif isinstance(value, FunctionType):
            self.function(value)
        else:
            self.add(self.parts(value))

    def add(self, parts: list[Any]) -> None:
        """Parts of one value; their number tells where those of another begin."""
        self.note(len(parts))
        self.waiting += parts

    def function(self, function: FunctionType) -> None:
        self.note(function.__module__, function.__qualname__, *instructions(function.__code__))
        parts = [function.__defaults__, function.__kwdefaults__, vars(function), *sources.closure(function)]
        if is_own(function.__module__):
            names, attributes = names_read(function.__code__)
            self.attributes |= attributes
            given = function.__globals__
            parts += [given[name] for name in names if name in given]
        self.add(parts)

    def parts(self, value: Any) -> list[Any]:
        """What is in a value that is no array, function, class or module."""
        kind = type(value)
        self.note(kind.__module__, kind.__qualname__)
        if hasattr(kind, "what_is_reached"):  # beside that it holds what changes while it computes
            return [value.what_is_reached()]
        if isinstance(value, functools.partial):
            return [value.func, value.args, value.keywords]
        if isinstance(value, MethodType):
            return [value.__func__, value.__self__]
        if isinstance(value, BuiltinFunctionType):
            self.note(value.__qualname__)
            return [value.__self__]
        if isinstance(value, nnx.Module):
            graph, state = nnx.split(value)
            self.note(without_addresses(graph))
            return [nnx.to_pure_dict(state), statics(graph)]
        if _is_linen(kind):
            return [getattr(value, name) for name in linen_fields(value)]
        if isinstance(value, np.ndarray):  # of objects
            return [value.shape, value.tolist()]
        if kind in (dict, list, tuple, set, frozenset):
            return _items(value)
        if kind.__module__.split(".")[0] in sys.stdlib_module_names and kind.__module__ not in _TRANSPARENT:
            if kind.__hash__ not in (None, object.__hash__):  # a value, as a path or a fraction
                self.note(without_addresses(value))
            return _items(value)
        self.classes.setdefault(kind)
        found = [*getattr(value, "__dict__", {}).items()]
        found += [(name, getattr(value, name)) for name in slots(kind) if hasattr(value, name)]
        wrapped = getattr(value, "__wrapped__", None)  # a function, under jax.jit
        items = _items(value)
        if not (found or items) and wrapped is None:
            self.note(without_addresses(value))
        return [*items, wrapped, *(part for pair in found for part in pair)]


def statics(graph: nnx.GraphDef) -> list[Any]:
    """The attributes of Flax modules that are no weights: functions and objects say little as text."""
    return [part.value for _, part in graph.attributes if isinstance(part, nnx.graphlib.Static)]


def _items(value: Any) -> list[Any]:
    """What is in a container."""
    if isinstance(value, dict):
        return [part for pair in value.items() for part in pair]
    if isinstance(value, set | frozenset):
        return sorted(value, key=without_addresses)
    return [*value] if isinstance(value, list | tuple) else []


def _as_array(value: Any) -> np.ndarray | None:
    """The values of an array of NumPy, JAX or PyTorch that has any here."""
    if isinstance(value, np.ndarray | np.generic):
        return None if value.dtype == object else np.asarray(value)
    if isinstance(value, jax.Array) and not isinstance(value, jax.core.Tracer):
        if value.is_deleted() or not value.is_fully_addressable:
            return None
        if jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
            value = jax.random.key_data(value)
        return np.asarray(value)
    if type(value).__module__.split(".")[0] == "torch" and hasattr(value, "detach"):
        return value.detach().float().cpu().numpy()
    return None


def _of_class(kind: type, name: str) -> Iterator[Any]:
    """What an object finds under a name in its class, if that is the user's own."""
    for base in kind.__mro__:
        if name in vars(base):
            value = vars(base)[name]
            if is_own(base.__module__):
                yield called(value)
            return


def members(kind: type) -> dict[str, Any]:
    """The functions and values of a class itself, but for those that say where it is and what it is for."""
    return {name: called(value) for name, value in vars(kind).items() if name not in _ABOUT}


def called(value: Any) -> Any:
    """What a class method, a static method or a property calls."""
    return getattr(value, "__func__", getattr(value, "fget", value))


def slots(kind: type) -> list[str]:
    """The attributes that objects of a class have beside their dictionary."""
    names = [getattr(base, "__slots__", ()) for base in kind.__mro__]
    each = [name for part in names for name in ((part,) if isinstance(part, str) else part)]
    return [name for name in each if name not in ("__dict__", "__weakref__")]


def _is_linen(kind: type) -> bool:
    return any(base.__module__.startswith("flax.linen") for base in kind.__mro__)


def linen_fields(module: Any) -> list[str]:
    """The fields of a flax.linen module that say what it computes."""
    return [name for name in module.__dataclass_fields__ if name not in ("parent", "name")]


@lru_cache(maxsize=4096)
def names_read(code: CodeType) -> tuple[tuple[str, ...], frozenset[str]]:
    """The global variables that a function and those within it read, and the attributes."""
    names: dict[str, None] = {}
    attributes = set()
    for part in codes(code):
        for instruction in dis.get_instructions(part):
            if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
                names.setdefault(instruction.argval)
            elif instruction.opname in ("LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER_ATTR"):
                attributes.add(instruction.argval)
    return tuple(names), frozenset(attributes)


@lru_cache(maxsize=4096)
def instructions(code: CodeType) -> tuple[Any, ...]:
    """What tells one unnamed function from another: what it does with which names and constants."""
    found: list[Any] = []
    for part in codes(code):
        # The instructions name arguments and not their places, nor say what is within `try`.
        rest = part.co_flags & (CO_VARARGS | CO_VARKEYWORDS)
        counts = part.co_posonlyargcount, part.co_argcount, part.co_kwonlyargcount, rest
        names = part.co_varnames[: sum(counts[1:3]) + rest.bit_count()]
        found += [counts, names, part.co_exceptiontable]
        found += [(x.opname, _constant(x.argval)) for x in dis.get_instructions(part)]
        # Python 3.11 gives the names of keyword arguments by their place among the constants.
        found += [value for value in part.co_consts if isinstance(value, tuple)]
    return tuple(found)


def _constant(value: Any) -> Any:
    if isinstance(value, CodeType):
        return value.co_name
    return sorted(value, key=repr) if isinstance(value, frozenset) else value


def codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from codes(constant)


@cache
def is_own(module: str | None) -> bool:
    """Whether a module is the user's: of a notebook, say, and no installed package's."""
    if module in (None, "__main__"):
        return True
    return module.split(".")[0] != "srdef" and not sources.is_installed(module, sources.file_of(module))


@cache
def _is_without_file(module: str | None) -> bool:
    """Whether a module is the user's and in no file, as a notebook: no hash of its source can be taken."""
    return is_own(module) and (module is None or sources.file_of(module) is None)


def without_addresses(value: Any) -> str:
    """Its repr, with functions and objects named but not placed: the same in every process."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))
