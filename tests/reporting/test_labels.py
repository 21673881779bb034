"""Labels of the user's own with signs that mean something in Markdown or matplotlib: shown as they are."""

import re
import warnings
from html import unescape

import numpy as np
import pytest

from srdef.attacks import Trace
from srdef.commands import attack
from srdef.detection import experiment
from srdef.evaluation.adaptive_outcome import Outcome
from srdef.evaluation.experiment import CLEAN
from srdef.evaluation.summaries import Strength
from srdef.evaluation.transfer_matrix import Matrix
from srdef.metrics import rate
from srdef.reporting import (
    adaptive_plots,
    adaptive_tables,
    detection_tables,
    labels,
    plots,
    tables,
    text_page,
    trace_plots,
    transfer_files,
)
from srdef.reporting.robust_accuracy import RobustAccuracy

ODD = ("a|b", r"$\odd$", "_x")
SOME = rate(np.array([True, True, True, False]))


def cells_of(markdown):
    """The cells of every row of every table, as a page shows them."""
    return [
        [unescape(re.sub(r"<.*?>", "", cell)) for cell in re.findall(r"<t[hd].*?</t[hd]>", row)]
        for row in re.findall(r"<tr>.*?</tr>", text_page.render(markdown), flags=re.DOTALL)
    ]


def outcome():
    judged = {(defense, CLEAN): np.ones((3, 2), np.float32) for defense in ODD}
    judged |= {(defense, threat): np.eye(3, 2, dtype=np.float32) for defense in ODD for threat in ODD}
    return Outcome(3, (1 / 255, 4 / 255), ODD, ODD, judged, judged)


def matrix():
    cells = {("", CLEAN, target, defense): SOME for target in ODD for defense in ODD}
    cells |= {(s, a, t, d): SOME for s in ODD for a in ODD for t in ODD for d in ODD}
    return Matrix(4, ODD, ODD, ODD, cells)


def robust():
    correct = {name: np.array([[True, False], [False, False]]) for name in ODD}
    seconds = dict.fromkeys(ODD, (1.0, 1.0))
    return RobustAccuracy(np.array([True, True]), correct, seconds, (0.1, 0.2), "l2")


def test_adaptive_tables():
    rows = cells_of(adaptive_tables.to_markdown(outcome()))
    assert [row[0] for row in rows] == ["defense", *ODD] * 2
    assert rows[0] == ["defense", CLEAN, *ODD, "worst case"]
    assert {len(row) for row in rows} == {6}


def test_transfer_tables():
    rows = cells_of(transfer_files.to_markdown(matrix()))
    assert [row[0] for row in rows[:4]] == ["attack", *ODD]
    assert rows[4] == ["attack", "source", *(f"on {name}" for name in ODD)]
    assert {len(row) for row in rows[4:]} == {5}


def test_detection_tables():
    shares = {CLEAN: SOME, **dict.fromkeys(ODD, SOME)}
    result = experiment.Result(
        {"train": 9, "test": 4}, {"train": 8, "test": 4}, 0.75, 0.8, SOME,
        dict.fromkeys(ODD, (SOME, 0.8)), dict.fromkeys(ODD, shares),
    )  # fmt: skip
    rows = cells_of(detection_tables.to_markdown(result))
    assert rows[0] == ["", *ODD]
    assert rows[3] == ["", CLEAN, "all attacks", *ODD]
    assert [row[0] for row in rows[4:]] == list(ODD)
    assert {len(row) for row in rows[4:]} == {6}


def test_tables_of_attacks():
    rows = cells_of(tables.attacks_to_markdown([Strength(name, "uint8", SOME, None, None) for name in ODD]))
    assert [row[0] for row in rows[1:]] == list(ODD)
    assert {len(row) for row in rows} == {5}


def test_robust_accuracy():
    rows = cells_of(robust().to_markdown())
    assert [row[0] for row in rows[1:]] == [*ODD, "worst case"]
    assert {len(row) for row in rows} == {4}
    table = attack.to_rich(robust())
    assert list(table.columns[0].cells) == [*ODD, "worst case"]
    assert len(table.columns) == 4


def trace():
    values = np.ones((3, 2), np.float32)
    return Trace(loss=values, margin=values, success=values > 0)


def residual():
    curve = (np.array([0.1, 0.2]), np.array([0.5, 0.6]))
    panels = {f"left of {name}": dict.fromkeys(ODD, curve) for name in ODD}
    return plots.residual_figure(panels, ODD[1])


@pytest.mark.parametrize(
    "draw",
    [
        lambda file: adaptive_plots.save_curves(file, outcome(), subtitle=ODD[1]),
        lambda file: adaptive_plots.save_landscape(file, np.eye(5), epsilon=0.1, title=ODD[1]),
        lambda file: transfer_files.save_heat_map(file, matrix()),
        lambda file: robust().plot(file),
        lambda file: trace_plots.trace_figure(dict.fromkeys(ODD, trace()), ODD[1]).savefig(file),
        lambda file: residual().savefig(file),
    ],
)
def test_figures(tmp_path, draw):
    """No formula that cannot be read, and no name left out of a legend."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw(tmp_path / "figure.svg")


def test_legends_have_every_name():
    for figure in (robust().plot(), trace_plots.trace_figure(dict.fromkeys(ODD, trace()))):
        legend = figure.axes[-1].get_legend()
        shown = [text.get_text().replace(r"\$", "$").strip() for text in legend.get_texts()]
        assert shown[:3] == list(ODD)


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        *((0.0, 2, "0"), (0.333, 2, "0.33"), (2.04, 2, "2"), (9.96, 2, "10"), (0.00001, 2, "0.00001")),
        *((99.4, 2, "99"), (99.6, 2, "100"), (127.6, 2, "128"), (255.0, 2, "255"), (-127.6, 2, "-128")),
        *((12.04, 3, "12"), (12.06, 3, "12.1"), (517.7, 3, "518"), (1732.05, 3, "1732")),
    ],
)
def test_numbers_have_no_exponent(value, digits, text):
    assert labels.number(value, digits) == text
    if "e" not in f"{value:.{digits}g}":
        assert text == f"{value:.{digits}g}"
