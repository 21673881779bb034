"""What attacks do on their way, drawn from the traces that `attacks.perturb(trace=True)` returns."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from srdef.attacks.trace import Trace
from srdef.errors import InputError
from srdef.reporting import labels, style


def trace_figure(traces: Mapping[str, Trace], title: str = "") -> Figure:
    """Margin, loss and the share of fooled images over the steps of attacks.

    Lines are medians over the images, and bands reach from the first to the third quartile. Above a margin of
    0 an image is fooled. Values that are not finite are left out.

    Parameters
    ----------
    traces : mapping of str to Trace
        By the name of the attack.
    title : str
    """
    if not isinstance(traces, Mapping) or not all(isinstance(trace, Trace) for trace in traces.values()):
        raise InputError("traces must be a dictionary of the traces by name: {'pgd': result.trace}")
    if not traces:
        raise InputError("there are no traces to draw")
    with style.styled():
        figure = style.new_figure(style.PAGE, 2.4)
        figure.suptitle(labels.drawn(title), fontsize=9)
        margin, loss, share = figure.subplots(1, 3)
        for number, (name, trace) in enumerate(traces.items()):
            look = {
                "color": style.CYCLE[number % len(style.CYCLE)],
                "linestyle": style.LINES[number % len(style.LINES)],
            }
            steps = np.arange(len(trace.loss))
            for axes, values in ((margin, trace.margin), (loss, trace.loss)):
                finite = np.where(np.isfinite(values), values, np.nan)
                low, middle, high = np.nanquantile(finite, (0.25, 0.5, 0.75), axis=1)
                axes.fill_between(steps, low, high, color=look["color"], alpha=0.15, linewidth=0)
                axes.plot(steps, middle, **look)
            share.plot(steps, 100 * np.mean(trace.success, axis=1), label=labels.drawn(name), **look)
        margin.axhline(0, color=style.GREY, lw=0.5)
        for axes, words in ((margin, "margin (logits)"), (loss, "loss"), (share, "fooled (%)")):
            axes.set(xlabel="step", ylabel=words)
        share.set_ylim(-2, 102)
        # Many names would cover the curves.
        beside = {"loc": "center left", "bbox_to_anchor": (1, 0.5)}
        share.legend(**(beside if len(traces) > 3 else {"loc": "lower right"}))
    return figure
