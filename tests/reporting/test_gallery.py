"""The gallery PNG: where the panels are, what they show, and how large the file gets."""

import dataclasses
from itertools import combinations

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from srdef.errors import InputError
from srdef.reporting.gallery import GalleryRow, save_gallery

NAMES = ("tench", "a name that is much too long to stand under one panel", "$a$ (bird)")


def a_row(clean=0.25, change=0.0, defended=(0.75,), predictions=(0, 1, 0)):
    grey = np.full((16, 16, 3), clean, np.float32)
    panels = [np.full((32, 32, 3), level, np.float32) for level in defended]
    return GalleryRow(0, grey, grey + np.float32(change), panels, predictions)


def save(path, rows, defenses=("WD+SR",)):
    save_gallery(path, rows, defenses=defenses, class_names=NAMES, title="A title")
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def drawn(monkeypatch, path, *args):
    """The figure that `save_gallery` writes."""
    figures = []
    write = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (figures.append(self), write(self, *a, **k)))
    save(path, *args)
    return figures[0]


def test_panels_stand_in_order_and_show_their_levels(tmp_path):
    pixels = save(tmp_path / "a.png", [a_row(change=0.03), a_row(clean=0.6, change=-0.03)])
    level_of = {
        "clean": (0.25, 0.6),
        "adversarial": (0.28, 0.57),
        "perturbation": (0.8, 0.2),  # 0.5 + 10 * 0.03 and 0.5 - 10 * 0.03
        "defended": (0.75, 0.75),
    }
    centres = []
    for levels in level_of.values():
        for row, level in enumerate(levels):
            ys, xs = np.nonzero((pixels == round(level * 255)).all(-1))
            half = ys < len(pixels) / 2
            here = half if row == 0 else ~half
            assert here.sum() > 10_000, level
            centres.append((ys[here].mean(), xs[here].mean()))
    above, below = centres[::2], centres[1::2]
    np.testing.assert_allclose([x for _, x in above], [x for _, x in below], atol=1)
    assert [x for _, x in above] == sorted(x for _, x in above)
    assert min(y for y, _ in below) > max(y for y, _ in above) + 100


def test_words(monkeypatch, tmp_path):
    figure = drawn(monkeypatch, tmp_path / "a.png", [a_row(change=4 / 255)])
    words = [text.get_text() for text in figure.texts]
    assert words == [
        "A title",
        "clean",
        "adversarial",
        "perturbation ×10",
        "WD+SR",
        "tench",
        "✓ tench",
        next(word for word in words if word.startswith("✗ a name that is") and word.endswith("…")),
        "max 4/255",
        "✓ tench",
    ]
    colours = {text.get_text()[0]: text.get_color() for text in figure.texts}
    assert colours["✓"] != colours["✗"]


def test_words_do_not_overlap_and_stay_inside(monkeypatch, tmp_path):
    wide = a_row(predictions=(1, 1, 1, 1, 1), defended=(0.1, 0.2, 0.3))
    rows = [dataclasses.replace(wide, label=1)] * 3
    defenses = ("a defense with a very long name", "resize and pad and so on", "m" * 40)
    figure = drawn(monkeypatch, tmp_path / "a.png", rows, defenses)
    boxes = {f"{text.get_text()} {i}": text.get_window_extent() for i, text in enumerate(figure.texts)}
    boxes |= {f"panel {i}": axes.get_window_extent() for i, axes in enumerate(figure.axes)}
    assert len(boxes) == 1 + 6 + 3 * (1 + 6 + 6)
    for name, box in boxes.items():
        assert min(box.x0, box.y0) >= 0, name
        assert box.x1 <= figure.bbox.x1, name
        assert box.y1 <= figure.bbox.y1, name
    touching = [(a, b) for a, b in combinations(boxes, 2) if boxes[a].overlaps(boxes[b])]
    assert touching == []


@pytest.mark.parametrize("count", [6, 30])
def test_file_of_pure_noise_stays_below_4_mb(tmp_path, count):
    noise = np.random.default_rng(0).random((300, 300, 3), np.float32)
    row = GalleryRow(0, noise, noise[::-1], [noise, noise, noise], (0, 1, 0, 0, 2))
    save(tmp_path / "a.png", [row] * count, ("WD", "SR", "WD+SR"))
    assert (tmp_path / "a.png").stat().st_size < 4_000_000


def test_same_picture_same_bytes_and_nothing_left_behind(tmp_path):
    save(tmp_path / "a.png", [a_row()])
    save(tmp_path / "b.png", [a_row()])
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"a.png", "b.png"}


def test_bad_rows(tmp_path):
    with pytest.raises(InputError, match="at least one image"):
        save(tmp_path / "a.png", [])
    with pytest.raises(InputError, match="not 1 and 3"):
        save(tmp_path / "a.png", [a_row()], ("WD", "SR"))
    assert not list(tmp_path.iterdir())
