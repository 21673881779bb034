"""Hashes of what a result depends on: values (`digest`) and source code (`code_digest`)."""

import ast
import hashlib
import re
import sys
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import jax
import numpy as np
from flax import nnx


def code_digest(*objects: Any) -> str:
    """A hash of the source of `objects`, and of all that it imports but installed packages.

    The source of modules, functions, and the classes of all there is in values. Comments, docstrings
    and the place of the files do not count.
    """
    found: dict[str, ModuleType] = {}
    seen: set[int] = set()

    def add(name: str) -> None:
        """A module, and what it imports."""
        module = sys.modules.get(name)
        if module is None or name in found or _installed(name):
            return
        found[name] = module
        for value in vars(module).values():
            add(value.__name__ if isinstance(value, ModuleType) else str(getattr(value, "__module__", "")))

    def visit(value: Any) -> None:
        if id(value) in seen:
            return
        seen.add(id(value))
        if isinstance(value, ModuleType):
            add(value.__name__)
        elif isinstance(value, FunctionType):
            add(value.__module__)
        elif isinstance(value, (list, tuple)):
            for item in value:
                visit(item)
        elif hasattr(value, "__dict__"):
            for base in type(value).__mro__:
                add(base.__module__)
            for item in vars(value).values():
                visit(item)

    visit(objects)
    sha = hashlib.sha256()
    for name in sorted(found):
        file = getattr(found[name], "__file__", None)  # None in a notebook
        if file and Path(file).is_file():
            sha.update(f"{name}\n{_statements(Path(file).read_bytes())}\n".encode())
    return sha.hexdigest()


def _installed(name: str) -> bool:
    """Whether a module is of Python itself or of an installed package that is not srdef."""
    top = name.split(".")[0]
    return top in sys.stdlib_module_names or (top != "srdef" and top in _packages())


@cache
def _packages() -> frozenset[str]:
    return frozenset(packages_distributions())


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

    Networks are taken apart into their attributes and weights.
    """
    if isinstance(tree, nnx.Module):
        graph, state = nnx.split(tree)
        tree = (_without_addresses(graph), nnx.to_pure_dict(state))
    leaves, structure = jax.tree_util.tree_flatten(tree, is_leaf=lambda node: isinstance(node, nnx.Module))
    sha = hashlib.sha256(_without_addresses(structure).encode())
    for leaf in leaves:
        if isinstance(leaf, (nnx.Module, str)):
            sha.update((leaf if isinstance(leaf, str) else digest(leaf)).encode())
            continue
        array = np.asarray(leaf)
        sha.update(f"{array.dtype}{array.shape}".encode())
        sha.update(np.ascontiguousarray(array).tobytes())
    return sha.hexdigest()


def _without_addresses(value: Any) -> str:
    """Its repr, with functions and objects named but not placed: the same in every process."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))
