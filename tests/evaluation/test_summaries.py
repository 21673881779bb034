import json

import numpy as np
import pytest
from rich.console import Console

from srdef.evaluation import summaries
from srdef.evaluation.summaries import Strength

SUCCESS = np.array([True, True, False, True])
LINF = np.array([1, 2, 100, 3]) / 255
L2 = np.array([0.1, 0.3, 9.0, 0.2])


def test_medians_are_over_the_fooled_images():
    result = Strength.of("DeepFool", "float32", SUCCESS, LINF, L2)
    assert result.success[:2] == (3, 4)
    assert result.linf == pytest.approx(2 / 255)
    assert result.l2 == pytest.approx(0.2)
    assert result.cells() == ["DeepFool", "float32", "75.0", "2", "0.2"]


def test_nobody_fooled():
    result = Strength.of("FGSM-2", "uint8", np.zeros(4, bool), LINF, L2)
    assert (result.linf, result.l2) == (None, None)
    assert result.cells()[2:] == ["0.0", "–", "–"]


def test_renderings_agree():
    rows = [
        Strength.of("DeepFool", "float32", SUCCESS, LINF, L2),
        Strength.of("DeepFool", "uint8", ~SUCCESS, LINF, L2),
    ]
    console = Console(record=True, width=100, quiet=True)
    console.print(summaries.to_rich(rows))
    markdown = summaries.to_markdown(rows)
    for row in rows:
        assert "| " + " | ".join(row.cells()) + " |" in markdown
    data = json.loads(summaries.to_json(rows, {row.attack: f"{row.attack}-0" for row in rows}))
    assert [row["fooled"]["successes"] for row in data] == [3, 1]
    assert data[0]["median_l2"] == pytest.approx(0.2)
