import numpy as np
import pytest

from srdef.attacks import Trace
from srdef.errors import InputError
from srdef.reporting.trace_plots import trace_figure


def trace(steps=4, images=5):
    margin = np.add.outer(np.arange(steps + 1.0), np.arange(images) - 4.0).astype(np.float32)
    return Trace(loss=2 * margin, margin=margin, success=margin > 0)


def test_medians_quartiles_and_shares():
    odd = trace()
    odd.loss[0, 0] = np.nan
    figure = trace_figure({"pgd": odd, "longer": trace(9)}, "two attacks")
    margin, loss, share = figure.axes
    np.testing.assert_array_equal(margin.lines[0].get_ydata(), np.arange(5.0) - 2)
    np.testing.assert_array_equal(share.lines[0].get_ydata(), [0, 20, 40, 60, 80])
    assert loss.lines[0].get_ydata()[0] == -3  # of the four that are finite
    band = margin.collections[0].get_paths()[0].vertices
    assert (band[:, 1].min(), band[:, 1].max()) == (-3, 3)
    assert len(share.lines[1].get_xdata()) == 10
    assert [text.get_text() for text in share.get_legend().get_texts()] == ["pgd", "longer"]
    # Of many, the names stand beside the curves.
    share = trace_figure({f"attack {i}": odd for i in range(4)}).axes[2]
    share.figure.canvas.draw()
    assert share.get_legend().get_window_extent().x0 >= share.get_window_extent().x1
    with pytest.raises(InputError, match="there are no traces"):
        trace_figure({})
