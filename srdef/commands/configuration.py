"""Configurations: found by name or file, changed by `--config.FIELD=VALUE`, and then plain data."""

import difflib
import importlib
import importlib.util
import inspect
import json
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict

import srdef.configs
from srdef import attacks, datasets, defenses, models
from srdef.errors import InputError
from srdef.evaluation import fields, schema
from srdef.evaluation.plain_data import brief, check_plain, literal
from srdef.own_code.by_name import look_in
from srdef.paths import expanded

FOLDER = Path(srdef.configs.__path__[0])

# Modules of that folder that other configurations share.
_PARTS = ("__init__", "common", "paper")


def names() -> list[str]:
    """The configurations that come with srdef."""
    return sorted(file.stem for file in FOLDER.glob("*.py") if file.stem not in _PARTS)


def split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The changes `config.FIELD=VALUE` (also in two words), and all other arguments."""
    changes, others = [], []
    words = iter(arguments)
    for argument in words:
        field = argument.removeprefix("--")
        if not argument.startswith("--") or not field.startswith(("config.", "config[")):
            others.append(argument)
            continue
        if _parse(field)[1] is None:
            field += f"={next(words, '')}"
        changes.append(field)
    return changes, others


def load(text: str) -> dict[str, Any]:
    """The configuration that NAME, NAME:ARGUMENT, FILE.py or FILE.py:ARGUMENT stands for, as plain data.

    Raises
    ------
    InputError
        In one line, for a name or file that is not there, an argument that it does not take, a file that is
        no Python, fails, or gives something else than plain data.
    """
    name, argument = _parts(text)
    if not name.endswith(".py"):
        if name not in names():
            near = difflib.get_close_matches(name, names(), 1)
            raise InputError(
                f"unknown configuration {brief(name)}; {f'did you mean {near[0]}? ' if near else ''}"
                f"choose from: {', '.join(names())}, or give a file that ends in .py"
            )
        file = FOLDER / f"{name}.py"
    else:
        file = expanded(name)
        if not file.is_file():
            known = file.stem in names() and f"; a configuration that comes with srdef: {file.stem}"
            raise InputError(f"configuration {file}: no such file{known or ''}")
    return plain(_call(file, argument))


def _parts(text: str) -> tuple[str, str | None]:
    """What stands before the colon, and the argument behind it; a colon may be part of a folder's name."""
    file, extension, rest = text.partition(".py:")
    if extension:
        return file + ".py", rest
    if text.endswith(".py"):
        return text, None
    name, colon, argument = text.partition(":")
    return name, argument if colon else None


def label(text: str) -> str:
    """A name for a folder: `nips2017-lite2` for nips2017:lite2."""
    name, argument = _parts(text)
    words = Path(name).stem + (f"-{argument}" if argument else "")
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in words)[:100]


def _call(file: Path, argument: str | None) -> Any:
    """What the `get_config` of a file gives."""
    where = f"configuration {file}"
    try:
        module = _module(file)
        get_config = getattr(module, "get_config", None)
        if not callable(get_config):
            raise InputError(f"{where} has no function get_config")
        given = () if argument is None else (argument,)
        try:
            inspect.signature(get_config).bind(*given)
        except TypeError:
            takes = "no argument" if given else "an argument, as in NAME:ARGUMENT"
            raise InputError(f"{where} takes {takes}") from None
        return get_config(*given)
    except (InputError, KeyboardInterrupt):
        raise
    except SyntaxError as error:
        inside = file if error.filename is None else error.filename
        raise InputError(f"configuration {inside}, line {error.lineno}: {error.msg}") from None
    except BaseException as error:  # whatever the code of a user may raise, SystemExit included
        lines = [
            frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)
        ]
        line = f", line {lines[-1]}" if lines else ""
        message = " ".join(str(error).split())[:200]
        raise InputError(f"{where}{line}: {type(error).__name__}: {message}") from None


def _module(file: Path) -> ModuleType:
    if file.resolve().parent == FOLDER.resolve():
        return importlib.import_module(f"srdef.configs.{file.stem}")
    look_in(file.parent)
    spec = importlib.util.spec_from_file_location(f"srdef_configuration_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look for their module there
    spec.loader.exec_module(module)
    return module


def plain(config: Any) -> dict[str, Any]:
    """A ConfigDict or dictionary as plain data, its fields in the order in which they were written.

    Raises
    ------
    InputError
        For a value that JSON cannot hold.
    """
    values = config.to_dict() if isinstance(config, ConfigDict) else config
    if not isinstance(values, dict):
        raise InputError(f"a configuration must be a ConfigDict or a dictionary, not {brief(values)}")
    check_plain(values)
    # `to_dict` sorts the fields.
    text = config.to_json() if isinstance(config, ConfigDict) else json.dumps(config)
    found: dict[str, Any] = json.loads(text)
    return found


def apply(config: dict[str, Any], changes: Sequence[str]) -> None:
    """Change `config` in place by `config.FIELD=VALUE`, one after the other.

    FIELD is a path: `config.dataset.limit`, `config.attacks.FGSM-2.epsilon`,
    `config.attacks["C&W 3x60"].steps`, `config.defenses["WD+SR"][0].sigma`. VALUE is a number (or a fraction
    as 2/255), true, false, none, a text, or a list or dictionary in Python's or JSON's notation, of the kind
    that the field has. The last part of a path may be new, as options that the file leaves out are. A new
    `name` takes along the options that it knows, and drops the others.

    Raises
    ------
    InputError
        For a path that leads nowhere, or a value of another kind.
    """
    for change in changes:
        path, text = _parse(change)
        *parents, last = path
        where, place = "config", config
        for part in parents:
            place = _inside(place, part, where)
            where += _written(part)
        if not isinstance(place, dict | list) or isinstance(place, list) != isinstance(last, int):
            raise InputError(f"{where} has no part {last!r}: it is {brief(place)}")
        old = _inside(place, last, where) if isinstance(last, int) else place.get(last)
        if path == ["batch_size"]:  # a number or a word, whichever the file has; the schema knows which
            old = schema.AUTO if literal(text or "") is None else 1
        new = value(text or "", old, where + _written(last))
        if last == "name" and isinstance(place, dict) and new != old:
            _rename(place, str(new), path)
        place[last] = new  # type: ignore[index]


def _inside(place: Any, part: str | int, where: str) -> Any:
    if isinstance(place, dict) and part in place:
        return place[part]
    if isinstance(place, list) and isinstance(part, int) and part < len(place):
        return place[part]
    known = map(
        str, place if isinstance(place, dict) else range(len(place)) if isinstance(place, list) else ()
    )
    raise InputError(f"{where} has no part {brief(part)}; choose from: {', '.join(known) or 'none'}")


def _written(part: str | int) -> str:
    if isinstance(part, int):
        return f"[{part}]"
    return f".{part}" if part.replace("-", "_").isidentifier() else f'["{part}"]'


def _parse(change: str) -> tuple[list[str | int], str | None]:
    """The parts of the path in `config.a["b"][0]=value`, and the value; None where there is no `=`."""
    path: list[str | int] = []
    rest = change.removeprefix("config")
    while rest and rest[0] != "=":
        if rest[0] == "[":
            inside, bracket, after = _bracket(rest)
            if not bracket:
                raise InputError(f"--{change[:60]}: a bracket is not closed")
            path.append(int(inside) if inside.isdecimal() else inside.strip("\"'"))
            rest = after
        else:
            rest = rest.removeprefix(".")
            end = min((rest.find(c) for c in ".[=" if c in rest), default=len(rest))
            if not end:
                raise InputError(f"--{change[:60]}: a name is missing")
            path.append(rest[:end])
            rest = rest[end:]
    if not path:
        raise InputError(f"--{change[:60]}: a name is missing")
    return path, rest[1:] if rest else None


def _bracket(rest: str) -> tuple[str, str, str]:
    """What stands in the first bracket, in quotes or not, the bracket that closes it, and what follows."""
    quote = rest[1:2]
    if quote in ("'", '"'):
        inside, closing, after = rest[2:].partition(f"{quote}]")
        return f"{quote}{inside}", closing, after
    return rest[1:].partition("]")


def value(text: str, old: Any, where: str) -> Any:
    """The value that `text` stands for in the place of `old`, which tells its kind; of None any.

    Raises
    ------
    InputError
        For text of another kind.
    """
    if isinstance(old, str):
        return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'" else text
    found = literal(text)
    if found is None and text.lower() in ("none", "null"):
        return None
    if old is None:
        return found if found is not None else text
    if isinstance(old, list):
        if not isinstance(found, list | tuple):
            found = [literal(part) if literal(part) is not None else part for part in text.split(",") if part]
        return list(found)
    wanted = {bool: "true or false", int: "a whole number", float: "a number", dict: "a dictionary"}
    if isinstance(old, float) and isinstance(found, int) and not isinstance(found, bool):
        with suppress(OverflowError):
            return float(found)
    if type(old) is int and isinstance(found, float):
        return found  # whether it must be a whole number, the schema knows
    if type(found) is not type(old):
        raise InputError(f"{where} must be {wanted[type(old)]}, not {brief(text)}")
    return found


def _rename(entry: dict[str, Any], name: str, path: Sequence[str | int]) -> None:
    """Drop the options that what is called `name` does not know."""
    registries = {
        "dataset": (datasets.REGISTRY, schema.DATASET),
        "classifier": (models.REGISTRY, schema.MODEL),
        "other_classifier": (models.REGISTRY, schema.MODEL),
        "classifiers": (models.REGISTRY, schema.MODEL),
        "attacks": (attacks.REGISTRY, schema.BESIDE_ATTACK),
        "threats": (attacks.REGISTRY, {}),
        "defenses": (defenses.REGISTRY, schema.BESIDE_DEFENSE),
    }
    kind = "dataset" if path[-2:-1] == ["dataset"] else path[0]  # also that of a patch bank
    if kind in registries:
        known = fields.keeps(*registries[str(kind)], name)
        for option in [option for option in entry if option != "name" and option not in known]:
            del entry[option]
