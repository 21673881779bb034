"""The paper's table: one row a defense, one column an attack, the destruction rate in each cell."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow
import rich.box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from srdef.errors import InputError
from srdef.evaluation.paper_tables import Reference
from srdef.metrics import Rate, destruction_rate, rate

METRIC = "share of the clean-correct images that are classified correctly after attack and defense"
INTERVAL = "95 % Wilson score interval"


@dataclass(frozen=True)
class ResultTable:
    """Destruction rates of one classifier.

    Attributes
    ----------
    classifier : str
        Its name.
    clean : Rate
        Clean accuracy without a defense; `clean.successes` is the denominator of every cell.
    defenses, attacks : tuple of str
        Names of the rows and the columns, in order.
    cells : dict
        The `Rate` by (defense, attack); a pair that was not run is missing.
    seed : int
        Of the run.
    notes : tuple of str
        Lines under the table: how the images were stored, precision, ...
    paper : Reference, optional
        The table of the paper whose numbers stand beside ours.
    """

    classifier: str
    clean: Rate
    defenses: tuple[str, ...]
    attacks: tuple[str, ...]
    cells: dict[tuple[str, str], Rate]
    seed: int
    notes: tuple[str, ...] = ()
    paper: Reference | None = None

    @property
    def header(self) -> str:
        """One line: classifier, clean-correct count and seed."""
        return (
            f"{self.classifier}: {self.clean.successes} of {self.clean.total} images classified correctly "
            f"when clean ({_percent(self.clean.value)} %), seed {self.seed}"
        )

    @property
    def all_notes(self) -> tuple[str, ...]:
        """What the paper's numbers are (and that they are another classifier's), then the notes."""
        if self.paper is None:
            return self.notes
        other = "" if self.paper.classifier == self.classifier else f" Not {self.classifier}."
        return (self.paper.note + other, *self.notes)

    def _published(self, defense: str, attack: str) -> str:
        """The paper's number, as it stands in a cell."""
        percent = self.paper.percent(defense, attack) if self.paper else None
        return "" if percent is None else f"(paper {percent:.1f})"

    def to_rich(self, width: int = 80) -> Group:
        """For a terminal of `width` characters: percent, and under it the interval in whole percents.

        Under that the paper's number, if there is one.

        Attacks that do not fit beside the others go into a second table below.
        """
        label = max((len(defense) for defense in self.defenses), default=0)
        columns = [
            1 + max(len(attack), len("[00–100]"), *(len(self._published(d, attack)) for d in self.defenses))
            for attack in self.attacks
        ]
        blocks: list[list[str]] = [[]]
        used = label + 2
        for attack, column in zip(self.attacks, columns, strict=True):
            if blocks[-1] and used + column > width:
                blocks.append([])
                used = label + 2
            blocks[-1].append(attack)
            used += column
        lines = [f"{METRIC[0].upper()}{METRIC[1:]} [{INTERVAL}].", *self.all_notes]
        return Group(
            Text("Destruction rate (%)", style="bold"),
            Text(self.header),
            *(self._block(block) for block in blocks),
            *(Text(line, style="dim") for line in lines),
        )

    def _block(self, attacks: list[str]) -> Table:
        table = Table(box=rich.box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        table.add_column("", no_wrap=True)
        for attack in attacks:
            table.add_column(Text(attack), justify="right", no_wrap=True)
        for defense in self.defenses:
            cells = []
            for attack in attacks:
                cell = Text(justify="right")
                found = self.cells.get((defense, attack))
                cell.append(_percent(found.value if found else math.nan), style="bold")
                if found:
                    cell.append(f"\n[{100 * found.low:.0f}–{100 * found.high:.0f}]", style="dim")
                if published := self._published(defense, attack):
                    cell.append(f"\n{published}", style="dim")
                cells.append(cell)
            table.add_row(Text(defense), *cells)
        return table

    def to_markdown(self) -> str:
        """A GitHub table: percent with one decimal, the interval, and the paper's number if there is one."""
        lines = [
            f"**Destruction rate (%).** {_escape(self.header)}.",
            "",
            "| | " + " | ".join(_escape(attack) for attack in self.attacks) + " |",
            "|---" + "|---:" * len(self.attacks) + "|",
        ]
        for defense in self.defenses:
            cells = [
                f"{_cell(self.cells.get((defense, attack)))} {self._published(defense, attack)}".rstrip()
                for attack in self.attacks
            ]
            lines.append(f"| {_escape(defense)} | " + " | ".join(cells) + " |")
        sentence = METRIC[0].upper() + METRIC[1:]
        lines += ["", f"{sentence}; in brackets the {INTERVAL}."]
        for note in self.all_notes:
            lines += ["", _escape(note)]
        return "\n".join(lines) + "\n"

    def to_json(self) -> str:
        """All numbers, unrounded; the same table always gives the same text."""
        table: dict[str, Any] = {
            "metric": METRIC,
            "interval": INTERVAL,
            "classifier": self.classifier,
            "seed": self.seed,
            "clean_accuracy": _numbers(self.clean),
            "defenses": list(self.defenses),
            "attacks": list(self.attacks),
            "cells": [
                {"defense": defense, "attack": attack, **_numbers(self.cells[defense, attack])}
                for defense in self.defenses
                for attack in self.attacks
                if (defense, attack) in self.cells
            ],
            "notes": list(self.notes),
        }
        if self.paper:
            table["paper"] = {"table": self.paper.table, "classifier": self.paper.classifier}
            for cell in table["cells"]:
                cell["paper_percent"] = self.paper.percent(cell["defense"], cell["attack"])
        return json.dumps(table, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def build(
    records: pyarrow.Table,
    *,
    seed: int,
    classifier: str | None = None,
    defenses: Sequence[str] | None = None,
    attacks: Sequence[str] | None = None,
    notes: Sequence[str] = (),
    paper: Reference | None = None,
) -> ResultTable:
    """Count the per-image records of one classifier.

    Parameters
    ----------
    records : pyarrow.Table
        One row per (image, classifier, attack, defense); of its columns `image_id`, `classifier`,
        `attack`, `defense`, `correct` and `clean_correct` are read. Images that are not
        clean-correct need a record in one cell only: they count in the clean accuracy.
    seed : int
        Of the run, for the header.
    classifier : str, optional
        Needed if the records hold more than one.
    defenses, attacks : sequence of str, optional
        Rows and columns, in this order; default: all, in the order of their first record.
    notes : sequence of str
        Lines for below the table.
    paper : Reference, optional
        The table of the paper whose numbers are to stand beside ours.

    Raises
    ------
    InputError
        If there are no such records, or a cell lacks some of the clean-correct images or has one
        twice: shares over different images cannot stand in one table.
    """
    needed = ("image_id", "classifier", "attack", "defense", "correct", "clean_correct")
    for name in needed:
        if name not in records.column_names:
            raise InputError(f"records have no column {name!r}; they have: {', '.join(records.column_names)}")
    columns = {name: records[name].to_numpy() for name in needed}
    known: list[str] = list(dict.fromkeys(columns["classifier"]))
    if classifier is None:
        if len(known) != 1:
            raise InputError(
                f"records of {len(known)} classifiers; choose from: {', '.join(known) or 'none'}"
            )
        classifier = known[0]
    if classifier not in known:
        raise InputError(f"no records of classifier {classifier!r}; choose from: {', '.join(known)}")
    ours = columns["classifier"] == classifier
    columns = {name: values[ours] for name, values in columns.items()}

    clean_of = dict(zip(columns["image_id"], columns["clean_correct"], strict=True))
    if any(
        clean_of[i] != flag for i, flag in zip(columns["image_id"], columns["clean_correct"], strict=True)
    ):
        raise InputError(f"records of {classifier} disagree on which images are clean-correct")
    clean = rate(np.array(list(clean_of.values()), bool))

    defenses = _choose("defense", defenses, columns["defense"])
    attacks = _choose("attack", attacks, columns["attack"])
    cells = {}
    for defense in defenses:
        for attack in attacks:
            rows = (columns["defense"] == defense) & (columns["attack"] == attack)
            if not rows.any():
                continue
            found = columns["image_id"][rows & columns["clean_correct"]]
            if len(found) != clean.successes or len(set(found)) != len(found):
                raise InputError(
                    f"records of {classifier}, attack {attack}, defense {defense}: {len(found)} records of "
                    f"{len(set(found))} images for {clean.successes} clean-correct images"
                )
            cells[defense, attack] = destruction_rate(
                columns["clean_correct"][rows], columns["correct"][rows]
            )
    return ResultTable(classifier, clean, defenses, attacks, cells, seed, tuple(notes), paper)


def _choose(kind: str, wanted: Sequence[str] | None, column: np.ndarray) -> tuple[str, ...]:
    known = tuple(dict.fromkeys(column))
    for name in wanted or ():
        if name not in known:
            raise InputError(f"no records of {kind} {name!r}; choose from: {', '.join(known)}")
    return known if wanted is None else tuple(wanted)


def _percent(share: float) -> str:
    return "–" if math.isnan(share) else f"{100 * share:.1f}"


def _cell(found: Rate | None) -> str:
    if found is None or not found.total:
        return "–"
    return f"{_percent(found.value)} [{_percent(found.low)}–{_percent(found.high)}]"


def _numbers(found: Rate) -> dict[str, float | int | None]:
    value = None if math.isnan(found.value) else found.value
    return {**found._asdict(), "value": value}


def _escape(text: str) -> str:
    return text.replace("|", "\\|")
