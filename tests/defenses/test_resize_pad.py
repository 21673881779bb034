"""Random resizing and padding against a NumPy transcription of TensorFlow 1's resizes."""

import jax
import numpy as np
import pytest
from sample_photographs import photograph

from srdef import defenses
from srdef.errors import InputError


@jax.jit
def defend(defense, image, key):
    return defense(image, key)


def resized(image, height, width, method):
    """tf.image.resize_images(..., align_corners=False)."""
    for axis, new in enumerate((height, width)):
        size = image.shape[axis]
        position = np.arange(new) * size / new
        first = np.floor(position + 1e-9).astype(int)
        if method == "nearest":
            image = image.take(first, axis)
        else:
            weight = (position - first).reshape([-1 if a == axis else 1 for a in range(3)])
            second = np.minimum(first + 1, size - 1)
            image = (1 - weight) * image.take(first, axis) + weight * image.take(second, axis)
    return image


@pytest.mark.parametrize("method", ["nearest", "bilinear"])
@pytest.mark.parametrize("low", [1.0, 310 / 299])
def test_every_draw_is_a_resized_image_on_a_grey_canvas(method, low):
    # No pixel is grey, so the padding can be told from the image.
    image = 0.55 + 0.4 * photograph(0, 90, 90)
    defense = defenses.ResizePad(low=low, method=method, flip=False)
    seen = set()
    for seed in range(12):
        result = np.asarray(defend(defense, image, jax.random.key(seed)))
        assert result.shape == (100, 100, 3)
        rows = np.flatnonzero((result != 0.5).any(axis=(1, 2)))
        columns = np.flatnonzero((result != 0.5).any(axis=(0, 2)))
        top, left, side = rows[0], columns[0], len(rows)
        assert len(columns) == side
        assert round(low * 90) <= side < 100
        inside = result[top : top + side, left : left + side]
        np.testing.assert_allclose(inside, resized(image, side, side, method), atol=1e-5)
        assert (result != 0.5).any(axis=-1).sum() == side**2
        seen.add((side, top, left))
    assert len(seen) > 6


def test_the_papers_sizes():
    image = np.ones((299, 299, 3), np.float32)
    sides = []
    for seed in range(40):
        result = np.asarray(defend(defenses.ResizePad(pad_value=0.0), image, jax.random.key(seed)))
        assert result.shape == (331, 331, 3)
        sides.append(int((result[..., 0] > 0).any(axis=1).sum()))
    assert 310 <= min(sides) < 315
    assert 325 < max(sides) <= 330


def test_half_are_flipped():
    image = photograph(0, 16, 16)
    plain, flipping = defenses.ResizePad(flip=False), defenses.ResizePad()
    flips = 0
    for seed in range(40):
        key = jax.random.key(seed)
        expected, result = defend(plain, image, key), defend(flipping, image, key)
        flipped = np.array_equal(result, expected[:, ::-1])
        assert flipped or np.array_equal(result, expected)
        flips += flipped
    assert 10 < flips < 30  # outside with probability 0.1 %


@pytest.mark.parametrize(
    ("options", "words"),
    [({"method": "bicubic"}, "bicubic.*nearest"), ({"low": 0.5}, "low"), ({"canvas": 1.01}, "canvas")],
)
def test_bad_options(options, words):
    with pytest.raises(InputError, match=words):
        defenses.create("resize_pad", **options)
