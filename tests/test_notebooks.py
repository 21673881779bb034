"""The notebooks run as they stand, and are kept with their outputs."""

import ast
import re
import time
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))

# Each takes less than 180 s on two cores with nothing else to do; tests have company.
LONGEST = 600

# With the unit after it, if that is one of these.
NUMBER = re.compile(r"([-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?)(?=\s*(%|s\b|seconds\b|minutes\b)|)")


def read(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    return notebook


def printed(notebook):
    """What each cell prints: the kernel may send it in any number of pieces."""
    outputs = [cell.get("outputs", []) for cell in notebook.cells]
    return ["".join(o.text for o in cell if o.get("name") == "stdout") for cell in outputs]


def words(text):
    return NUMBER.sub("#", text).split()


def numbers(text):
    """Each number as (value, how far another processor may be from it)."""
    found = []
    for digits, unit in NUMBER.findall(text):
        if unit == "%":
            tolerance = 20
        elif unit:
            tolerance = float("inf")  # a time
        else:  # a share, or a count of images
            tolerance = 0.2 if "." in digits or "e" in digits else 2
        found.append((float(digits), tolerance))
    return found


def differences(texts, kept):
    """What two runs printed, where their words differ or a number is too far from the other."""
    assert len(texts) == len(kept)
    found = []
    for text, other in zip(texts, kept, strict=True):
        if words(text) != words(other):
            found.append((text, other))
            continue
        pairs = zip(numbers(text), numbers(other), strict=True)
        # The tolerance of the kept output, and a little for 0.3 - 0.1.
        found += [(a, b) for (a, _), (b, tolerance) in pairs if abs(a - b) > tolerance + 1e-9]
    return found


@pytest.mark.parametrize(
    ("text", "kept", "same"),
    [
        ("8 of 10 right", "6 of 10 right", True),
        ("9 of 10 right", "6 of 10 right", False),
        ("BPDA 0.45  0.13", "BPDA 0.30  0.30", True),
        ("BPDA 0.45  0.13", "BPDA 0.45  0.43", False),
        ("100 % right, 0.3 s", "80 % right, 95 s", True),
        ("100 % right", "79 % right", False),
        ("FAILED | 1e-06", "FAILED | 0.0", True),
        ("FAILED", "passed", False),
        ("largest change 4/255", "largest change 8/255", False),
        ("8 of 10", "8 of 10 right", False),
        ("8 of 10", "8 of 10 %", False),
    ],
)
def test_comparison(text, kept, same):
    assert (differences([text], [kept]) == []) == same


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_is_kept_with_the_outputs_of_one_run_from_top_to_bottom(path):
    cells = [cell for cell in read(path).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    for cell in cells:
        ast.parse("\n".join(line for line in cell.source.splitlines() if not line.startswith("%")))


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs_and_prints_the_same(path, record_property):
    notebook = read(path)
    kept = printed(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    resources = {"metadata": {"path": str(path.parent)}}
    started = time.monotonic()
    # The time-out is of one cell, and generous, so that a slow machine says how slow it is.
    NotebookClient(notebook, timeout=900, kernel_name="python3", resources=resources).execute()
    seconds = time.monotonic() - started
    record_property("seconds", round(seconds))
    assert differences(printed(notebook), kept) == []
    assert seconds < LONGEST, f"{path.stem} took {seconds:.0f} s"
