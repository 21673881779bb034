"""The source files that values and functions come from, and what these import."""

import ast
import functools
import importlib.util
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import distribution, packages_distributions
from pathlib import Path
from types import FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np

_OWN = "srdef"
# Values without parts.
_PLAIN = (int, float, complex, str, bytes, np.ndarray, type(None))


def files_of(*objects: Any) -> dict[str, Path | None]:
    """The modules, by name, whose source `objects` depend on: all but Python's own and installed packages.

    These are the modules of functions, and of the classes of all there is in values; and what those modules
    import. Of a module of the user's own that is every import that it holds, also within functions. Of
    srdef's modules only those at their beginning: what they import on demand is no part of a result. A
    package that is installed in editable mode is the user's own.

    Returns
    -------
    dict
        Without a file: a notebook's, and packages that are only folders.
    """
    found: dict[str, Path | None] = {}
    waiting = [name for value in parts(objects) for name in _modules_of(value)]
    while waiting:
        name = waiting.pop()
        if name in found or name in ("", _OWN):  # srdef itself has its rooms as attributes, loaded or not
            continue
        module, file = sys.modules.get(name), file_of(name)
        if (module is None and file is None) or is_installed(name, file):
            continue
        found[name] = file
        if module is not None:
            waiting += [where for value in vars(module).values() for where in _origin(value)]
        if file is not None:
            waiting += _imported(name, module, file)
    return found


def parts(value: Any) -> Iterator[Any]:
    """A value and all that is in it: items, attributes, and what functions hold."""
    seen: dict[int, Any] = {}  # the values too, as the number of one that is gone may be given again
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, _PLAIN) or id(value) in seen:
            continue
        seen[id(value)] = value
        yield value
        if isinstance(value, ModuleType):
            continue
        if isinstance(value, dict):
            waiting += [*value.keys(), *value.values()]
        elif isinstance(value, list | tuple | set | frozenset):
            waiting += value
        elif isinstance(value, functools.partial):
            waiting += [value.func, value.args, value.keywords]
        elif isinstance(value, MethodType):
            waiting += [value.__func__, value.__self__]
        elif isinstance(value, FunctionType):
            waiting += [value.__defaults__, value.__kwdefaults__, vars(value), *closure(value)]
        else:
            waiting += getattr(value, "__dict__", {}).values()
            if not isinstance(value, type):
                waiting.append(getattr(value, "__wrapped__", None))  # a function, under jax.jit


def closure(function: FunctionType) -> list[Any]:
    """What a function holds of those around it."""
    found = []
    for cell in function.__closure__ or ():
        try:
            found.append(cell.cell_contents)
        except ValueError:  # nothing in it yet
            continue
    return found


def _modules_of(value: Any) -> list[str]:
    """The modules that define a value: a module, a function, a class or an instance of one."""
    if isinstance(value, ModuleType):
        return [value.__name__]
    if isinstance(value, FunctionType):
        return [value.__module__ or ""]
    if isinstance(value, type):
        return [base.__module__ for base in value.__mro__]
    return [base.__module__ for base in type(value).__mro__] if hasattr(value, "__dict__") else []


def _origin(value: Any) -> list[str]:
    """The module that one of a module's names comes from, if the value tells."""
    name = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
    return [name] if isinstance(name, str) else []


def _imported(name: str, module: ModuleType | None, file: Path) -> list[str]:
    """The modules that the statements of one import."""
    try:
        tree = _tree(file.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return []
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    own = name.split(".")[0] == _OWN
    found = []
    for node in tree.body if own else ast.walk(tree):
        if isinstance(node, ast.Import) and not own:
            found += [part for alias in node.names for part in _and_parents(alias.name)]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                try:
                    base = importlib.util.resolve_name("." * node.level + base, package)
                except ImportError:
                    continue
            names = [alias.name for alias in node.names]
            found += _from_own(module, base, names) if base.split(".")[0] == _OWN else _from(base, names)
    return found


def _and_parents(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[: end + 1]) for end in range(len(parts))]


def _from(base: str, names: list[str]) -> list[str]:
    """Of `from base import names` in a module of the user's own: the package, and what may be modules."""
    return [*_and_parents(base), *(f"{base}.{name}" for name in names if name != "*")]


def _from_own(module: ModuleType | None, base: str, names: list[str]) -> list[str]:
    """Of an import from one of srdef's modules: that module, for values that do not tell where they are from.

    A class or function does, and brings its own module and not the package that hands it on.
    """
    values = [vars(module).get(name) for name in names] if module is not None else []
    return [base] if any(not isinstance(x, type | FunctionType | ModuleType) for x in values) else []


def file_of(name: str) -> Path | None:
    """The file of a module's source, which need not be loaded."""
    module = sys.modules.get(name)
    if module is not None:
        found = getattr(module, "__file__", None)
    else:
        spec = _spec(name)
        found = spec.origin if spec is not None and spec.has_location else None
    return Path(found) if found and Path(found).is_file() else None


def _spec(name: str) -> ModuleSpec | None:
    """Where a module would be loaded from; nothing is executed for that."""
    parent = name.rpartition(".")[0]
    try:
        if not parent:
            return importlib.util.find_spec(name)
        package = sys.modules.get(parent)
        above = _spec(parent) if package is None else None
        places = getattr(package, "__path__", None) or (above and above.submodule_search_locations)
        return PathFinder.find_spec(name, list(places)) if places else None
    except (ImportError, AttributeError, ValueError):
        return None


def is_installed(name: str, file: Path | None) -> bool:
    """Whether a module is of Python itself or of an installed package that is not srdef."""
    top = name.split(".")[0]
    if top == _OWN:
        return False
    if top in sys.stdlib_module_names:
        return True
    if file is None:
        return top in _packages()
    if {"site-packages", "dist-packages"} & {*file.parts}:
        return True
    return any(file.is_relative_to(folder) for folder in _folders(top))


@cache
def _packages() -> Mapping[str, list[str]]:
    return packages_distributions()


@cache
def _folders(top: str) -> list[Path]:
    """Where packages that can be imported by this name are installed: no checkouts of editable ones."""
    found = [distribution(name) for name in set(_packages().get(top, ()))]
    return [Path(str(x.locate_file(""))) for x in found if x.read_text("RECORD")]


@cache
def _tree(source: bytes) -> ast.Module:
    return ast.parse(source)
