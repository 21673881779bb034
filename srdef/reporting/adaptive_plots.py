"""The pictures of an adaptive evaluation: accuracy against ε, and the loss around an image."""

from pathlib import Path

import matplotlib
import numpy as np

from srdef.attacks.projections import Norm
from srdef.evaluation.adaptive_outcome import Outcome
from srdef.evaluation.experiment import CLEAN
from srdef.evaluation.threats import WORST
from srdef.reporting import labels, style
from srdef.storage.files import save_figure

_MARKERS = ("o", "s", "^", "D", "v", "P")
_PANEL = (2.6, 2.2)  # inches
_AXES: dict[Norm, str] = {
    "linf": "largest change of a pixel, ε (levels of 255)",
    "l2": "L2 norm of the perturbation, ε (on [0, 1])",
    "l1": "L1 norm of the perturbation, ε (on [0, 1])",
}


def save_curves(path: str | Path, outcome: Outcome, *, subtitle: str = "") -> None:
    """Accuracy against ε, a panel for each defense and a line for each threat; the worst case black.

    The file's ending decides its format (png, pdf, svg).
    """
    count = len(outcome.defenses)
    wide = min(count, 4)
    tall = -(-count // wide)
    with matplotlib.rc_context({"font.size": 8, "svg.fonttype": "none", "pdf.fonttype": 42}):
        figure = style.new_figure(wide * _PANEL[0], tall * _PANEL[1] + 0.9)
        panels = figure.subplots(tall, wide, squeeze=False, sharex=True, sharey=True)
        x = (255 if outcome.norm == "linf" else 1) * np.array(outcome.epsilons)
        start = x[0] / 2  # the place of ε = 0 on the logarithmic axis
        handles = {}
        for panel, defense in zip(panels.flat, outcome.defenses, strict=False):
            clean = outcome.accuracy(defense, CLEAN)
            assert clean is not None
            for index, threat in enumerate((*outcome.threats, WORST)):
                accuracy = outcome.accuracy(defense, threat)
                if accuracy is None or np.isnan(accuracy).all():
                    continue
                worst = threat == WORST
                (line,) = panel.plot(
                    [start, *x],
                    100 * np.array([clean[0], *accuracy]),  # no line across an ε without this attack
                    color="black" if worst else style.CYCLE[index % len(style.CYCLE)],
                    marker="" if worst else _MARKERS[index % len(_MARKERS)],
                    linestyle="--" if worst else "-",
                    linewidth=1.6 if worst else 1.1,
                    markersize=3.5,
                    clip_on=False,
                )
                handles[threat] = line
            panel.set_title(labels.drawn(defense), fontsize=9)
            panel.set_xscale("log", base=2)
            panel.set_xticks([start, *x], ["0", *(f"{e:g}" for e in x)])
            panel.minorticks_off()
            panel.set_ylim(0, 100)
            panel.grid(alpha=0.25, linewidth=0.5)
            panel.spines[["top", "right"]].set_visible(False)
        for panel in panels.flat[count:]:
            panel.set_axis_off()
        figure.supxlabel(_AXES[outcome.norm])
        figure.supylabel("accuracy (%)")
        order = [threat for threat in (*outcome.threats, WORST) if threat in handles]
        figure.legend(
            [handles[threat] for threat in order],
            [labels.drawn(f"{threat} (per image)" if threat == WORST else threat) for threat in order],
            loc="outside upper center",
            ncols=min(len(order), 4),
            frameon=False,
            title=labels.drawn(subtitle) or None,
        )
        save_figure(figure, path, dpi=150)


def save_landscape(
    path: str | Path, losses: np.ndarray, *, epsilon: float, norm: Norm = "linf", title: str = ""
) -> None:
    """Write a PNG of what `loss_landscape` returns: contours, with the image in the middle.

    Parameters
    ----------
    losses : array (points, points)
    epsilon, norm
        As given to `loss_landscape`.
    """
    levels = (255 if norm == "linf" else 1) * np.linspace(-epsilon, epsilon, len(losses))
    words = ("gradient's sign (levels of 255)", "random sign")
    if norm == "l2":
        words = ("gradient (L2 on [0, 1])", "random direction")
    figure = style.new_figure(4.6, 3.8)
    axes = figure.add_subplot()
    contours = axes.contourf(levels, levels, losses.T, levels=20, cmap=style.SEQUENTIAL)
    axes.plot(0, 0, "w+", markersize=10)
    axes.set_xlabel(f"along the {words[0]}")
    axes.set_ylabel(f"along a {words[1]}")
    axes.set_title(labels.drawn(title))
    figure.colorbar(contours, label="cross-entropy")
    save_figure(figure, path, dpi=150)
