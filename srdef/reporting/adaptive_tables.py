"""The table, the curves and the numbers of an adaptive evaluation."""

import math
from pathlib import Path

import matplotlib
import numpy as np
import rich.box
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.table import Table

from srdef.errors import InputError
from srdef.evaluation.adaptive import CLEAN, WORST, Outcome
from srdef.metrics import wilson_interval
from srdef.storage.files import canonical_json, save_figure, without_nan

# Okabe and Ito's colours, told apart with any form of colour blindness; markers say the same.
_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")
_MARKERS = ("o", "s", "^", "D", "v", "P")
_PANEL = (2.6, 2.2)  # inches


def columns(outcome: Outcome, epsilon: float) -> tuple[str, ...]:
    """No attack, every threat that attacks some defense at this ε, and the worst of them for each image."""
    e = _index(outcome, epsilon)
    there = [
        t for t in outcome.threats if any(not math.isnan(_at(outcome, d, t, e)) for d in outcome.defenses)
    ]
    return (CLEAN, *there, WORST)


def _at(outcome: Outcome, defense: str, threat: str, e: int) -> float:
    """The accuracy at the ε of this index; NaN where there is no such attack."""
    accuracy = outcome.accuracy(defense, threat)
    return math.nan if accuracy is None else float(accuracy[e])


def levels(epsilon: float) -> str:
    """ε as it is written: in levels of 255."""
    return f"{255 * epsilon:g}/255"


def _index(outcome: Outcome, epsilon: float) -> int:
    for index, known in enumerate(outcome.epsilons):
        if math.isclose(known, epsilon, rel_tol=1e-6):
            return index
    choices = ", ".join(levels(e) for e in outcome.epsilons)
    raise InputError(f"nothing was attacked with ε {levels(epsilon)}; choose from: {choices}")


def rows(outcome: Outcome, epsilon: float, *, intervals: bool = True) -> list[list[str]]:
    """The table's cells at one ε: accuracy in percent, with its 95 % Wilson interval.

    The accuracy of a random defense is a mean over draws; its interval is that of as many images,
    so it is no smaller than the truth.
    """
    e = _index(outcome, epsilon)
    labels = columns(outcome, epsilon)
    table = []
    for defense in outcome.defenses:
        cells = [defense]
        for threat in labels:
            value = _at(outcome, defense, threat, e)
            cells.append("–" if math.isnan(value) else _cell(value, outcome.images, intervals))
        table.append(cells)
    return table


def _cell(accuracy: float, images: int, intervals: bool) -> str:
    if not intervals:
        return f"{100 * accuracy:.0f}"
    low, high = wilson_interval(accuracy * images, images)
    return f"{100 * accuracy:.0f} [{100 * low:.0f}–{100 * high:.0f}]"


def title(outcome: Outcome, epsilon: float) -> str:
    """What the table's numbers are."""
    return (
        f"Accuracy in % at L∞ ε = {levels(epsilon)} on {outcome.images} images that the undefended "
        "classifier has right"
    )


def to_rich(outcome: Outcome, epsilon: float) -> Table:
    """For the terminal."""
    table = Table(title=title(outcome, epsilon), box=rich.box.SIMPLE_HEAD)
    for name in ("defense", *columns(outcome, epsilon)):
        table.add_column(name)
    for row in rows(outcome, epsilon, intervals=False):
        table.add_row(*row)
    return table


def to_markdown(outcome: Outcome) -> str:
    """One table for each ε."""
    parts = []
    for epsilon in outcome.epsilons:
        header = ["defense", *columns(outcome, epsilon)]
        lines = [f"**{title(outcome, epsilon)}.**", "", "| " + " | ".join(header) + " |"]
        lines.append("|" + "---|" * len(header))
        lines += ["| " + " | ".join(row) + " |" for row in rows(outcome, epsilon)]
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def to_json(outcome: Outcome) -> str:
    """All accuracies, by defense and threat, in the order of `epsilons`."""
    accuracies = {
        defense: {
            threat: found.tolist()
            for threat in (CLEAN, *outcome.threats, WORST)
            if (found := outcome.accuracy(defense, threat)) is not None
        }
        for defense in outcome.defenses
    }
    values = {"images": outcome.images, "epsilons": list(outcome.epsilons), "accuracy": accuracies}
    return canonical_json(without_nan(values)) + "\n"


def save_curves(path: str | Path, outcome: Outcome, *, subtitle: str = "") -> None:
    """Accuracy against ε, a panel for each defense and a line for each threat; the worst case black.

    The file's ending decides its format (png, pdf, svg).
    """
    count = len(outcome.defenses)
    wide = min(count, 4)
    tall = -(-count // wide)
    with matplotlib.rc_context({"font.size": 8, "svg.fonttype": "none", "pdf.fonttype": 42}):
        figure = Figure(figsize=(wide * _PANEL[0], tall * _PANEL[1] + 0.9), layout="constrained")
        FigureCanvasAgg(figure)
        panels = figure.subplots(tall, wide, squeeze=False, sharex=True, sharey=True)
        x = 255 * np.array(outcome.epsilons)
        start = x[0] / 2  # where ε = 0 stands on the logarithmic axis
        handles = {}
        for panel, defense in zip(panels.flat, outcome.defenses, strict=False):
            clean = outcome.accuracy(defense, CLEAN)
            assert clean is not None
            for index, threat in enumerate((*outcome.threats, WORST)):
                accuracy = outcome.accuracy(defense, threat)
                if accuracy is None or np.isnan(accuracy).all():
                    continue
                worst = threat == WORST
                (line,) = panel.plot(
                    [start, *x],
                    100 * np.array([clean[0], *accuracy]),  # no line across an ε without this attack
                    color="black" if worst else _COLOURS[index % len(_COLOURS)],
                    marker="" if worst else _MARKERS[index % len(_MARKERS)],
                    linestyle="--" if worst else "-",
                    linewidth=1.6 if worst else 1.1,
                    markersize=3.5,
                    clip_on=False,
                )
                handles[threat] = line
            panel.set_title(defense, fontsize=9)
            panel.set_xscale("log", base=2)
            panel.set_xticks([start, *x], ["0", *(f"{e:g}" for e in x)])
            panel.minorticks_off()
            panel.set_ylim(0, 100)
            panel.grid(alpha=0.25, linewidth=0.5)
            panel.spines[["top", "right"]].set_visible(False)
        for panel in panels.flat[count:]:
            panel.set_axis_off()
        figure.supxlabel("largest change of a pixel, ε (levels of 255)")
        figure.supylabel("accuracy (%)")
        order = [threat for threat in (*outcome.threats, WORST) if threat in handles]
        figure.legend(
            [handles[threat] for threat in order],
            [f"{threat} (per image)" if threat == WORST else threat for threat in order],
            loc="outside upper center",
            ncols=min(len(order), 4),
            frameon=False,
            title=subtitle or None,
        )
        save_figure(figure, path, dpi=150)
