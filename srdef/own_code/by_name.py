"""Code of the user's own that a name leads to: `package.module:function`, or `file.py:function`."""

import ast
import hashlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from srdef.errors import InputError, warn
from srdef.paths import expanded

# The modules that names with a colon have led to, by name.
_imported: dict[str, ModuleType] = {}
# The names of the modules, other than srdef's own, that have registered something.
_registering: dict[str, None] = {}
# The folders of configurations, in which `file.py:function` is looked for beside the current one.
_folders: list[Path] = []
# Which file a name has meant in a run that is looked at again.
_places: dict[str, Path] = {}
# What `_search_first` has put at the end of `sys.path`: what is installed comes before.
_added: set[str] = set()


def note(module: str) -> None:
    """Remember a module that has registered something, if it is not one of srdef's own."""
    if module.split(".")[0] not in ("srdef", "__main__"):
        _registering[module] = None


def builder(kind: str, name: str) -> Callable[..., Any]:
    """The function that `MODULE:FUNCTION` or `FILE.py:FUNCTION` names."""
    place, _, function = name.rpartition(":")
    if not place or not function.isidentifier():
        raise InputError(f"{kind} {name!r}: a name with a colon is MODULE:FUNCTION or FILE.py:FUNCTION")
    where = f"{kind} {name!r}"
    module = _file_module(where, name, place) if place.endswith(".py") else _named_module(where, place)
    _imported[name] = module
    found = getattr(module, function, None)
    if not callable(found):
        if found is not None:
            raise InputError(f"{where}: {function} is no function or class, but {type(found).__name__}")
        own = [
            key
            for key, value in vars(module).items()
            if callable(value) and getattr(value, "__module__", None) == module.__name__ and key[0] != "_"
        ]
        raise InputError(f"{where}: {place} has no {function!r}; it has: {', '.join(own) or 'no functions'}")
    result: Callable[..., Any] = found
    return result


def _named_module(where: str, name: str) -> ModuleType:
    top = name.split(".")[0]
    if top in sys.stdlib_module_names:
        raise InputError(
            f"{where}: {top!r} is a module of Python itself; give another name to yours, or its file: "
            f"{name.replace('.', '/')}.py:FUNCTION"
        )
    _search_first(Path.cwd())
    importlib.invalidate_caches()  # it may have been written a moment ago
    with _one_line(where):
        if (another := _another(top, Path.cwd())) is not None:
            if another[1].name != f"{name}.py":
                raise _taken(top, *another)
            return _load(another[1])
        _refuse_mixture(Path.cwd() / f"{name.replace('.', '/')}.py", Path.cwd())
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name and not name.startswith(f"{error.name}."):
                raise  # another one, which it imports
        folders = ", ".join(str(folder) for folder in (Path.cwd(), *_folders))
    raise InputError(f"{where}: no module {name!r}, neither installed nor in {folders}")


def _file_module(where: str, name: str, place: str) -> ModuleType:
    path = expanded(place)
    candidates = [_places[name]] if name in _places else [folder / path for folder in (Path.cwd(), *_folders)]
    for file in candidates:
        if file.is_file():
            with _one_line(where):
                return _load(file)
    raise InputError(f"{where}: no file {candidates[0]}")


@contextmanager
def _one_line(where: str) -> Any:
    """InputError with the place in the source in the stead of whatever the code of a user raises."""
    try:
        yield
    except InputError:
        raise
    except SyntaxError as error:
        raise InputError(f"{where}: {error.filename}, line {error.lineno}: {error.msg}") from None
    except (Exception, SystemExit) as error:
        # The innermost place in code that is neither srdef's nor the import system's.
        frames = [
            frame
            for frame in traceback.extract_tb(error.__traceback__)
            if frame.filename != __file__ and "importlib" not in frame.filename
        ]
        line = f"{frames[-1].filename}, line {frames[-1].lineno}: " if frames else ""
        message = " ".join(str(error).split())[:200]
        raise InputError(f"{where}: {line}{type(error).__name__}: {message}") from None


def _load(file: Path) -> ModuleType:
    """The module in a file, imported under the file's name where that is free."""
    file = file.resolve()
    for module in list(sys.modules.values()):
        if getattr(module, "__file__", None) == str(file):
            return module
    importlib.invalidate_caches()
    name = file.stem
    if name.isidentifier() and name not in sys.modules:
        found = importlib.util.find_spec(name)
        if found is not None and found.origin == str(file):
            return importlib.import_module(name)
    else:
        found = None
    if not name.isidentifier() or name in sys.modules or found is not None:
        words = "".join(c if c.isalnum() else "_" for c in name)
        name = next(n for i in range(len(sys.modules) + 1) if (n := f"own_{words}_{i}") not in sys.modules)
    _refuse_mixture(file, file.parent)
    if file.parent not in _folders and file.parent != Path.cwd():
        _folders.append(file.parent)
    _search_first(file.parent)
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look for their module there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _another(name: str, folder: Path) -> tuple[Path, Path] | None:
    """The file of a module that another folder has given the name of one in `folder`, and the latter's."""
    loaded = getattr(sys.modules.get(name), "__file__", None)
    own = [file for file in (folder / name / "__init__.py", folder / f"{name}.py") if file.is_file()]
    if not loaded or not own:
        return None
    file = Path(loaded).resolve()
    found_in = file.parents[1] if file.name == "__init__.py" else file.parent
    return (file, own[0].resolve()) if found_in != folder.resolve() and str(found_in) in _added else None


def _taken(name: str, loaded: Path, own: Path) -> InputError:
    return InputError(
        f"another module {name!r} is loaded in the place of {own}: {loaded}; start Python again in the "
        "folder that is meant"
    )


def _refuse_mixture(file: Path, folder: Path) -> None:
    """InputError if `file` imports something beside it for which Python would take another folder's."""
    seen, waiting = set(), [file]
    while waiting:
        file = waiting.pop()
        if file in seen or not file.is_file():
            continue
        seen.add(file)
        try:
            tree = ast.parse(file.read_bytes())
        except (SyntaxError, ValueError):
            continue  # which is said when it is imported
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            for name in names:
                top = name.partition(".")[0]
                if (another := _another(top, folder)) is not None:
                    raise _taken(top, *another)
                path = folder / name.replace(".", "/")
                waiting += [path / "__init__.py", path.with_name(f"{path.name}.py")]


def look_in(folder: Path) -> None:
    """Let code of the user be imported from `folder` too, where nothing installed has the same name.

    Of several folders the latest comes first, after the current one.
    """
    folder = folder.resolve()
    if folder in _folders:
        _folders.remove(folder)
    if folder != Path.cwd():
        _folders.insert(0, folder)
    _search_first(folder)


def _search_first(folder: Path) -> None:
    """Put a folder into `sys.path`, after what is installed and before all that came this way."""
    text = str(folder.resolve())
    if text not in sys.path:
        _added.add(text)
    if text in _added:
        before = [entry for entry in sys.path if entry not in _added]
        others = [entry for entry in sys.path if entry in _added and entry != text]
        sys.path[:] = [*before, text, *others]


def imports() -> dict[str, dict[str, str]]:
    """The code of the user that names have led to, or that has registered something.

    Returns
    -------
    dict
        For each name with a colon and each module the `file` and its `sha256`.
    """
    modules = {**_imported, **{name: sys.modules[name] for name in _registering if name in sys.modules}}
    found = {}
    for name, module in modules.items():
        file = getattr(module, "__file__", None)  # None in a notebook
        if file and Path(file).is_file():
            found[name] = {"file": str(Path(file).resolve()), "sha256": _hash(Path(file))}
    return found


def restore(found: Mapping[str, Mapping[str, str]]) -> None:
    """Import what `imports` has listed, from the same files; a warning names what is missing or changed.

    Raises
    ------
    InputError
        If one of the files cannot be imported.
    """
    for name, entry in found.items():
        file = Path(entry["file"])
        problem = "" if file.is_file() else "is not there any more"
        if not problem and _hash(file) != entry["sha256"]:
            problem = "has changed since then"
        if problem:
            warn(f"{file}, which the run imported, {problem}")
        if not file.is_file():
            continue
        place = name.rpartition(":")[0] or name
        with _one_line(name):
            if place.endswith(".py"):
                _places[name] = file
            elif (root := _root(place, file)) is None:
                _load(file)
            else:
                sys.path.insert(0, str(root))
                try:
                    importlib.import_module(place)
                finally:
                    sys.path.remove(str(root))
                look_in(root)


def _root(module: str, file: Path) -> Path | None:
    """The folder from which `module` is imported if it is in `file`; None for one of another name."""
    parts = module.split(".")
    whole = file.parent if file.name == "__init__.py" else file.with_suffix("")
    return whole.parents[len(parts) - 1] if whole.parts[-len(parts) :] == tuple(parts) else None


def _hash(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
