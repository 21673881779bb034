"""The one look of all figures: colours that colour-blind readers can tell apart, sizes, and files."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from srdef.images import to_uint8
from srdef.storage.files import save_figure

# Okabe and Ito (2008), by what they stand for; markers say the same without colour.
CLEAN, ADVERSARIAL, DEFENDED, GREY = "#0072b2", "#d55e00", "#009e73", "#666666"
# Correct and wrong answers: dark enough to reach a contrast of 4.5 on white; marks say the same.
CORRECT, WRONG, INK = "#00704f", "#c23b00", "#333333"
FONT = "DejaVu Sans"  # comes with matplotlib, and has the marks
MARKERS = {CLEAN: "o", ADVERSARIAL: "^", DEFENDED: "s"}
CYCLE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999")
LINES = ("-", "--", "-.", ":")

# Of one sign, and around zero; both even in lightness.
SEQUENTIAL, DIVERGING = "viridis", "RdBu_r"

STYLE: Any = {
    "font.family": FONT,
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.labelsize": 8,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "pdf.fonttype": 42,  # letters stay letters
}

COLUMN, PAGE = 3.5, 7.16  # inches: the widths of an IEEE column and page


@contextmanager
def styled() -> Iterator[None]:
    """Everything drawn inside has srdef's look."""
    with matplotlib.rc_context(STYLE):
        yield


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches; its parts are laid out so that nothing overlaps."""
    return Figure(figsize=(width, height), layout="constrained")


def show_image(axes: Any, image: Any, **options: Any) -> Any:
    """An image `(H, W, 3)` in [0, 1], or a map `(H, W)` with a colour map, without ticks."""
    pixels = to_uint8(image) if image.ndim == 3 else image
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    return axes.imshow(pixels, interpolation="antialiased", **options)


def shorten(words: str, length: int) -> str:
    """At most `length` letters, the last an ellipsis if some are cut off."""
    return words if len(words) <= length else words[: length - 1].rstrip(" -,(") + "…"


def save(figure: Figure, path: Path) -> list[Path]:
    """Write `path`.pdf (vectors) and `path`.png (200 dpi), whole or not at all, the same bytes each time."""
    written = []
    with styled():
        for suffix, metadata in (("pdf", {"CreationDate": None}), ("png", {"Software": None})):
            target = path.with_name(f"{path.name}.{suffix}")
            save_figure(figure, target, dpi=200, metadata=metadata)
            written.append(target)
    return written
