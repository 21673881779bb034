"""Accuracy against ε, of a gray-box run that has an attack at several ε: a figure, its points, and crossings.

The points of `minimal_epsilon` around the same attack stand beside the curve, at their median distance. Where
the run names a table of the paper, its number is a line, and it is said at which ε the curve crosses it.
"""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.lines import Line2D

from srdef import attacks
from srdef.reporting import labels, style
from srdef.storage.files import write_atomically

# With fewer ε of an attack there is no curve.
FEWEST = 4
NAME = "epsilon_curves"

# What an entry of `config.attacks` says that is not its ε, and makes no other curve.
_APART = ("epsilon", "paper")
# In the legend.
_SMALLEST = "smallest ε of each image (at the median)"
_PAPER, _PAPER_SHARE = "the paper", "the paper, relative to clean accuracy"
Cells = Mapping[tuple[str, str], Mapping[str, Any]]


@dataclass(frozen=True)
class Point:
    """The accuracy under one attack: its label, and ε in levels of 255."""

    label: str
    epsilon: float
    cell: Mapping[str, Any]


@dataclass(frozen=True)
class Curve:
    """One defense under one attack.

    Attributes
    ----------
    defense, attack : str
        The defense's label, and what the paper calls the attack, or its name.
    clean : mapping
        The cell of the clean images.
    points : sequence of Point
        With rising ε.
    smallest : sequence of Point
        Those of the smallest ε of each image; their `epsilon` is the median L∞ distance.
    """

    defense: str
    attack: str
    clean: Mapping[str, Any]
    points: Sequence[Point]
    smallest: Sequence[Point]

    @property
    def paper(self) -> float | None:
        """The paper's number in percent, if it is one for the whole curve; those at several ε are none."""
        numbers = {point.cell.get("paper_percent") for point in self.points}
        return numbers.pop() if len(numbers) == 1 else None

    @property
    def paper_share(self) -> float | None:
        """The paper's number as a share of its accuracy on clean images with this defense."""
        clean = self.clean.get("paper_percent")
        return None if self.paper is None or not clean else self.paper / clean

    def crossing(self, percent: float) -> float | None:
        """The ε in levels at which the curve first comes down to an accuracy; None if it never does.

        On straight lines between the points, from ε 0 and the accuracy on clean images; 0 if that is lower.
        """
        before, height = 0.0, 100 * self.clean["value"]
        if height <= percent:
            return 0.0
        for point in self.points:
            value = 100 * point.cell["value"]
            if value <= percent:
                return before + (point.epsilon - before) * (height - percent) / (height - value)
            before, height = point.epsilon, value
        return None


def find(
    config: Mapping[str, Any], table: Mapping[str, Any], strengths: Sequence[Mapping[str, Any]]
) -> list[Curve]:
    """The curves of a run from what it has left: `config.json`, `table.json` and `attacks.json`.

    An attack has a curve where `config.attacks` has it in L∞ with at least `FEWEST` ε and the same other
    options. Undefended images have none.
    """
    cells: Cells = {(cell["defense"], cell["attack"]): cell for cell in table["cells"]}
    noted = {row["attack"]: row["norm"] for row in strengths if "norm" in row}
    groups: dict[str, list[tuple[float, str]]] = {}
    names: dict[str, str] = {}
    options: dict[str, dict[str, Any]] = {}
    for label in table["attacks"]:
        entry = config["attacks"].get(label, {})
        if not isinstance(entry.get("epsilon"), float) or not 0 < entry["epsilon"] <= 1:
            continue
        if noted.get(label, _norm(entry)) == "linf":
            own = {k: v for k, v in entry.items() if k not in _APART}
            kind = repr(sorted(own.items()))
            groups.setdefault(kind, []).append((255 * entry["epsilon"], label))
            names[kind], options[kind] = entry.get("paper", entry["name"]), own
    groups = {kind: ladder for kind, ladder in groups.items() if len(ladder) >= FEWEST}
    shown = _told_apart({kind: names[kind] for kind in groups}, options)
    curves = []
    for defense in table["defenses"]:
        if config["defenses"][defense] == {"name": "identity"}:
            continue
        for kind, ladder in groups.items():
            points = [
                Point(label, e, cells[defense, label])
                for e, label in sorted(ladder)
                if (defense, label) in cells
            ]
            clean = cells.get((defense, "clean"))
            if len(points) >= FEWEST and clean is not None and clean["total"]:
                smallest = _smallest(config, cells, strengths, defense, names[kind])
                curves.append(Curve(defense, shown[kind], clean, points, smallest))
    return curves


def _norm(entry: Mapping[str, Any]) -> str:
    """The norm of an attack's ball, by its entry and its name; L∞ is the default of all with a choice."""
    _, implied = attacks.REGISTRY.resolve(entry["name"])
    return str({**implied, **entry}.get("norm", "linf"))


def _told_apart(names: Mapping[str, str], options: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The name of each kind, with the options in which it differs from others of that name."""
    found = {}
    for kind, name in names.items():
        others = [options[other] for other in names if names[other] == name and other != kind]
        differing = [
            f"{option} {value}"
            for option, value in options[kind].items()
            if any(other.get(option) != value for other in others)
        ]
        found[kind] = ", ".join([name, *differing])
    return found


def _smallest(
    config: Mapping[str, Any],
    cells: Cells,
    strengths: Sequence[Mapping[str, Any]],
    defense: str,
    name: str,
) -> list[Point]:
    """The points of `minimal_epsilon` around the attack of that name."""
    found = []
    for label, entry in config["attacks"].items():
        inner = entry.get("attack") if entry.get("name") == "minimal_epsilon" else None
        if inner is None or _norm(inner if isinstance(inner, Mapping) else {"name": inner}) != "linf":
            continue
        inner = inner.get("name") if isinstance(inner, Mapping) else inner
        if name not in (inner, entry.get("paper")) or (defense, label) not in cells:
            continue
        storage = entry.get("storage", "float32")
        for row in strengths:
            if (row["attack"], row["storage"]) == (label, storage) and row["median_linf"] is not None:
                found.append(Point(label, 255 * row["median_linf"], cells[defense, label]))
    return found


def to_csv(curves: Sequence[Curve]) -> str:
    """One row for each point; `epsilon` in levels, accuracies in percent."""
    text = io.StringIO()
    fields = ("defense", "attack", "label", "epsilon", "accuracy", "low", "high", "images", "clean", "paper")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(fields)
    for curve in curves:
        for point in (*curve.points, *curve.smallest):
            cell = point.cell
            percents = [f"{100 * cell[name]:.2f}" for name in ("value", "low", "high")]
            clean = f"{100 * curve.clean['value']:.2f}"
            paper = "" if curve.paper is None else curve.paper
            row = [curve.defense, curve.attack, point.label, f"{point.epsilon:.4g}", *percents]
            writer.writerow([*row, cell["total"], clean, paper])
    return text.getvalue()


def _small(point: Point, named: bool) -> str:
    name = f"{point.label}: " if named else ""
    return f"{name}{labels.number(point.epsilon, 2)}, {100 * point.cell['value']:.1f}"


def to_markdown(curves: Sequence[Curve]) -> str:
    """A table: at which ε each curve comes down to the paper's number, and the accuracy at the smallest ε."""
    lines = [
        "| defense | attack | clean (%) | smallest ε: median, accuracy (%) | paper (%) | reached at ε | "
        "of its clean accuracy (%) | reached at ε |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for curve in curves:
        cells = [curve.defense, curve.attack, f"{100 * curve.clean['value']:.1f}", "–"]
        if curve.smallest:
            cells[3] = "; ".join(_small(point, len(curve.smallest) > 1) for point in curve.smallest)
        share = curve.paper_share
        own = None if share is None else 100 * share * curve.clean["value"]
        for shown, target in ((curve.paper, curve.paper), (share and 100 * share, own)):
            cells += ["–" if shown is None else f"{shown:.1f}", _where(curve, target)]
        lines.append(labels.row(cells))
    note = (
        "ε in levels of 255, on straight lines between the points; 0: the clean images are no better. The "
        "last two columns count from the accuracy on clean images, ours and the paper's, so that what the "
        "defense costs them does not matter."
    )
    return "\n".join([*lines, "", note]) + "\n"


def _where(curve: Curve, percent: float | None) -> str:
    if percent is None:
        return "–"
    found = curve.crossing(percent)
    return f"above {curve.points[-1].epsilon:g}" if found is None else labels.number(found, 2)


def save(folder: Path, curves: Sequence[Curve]) -> list[Path]:
    """Write the figure as PDF and PNG, its points as CSV and the crossings as Markdown."""
    write_atomically(folder / f"{NAME}.csv", to_csv(curves))
    write_atomically(folder / f"{NAME}.md", to_markdown(curves))
    written = style.save(_draw(curves), folder / NAME)
    return [*written, folder / f"{NAME}.csv", folder / f"{NAME}.md"]


def _draw(curves: Sequence[Curve]) -> Any:
    """A panel for each defense, a colour for each attack."""
    defenses = list(dict.fromkeys(curve.defense for curve in curves))
    names = list(dict.fromkeys(curve.attack for curve in curves))
    across = min(len(defenses), 3)
    down = math.ceil(len(defenses) / across)
    ticks = sorted({point.epsilon for curve in curves for point in curve.points})
    lowest = min([ticks[0], *(point.epsilon for curve in curves for point in curve.smallest)])
    start = lowest / 2  # the place of ε = 0 on the logarithmic axis
    with style.styled():
        figure = style.new_figure(style.PAGE if across > 1 else style.COLUMN, 2.3 * down + 0.5)
        panels = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True)
        handles: dict[str, Any] = {}
        for panel, defense in zip(panels.flat, defenses, strict=False):
            panel.set_title(labels.drawn(defense))
            for curve in (curve for curve in curves if curve.defense == defense):
                index = names.index(curve.attack)
                _draw_curve(panel, curve, index, start, handles)
            panel.set_xscale("log", base=2)
            panel.set_xticks([start, *ticks], ["0", *(f"{tick:.3g}" for tick in ticks)])
            panel.minorticks_off()
            panel.set_ylim(0, 100)
            panel.grid(alpha=0.25, linewidth=0.5)
        for panel in panels.flat[len(defenses) :]:
            panel.set_axis_off()
        figure.supxlabel("L∞ radius ε of the attack (levels of 255)", fontsize=8)
        figure.supylabel("accuracy after attack and defense (%)", fontsize=8)
        # The attacks first.
        order = [*names, *(name for name in (_SMALLEST, _PAPER, _PAPER_SHARE) if name in handles)]
        shown = [handles[name] for name in order]
        figure.legend(
            shown,
            [labels.drawn(name) for name in order],
            loc="outside upper center",
            ncols=3 if across > 1 else 1,
        )
    return figure


def _draw_curve(panel: Any, curve: Curve, index: int, start: float, handles: dict[str, Any]) -> None:
    colour = style.CYCLE[index % len(style.CYCLE)]
    marker = "os^Dvp"[index % 6]
    x = [start, *(point.epsilon for point in curve.points)]
    cells = [curve.clean, *(point.cell for point in curve.points)]
    low, high = ([100 * cell[name] for cell in cells] for name in ("low", "high"))
    panel.fill_between(x, low, high, color=colour, alpha=0.12, linewidth=0)
    shown: dict[str, Any] = {"color": colour, "marker": marker}
    values = [100 * cell["value"] for cell in cells]
    (handles[curve.attack],) = panel.plot(x, values, **shown, markersize=3.5, clip_on=False)
    if curve.smallest:
        x = [point.epsilon for point in curve.smallest]
        values = [100 * point.cell["value"] for point in curve.smallest]
        hollow: dict[str, Any] = {"linestyle": "none", "markersize": 8, "markerfacecolor": "none"}
        panel.plot(x, values, **shown, **hollow, zorder=4)
        handles[_SMALLEST] = Line2D([], [], color=style.GREY, marker="o", **hollow)
    own = None if curve.paper_share is None else 100 * curve.paper_share * curve.clean["value"]
    lines: tuple[tuple[str, float | None, Any], ...] = ((_PAPER, curve.paper, "--"), (_PAPER_SHARE, own, ":"))
    for name, percent, dashes in lines:
        if percent is not None:
            panel.axhline(percent, color=colour, linestyle=dashes, linewidth=1)
            handles[name] = Line2D([], [], color=style.GREY, linestyle=dashes, linewidth=1)
