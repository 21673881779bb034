"""A picture of one adversarial image through many defenses, with what the classifier says of each."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from srdef.defenses import Defense, Identity
from srdef.errors import InputError
from srdef.evaluation.experiment import CLEAN, Experiment
from srdef.evaluation.predictions import classify, defended_images
from srdef.evaluation.run import Run
from srdef.images import to_uint8
from srdef.reporting.gallery import shorten
from srdef.reporting.style import CORRECT, FONT, INK, WRONG
from srdef.storage.files import replacing

_PANEL, _GAP, _ABOVE, _BELOW = 1.75, 0.1, 0.26, 0.24  # inches: a panel's side, and what is around it


@dataclass(frozen=True)
class Panel:
    """One image of the picture.

    Attributes
    ----------
    name : str
        What was done: "clean", the attack, or a defense.
    image : (H, W, 3) float
        In [0, 1], of any size.
    prediction : int
        What the classifier says of it.
    confidence : float
        How sure it is, in [0, 1].
    """

    name: str
    image: np.ndarray
    prediction: int
    confidence: float


def panels(experiment: Experiment, attack: str) -> tuple[int, list[Panel]]:
    """Make the panels of the first clean-correct image: clean, adversarial, and through every defense.

    Returns
    -------
    label : int
        Its class.
    panels : list of Panel

    Raises
    ------
    InputError
        If there is no such attack, or no image is classified correctly.
    """
    if attack not in experiment.attacks:
        known = ", ".join(experiment.attacks)
        raise InputError(f"unknown attack {attack!r}; choose from: {known}")
    one = Run(experiment, experiment.dataset).correct().select(slice(1))

    def panel(name: str, defense: Defense, batch: np.ndarray, passes: int = 1) -> Panel:
        ids = one.dataset.ids
        image = defended_images(experiment, defense, batch, ids)[0]
        found = classify(experiment, defense, batch, ids, passes=passes)
        words = f"{name} ×{passes}" if passes > 1 else name
        return Panel(words, image, int(found["prediction"][0]), float(found["confidence"][0]))

    adversarial = one.pixels(attack)
    shown = [panel(CLEAN, Identity(), one.pixels(CLEAN)), panel(attack, Identity(), adversarial)]
    for name, defense in experiment.defenses.items():
        if not isinstance(defense, Identity):
            shown.append(panel(name, defense, adversarial, experiment.passes[name]))
    return int(one.dataset.labels[0]), shown


def save(
    path: str | Path,
    shown: Sequence[Panel],
    *,
    label: int,
    class_names: Sequence[str],
    title: str,
    columns: int = 5,
    max_bytes: float = 0.55e6,
) -> None:
    """Write the panels as a PNG, in reading order: its name above, class and confidence below each.

    Correct answers are green with a tick, wrong ones red with a cross. The size of an image is written
    after its name where a defense changes it. "×30" there says that the answer is the mean over 30
    draws of a random defense, of which the first is shown.

    Parameters
    ----------
    path : path
        The PNG; written under another name first, so it is never half there.
    shown : sequence of Panel
        At least one; the size of the first is the one that goes without saying.
    label : int
        The true class.
    class_names : sequence of str
        By class index.
    title : str
    columns : int
    max_bytes : float
        The resolution falls with the number of panels, so that the file stays about this large.

    Raises
    ------
    InputError
        If there are no panels or no columns.
    """
    if not shown or columns < 1:
        raise InputError("a gallery needs at least one image and one column")
    rows = -(-len(shown) // columns)
    top, margin = 0.42, 0.12
    width = 2 * margin + columns * (_PANEL + _GAP) - _GAP
    height = top + rows * (_ABOVE + _PANEL + _BELOW) + margin
    dpi = min(150.0, (max_bytes / len(shown)) ** 0.5 / _PANEL)  # a byte a pixel
    figure: Any = Figure(figsize=(width, height), dpi=dpi, facecolor="white")
    FigureCanvasAgg(figure)

    def text(x: float, y: float, words: str, length: float, **style: Any) -> None:
        style = {"ha": "center", "family": FONT, "parse_math": False, "size": 9, **style}
        shorten(figure.text(x / width, 1 - y / height, words, **style), length * dpi)

    text(width / 2, 0.1, title, width, size=11, va="top", weight="bold")
    for index, panel in enumerate(shown):
        row, column = divmod(index, columns)
        x = margin + column * (_PANEL + _GAP)
        y = top + row * (_ABOVE + _PANEL + _BELOW) + _ABOVE
        axes = figure.add_axes(
            (x / width, 1 - (y + _PANEL) / height, _PANEL / width, _PANEL / height), frame_on=False
        )
        axes.set_xticks([])
        axes.set_yticks([])
        axes.imshow(to_uint8(panel.image), interpolation="antialiased")
        high, wide = panel.image.shape[:2]
        size = "" if panel.image.shape == shown[0].image.shape else f" · {wide}×{high}"
        text(x + _PANEL / 2, y - 0.06, panel.name + size, _PANEL, va="bottom", size=8, color=INK)
        correct = panel.prediction == label
        words = f"{'✓' if correct else '✗'} {100 * panel.confidence:.0f} % {class_names[panel.prediction]}"
        text(x + _PANEL / 2, y + _PANEL + 0.04, words, _PANEL, va="top", color=CORRECT if correct else WRONG)

    figure.canvas.draw()
    drawn = Image.frombuffer("RGBA", figure.canvas.get_width_height(), figure.canvas.buffer_rgba())
    # The panels are one image over and over, for which 256 colours do; the file is half the size.
    colours = drawn.convert("RGB").quantize(256)
    drawn = drawn.convert("RGB").quantize(palette=colours, dither=Image.Dither.FLOYDSTEINBERG)
    with replacing(path) as unfinished:
        drawn.save(unfinished, "PNG", optimize=True)
