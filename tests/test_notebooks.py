"""The notebooks run as they stand, and are kept with their outputs."""

import ast
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


def read(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    return notebook


def words(text):
    return re.sub(r"[-+]?\d[\d.]*", "#", text).split()


def printed(notebook):
    """What each cell prints: the kernel may send it in any number of pieces."""
    outputs = [cell.get("outputs", []) for cell in notebook.cells]
    return [words("".join(o.text for o in cell if o.get("name") == "stdout")) for cell in outputs]


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
def test_runs_and_prints_the_same_lines(path):
    notebook = read(path)
    kept = printed(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    resources = {"metadata": {"path": str(path.parent)}}
    NotebookClient(notebook, timeout=900, kernel_name="python3", resources=resources).execute()
    # The same words; numbers may differ in their last digit on another processor.
    assert printed(notebook) == kept
