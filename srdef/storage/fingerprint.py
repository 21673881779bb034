"""Hashes of what a result depends on: values (`digest`) and source code (`code_digest`)."""

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from types import FunctionType
from typing import Any

import jax
import numpy as np
from flax import nnx

from srdef.own_code import sources
from srdef.own_code.reach import is_own, members, reach_of, statics, without_addresses


def code_digest(*objects: Any) -> str:
    """A hash of the source of `objects`, and of all that it imports but installed packages.

    See `srdef.own_code.sources`. Comments, docstrings and the place of the files do not count. Of what is
    written in a notebook, which has no file, the compiled code is taken. Of the user's code also all counts
    that it reads: numbers and arrays may come from files that are no source.
    """
    found = sources.files_of(*objects)
    sha = hashlib.sha256()
    for name, file in sorted(found.items()):
        if file is not None:
            source = file.read_bytes()
            text = _statements(source) if file.suffix == ".py" else hashlib.sha256(source).hexdigest()
            sha.update(f"{name}\n{text}\n".encode())
    for line in sorted(set(_of_the_user(objects))):
        sha.update(line.encode())
    return sha.hexdigest()


def _of_the_user(objects: Any) -> Iterator[str]:
    """A line for each function and class of the user's, with what it reads."""
    for value in sources.parts(objects):
        kind = value if isinstance(value, FunctionType | type) else type(value)
        if is_own(kind.__module__):
            bases = kind.__mro__ if isinstance(kind, type) else ()
            own = [members(base) for base in bases if is_own(base.__module__)]
            reach = reach_of(own or kind)
            yield f"{kind.__module__} {kind.__qualname__} {reach.arrays} {reach.values}\n"


@cache
def _statements(source: bytes) -> str:
    """A module's source without comments, docstrings and layout."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [line for line in body if not _is_text(line)]  # type: ignore[attr-defined]
    return ast.dump(tree)


def _is_text(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def digest(tree: Any) -> str:
    """A hash of a pytree: its structure, static fields and every array, bit for bit.

    Networks are taken apart into their attributes and weights. Static functions and objects count with all
    that they hold.
    """
    if isinstance(tree, nnx.Module):
        graph, state = nnx.split(tree)
        tree = (without_addresses(graph), *reach_of(statics(graph)), nnx.to_pure_dict(state))
    leaves, structure = jax.tree_util.tree_flatten(tree, is_leaf=lambda node: isinstance(node, nnx.Module))
    sha = hashlib.sha256(without_addresses(structure).encode())
    sha.update("".join(reach_of(_computed_with(structure))).encode())
    for leaf in leaves:
        if isinstance(leaf, (nnx.Module, str)):
            sha.update((leaf if isinstance(leaf, str) else digest(leaf)).encode())
            continue
        array = np.asarray(leaf)
        sha.update(f"{array.dtype}{array.shape}".encode())
        sha.update(np.ascontiguousarray(array).tobytes())
    return sha.hexdigest()


def _computed_with(structure: Any) -> list[Any]:
    """The classes and static values in a structure, of which its text may give no more than the names."""
    found: list[Any] = []
    waiting = [structure]
    while waiting:
        node = waiting.pop()
        if (data := node.node_data()) is not None:  # of all but leaves
            found += data
            waiting += node.children()
    return found
