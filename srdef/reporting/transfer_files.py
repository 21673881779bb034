"""What a transfer matrix leaves: tables, numbers and a heat map."""

from pathlib import Path
from typing import Any

import numpy as np
import rich.box
from rich.table import Table

from srdef.attacks import arithmetic
from srdef.evaluation.experiment import CLEAN
from srdef.evaluation.transfer_matrix import Matrix
from srdef.reporting import labels, style
from srdef.storage import results
from srdef.storage.files import canonical_json, for_json, save_figure

_CELL = (0.5, 0.22)  # inches


def write(workdir: Path, matrix: Matrix) -> None:
    """Write `transfer.md`, `transfer.json`, and `transfer.png` and `.pdf`."""
    results.write(workdir, {"transfer.md": to_markdown(matrix), "transfer.json": to_json(matrix)})
    for ending in ("png", "pdf"):
        save_heat_map(workdir / f"transfer.{ending}", matrix)


def summary(matrix: Matrix) -> list[list[str]]:
    """For each attack the mean shares over the pairs, in percent: the source itself, and the others."""
    header = ["attack"]
    for defense in matrix.defenses:
        header += [f"{defense}: itself", f"{defense}: others"]
    rows = [header]
    for attack in matrix.attacks:
        cells = [attack]
        for defense in matrix.defenses:
            cells += [f"{100 * matrix.mean(attack, defense, itself=same):.1f}" for same in (True, False)]
        rows.append(cells)
    return rows


def to_rich(matrix: Matrix) -> Table:
    """The summary, for the terminal."""
    title = f"Misclassified in %, mean over sources and targets, {matrix.images} images"
    table = Table(title=title, box=rich.box.SIMPLE_HEAD)
    header, *rows = summary(matrix)
    for name in header:
        table.add_column(name, justify="left" if name == "attack" else "right")
    for row in rows:
        table.add_row(*row)
    return table


def to_markdown(matrix: Matrix) -> str:
    """The summary, and for each defense every pair with its interval."""
    parts = [
        "**Misclassified adversarial images (%), mean over the pairs of source and target.** "
        f"{matrix.images} images that all classifiers classify correctly when clean and undefended.\n\n"
        + _markdown(summary(matrix))
    ]
    for defense in matrix.defenses:
        rows = [["attack", "source", *(f"on {target}" for target in matrix.classifiers)]]
        for source, attack in _pairs(matrix):
            found = (matrix.cells[source, attack, target, defense] for target in matrix.classifiers)
            cells = [f"{100 * cell.value:.0f} [{100 * cell.low:.0f}–{100 * cell.high:.0f}]" for cell in found]
            rows.append([attack, source, *cells])
        parts.append(
            f"**{defense}: misclassified (%), in brackets the 95 % Wilson interval.**\n\n{_markdown(rows, 2)}"
        )
    if steps := arithmetic.note(matrix.arithmetic):
        parts.append(f"{steps}\n")
    return "\n".join(parts)


def to_json(matrix: Matrix) -> str:
    """Every cell with its counts and interval."""
    cells: list[dict[str, Any]] = [
        {"source": source, "attack": attack, "target": target, "defense": defense, **found._asdict()}
        for (source, attack, target, defense), found in matrix.cells.items()
    ]
    return canonical_json(for_json({"images": matrix.images, "cells": cells})) + "\n"


def save_heat_map(path: Path, matrix: Matrix) -> None:
    """Draw a panel for each source and defense: attacks by targets, in percent; darker is fewer.

    The file's ending decides its format (png, pdf, svg).
    """
    attacks = (CLEAN, *matrix.attacks)
    wide, tall = len(matrix.classifiers), len(matrix.defenses)
    width = 1.2 + wide * (0.3 + _CELL[0] * wide)
    height = 0.5 + tall * (0.9 + _CELL[1] * len(attacks))
    with style.styled():
        figure = style.new_figure(width, height)
        panels = figure.subplots(tall, wide, squeeze=False, sharex=True, sharey=True)
        for row, defense in zip(panels, matrix.defenses, strict=True):
            for panel, source in zip(row, matrix.classifiers, strict=True):
                shares = np.array(
                    [
                        [_at(matrix, source, attack, target, defense) for target in matrix.classifiers]
                        for attack in attacks
                    ]
                )
                shown = panel.imshow(shares, cmap=style.SEQUENTIAL, vmin=0, vmax=100, aspect="auto")
                for (i, j), share in np.ndenumerate(shares):
                    colour = "black" if share > 60 else "white"
                    panel.text(j, i, f"{share:.0f}", ha="center", va="center", color=colour, fontsize=7)
                panel.set_title(labels.drawn(f"from {source}\n{defense}"))
                targets = [labels.drawn(target) for target in matrix.classifiers]
                panel.set_xticks(range(wide), targets, rotation=30, ha="right")
                panel.set_yticks(range(len(attacks)), [labels.drawn(attack) for attack in attacks])
                panel.tick_params(length=0)
        figure.supxlabel("target", fontsize=8)
        bar = figure.colorbar(shown, ax=panels, shrink=0.6, aspect=30)
        bar.set_label(f"misclassified (%), {matrix.images} images")
        save_figure(figure, path, dpi=150)


def _at(matrix: Matrix, source: str, attack: str, target: str, defense: str) -> float:
    return 100 * matrix.cells["" if attack == CLEAN else source, attack, target, defense].value


def _pairs(matrix: Matrix) -> list[tuple[str, str]]:
    """The sources and attacks, in the order of a table's rows."""
    return [("", CLEAN), *((source, attack) for attack in matrix.attacks for source in matrix.classifiers)]


def _markdown(rows: list[list[str]], words: int = 1) -> str:
    """A table in Markdown, its first columns words and the others numbers."""
    header, *body = rows
    line = "|" + "---|" * words + "---:|" * (len(header) - words)
    return "\n".join([labels.row(header), line, *map(labels.row, body)]) + "\n"
