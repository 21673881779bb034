"""JPEG against Pillow (libjpeg-turbo)."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from sample_photographs import photograph

from srdef import defenses, images
from srdef.defenses.rounding import soft_round
from srdef.errors import InputError

KEY = jax.random.key(0)


@jax.jit
def defend(defense, image, key=KEY):
    return defense(image, key)


def pillow(image, quality, chroma):
    buffer = io.BytesIO()
    subsampling = {"4:2:0": 2, "4:4:4": 0}[chroma]
    Image.fromarray(images.to_uint8(image)).save(buffer, "JPEG", quality=quality, subsampling=subsampling)
    return np.asarray(Image.open(buffer), np.float64)


@pytest.mark.parametrize("chroma", ["4:2:0", "4:4:4"])
@pytest.mark.parametrize("size", [(160, 160), (101, 75), (40, 42)])
def test_equals_pillow(size, chroma):
    worst_mean = worst = 0.0
    for quality in (20, 35, 50, 65, 80, 90, 95):
        for index in range(4):
            image = photograph(index, *size)
            result = 255 * np.asarray(defend(defenses.Jpeg(quality, chroma), image), np.float64)
            difference = np.abs(result - pillow(image, quality, chroma))
            worst_mean = max(worst_mean, float(difference.mean()))
            worst = max(worst, float(difference.max()))
    # In levels. Now and then a coefficient is rounded to its other neighbour, which moves its block by
    # a few levels: up to 13 were seen, and a mean of at most 0.17 over an image (0.03 is typical).
    assert worst_mean < 0.3
    assert worst < 32


@pytest.mark.parametrize("width", [1, 2, 3, 4, 5, 6])
def test_narrow_images_equal_pillow(width):
    """Up to four pixels libjpeg does not interpolate the chroma, which it has at most two columns of."""
    rng = np.random.default_rng(width)
    for quality in (50, 95):
        image = rng.integers(0, 256, (12, width, 3)).astype(np.float32) / 255
        result = 255 * np.asarray(defend(defenses.Jpeg(quality), image), np.float64)
        difference = np.abs(result - pillow(image, quality, "4:2:0"))
        # Random colours: interpolated chroma differs by tens of levels.
        assert difference.max() < 8


@pytest.mark.parametrize("size", [(101, 75), (12, 1)])
def test_gray_images_equal_pillow(size):
    for quality in (20, 80):
        image = photograph(2, *size)[..., 1:2]
        result = 255 * np.asarray(defend(defenses.Jpeg(quality), image), np.float64)
        buffer = io.BytesIO()
        Image.fromarray(images.to_uint8(image)[..., 0]).save(buffer, "JPEG", quality=quality)
        difference = np.abs(result[..., 0] - np.asarray(Image.open(buffer), np.float64))
        assert difference.mean() < 0.3
        assert difference.max() < 32


@pytest.mark.parametrize("gradient", ["straight_through", "soft"])
def test_gradients(gradient):
    image = jnp.asarray(photograph(1, 24, 40))
    exact = defend(defenses.Jpeg(60), image)
    surrogate = defenses.Jpeg(60, gradient=gradient)
    difference = 255 * np.abs(np.asarray(defend(surrogate, image) - exact))
    if gradient == "straight_through":
        assert difference.max() < 0.01
    else:  # soft rounding leaves up to 1/8 of a quantum in each coefficient
        assert difference.mean() < 6
    weights = jax.random.normal(KEY, image.shape)
    slope = jax.grad(lambda image: jnp.sum(weights * defend(surrogate, image)))(image)
    assert bool(jnp.isfinite(slope).all())
    # Compression keeps what is smooth: a change of brightness passes, a checkerboard hardly.
    brightness = jax.jvp(lambda t: defend(surrogate, image + t).mean(), (0.0,), (1.0,))[1]
    if gradient == "straight_through":
        assert 0.9 < float(brightness) < 1.1
        assert float(jnp.abs(slope).mean()) > 0.1
    assert bool((slope != 0).any())


def test_the_true_gradient_is_zero():
    image = jnp.asarray(photograph(1, 16, 16))
    slope = jax.grad(lambda image: defend(defenses.Jpeg(60), image).sum())(image)
    np.testing.assert_array_equal(slope, 0)


def test_soft_round():
    x = jnp.array([0.0, 0.3, 1.0, -1.25, 7.5])
    np.testing.assert_allclose(soft_round(x), [0, 0.027, 1, -1 - 0.25**3, 8 - 0.125], atol=1e-6)
    np.testing.assert_allclose(jax.grad(soft_round)(0.3), 3 * 0.3**2, rtol=1e-5)


def test_shield_takes_each_block_from_one_quality():
    image = photograph(2, 29, 44)
    qualities = (20, 40, 60, 80)
    candidates = np.stack([defend(defenses.Jpeg(quality), image) for quality in qualities])
    result = np.asarray(defend(defenses.Shield(qualities), image, jax.random.key(5)))
    used = set()
    for y in range(0, 29, 8):
        for x in range(0, 44, 8):
            block = (slice(y, y + 8), slice(x, x + 8))
            matches = [
                q for q, c in zip(qualities, candidates, strict=True) if np.allclose(c[block], result[block])
            ]
            assert matches
            used.update(matches[:1])
    assert used == set(qualities)


def test_a_sweep_over_quality_compiles_once():
    image = jnp.asarray(photograph(0, 16, 16))
    defend.clear_cache()
    for quality in (20, 50, 80):
        defend(defenses.Jpeg(quality), image)
    assert defend._cache_size() == 1


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("jpeg", {"chroma": "4:2:2"}, r"4:2:2.*4:4:4"),
        ("jpeg", {"gradient": "none"}, r"none.*soft"),
    ],
)
def test_bad_options(name, options, words):
    with pytest.raises(InputError, match=words):
        defenses.create(name, **options)
