"""The tables of a gray-box run, for the terminal, as Markdown and as JSON.

The paper's table has one row for each defense, one column for each attack, and the accuracy after both in
each cell; the table of the attacks says how strong each of them was against the undefended classifier.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import rich.box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from srdef.evaluation.paper_tables import Reference
from srdef.evaluation.summaries import Strength, Summary, numbers
from srdef.metrics import Rate
from srdef.reporting import labels
from srdef.storage.files import for_json

METRIC = "share of the clean-correct images that are classified correctly after attack and defense"
INTERVAL = "95 % Wilson score interval"


@dataclass(frozen=True)
class ResultTable:
    """Accuracies of one classifier after attack and defense.

    Attributes
    ----------
    summary : Summary
        The numbers.
    seed : int
        The seed of the run.
    notes : tuple of str
        Lines under the table: how the images were stored, precision, ...
    paper : Reference, optional
        The table of the paper whose numbers are shown beside ours.
    """

    summary: Summary
    seed: int
    notes: tuple[str, ...] = ()
    paper: Reference | None = None

    @property
    def header(self) -> str:
        """One line: classifier, clean-correct count and seed."""
        clean = self.summary.clean
        return (
            f"{self.summary.classifier}: {clean.successes} of {clean.total} images classified correctly "
            f"when clean ({_percent(clean.value)} %), seed {self.seed}"
        )

    @property
    def all_notes(self) -> tuple[str, ...]:
        """What the paper's numbers are (and that they are another classifier's), then the notes."""
        if self.paper is None:
            return self.notes
        other = "" if self.paper.classifier == self.summary.classifier else f" Not {self.summary.classifier}."
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
        defenses, attacks = self.summary.defenses, self.summary.attacks
        label = max((len(defense) for defense in defenses), default=0)
        columns = [
            1 + max(len(attack), len("[00–100]"), *(len(self._published(d, attack)) for d in defenses))
            for attack in attacks
        ]
        blocks: list[list[str]] = [[]]
        used = label + 2
        for attack, column in zip(attacks, columns, strict=True):
            if blocks[-1] and used + column > width:
                blocks.append([])
                used = label + 2
            blocks[-1].append(attack)
            used += column
        lines = [f"{METRIC[0].upper()}{METRIC[1:]} [{INTERVAL}].", *self.all_notes]
        return Group(
            Text("Accuracy after attack and defense (%)", style="bold"),
            Text(self.header),
            *(self._block(block) for block in blocks),
            *(Text(line, style="dim") for line in lines),
        )

    def _block(self, attacks: list[str]) -> Table:
        table = Table(box=rich.box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        table.add_column("", no_wrap=True)
        for attack in attacks:
            table.add_column(Text(attack), justify="right", no_wrap=True)
        for defense in self.summary.defenses:
            cells = []
            for attack in attacks:
                cell = Text(justify="right")
                found = self.summary.cells.get((defense, attack))
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
            f"**Accuracy after attack and defense (%).** {labels.cell(self.header)}.",
            "",
            "| " + labels.row(list(self.summary.attacks)),
            "|---" + "|---:" * len(self.summary.attacks) + "|",
        ]
        found = self.summary.cells
        for defense in self.summary.defenses:
            cells = [
                f"{_cell(found.get((defense, attack)))} {self._published(defense, attack)}".rstrip()
                for attack in self.summary.attacks
            ]
            lines.append(labels.row([defense, *cells]))
        sentence = METRIC[0].upper() + METRIC[1:]
        lines += ["", f"{sentence}; in brackets the {INTERVAL}."]
        for note in self.all_notes:
            lines += ["", labels.cell(note)]
        return "\n".join(lines) + "\n"

    def to_json(self) -> str:
        """All numbers, unrounded; the same table always gives the same text."""
        table: dict[str, Any] = {
            "metric": METRIC,
            "interval": INTERVAL,
            "classifier": self.summary.classifier,
            "seed": self.seed,
            "clean_accuracy": numbers(self.summary.clean),
            "defenses": list(self.summary.defenses),
            "attacks": list(self.summary.attacks),
            "cells": [
                {"defense": defense, "attack": attack, **numbers(self.summary.cells[defense, attack])}
                for defense in self.summary.defenses
                for attack in self.summary.attacks
                if (defense, attack) in self.summary.cells
            ],
            "notes": list(self.notes),
        }
        if self.paper:
            table["paper"] = {"table": self.paper.table, "classifier": self.paper.classifier}
            for cell in table["cells"]:
                cell["paper_percent"] = self.paper.percent(cell["defense"], cell["attack"])
        return json.dumps(table, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _percent(share: float) -> str:
    return "–" if math.isnan(share) else f"{100 * share:.1f}"


def _cell(found: Rate | None) -> str:
    if found is None or not found.total:
        return "–"
    return f"{_percent(found.value)} [{_percent(found.low)}–{_percent(found.high)}]"


ATTACKS_HEADER = ("attack", "stored as", "fooled (%)", "median L∞", "median L2")
ATTACKS_CAPTION = (
    "undefended classifier; medians over the images that were fooled; L∞ in levels of 255, L2 on [0, 1]; "
    "uint8: what an 8-bit file would hold"
)


def attack_cells(strength: Strength) -> list[str]:
    """One row of the table of the attacks."""
    linf = "–" if strength.linf is None else labels.number(255 * strength.linf, 3)
    l2 = "–" if strength.l2 is None else labels.number(strength.l2, 3)
    return [strength.attack, strength.storage, _percent(strength.success.value), linf, l2]


def diagnoses(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What went wrong in attacks, a line each; `rows` are `Strength.numbers()`."""
    words = {
        "nonfinite": "a gradient, a loss or a logit was not finite (it counts as zero, or as no success)",
        "zero_gradient": "a gradient was exactly zero: without one the attack is blind, and what it leaves "
        "is no robustness",
    }
    return [
        f"Warning: {row['attack']} (stored as {row['storage']}): for {row[name]} of {row['fooled']['total']} "
        f"images {meaning}."
        for name, meaning in words.items()
        for row in rows
        if row.get(name)
    ]


def attacks_to_rich(strengths: Sequence[Strength]) -> Group:
    """For the terminal: how strong the attacks were, and what went wrong in them."""
    table = Table(title="Attacks", caption=ATTACKS_CAPTION, box=rich.box.SIMPLE_HEAD)
    for name in ATTACKS_HEADER:
        table.add_column(name, justify="left" if name in ATTACKS_HEADER[:2] else "right")
    for strength in strengths:
        table.add_row(*attack_cells(strength))
    return Group(table, *(Text(line, "bold red") for line in diagnoses([s.numbers() for s in strengths])))


def attacks_to_markdown(strengths: Sequence[Strength]) -> str:
    """A GitHub table, and under it what went wrong."""
    lines = ["**Attacks.**", "", "| " + " | ".join(ATTACKS_HEADER) + " |", "|---|---|---:|---:|---:|"]
    lines += [labels.row(attack_cells(strength)) for strength in strengths]
    lines += ["", ATTACKS_CAPTION[0].upper() + ATTACKS_CAPTION[1:] + "."]
    for line in diagnoses([strength.numbers() for strength in strengths]):
        lines += ["", f"> {labels.cell(line)}"]
    return "\n".join(lines) + "\n"


def attacks_to_json(
    strengths: Sequence[Strength], stores: Mapping[str, str], norms: Mapping[str, str] | None = None
) -> str:
    """All numbers, unrounded, and for each attack the name of the folder that holds its images.

    `norms` are those of balls that are not of L∞, by attack.
    """
    balls = {attack: {"norm": norm} for attack, norm in (norms or {}).items()}
    rows = [
        {**strength.numbers(), **balls.get(strength.attack, {}), "store": stores[strength.attack]}
        for strength in strengths
    ]
    return json.dumps(for_json(rows), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
