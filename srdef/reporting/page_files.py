"""What the page of an evaluation reads of the files that the run has left, checked: damage is named."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from srdef.errors import InputError
from srdef.evaluation.experiment import CLEAN
from srdef.evaluation.gray_box import RECORDS
from srdef.evaluation.plain_data import Optionally, brief
from srdef.reporting.html import check_kind, damaged, read_json

FILES = ("config.json", "table.json", "attacks.json", "environment.json", "records.parquet")

_NUMBER = int | float
_RATE = {"value": _NUMBER | None, "low": _NUMBER, "high": _NUMBER, "successes": int, "total": int}
_STRENGTH = {
    **{"attack": str, "storage": str, "fooled": _RATE},
    **{"median_linf": _NUMBER | None, "median_l2": _NUMBER | None},
    **{"nonfinite": Optionally(int), "zero_gradient": Optionally(int)},
    **{"store": Optionally(str), "norm": Optionally(str)},
}
KINDS: dict[str, Any] = {
    "config.json": {
        "attacks": {...: {"name": str, "paper": Optionally(str), "storage": Optionally(str)}},
        "defenses": dict,
        "gallery": Optionally({"attack": str}),
    },
    "table.json": {
        **{"classifier": str, "clean_accuracy": _RATE, "metric": str, "interval": str, "seed": int},
        **{"notes": [str], "attacks": [str], "defenses": [str]},
        "cells": [
            {"defense": str, "attack": str, **_RATE, "paper_percent": Optionally(_NUMBER | None)},
        ],
        "paper": Optionally({"table": int, "classifier": str}),
    },
    "attacks.json": [_STRENGTH],
    "environment.json": dict,
}
# The columns of the records that the gallery and the traces read.
_COLUMNS = ("image", "image_id", "label", "attack", "defense", "prediction", "linf")


class Files(NamedTuple):
    """The content of `FILES`, but for `config.json`."""

    table: dict[str, Any]
    strengths: list[dict[str, Any]]
    environment: dict[str, Any]
    records: list[dict[str, Any]]


def read(workdir: Path, config: Mapping[str, Any]) -> Files:
    """The files of a finished evaluation whose `config.json` is `config`.

    Raises
    ------
    InputError
        Names the file and the field, if one is missing, damaged or of another kind, or names an attack or a
        defense that the configuration has not.
    """
    table, strengths, environment = (read_json(workdir, name, kind=KINDS[name]) for name in FILES[1:4])
    attacks, defenses = {CLEAN, *config["attacks"]}, set(config["defenses"])
    table_file, strengths_file = (workdir / name for name in FILES[1:3])
    for cell in (table["clean_accuracy"], *table["cells"], *(row["fooled"] for row in strengths)):
        file = strengths_file if any(cell is row["fooled"] for row in strengths) else table_file
        if (cell["value"] is None) != (cell["total"] == 0):
            raise _wrong(file, f"value is {brief(cell['value'])} where total is {cell['total']}")
    _known(table_file, "attacks", table["attacks"], attacks)
    _known(table_file, "defenses", table["defenses"], defenses)
    _known(strengths_file, "attack", [row["attack"] for row in strengths], attacks)
    return Files(table, strengths, environment, _records(workdir / FILES[4], attacks, defenses))


def _records(file: Path, attacks: Collection[str], defenses: Collection[str]) -> list[dict[str, Any]]:
    if not file.is_file():
        raise InputError(f"no finished evaluation in {file.parent} ({file.name} is missing)")
    try:
        table = pq.read_table(file)
    except (OSError, ValueError) as error:  # pyarrow's errors are of these two
        raise damaged(file, "evaluate", error) from None
    for name in _COLUMNS:
        if name not in table.column_names:
            raise _wrong(file, f"column {name} is missing")
        column, kind = table[name], pa.type_for_alias(RECORDS[name])
        if column.type != kind:
            raise _wrong(file, f"column {name} is of type {column.type}, not {kind}")
        if column.null_count:
            raise _wrong(file, f"column {name} is empty in {column.null_count} rows")
    for name, known in (("attack", attacks), ("defense", defenses)):
        _known(file, f"column {name}", pc.unique(table[name]).to_pylist(), known)
    return table.select(_COLUMNS).to_pylist()


def _known(file: Path, field: str, found: Sequence[str], known: Collection[str]) -> None:
    for name in found:
        if name not in known:
            raise _wrong(file, f"{field}: config.json has no {brief(name)}")


def _wrong(file: Path, problem: str) -> InputError:
    return damaged(file, "evaluate", ValueError(problem))


def check_config(workdir: Path, config: Any) -> None:
    """InputError that names the field, if a `config.json` is not as the page needs it."""
    check_kind(workdir / FILES[0], "evaluate", config, KINDS[FILES[0]])
