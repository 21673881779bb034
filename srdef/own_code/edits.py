"""Edits of the user's code between two calls, which programs that are compiled already would not see.

A compiled program serves a class of attacks, defenses or victims, and has in it what their functions were and
what these read. A cell of a notebook that runs again, IPython's autoreload and an assignment to an entry of a
dictionary change that, and leave the class. What changes within a call the code itself has changed, as a
count of its calls or a list that it fills: that is no edit.
"""

import functools
import threading
from collections.abc import Callable
from functools import partial
from types import FunctionType, MethodType, ModuleType
from typing import Any, ParamSpec, TypeVar
from weakref import WeakKeyDictionary

import jax
from flax import nnx

from srdef.own_code.reach import is_own
from srdef.own_code.snapshot import snapshot
from srdef.own_code.sources import closure

_PLAIN = (bool, int, float, complex, str, bytes, type(None))
# Objects of these packages have no code of the user's in them.
_CLOSED = ("jax", "jaxlib", "numpy", "torch", "keras")

Given = ParamSpec("Given")
Returned = TypeVar("Returned")

# What a class or function computed with at the end of the last call.
_known: WeakKeyDictionary[Any, str] = WeakKeyDictionary()


class _Call(threading.local):
    """The outermost call that runs in a thread, and what was looked at in it."""

    def __init__(self) -> None:
        self.depth = 0
        self.looked_at: dict[int, Any] = {}


_call = _Call()


def notice_edits(*objects: Any) -> None:
    """Let go of all compiled programs if code of the user's that objects depend on is not what it was.

    That is the code of their classes and functions, and what it reads: functions, classes, numbers, and what
    is in containers and objects; see `snapshot`. Call it within a function that is `watched`.

    Parameters
    ----------
    *objects : pytree
        Attacks, defenses and victims.
    """
    edited = False
    for value in _of_the_user(objects):
        if id(value) in _call.looked_at:
            continue
        taken = snapshot(value)
        edited |= _known.get(value, taken) != taken
        _known[value] = taken
        if _call.depth:
            _call.looked_at[id(value)] = value
    if edited:
        jax.clear_caches()


def watched(function: Callable[Given, Returned]) -> Callable[Given, Returned]:
    """A function in which edits are noticed: what has changed when it returns its own code has changed."""

    @functools.wraps(function)
    def call(*args: Given.args, **kwargs: Given.kwargs) -> Returned:
        _call.depth += 1
        try:
            return function(*args, **kwargs)
        finally:
            _call.depth -= 1
            if not _call.depth and _call.looked_at:
                jax.effects_barrier()  # callbacks of the code may still run
                for value in _call.looked_at.values():
                    _known[value] = snapshot(value)
                _call.looked_at.clear()

    return call


def _of_the_user(objects: tuple[Any, ...]) -> list[Any]:
    """The user's classes and functions in objects."""
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
            waiting += [value.__defaults__, value.__kwdefaults__, *closure(value)]
        elif isinstance(value, type | ModuleType) or package in _CLOSED:
            waiting += filter(None, [_wrapped(value)])
        elif package == "srdef" and isinstance(value, nnx.Module):
            waiting += _put_into(value)
        else:
            waiting += getattr(value, "__dict__", {}).values()
    return [*found.values()]


def _put_into(network: nnx.Module) -> list[Any]:
    """The layers and functions of the user's in a network of srdef, which has thousands of its own."""
    found: list[Any] = []
    seen: set[int] = set()
    waiting: list[Any] = [network]
    while waiting:
        part = waiting.pop()
        # Functions and objects have the module that they are from, numbers and arrays that of their type.
        if isinstance(part, partial) or is_own(getattr(part, "__module__", None) or type(part).__module__):
            found.append(part)
        elif isinstance(part, nnx.Module) and id(part) not in seen:
            seen.add(id(part))
            waiting += vars(part).values()
    return found


def _wrapped(value: Any) -> Any:
    """The function that is compiled by `jax.jit`, say; None in other objects."""
    return None if isinstance(value, type) else getattr(value, "__dict__", {}).get("__wrapped__")
