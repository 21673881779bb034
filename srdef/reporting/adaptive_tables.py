"""The tables and the numbers of an adaptive evaluation and of its self-checks."""

import csv
import io
import math
from collections.abc import Sequence

import rich.box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from srdef.attacks import arithmetic
from srdef.attacks.projections import Norm
from srdef.errors import InputError
from srdef.evaluation.adaptive_outcome import Outcome
from srdef.evaluation.experiment import CLEAN
from srdef.evaluation.self_checks import Check, warning
from srdef.evaluation.threats import WORST, write_epsilon
from srdef.metrics import wilson_interval
from srdef.reporting import labels
from srdef.storage.files import canonical_json, for_json

NORMS: dict[Norm, str] = {"linf": "L∞", "l2": "L2", "l1": "L1"}


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


def _index(outcome: Outcome, epsilon: float) -> int:
    for index, known in enumerate(outcome.epsilons):
        if math.isclose(known, epsilon, rel_tol=1e-6):
            return index
    wanted, *choices = (write_epsilon(e, outcome.norm) for e in (epsilon, *outcome.epsilons))
    raise InputError(f"nothing was attacked with ε {wanted}; choose from: {', '.join(choices)}")


def rows(outcome: Outcome, epsilon: float, *, intervals: bool = True) -> list[list[str]]:
    """The table's cells at one ε: accuracy in percent, with its 95 % Wilson interval.

    The accuracy of a random defense is a mean over draws; its interval is that of as many images,
    so it is no smaller than the truth.
    """
    e = _index(outcome, epsilon)
    threats = columns(outcome, epsilon)
    table = []
    for defense in outcome.defenses:
        cells = [defense]
        for threat in threats:
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
        f"Accuracy in % at {NORMS[outcome.norm]} ε = {write_epsilon(epsilon, outcome.norm)} on "
        f"{outcome.images} images that the undefended classifier classifies correctly"
    )


def warnings(outcome: Outcome, epsilon: float) -> list[str]:
    """What went wrong in the attacks at one ε, a line each."""
    words = {
        "nonfinite": "a gradient, a loss or a logit was not finite",
        "zero_gradient": "a gradient was exactly zero, so that the attack was blind",
    }
    e = _index(outcome, epsilon)
    return [
        f"Warning: {threat} on {defense}: for {found[name][:, e].sum()} of {outcome.images} images {meaning}."
        for (defense, threat), found in outcome.flagged.items()
        for name, meaning in words.items()
        if found[name][:, e].any()
    ]


def to_rich(outcome: Outcome, epsilon: float) -> Group:
    """For the terminal."""
    table = Table(title=title(outcome, epsilon), box=rich.box.SIMPLE_HEAD)
    for name in ("defense", *columns(outcome, epsilon)):
        table.add_column(name)
    for row in rows(outcome, epsilon, intervals=False):
        table.add_row(*row)
    return Group(table, *(Text(line, "bold red") for line in warnings(outcome, epsilon)))


def to_markdown(outcome: Outcome) -> str:
    """One table for each ε."""
    parts = []
    for epsilon in outcome.epsilons:
        header = ["defense", *columns(outcome, epsilon)]
        lines = [f"**{title(outcome, epsilon)}.**", "", labels.row(header)]
        lines.append("|" + "---|" * len(header))
        lines += [labels.row(row) for row in rows(outcome, epsilon)]
        for line in warnings(outcome, epsilon):
            lines += ["", f"> {labels.cell(line)}"]
        parts.append("\n".join(lines) + "\n")
    if steps := arithmetic.note(outcome.arithmetic):
        parts.append(f"{steps}\n")
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
    values = {
        "images": outcome.images,
        "norm": outcome.norm,
        "epsilons": list(outcome.epsilons),
        "accuracy": accuracies,
    }
    return canonical_json(for_json(values)) + "\n"


def to_csv(outcome: Outcome) -> str:
    """One row for each accuracy: defense, threat, ε, accuracy, its 95 % Wilson interval, images."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("defense", "threat", "epsilon", "accuracy", "low", "high", "images"))
    for defense in outcome.defenses:
        for threat in (CLEAN, *outcome.threats, WORST):
            found = outcome.accuracy(defense, threat)
            for epsilon, accuracy in zip(outcome.epsilons, () if found is None else found, strict=False):
                if not math.isnan(accuracy):
                    interval = wilson_interval(accuracy * outcome.images, outcome.images)
                    writer.writerow((defense, threat, epsilon, float(accuracy), *interval, outcome.images))
    return text.getvalue()


def checks_to_rich(checks: Sequence[Check]) -> Group:
    """The self-checks of one defense, for the terminal."""
    table = Table(title="Self-checks", box=rich.box.SIMPLE_HEAD)
    for name in ("check", "", "measured", "suggests"):
        table.add_column(name)
    for check in checks:
        verdict = Text("passed", "green") if check.passed else Text("FAILED", "bold red")
        table.add_row(check.name, verdict, check.measured, check.suggests)
    line = warning(checks)
    return Group(table) if line is None else Group(table, Text(f"Warning: {line}.", "bold red"))


def checks_to_markdown(checks: Sequence[Check]) -> str:
    """The self-checks of one defense as a GitHub table, and under it the warning if there is one."""
    lines = ["**Self-checks.**", "", "| check | | measured | suggests |", "|---|---|---|---|"]
    for check in checks:
        verdict = "passed" if check.passed else "**failed**"
        lines.append(labels.row([check.name, verdict, check.measured, check.suggests]))
    line = warning(checks)
    if line is not None:
        lines += ["", f"> **Warning:** {line}."]
    return "\n".join(lines) + "\n"
