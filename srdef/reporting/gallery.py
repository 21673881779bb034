"""A picture of single images: clean, adversarial, perturbation, defended, with what the classifier says."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from srdef.errors import InputError
from srdef.images import to_uint8
from srdef.reporting.style import CORRECT, FONT, INK, WRONG
from srdef.storage.files import save_figure

_PANEL = 1.75  # inches
_AMPLIFICATION = 10


@dataclass(frozen=True)
class GalleryRow:
    """One image in the gallery.

    Attributes
    ----------
    label : int
        Its class.
    clean, adversarial : (H, W, 3) float
        In [0, 1].
    defended : sequence of (H', W', 3) float
        What each defense makes of the adversarial image; of any size.
    predictions : sequence of int
        What the classifier says of the clean, the adversarial and each defended image.
    """

    label: int
    clean: np.ndarray
    adversarial: np.ndarray
    defended: Sequence[np.ndarray]
    predictions: Sequence[int]


def save_gallery(
    path: str | Path,
    rows: Sequence[GalleryRow],
    *,
    defenses: Sequence[str],
    class_names: Sequence[str],
    title: str,
) -> None:
    """Write a PNG with one row an image: clean, adversarial, perturbation, and one column a defense.

    The predicted class is written under each image, green with a tick if it is correct and red with a
    cross if not; at the left the true class. The perturbation is shown ten times
    larger around mid-grey, with its largest value under it, in levels of 255. The resolution falls
    with the number of rows, so that the file stays below 4 MB; six to eight rows read best.

    Parameters
    ----------
    path : path
        The PNG; written under another name first, so it is never half there.
    rows : sequence of GalleryRow
        At least one.
    defenses : sequence of str
        Their names.
    class_names : sequence of str
        By class index.
    title : str
        What the picture shows: classifier, attack, seed.

    Raises
    ------
    InputError
        If there are no rows, a row does not have one image and prediction a defense, or the path does
        not end in .png (or .pdf, .svg).
    """
    if not rows:
        raise InputError("a gallery needs at least one image")
    for row in rows:
        if len(row.defended) != len(defenses) or len(row.predictions) != len(defenses) + 2:
            raise InputError(
                f"a gallery of {len(defenses)} defenses needs as many defended images a row and two more "
                f"predictions, not {len(row.defended)} and {len(row.predictions)}"
            )

    columns = ["clean", "adversarial", f"perturbation ×{_AMPLIFICATION}", *defenses]
    left, bottom, gap, below = 0.42, 0.1, 0.08, 0.36  # inches: margins, between panels, for the names
    width = left + len(columns) * (_PANEL + gap) + 0.04
    title = textwrap.fill(title, int(width / 0.11))
    top = 0.52 + 0.2 * len(title.splitlines())
    height = top + len(rows) * (_PANEL + below) + bottom
    # Noise hardly compresses: three bytes a pixel of every panel are the most the file can take.
    pixels = 3.6e6 / (3 * len(rows) * len(columns))
    dpi = min(110.0, pixels**0.5 / _PANEL)
    figure = Figure(figsize=(width, height), dpi=dpi, facecolor="white")
    FigureCanvasAgg(figure)

    def text(x: float, y: float, words: str, size: float = 9, **style: Any) -> Text:
        style = {"ha": "center", "family": FONT, "parse_math": False, **style}
        return figure.text(x / width, 1 - y / height, words, size=size, **style)

    text(width / 2, 0.12, title, size=11, va="top", weight="bold")
    for j, column in enumerate(columns):
        centre = left + j * (_PANEL + gap) + _PANEL / 2
        shorten(text(centre, top - 0.06, column, va="bottom", color=INK), _PANEL * dpi)

    for i, row in enumerate(rows):
        y = top + i * (_PANEL + below)
        name = text(left / 2, y + _PANEL / 2, class_names[row.label], va="center", rotation=90, weight="bold")
        shorten(name, _PANEL * dpi)
        perturbation = np.asarray(row.adversarial, np.float32) - np.asarray(row.clean, np.float32)
        panels = [row.clean, row.adversarial, 0.5 + _AMPLIFICATION * perturbation, *row.defended]
        predictions: list[int | None] = [*row.predictions[:2], None, *row.predictions[2:]]
        for j, (panel, prediction) in enumerate(zip(panels, predictions, strict=True)):
            x = left + j * (_PANEL + gap)
            axes = figure.add_axes(
                (x / width, 1 - (y + _PANEL) / height, _PANEL / width, _PANEL / height), frame_on=False
            )
            axes.set_xticks([])
            axes.set_yticks([])
            axes.imshow(to_uint8(panel), interpolation="antialiased")
            if prediction is None:
                words, colour = f"max {255 * np.abs(perturbation).max():.3g}/255", INK
            else:
                right = prediction == row.label
                words = f"{'✓' if right else '✗'} {class_names[prediction]}"
                colour = CORRECT if right else WRONG
            name = text(x + _PANEL / 2, y + _PANEL + 0.06, words, size=8, va="top", color=colour)
            shorten(name, _PANEL * dpi)

    save_figure(figure, path, dpi=dpi, metadata={"Software": None})


def shorten(artist: Text, length: float) -> None:
    """Cut the words of `artist` (with an ellipsis) until they are at most `length` pixels long."""
    words = artist.get_text()[:60]
    extent = artist.get_window_extent()
    while max(extent.width, extent.height) > length:
        words = words[:-1].rstrip(" -,(")
        artist.set_text(words + "…")
        extent = artist.get_window_extent()
