"""What `evaluate_robustness` returns: the accuracy under attacks at several radii, as a table and a plot."""

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from srdef.attacks.arithmetic import Arithmetic, note
from srdef.attacks.projections import Norm
from srdef.attacks.trace import Trace
from srdef.metrics import Rate, rate
from srdef.reporting import labels
from srdef.storage.files import save_figure, write_atomically
from srdef.validation import check_choice

WORST = "worst case"
_NORMS = {"linf": "L∞", "l2": "L2", "l1": "L1"}
# Of the attacks in a plot, beside the black of the worst case.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#999999")
_MARKERS = "osD^v<>p"


class Traced(NamedTuple):
    """What an attack did on its way at one ε: the ids of the images that it attacked, and their trace."""

    ids: np.ndarray
    trace: Trace


@dataclass(frozen=True)
class RobustAccuracy:
    """What `evaluate_robustness` returns.

    Attributes
    ----------
    clean : bool array (N,)
        Whether each image is classified correctly when it is clean.
    correct : dict of str to bool array (epsilons, N)
        For each attack, whether each image is classified correctly under it at each ε.
    seconds : dict of str to tuple of float
        How long each attack took at each ε, compilation included.
    epsilons : tuple of float
        In units of the [0, 1] range.
    norm : "linf", "l2" or "l1"
    arithmetic : str, optional
        What the steps of the attacks were computed in, if it was said.
    traces : mapping of (str, float or None) to Traced
        If they were asked for: by attack and ε (None for an attack that does not depend on it), what the
        attacker saw. An attack meets only images that were not broken at a smaller ε, and has no trace where
        there was none left.
    """

    clean: np.ndarray
    correct: dict[str, np.ndarray]
    seconds: dict[str, tuple[float, ...]]
    epsilons: tuple[float, ...]
    norm: Norm
    arithmetic: Arithmetic | None = None
    traces: Mapping[tuple[str, float | None], Traced] = field(default_factory=dict)

    @property
    def attacks(self) -> tuple[str, ...]:
        """The names of the attacks, then "worst case" if there are several."""
        return (*self.correct, *([WORST] if len(self.correct) > 1 else []))

    @property
    def clean_accuracy(self) -> Rate:
        """The accuracy on clean images, with its interval."""
        return rate(self.clean)

    def accuracy(self, attack: str = WORST, *, of_clean_correct: bool = False) -> list[Rate]:
        """The accuracy under one attack at each ε, with its 95 % Wilson interval.

        Parameters
        ----------
        attack : str
            One of `attacks`; in the worst case an image counts if no attack breaks it.
        of_clean_correct : bool
            Whether to count only the images that are classified correctly when clean. Default: all.
        """
        check_choice("attack", attack, (*self.correct, WORST))
        correct = self.worst_case if attack == WORST else self.correct[attack]
        return [rate(row[self.clean] if of_clean_correct else row) for row in correct]

    @property
    def worst_case(self) -> np.ndarray:
        """Whether each image is classified correctly under every attack, `(epsilons, N)`."""
        return np.logical_and.reduce(list(self.correct.values()))

    def rows(self) -> list[dict[str, Any]]:
        """The table as plain data: one row for the clean images, then one for each attack and ε."""
        clean = self.clean_accuracy
        rows = [_row("clean", 0.0, clean, rate(self.clean[self.clean]), 0.0)]
        for attack in self.attacks:
            pairs = zip(self.accuracy(attack), self.accuracy(attack, of_clean_correct=True), strict=True)
            seconds = self.seconds.get(attack, (0.0,) * len(self.epsilons))
            for epsilon, (of_all, of_correct), spent in zip(self.epsilons, pairs, seconds, strict=True):
                rows.append(_row(attack, epsilon, of_all, of_correct, spent))
        return rows

    def to_pandas(self) -> Any:
        """The rows as a `pandas.DataFrame`; needs pandas."""
        import pandas

        return pandas.DataFrame(self.rows())

    def to_csv(self, path: Any = None) -> str:
        """The rows as CSV, also written to `path` if one is given."""
        text = io.StringIO()
        writer = csv.DictWriter(text, self.rows()[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows())
        if path is not None:
            write_atomically(Path(path), text.getvalue())
        return text.getvalue()

    def trace_to_csv(self, path: Any) -> None:
        """Write the traces as CSV: a row for each attack, ε, image and step; step 0 is where it starts."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("attack", "epsilon", "image", "step", "loss", "margin", "success"))
        for (attack, epsilon), (ids, trace) in self.traces.items():
            for column, image in enumerate(ids):
                values = (part[:, column].tolist() for part in (trace.loss, trace.margin, trace.success))
                for step, (loss, margin, success) in enumerate(zip(*values, strict=True)):
                    writer.writerow(
                        (attack, epsilon, image, step, f"{loss:.7g}", f"{margin:.7g}", int(success))
                    )
        write_atomically(Path(path), text.getvalue())

    def plot_trace(self, path: Any = None) -> Any:
        """Margin, loss and the share of fooled images over the steps, a line for each attack and ε.

        Parameters and what is returned are those of `plot`; see `srdef.reporting.trace_plots.trace_figure`.
        """
        from srdef.reporting.trace_plots import trace_figure

        figure = trace_figure(
            {
                attack if epsilon is None else f"{attack}, {radius(epsilon, self.norm)}": traced.trace
                for (attack, epsilon), traced in self.traces.items()
            }
        )
        if path is not None:
            save_figure(figure, path, dpi=200)
        return figure

    def to_markdown(self) -> str:
        """A table of accuracies in percent: a row for each attack, a column for each ε."""
        header = ["attack", "clean", *(f"ε = {radius(epsilon, self.norm)}" for epsilon in self.epsilons)]
        clean = _cell(self.clean_accuracy)
        lines = [labels.row(header), "|---" + "|---:" * (len(header) - 1) + "|"]
        for attack in self.attacks:
            cells = [attack, clean, *(_cell(found) for found in self.accuracy(attack))]
            lines.append(labels.row(cells))
        text = f"Accuracy in % over all {len(self.clean)} images, {_NORMS[self.norm]} radius ε; "
        text += "in brackets 95 % Wilson intervals."
        if steps := note(self.arithmetic):
            text += f" {steps}"
        return "\n".join([*lines, "", text]) + "\n"

    def plot(self, path: Any = None) -> Any:
        """Accuracy against ε, a line for each attack, as a matplotlib figure.

        The band is the 95 % Wilson interval of the worst case.

        Parameters
        ----------
        path : path, optional
            Where to save it as well: .png, .pdf or .svg.
        """
        from srdef.reporting import style

        x = [0.0, *(255 * np.array(self.epsilons) if self.norm == "linf" else self.epsilons)]
        with style.styled():
            figure = style.new_figure(style.COLUMN, 0.75 * style.COLUMN)
            axes = figure.add_subplot()
            for index, attack in enumerate(self.attacks):
                rates = [self.clean_accuracy, *self.accuracy(attack)]
                if attack == self.attacks[-1]:
                    low, high = [100 * r.low for r in rates], [100 * r.high for r in rates]
                    axes.fill_between(x, low, high, color=style.GREY, alpha=0.15, linewidth=0)
                worst = attack == WORST
                axes.plot(
                    x,
                    [100 * found.value for found in rates],
                    color="black" if worst else _COLOURS[index % len(_COLOURS)],
                    linestyle="--" if worst else "-",
                    marker="" if worst else _MARKERS[index % len(_MARKERS)],
                    markersize=3.5,
                    label=labels.drawn(attack),
                    clip_on=False,  # at 0 and at 100 %
                    zorder=3,
                )
            unit = " (levels of 255)" if self.norm == "linf" else ""
            axes.set_xlabel(f"{_NORMS[self.norm]} radius ε{unit}")
            axes.set_ylabel("accuracy (%)")
            axes.set_ylim(0, 100)
            axes.set_xlim(0, x[-1])
            if np.diff(x).min() >= 0.05 * x[-1]:  # else their labels would touch
                axes.set_xticks(x, [f"{value:g}" for value in x])
            axes.legend()
            if path is not None:
                save_figure(figure, path, dpi=200)
        return figure

    def __repr__(self) -> str:
        radii = zip(self.accuracy(), self.epsilons, strict=True)
        worst = ", ".join(f"{100 * r.value:.1f} % at {radius(epsilon, self.norm)}" for r, epsilon in radii)
        clean = f"{100 * self.clean_accuracy.value:.1f} %"
        return f"RobustAccuracy({len(self.clean)} images: clean {clean}, worst case {worst})"


def _row(attack: str, epsilon: float, of_all: Rate, of_correct: Rate, seconds: float) -> dict[str, Any]:
    return {
        "attack": attack,
        "epsilon": epsilon,
        "accuracy": of_all.value,
        "low": of_all.low,
        "high": of_all.high,
        "images": of_all.total,
        "accuracy_of_clean_correct": of_correct.value,
        "seconds": round(seconds, 2),
    }


def radius(epsilon: float, norm: Norm) -> str:
    """A radius as it is written: in L∞ as `8/255`."""
    return f"{255 * epsilon:g}/255" if norm == "linf" else f"{epsilon:g}"


def _cell(found: Rate) -> str:
    return f"{100 * found.value:.1f} [{100 * found.low:.1f}–{100 * found.high:.1f}]"
