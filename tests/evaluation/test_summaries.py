import json

import numpy as np
import pytest
from rich.console import Console

from srdef.evaluation.summaries import Strength
from srdef.reporting import tables

SUCCESS = np.array([True, True, False, True])
LINF = np.array([1, 2, 100, 3]) / 255
L2 = np.array([0.1, 0.3, 9.0, 0.2])


def strength(attack, storage, success):
    flags = {name: np.zeros(4, bool) for name in ("nonfinite", "zero_gradient")}
    return Strength.of(attack, storage, {"success": success, "linf": LINF, "l2": L2, **flags})


def test_medians_are_over_the_fooled_images():
    result = strength("DeepFool", "float32", SUCCESS)
    assert result.success[:2] == (3, 4)
    assert result.linf == pytest.approx(2 / 255)
    assert result.l2 == pytest.approx(0.2)
    assert tables.attack_cells(result) == ["DeepFool", "float32", "75.0", "2", "0.2"]


def test_nobody_fooled():
    result = strength("FGSM-2", "uint8", np.zeros(4, bool))
    assert (result.linf, result.l2) == (None, None)
    assert tables.attack_cells(result)[2:] == ["0.0", "–", "–"]


def test_renderings_agree():
    rows = [
        strength("DeepFool", "float32", SUCCESS),
        strength("DeepFool", "uint8", ~SUCCESS),
    ]
    console = Console(record=True, width=100, quiet=True)
    console.print(tables.attacks_to_rich(rows))
    markdown = tables.attacks_to_markdown(rows)
    for row in rows:
        assert "| " + " | ".join(tables.attack_cells(row)) + " |" in markdown
    data = json.loads(tables.attacks_to_json(rows, {row.attack: f"{row.attack}-0" for row in rows}))
    assert [row["fooled"]["successes"] for row in data] == [3, 1]
    assert data[0]["median_l2"] == pytest.approx(0.2)
